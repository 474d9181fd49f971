"""Notes that a group keeps together: what one types, all have, in a file of their own.

Everybody starts it with the others' addresses. Two people::

    python notes.py --name alice --port 8000 bob=192.168.1.30:8001
    python notes.py --name bob   --port 8001 alice=192.168.1.20:8000

A line typed is a note for all. Who is away gets it when he is back, as long as the writer's program runs. Who came and
went is printed, too. Ctrl-D ends it.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from typing import Any

from srmudp import Message, MultiHolepunchSocket, PeerEvent


class Notebook:
    """A file with one JSON object a line. Thread-safe: notes come from the keyboard and from the socket's hooks."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, author: str, text: str, when: float) -> None:
        """Write a note down and show it."""
        note: dict[str, Any] = {"author": author, "text": text, "when": when}
        with self._lock:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(note, ensure_ascii=False) + "\n")
            # What others write may hold control characters: never send those to a terminal.
            shown = "".join(character if character.isprintable() else "?" for character in text)
            print(f"[{time.strftime('%H:%M', time.localtime(when))}] {author}: {shown}", flush=True)


def main() -> int:
    """Read the command line, then share notes until the end of the input."""
    parser = argparse.ArgumentParser(description="Notes that a group keeps together, over srmudp.")
    parser.add_argument("--name", required=True, help="what you are called; also names your files")
    parser.add_argument("--port", type=int, default=0, help="your UDP port")
    parser.add_argument("peers", nargs="+", metavar="NAME=ADDRESS", help="[PEERID@]HOST:PORT of each of the others")
    options = parser.parse_args()
    peers = dict(peer.split("=", 1) for peer in options.peers)
    notebook = Notebook(f"{options.name}.notes")

    with MultiHolepunchSocket(
        options.port,
        name=options.name,
        identity=f"{options.name}.key",
        known_peers=f"{options.name}.peers.json",
    ) as sock:
        # Hooks before peers: then nothing is missed.
        @sock.register_message_hook
        def keep(message: Message) -> None:
            notebook.add(message.peer, message.content.decode("utf-8", "replace"), message.timestamp)

        @sock.on_event
        def tell(event: PeerEvent) -> None:
            print(f"* {event.peer} {event.kind.value} {event.reason}".rstrip(), flush=True)

        sock.add_peers(peers)
        print(f"* your PeerId is {sock.peer_id}", flush=True)
        for line in sys.stdin:
            text = line.strip()
            if text:
                notebook.add(options.name, text, time.time())
                sock.send(text.encode(), recipient=list(peers))
        sock.close(timeout=5)  # who is away would otherwise be waited for for 21 seconds
    return 0


if __name__ == "__main__":
    sys.exit(main())
