"""A bridge from a web browser on this machine to srmudp peers: a group chat in a page, without a server in between.

Needs the package websockets (``pip install 'srmudp[bridge]'``). Two people::

    python websocket_bridge.py --name alice --port 8000 --web 8080 bob=192.168.1.30:8001
    python websocket_bridge.py --name bob   --port 8001 --web 8080 alice=192.168.1.20:8000

Each opens http://localhost:8080 in a browser. What one types there, everybody sees. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.http11 import Request, Response
from websockets.typing import Origin

from srmudp import QueueFull
from srmudp.aio import MultiHolepunchSocket

# What others write is set as textContent: it is shown and never becomes part of the page.
PAGE = """<!doctype html><meta charset="utf-8"><title>srmudp</title>
<ul id="lines"></ul><form><input id="text" autofocus></form>
<script>
const socket = new WebSocket("ws://" + location.host);
socket.onmessage = event => {
  const {who, text} = JSON.parse(event.data), line = document.createElement("li");
  line.textContent = who + ": " + text;
  document.getElementById("lines").append(line);
};
document.forms[0].onsubmit = event => {
  event.preventDefault();
  const field = document.getElementById("text");
  socket.send(field.value);
  field.value = "";
};
</script>
"""
MAX_TEXT = 4096


def page(connection: ServerConnection, request: Request) -> Response | None:
    """The page itself; None lets a WebSocket through."""
    if "Upgrade" in request.headers:
        return None
    response = connection.respond(HTTPStatus.OK, PAGE)
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    return response


async def bridge(name: str, port: int, web: int, peers: dict[str, str]) -> None:
    """Carry lines both ways until it is cancelled."""
    browsers: set[ServerConnection] = set()

    def show(who: str, text: str) -> None:
        broadcast(browsers, json.dumps({"who": who, "text": text}))

    async def browse(browser: ServerConnection) -> None:
        browsers.add(browser)
        try:
            async for text in browser:
                data = text.encode() if isinstance(text, str) else text
                show(name, data.decode("utf-8", "replace"))
                with contextlib.suppress(QueueFull):
                    await sock.send(data)
        finally:
            browsers.discard(browser)

    # Only this machine, and only pages of this server: any page of the web could connect to localhost otherwise.
    origins = [Origin(f"http://{host}:{web}") for host in ("localhost", "127.0.0.1")]
    async with (
        MultiHolepunchSocket(port, name=name, identity=f"{name}.key", peers=peers) as sock,
        serve(browse, "localhost", web, process_request=page, origins=origins, max_size=MAX_TEXT),
    ):
        print(f"PeerId {sock.peer_id} port {sock.port}; open http://localhost:{web}", flush=True)
        async for message in sock:
            show(message.peer, message.content[:MAX_TEXT].decode("utf-8", "replace"))


def main() -> int:
    """Read the command line and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A bridge from WebSocket to srmudp.")
    parser.add_argument("--name", required=True, help="what you are called; also names your key file")
    parser.add_argument("--port", type=int, default=0, help="your UDP port")
    parser.add_argument("--web", type=int, default=8080, help="port of the page, on this machine only")
    parser.add_argument("peers", nargs="+", metavar="NAME=ADDRESS", help="[PEERID@]HOST:PORT of each of the others")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(bridge(options.name, options.port, options.web, dict(p.split("=", 1) for p in options.peers)))
    print("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
