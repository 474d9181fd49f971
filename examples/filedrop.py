"""A drop box for files: members leave files and folders in it, nobody else is even answered.

The owner of the box names the members by their PeerIds::

    python filedrop.py box --port 8000 --folder inbox MEMBER_PEERID MEMBER_PEERID

It prints its own PeerId and waits, until Ctrl-C. A member has an identity in a file (``srmudp key new me.key`` makes
one and shows its PeerId) and drops::

    python filedrop.py drop --key me.key "<peerid>@192.168.1.20:8000" photos/ letter.txt

Broken off? The same command again goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time

from srmudp import Address, MultiHolepunchSocket, PeerId
from srmudp.files import FileTransfers, Transfer, TransferState


def box(port: int, folder: str, key: str | None, members: list[PeerId]) -> int:
    """Take whatever members drop."""

    def is_member(peer_id: PeerId, name: str, address: Address) -> bool:
        return peer_id in members

    def changed(transfer: Transfer) -> None:
        if transfer.state is TransferState.OFFERED:
            files.accept(transfer.number)
        elif transfer.state is TransferState.DONE:
            print(f"{transfer.peer} dropped {transfer.path}", flush=True)
        elif transfer.is_over:
            print(f"{transfer.peer}: {transfer.name} {transfer.state.value}: {transfer.reason}", flush=True)

    with MultiHolepunchSocket(port, name="box", identity=key, accept=is_member) as sock:
        files = FileTransfers(sock, folder, on_change=changed, max_size=10_000_000_000)
        sock.register_message_hook(files.handle)
        print(f"PeerId {sock.peer_id} port {sock.port}", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("stopped")
        finally:
            files.close()
    return 0


def drop(address: str, key: str, paths: list[str], patience: float) -> int:
    """Bring files to a box, one after the other."""
    with MultiHolepunchSocket(identity=key, peers={"box": address}) as sock:
        if not sock.wait_connected(timeout=patience):
            print("cannot connect:", sock.connections_status["box"].failure, file=sys.stderr)
            return 1
        files = FileTransfers(sock, folder=".")
        sock.register_message_hook(files.handle)
        went_well = True
        for path in paths:
            number = files.send("box", path).number
            while (transfer := files.transfer(number)) is not None and not transfer.is_over:
                time.sleep(0.1)
            assert transfer is not None
            print(transfer.name, transfer.state.value, transfer.reason, flush=True)
            went_well = went_well and transfer.state is TransferState.DONE
        files.close()
    return 0 if went_well else 1


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description="A drop box for files, over srmudp.")
    commands = parser.add_subparsers(dest="command", required=True)
    owner = commands.add_parser("box", help="take what members drop")
    owner.add_argument("members", nargs="+", type=PeerId.parse, metavar="PEERID", help="who may drop")
    owner.add_argument("--port", type=int, default=0, help="UDP port (default: the system chooses)")
    owner.add_argument("--folder", default="inbox", help="where it goes (default: %(default)s)")
    owner.add_argument("--key", help="identity file, so that the PeerId stays the same")
    member = commands.add_parser("drop", help="drop files and folders")
    member.add_argument("address", help="PEERID@HOST:PORT of the box")
    member.add_argument("paths", nargs="+", metavar="FILE")
    member.add_argument("--key", required=True, help="identity file that the box knows the PeerId of")
    member.add_argument("--patience", type=float, default=20.0, help="seconds to wait (default: %(default)s)")
    options = parser.parse_args()
    if options.command == "box":
        return box(options.port, options.folder, options.key, options.members)
    return drop(options.address, options.key, options.paths, options.patience)


if __name__ == "__main__":
    sys.exit(main())
