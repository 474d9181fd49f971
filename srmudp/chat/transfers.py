"""Files between friends: ``/send``, ``/accept``, ``/reject`` and ``/cancel``, and what is told of their way.

The transfer itself is :mod:`srmudp.files`: consent, resume, checksums, safe names. This is what the chat says about it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from ..files import Transfer, TransferState
from .commands import COMMANDS, split_name
from .safe import MAX_NICK_SHOWN, shown

if TYPE_CHECKING:
    from .conversation import Conversation

_Test = Callable[[Transfer], bool]
_BAR: Final = 16
_NAME_SHOWN: Final = 40


class Files(Protocol):
    """What the conversation asks of :class:`srmudp.files.FileTransfers`."""

    @property
    def transfers(self) -> tuple[Transfer, ...]: ...
    def send(self, peer: str, path: str, /) -> Transfer: ...
    def accept(self, number: int, /) -> bool: ...
    def reject(self, number: int, /) -> bool: ...
    def cancel(self, number: int, /) -> bool: ...


def send(chat: Conversation, arguments: str) -> None:
    """Offer a file or folder to one, or (``*``) to everybody who is here."""
    people = chat.people.labels()
    name, path = split_name(arguments, people)
    if not path:
        chat.mistake(f"usage: {COMMANDS['send'].line}")
        return
    if name == "*":
        targets = [person for person in chat.people if person.is_here]
        if not targets:
            chat.mistake("nobody is connected: nothing was offered")
            return
    else:
        person = chat.find(name)
        if person is None:
            return
        targets = [person]
    if len(path) > 1 and path[0] == path[-1] and path[0] in "'\"":
        path = path[1:-1]
    for person in targets:
        try:
            transfer = chat.files.send(person.name, os.path.expanduser(path))
        except (OSError, ValueError) as error:
            chat.mistake(f"{path}: {getattr(error, 'strerror', None) or error}. Nothing was offered.")
            return
        chat.note(f"offering {_what(transfer)} to {person.label}; /cancel {transfer.number} takes it back")


def accept(chat: Conversation, arguments: str) -> None:
    """Take what is offered."""
    transfer = _chosen(chat, arguments, _is_offer, "nothing is offered to you")
    if transfer is not None and chat.files.accept(transfer.number):
        chat.note(f"taking {_what(transfer)} from {chat.label_of(transfer.peer)}")


def reject(chat: Conversation, arguments: str) -> None:
    """Refuse what is offered."""
    transfer = _chosen(chat, arguments, _is_offer, "nothing is offered to you")
    if transfer is not None:
        chat.files.reject(transfer.number)


def cancel(chat: Conversation, arguments: str) -> None:
    """Give up a transfer in either direction."""
    transfer = _chosen(chat, arguments, lambda transfer: not transfer.is_over, "no file is on its way")
    if transfer is not None:
        chat.files.cancel(transfer.number)


def _is_offer(transfer: Transfer) -> bool:
    return not transfer.outgoing and transfer.state is TransferState.OFFERED


def _chosen(chat: Conversation, arguments: str, fits: _Test, nothing: str) -> Transfer | None:
    """The one that is meant: by number, by who offers it, or the oldest."""
    found = [transfer for transfer in chat.files.transfers if fits(transfer)]
    if not found:
        chat.mistake(nothing)
        return None
    if not arguments:
        return found[0]
    if arguments.isdecimal() and len(arguments) < 10:
        found = [transfer for transfer in found if transfer.number == int(arguments)]
    else:
        wanted = arguments.casefold()
        found = [transfer for transfer in found if chat.label_of(transfer.peer).casefold() == wanted]
    if not found:
        chat.mistake(f"there is no {shown(arguments, MAX_NICK_SHOWN)} among what could be meant; {nothing_else(chat)}")
        return None
    return found[0]


def nothing_else(chat: Conversation) -> str:
    """The numbers there are, in words."""
    numbers = [str(transfer.number) for transfer in chat.files.transfers if not transfer.is_over]
    return f"there are: {', '.join(numbers)}" if numbers else "nothing is on its way"


def changed(chat: Conversation, transfer: Transfer) -> None:
    """Tell what happened to a transfer."""
    label, what, state = chat.label_of(transfer.peer), _what(transfer), transfer.state
    number = transfer.number
    if state is TransferState.OFFERED:
        if not transfer.outgoing:
            chat.question(f"{label} offers you {what}. /accept {number} takes it, /reject {number} does not.")
    elif state is TransferState.MOVING:
        if transfer.resumed:
            chat.note(f"{what} goes on where it stopped, at {int(transfer.fraction * 100)} %")
    elif state is TransferState.DONE:
        if transfer.outgoing:
            chat.good(f"{label} has {what}")
        else:
            chat.good(f"{what} from {label} is there: {transfer.path}")
    elif transfer.is_over:
        direction = f"to {label}" if transfer.outgoing else f"from {label}"
        chat.warn(f"{what} {direction}: {state.value}" + (f" ({transfer.reason})" if transfer.reason else ""))
    chat.quarters.pop(number, None)


def tell_quarters(chat: Conversation) -> None:
    """Where no bars are drawn: a line for each quarter of a transfer."""
    for transfer in chat.files.transfers:
        if transfer.state is TransferState.MOVING:
            quarter = int(transfer.fraction * 4)
            if quarter > chat.quarters.get(transfer.number, int(transfer.resumed * 4 / (transfer.size or 1))):
                chat.quarters[transfer.number] = quarter
                chat.note(line_of(chat, transfer))


def bars(chat: Conversation) -> list[str]:
    """A line for each transfer that is moving."""
    moving = (TransferState.PREPARING, TransferState.MOVING, TransferState.FINISHING)
    return [line_of(chat, transfer) for transfer in chat.files.transfers if transfer.state in moving]


def line_of(chat: Conversation, transfer: Transfer) -> str:
    """How it stands: a bar, the rate, and the time that remains."""
    label = shown(chat.label_of(transfer.peer), MAX_NICK_SHOWN)
    head = f"{'↑' if transfer.outgoing else '↓'} {shown(transfer.name, _NAME_SHOWN)}"
    head += f" {'to' if transfer.outgoing else 'from'} {label}"
    if transfer.state is not TransferState.MOVING:
        return f"{head}  {transfer.state.value}"
    full = int(transfer.fraction * _BAR)
    bar = "█" * full + "░" * (_BAR - full)
    text = f"{head}  {bar} {int(transfer.fraction * 100):3} %"
    if transfer.rate > 0:
        text += f"  {size_of(transfer.rate)}/s"
        left = transfer.remaining
        text += f"  {_clock(left)} left" if left is not None else ""
    else:
        text += "  waiting"
    return text


def is_busy(chat: Conversation) -> bool:
    """True while something of ours is being sent."""
    return any(transfer.outgoing and not transfer.is_over for transfer in chat.files.transfers)


def _what(transfer: Transfer) -> str:
    name = shown(transfer.name, _NAME_SHOWN)
    if transfer.is_folder:
        return f"the folder {name} ({transfer.files} files, {size_of(transfer.size)})"
    return f"{name} ({size_of(transfer.size)})"


def size_of(size: float) -> str:
    """Bytes in words: ``12 B``, ``3.4 kB``, ``56.7 MB``."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        if size < 999.95 or unit == "PB":
            break
    return f"{size:.1f} {unit}"


def _clock(seconds: float) -> str:
    whole = int(min(seconds, 359_999))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
