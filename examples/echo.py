"""An echo service that anybody may ask, and the one who asks.

On one machine::

    python echo.py serve --port 8000

It prints its PeerId and waits, until Ctrl-C. On another (or the same one)::

    python echo.py ask "<peerid>@192.168.1.20:8000" hello "is anybody there?"
"""

from __future__ import annotations

import argparse
import sys
import time

from srmudp import MultiHolepunchSocket


def serve(port: int, key: str | None) -> int:
    """Send every message back to whoever sent it."""
    with MultiHolepunchSocket(port, name="echo", identity=key, accept=True) as sock:
        print(f"PeerId {sock.peer_id} port {sock.port}", flush=True)
        sock.on_event(lambda event: print(event.peer, event.kind.value, event.reason, flush=True))
        try:
            for message in sock:
                sock.send(message.content, recipient=message.peer)
        except KeyboardInterrupt:
            print("stopped")
    return 0


def ask(address: str, texts: list[str], patience: float) -> int:
    """Send each text and print what comes back and how long it took."""
    with MultiHolepunchSocket(peers={"echo": address}) as sock:
        if not sock.wait_connected(timeout=patience):
            print("cannot connect:", sock.connections_status["echo"].failure, file=sys.stderr)
            return 1
        for text in texts:
            began = time.perf_counter()
            sock.send(text.encode(), recipient="echo")
            answer = sock.receive(timeout=patience)
            if answer is None:
                print("no answer to", repr(text), file=sys.stderr)
                return 1
            print(f"{answer.content.decode()}  ({(time.perf_counter() - began) * 1000:.1f} ms)")
    return 0


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description="An echo service over srmudp.")
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve", help="answer everybody")
    server.add_argument("--port", type=int, default=0, help="UDP port (default: the system chooses)")
    server.add_argument("--key", help="identity file, so that the PeerId stays the same")
    client = commands.add_parser("ask", help="ask an echo service")
    client.add_argument("address", help="PEERID@HOST:PORT, or HOST:PORT")
    client.add_argument("texts", nargs="+", metavar="TEXT")
    client.add_argument("--patience", type=float, default=20.0, help="seconds to wait (default: %(default)s)")
    options = parser.parse_args()
    if options.command == "serve":
        return serve(options.port, options.key)
    return ask(options.address, options.texts, options.patience)


if __name__ == "__main__":
    sys.exit(main())
