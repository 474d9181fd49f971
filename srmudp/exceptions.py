"""Every exception srmudp raises.

::

    SrmudpError
    ├── AuthenticationError            bytes that a key did not prove
    ├── DecodeError          ValueError       bytes that are not what they claim to be
    ├── IdentityError        ValueError       a key or key file that cannot be used
    ├── UnknownPeer          KeyError         a name nobody was added under
    ├── MessageTooBig        ValueError       a message above max_message_size
    ├── QueueFull            TimeoutError     no room in a peer's queue
    ├── DiscoveryFailed      OSError          no server told us our public address
    ├── PortMappingFailed    OSError          no router lets in what comes for our port
    ├── LocalProtocolError   RuntimeError     a call that makes no sense in this state
    ├── RemoteProtocolError                   an authenticated peer broke the protocol
    └── SocketClosed         ConnectionError  the socket was closed

What *we* do wrong raises at the call. What a peer does wrong closes that peer with an event. What a stranger does is
counted and dropped (``MultiHolepunchSocket.drops``).
"""

from __future__ import annotations

from collections.abc import Mapping


class SrmudpError(Exception):
    """Root of everything srmudp raises on purpose."""


class AuthenticationError(SrmudpError):
    """A tag, key or key agreement did not verify. Never says which byte was wrong."""


class DecodeError(SrmudpError, ValueError):
    """Bytes from the network do not have the form their type demands."""


class IdentityError(SrmudpError, ValueError):
    """A PeerId, key or key file is malformed, unsafe or unreadable. The text says what to do about it."""


class UnknownPeer(SrmudpError, KeyError):
    """No peer has that name. ``str()`` names it and lists the ones there are."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "unknown peer"


class MessageTooBig(SrmudpError, ValueError):
    """The message is larger than the receiver's or our ``max_message_size`` (bytes)."""


class QueueFull(SrmudpError, TimeoutError):
    """A peer's send queue had no room for the message in the time allowed."""


class DiscoveryFailed(SrmudpError, OSError):
    """No STUN server told us our public address. The text says why of each, and what to try.

    Attributes:
        failures: server, as it was given, to the reason.
    """

    def __init__(self, text: str = "", failures: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.failures: dict[str, str] = dict(failures or {})


class PortMappingFailed(SrmudpError, OSError):
    """No router lets in what comes for our port. The text says what each protocol came to."""


class LocalProtocolError(SrmudpError, RuntimeError):
    """The call makes no sense in the present state of the socket (used after fork, from the wrong place)."""


class RemoteProtocolError(SrmudpError):
    """An authenticated peer sent what the protocol forbids; its connection is closed with a code."""


class SocketClosed(SrmudpError, ConnectionError):
    """The socket was closed, by ``close()`` or by leaving its ``with`` block."""
