"""``srmudp send`` and ``srmudp recv``: files and folders from one machine to another, resumed whatever breaks."""

from __future__ import annotations

import argparse
import os
import queue
import sys
import time
from typing import TYPE_CHECKING

from ..files import FileTransfers, Transfer, TransferState
from .meeting import Meeting, Unmet, add_only, add_options
from .text import Bar, Screen, amount, clean, period

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_SEND_EXAMPLES = """\
examples:
  srmudp send holiday.mp4 bxk4...n3q@192.168.1.20:8000
  srmudp send photos/ letter.txt 192.168.1.20:8000
  srmudp send --wait 3600 big.iso ADDRESS     the other one comes within an hour

ADDRESS is what 'srmudp recv' prints at the other end. Broken off, by Ctrl-C or
a crash at either end? Type the same again: it goes on where it was. All is
compared by SHA-256; the exit status is 0 only if it is there and right. Links,
empty folders and rights of files are left out: for those see 'srmudp pipe'.
"""
_RECV_EXAMPLES = """\
examples:
  srmudp recv                                 asks before it takes anything
  srmudp recv --folder ~/Downloads -p 8000    always at the same port
  srmudp recv --yes --only bxk4...n3q         unasked, but from this one alone
  srmudp recv --yes --once --max-size 2G      for scripts
  srmudp recv 192.168.1.30:8001               knocks there too: for two routers

It prints what the other one has to type. Nothing is ever written over: a second
photo.jpg becomes 'photo (2).jpg'. What has not come as a whole ends in .part.
"""
_TICK = 0.2
_REST = 20
"""Columns beside name and note: the least of a bar, the share in per cent, what is between them."""
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_ENDS = {
    TransferState.REFUSED: "refused",
    TransferState.CANCELLED: "given up",
    TransferState.FAILED: "failed",
}


