"""What the faces of a socket have in common, whether threads or an event loop run it: everything that never waits."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from ..crypto.keys import verification_code
from ..exceptions import LocalProtocolError, SocketClosed
from ..models import Candidate, PeerId, PeerStatus, SeenAddress, Wire
from ..nat.explanation import Explanation
from .addresses import PeerSpec, check_name, check_wire, parse_peers
from .arguments import names_of
from .core import Core
from .hooks import EventHook, MessageHook
from .household import check_known
from .invitations import check_expires

M = TypeVar("M", bound=MessageHook)
E = TypeVar("E", bound=EventHook)


class Face:
    """A socket with many named peers. Subclasses make the engine and add what waits."""

    _engine: Core[Any]
    _name: str
    _wire: Wire = "native"

    # --- peers ---

    def add_peers(self, peers: Mapping[str, PeerSpec], *, wire: Wire | None = None) -> None:
        """Add several peers, or with an exception none. Connecting begins at once and goes on in the background.

        Args:
            peers: name to ``"host:port"``, ``"[v6]:port"``, ``(host, port)``, ``"<peerid>@host:port"``, an
                :meth:`invite` (``"srmudp:..."``), ``Peer(...)`` or a list of such addresses. Host names are looked up
                in the background, again whenever connecting starts anew. A name that was added before gets the
                addresses in addition.
            wire: what these peers speak, unless their spec says it; None for what the socket was told.

        Raises:
            ValueError: an entry is malformed, an expired invite, pins another PeerId than before, or is our own
                PeerId; the text names it.
            SocketClosed: the socket is closed.

        Example::

            sock.add_peers({"alice": "192.0.2.7:8000", "bob": ["bob.example:8000", "[2001:db8::7]:8000"]})
        """
        self._engine.check_process()
        chosen = self._wire if wire is None else check_wire(wire)
        self._engine.add(parse_peers(peers, self.peer_id, chosen))

    def add_peer(self, name: str, spec: PeerSpec, *, wire: Wire | None = None) -> None:
        """Add one peer; see :meth:`add_peers`."""
        self.add_peers({name: spec}, wire=wire)

    def invite(self, expires: float = 3600.0, name: str | None = None) -> str:
        """A short text (``srmudp:...``) with which another program comes in: it adds us by it, as by an address.

        It names our PeerId and addresses, and holds a secret that is good for one: whoever presents it first is let
        in though ``accept`` is False, and pinned. So send it to one person, by a way that others do not read. It is
        worth nothing once it was used, has expired, or this socket was closed.

        Where both are behind routers, both have to knock: then add the other one's invite, too, in either order. Call
        :meth:`discover` before, so that it has the address at which this socket is seen from outside; nobody is asked
        here.

        Args:
            expires: seconds for which it is good, at most 30 days.
            name: what the other one is called here; None for what it calls itself, with a key tag if that name is
                taken. For a peer that is pinned already the text has no secret, as none is needed: that is the answer
                to an invite of its own.

        Raises:
            ValueError: an argument is out of range, or 64 invites are open.
            SocketClosed: the socket is closed.

        Example::

            print("Add me by this:", sock.invite(name="bob"))      # bob: sock.add_peer("alice", "srmudp:...")
        """
        self._engine.check_process()
        called = "" if name is None else check_name(name)
        return self._engine.invite(called, check_expires(expires), self._name)

    def remove_peer(self, name: str) -> None:
        """Remove a peer; the name is free at once, and nothing more is received from it.

        Messages already queued are still brought to it in the background, for at most ``timeout`` seconds; their
        :class:`Delivery` tells. Then it is told that it was removed. Its key is refused until it is added again.

        Raises:
            UnknownPeer: nobody has that name.
        """
        self._engine.remove((name,))

    def remove_peers(self, names: Iterable[str]) -> None:
        """Remove several peers or, if one of the names is unknown, none.

        Raises:
            UnknownPeer: nobody has one of the names.
        """
        self._engine.remove(names_of(names))

    def trust(self, name: str, peer_id: PeerId | None = None) -> None:
        """Pin ``name``: from now on any other key is refused.

        Args:
            name: a peer.
            peer_id: the key; None for the one it has now, after comparing :meth:`verification_code`.

        Raises:
            UnknownPeer: nobody has that name.
            LocalProtocolError: ``peer_id`` is None and no key is known yet.
            ValueError: the key is our own, or another peer's.
            IdentityError: no key can have this PeerId; perhaps it is mistyped.
        """
        self._engine.trust(name, peer_id)

    def forget(self, name: str) -> None:
        """Forget which key ``name`` stood for, here and in the known-peers file; the next that answers takes it.

        Raises:
            UnknownPeer: nobody has that name.
            SocketClosed: too late; what the file knew is forgotten nevertheless, without an error.
        """
        self._engine.forget(name)

    def admit(self, peer_id: PeerId, allow: bool = True) -> None:
        """Decide on a stranger whom ``accept`` left undecided by returning None, or decide anew.

        A stranger waits for up to five minutes and hears the answer at once; after that, when it knocks again.

        Args:
            peer_id: whom, as ``accept`` was told.
            allow: False refuses it. That holds for an hour; who is connected stays so (see :meth:`remove_peer`).

        Raises:
            SocketClosed: the socket is closed.
        """
        self._engine.admit(peer_id, allow)

    def verification_code(self, name: str) -> str:
        """60 digits to compare with the peer by another way (reading aloud); the same at both ends.

        Raises:
            UnknownPeer: nobody has that name.
            LocalProtocolError: the peer has not proven a key yet.
        """
        statuses = self._engine.statuses()
        check_known((name,), statuses)
        peer_id, wire = statuses[name].peer_id, statuses[name].wire
        if wire != "native":
            raise LocalProtocolError(f"{name!r} speaks {wire}, in which nobody proves a key")
        if peer_id is None:
            raise LocalProtocolError(f"{name!r} has not proven a key yet; wait_connected({name!r}) first")
        return verification_code(self.peer_id, peer_id)

    @property
    def connections_status(self) -> Mapping[str, PeerStatus]:
        """A snapshot: name to :class:`PeerStatus`. Kept after ``close()`` as it was at the end."""
        return self._engine.statuses()

    # --- hooks ---

    def register_message_hook(self, hook: M) -> M:
        """Have ``hook`` given every message instead of ``receive()``. Returns it, so it can be used as a decorator.

        Hooks run one after the other on one thread of the socket's, with asyncio in one task; they may send, close and
        register. Several hooks all get each message, which counts as taken when the last has returned. An exception is
        logged and the next message still comes. A queue that is full holds up that peer's messages and nobody else's.

        Args:
            hook: called with a :class:`Message`, or a ``queue.Queue`` the messages are put into. With asyncio also a
                coroutine function or an ``asyncio.Queue``, and a plain function holds up the loop while it runs.
                Registering it again changes nothing.

        Raises:
            TypeError: none of these.
        """
        self._engine.check_process()
        self._engine.hooks.add_message_hook(hook)
        return hook

    def unregister_message_hook(self, hook: MessageHook) -> None:
        """Undo :meth:`register_message_hook`. Without hooks, messages go to ``receive()`` again.

        Raises:
            ValueError: it is not registered.
        """
        self._engine.hooks.remove_message_hook(hook)

    def on_event(self, hook: E) -> E:
        """Have ``hook`` given every :class:`PeerEvent` from now on, on the thread (or in the task) of message hooks.

        Args:
            hook: as for :meth:`register_message_hook`, but for events; they are dropped and counted while a queue is
                full.

        Returns:
            ``hook``, so that this can be used as a decorator.

        Raises:
            TypeError: it is neither function nor queue.
        """
        self._engine.check_process()
        self._engine.hooks.add_event_hook(hook)
        return hook

    def off_event(self, hook: EventHook) -> None:
        """Undo :meth:`on_event`.

        Raises:
            ValueError: it is not registered.
        """
        self._engine.hooks.remove_event_hook(hook)

    def explain(self, name: str) -> Explanation:
        """Why a peer is not connected: the likely cause, what to do about it, and all that it is concluded from.

        The short form stands in ``connections_status[name].failure`` and in the event ``unreached``. Costs nothing
        until it is called, and asks nobody. What is known of the NATs comes from ``discover()`` and from ``Peer.nat``.

        Returns:
            An :class:`Explanation`: ``print`` it, or take it as a mapping that JSON can hold.

        Raises:
            UnknownPeer: nobody has that name.

        Example::

            if not sock.wait_connected("bob", timeout=3):
                print(sock.explain("bob"))
        """
        return self._engine.explain(name)

    # --- the socket itself ---

    @property
    def peer_id(self) -> PeerId:
        """Our own identity, for others to pin."""
        return self._engine.peer_id

    @property
    def name(self) -> str:
        """What we call ourselves; ``""`` if nothing."""
        return self._name

    @property
    def port(self) -> int:
        """The local UDP port."""
        return self._engine.local_address.port

    def getsockname(self) -> tuple[str, int]:
        """Local address and port.

        Raises:
            SocketClosed: the socket is closed (an ``OSError``).
        """
        self._engine.check_process()
        if self._engine.closing:
            raise SocketClosed("the socket is closed")
        return self._engine.local_address.host, self._engine.local_address.port

    @property
    def addresses(self) -> tuple[SeenAddress, ...]:
        """Where connected peers and asked STUN servers see this socket, the best known first.

        What a single one says is a claim; see :class:`SeenAddress`.
        """
        return self._engine.seen_addresses()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Where this socket may be reached, as far as it knows itself, what is best for most first.

        The addresses of this machine's interfaces, ports that the router forwards, and where servers and peers see it
        (servers that ``discover()`` asked; of peers what two networks agree on). Connected peers tell each other theirs
        and take the best way there is.

        Example::

            print(", ".join(str(candidate.address) for candidate in sock.candidates))
        """
        return self._engine.candidates()

    @property
    def is_closed(self) -> bool:
        """True from the beginning of ``close()`` on."""
        return self._engine.closing

    @property
    def drops(self) -> Mapping[str, int]:
        """Why datagrams were discarded, with a count of each reason since the socket was made. A copy."""
        return self._engine.drops()

    def __del__(
        self, _warn: Callable[..., None] = warnings.warn, _is_finalizing: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        engine: Core[Any] | None = getattr(self, "_engine", None)
        if engine is None or engine.closing or engine.is_foreign or _is_finalizing():
            return
        engine.abandon()
        _warn(f"unclosed {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        return repr(self._engine) if hasattr(self, "_engine") else "<MultiHolepunchSocket not open>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a MultiHolepunchSocket holds keys and an open port and cannot be copied or pickled")