def add_to(commands: Commands) -> None:
    """Add ``send`` and ``recv``."""
    send = commands.add_parser(
        "send",
        help="send files and folders to somebody who runs 'srmudp recv'",
        description="Send files and folders: resumed after any break, compared by checksum.",
        epilog=_SEND_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    send.add_argument("paths", nargs="+", metavar="FILE", help="file or folder")
    send.add_argument("address", metavar="ADDRESS", help="of the receiver: [PEERID@]HOST:PORT")
    send.add_argument("--rate", type=_size, metavar="N", help="send at most so many bytes a second: 500k, 2M")
    add_options(send)
    send.set_defaults(run=_send)
    recv = commands.add_parser(
        "recv",
        help="receive files and folders into a folder",
        description="Receive files and folders from those who run 'srmudp send', into one folder.",
        epilog=_RECV_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recv.add_argument("address", nargs="?", metavar="ADDRESS", help="of a sender to knock at as well")
    recv.add_argument("-f", "--folder", default=".", help="where files go (default: here)")
    recv.add_argument("-y", "--yes", action="store_true", help="take everything without asking")
    recv.add_argument("-1", "--once", action="store_true", help="end after one file or folder; the exit status is its")
    recv.add_argument("--max-size", type=_size, metavar="N", help="refuse what is larger: bytes, or 500M, 2G")
    add_only(recv)
    add_options(recv)
    recv.set_defaults(run=_recv, fail=recv.error)


# --- send ---


def _send(arguments: argparse.Namespace) -> int:
    screen = Screen()
    for path in arguments.paths:
        if not os.path.exists(path):
            hint = "; files come first, ADDRESS last" if ":" in path else ""
            print(f"srmudp send: there is no {clean(path)!r}{hint}", file=sys.stderr)
            return 1
    try:
        with Meeting(arguments, "send", address=arguments.address) as meeting:
            news: queue.SimpleQueue[Transfer] = queue.SimpleQueue()
            name = meeting.meet()
            screen.line(f"connected to {_who(meeting, name)}")
            files = FileTransfers(meeting.sock, os.devnull, on_change=news.put, max_rate=arguments.rate)
            meeting.sock.register_message_hook(files.handle)
            try:
                results = [_send_one(meeting, files, name, path, screen) for path in arguments.paths]
            finally:
                files.close()
    except (Unmet, ValueError) as error:
        print(f"srmudp send: {clean(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbroken off; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0 if all(results) else 1


def _send_one(meeting: Meeting, files: FileTransfers, name: str, path: str, screen: Screen) -> bool:
    number = files.send(name, path).number
    with screen.progress(indent="") as bar:
        transfer = _now(files, number)
        while not transfer.is_over:
            meeting.check(name, ended_is_over=False)
            if screen.live or transfer.state is TransferState.MOVING:
                _show(bar, transfer, screen.width)
            time.sleep(_TICK)
            transfer = _now(files, number)
        if transfer.state is TransferState.DONE:
            _show(bar, transfer, screen.width)
    return _told(transfer, screen)


# --- recv ---


class _Receiver:
    """Asks, shows and counts."""

    def __init__(self, arguments: argparse.Namespace, meeting: Meeting, screen: Screen) -> None:
        self._yes: bool = arguments.yes
        self._once: bool = arguments.once
        self._meeting = meeting
        self._screen = screen
        self._news: queue.SimpleQueue[Transfer] = queue.SimpleQueue()
        self.files = FileTransfers(
            meeting.sock, arguments.folder, on_change=self._news.put, max_size=arguments.max_size
        )
        meeting.sock.register_message_hook(self.files.handle)

    def run(self) -> int:
        """Until Ctrl-C, or with ``--once`` until one transfer is over."""
        while True:
            moving = [t for t in self.files.transfers if t.state is TransferState.MOVING]
            if moving:
                self._watch(moving[0].number)
            try:
                transfer = self._news.get(timeout=_TICK)
            except queue.Empty:
                continue
            over = self._handle(transfer)
            if over is not None and self._once:
                return 0 if over else 1

    def _watch(self, number: int) -> None:
        """Draw one transfer until there is something else to be said."""
        with self._screen.progress(indent="") as bar:
            while self._news.empty():
                transfer = _now(self.files, number)
                if transfer.state is not TransferState.MOVING:
                    break
                _show(bar, transfer, self._screen.width)
                time.sleep(_TICK)

    def _handle(self, transfer: Transfer) -> bool | None:
        """True or False if it is over, and went well or did not."""
        if transfer.state is TransferState.OFFERED:
            question = f"{_who(self._meeting, transfer.peer)} offers {_what(transfer)}."
            if self._yes:
                self._screen.line(question)
                self.files.accept(transfer.number)
            elif self._asks(question):
                self.files.accept(transfer.number)
            else:
                self.files.reject(transfer.number)
        elif transfer.state is TransferState.MOVING and transfer.resumed:
            self._screen.line(f"{clean(transfer.name)}: {amount(transfer.resumed)} are here already, it goes on")
        elif transfer.is_over:
            return _told(transfer, self._screen)
        return None

    def _asks(self, question: str) -> bool:
        self._screen.line(question)
        try:
            return input("Take it? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            return False


def _recv(arguments: argparse.Namespace) -> int:
    if not arguments.yes and not sys.stdin.isatty():
        arguments.fail("there is no terminal to ask at: say --yes to take everything")
    screen = Screen()
    if os.path.exists(arguments.folder) and not (
        os.path.isdir(arguments.folder) and os.access(arguments.folder, os.W_OK | os.X_OK)
    ):
        print(f"srmudp recv: cannot write into {clean(arguments.folder)!r}", file=sys.stderr)
        return 1
    try:
        with Meeting(arguments, "recv", address=arguments.address, many=True) as meeting:
            meeting.introduce("srmudp send FILE ADDRESS", sys.stdout)
            receiver = _Receiver(arguments, meeting, screen)
            try:
                return receiver.run()
            finally:
                receiver.files.close()
    except (Unmet, ValueError) as error:
        print(f"srmudp recv: {clean(str(error))}", file=sys.stderr)
        return 1


# --- words ---


def _now(files: FileTransfers, number: int) -> Transfer:
    transfer = files.transfer(number)
    assert transfer is not None
    return transfer


def _who(meeting: Meeting, name: str) -> str:
    status = meeting.sock.connections_status.get(name)
    if status is None:
        return clean(name)
    tag = f" ({status.peer_id.tag}...)" if status.peer_id else ""
    return clean(f"{name}{tag} at {status.address}")


def _what(transfer: Transfer) -> str:
    files = f", a folder with {transfer.files:,} files" if transfer.is_folder else ""
    return f"{clean(transfer.name)}, {amount(transfer.size)}{files}"


def _show(bar: Bar, transfer: Transfer, width: int) -> None:
    """Draw it within ``width`` columns."""
    if transfer.is_over:
        notes = [amount(transfer.done)]
    elif transfer.state is TransferState.MOVING:
        left = f"  {period(transfer.remaining)} left" if transfer.remaining is not None else ""
        rate = f"{amount(transfer.rate)}/s"
        notes = [f"{amount(transfer.done)} of {amount(transfer.size)}  {rate}{left}", f"{rate}{left}", rate, ""]
    else:
        notes = [{TransferState.OFFERED: "waits for an answer"}.get(transfer.state, transfer.state.value), ""]
    note = next((note for note in notes if len(note) + 4 + _REST <= width), "")
    room = max(4, min(24, width - len(note) - _REST))
    name = clean(transfer.name)
    bar.show(transfer.fraction, f"{name if len(name) <= room else name[: room - 1] + '~'}  {note}")


def _told(transfer: Transfer, screen: Screen) -> bool:
    went_well = transfer.state is TransferState.DONE
    if went_well:
        where = f" is at {clean(transfer.peer)}'s" if transfer.outgoing else f" is here: {clean(transfer.path)}"
        resumed = f"; {amount(transfer.resumed)} of it from before" if transfer.resumed else ""
        screen.check(True, f"{_what(transfer)},{where}{resumed}; the checksum is right", indent="")
    else:
        screen.check(False, f"{_what(transfer)}: {_ENDS[transfer.state]}: {clean(transfer.reason)}", indent="")
    return went_well


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1:]) if text[-1:] in "kMGT" else (text, "")
    if number.isascii() and number.isdecimal() and (size := int(number) * _UNITS[unit]) > 0:
        return size
    raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500000, 500M or 2G")
