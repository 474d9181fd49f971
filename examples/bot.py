"""A bot for asyncio: it rolls dice, tells the time and reminds, for many people at once and without a thread.

::

    python bot.py --port 8000

prints its PeerId. Ask it as you would an echo service::

    python echo.py ask "<peerid>@192.168.1.20:8000" "roll 2 6" time "remind 3 tea is ready"

To add a command, write a coroutine function that takes the rest of the line and returns the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Awaitable, Callable

from srmudp import Message, QueueFull
from srmudp.aio import MultiHolepunchSocket


async def roll(words: list[str]) -> str:
    """``roll [dice [sides]]``"""
    dice, sides = (int(word) for word in (*words, "1", "6")[:2]) if words else (1, 6)
    if not (1 <= dice <= 100 and 2 <= sides <= 1000):
        return "1 to 100 dice of 2 to 1000 sides"
    return " ".join(str(random.randint(1, sides)) for _ in range(dice))


async def tell_time(words: list[str]) -> str:
    """``time``"""
    return time.strftime("%H:%M:%S")


async def remind(words: list[str]) -> str:
    """``remind SECONDS TEXT``"""
    seconds = float(words[0])
    if not 0 <= seconds <= 86_400:
        return "at most a day"
    await asyncio.sleep(seconds)  # everybody else is answered meanwhile
    return " ".join(words[1:])


COMMANDS: dict[str, Callable[[list[str]], Awaitable[str]]] = {"roll": roll, "time": tell_time, "remind": remind}
MOST = 100
"""Questions of one peer that may be worked on at the same time."""


async def answer(sock: MultiHolepunchSocket, message: Message) -> None:
    """Do what a message asks for and send the result back."""
    command, *words = message.content.decode("utf-8", "replace").split() or [""]
    try:
        text = await COMMANDS[command](words)
    except (KeyError, ValueError, IndexError):  # never trust what comes from a network
        text = "I understand: " + ", ".join((function.__doc__ or "").strip("`") for function in COMMANDS.values())
    with contextlib.suppress(QueueFull, KeyError):  # it does not read, or is gone
        await sock.send(text.encode(), recipient=message.peer)


async def serve(port: int, key: str | None) -> None:
    """Answer everybody, each question in a task of its own."""
    working: dict[str, int] = {}
    async with (
        MultiHolepunchSocket(port, name="bot", identity=key, accept=True) as sock,
        asyncio.TaskGroup() as tasks,
    ):
        print(f"PeerId {sock.peer_id} port {sock.port}", flush=True)

        async def work(message: Message) -> None:
            try:
                await answer(sock, message)
            finally:
                working[message.peer] -= 1

        async for message in sock:
            if working.setdefault(message.peer, 0) < MOST:
                working[message.peer] += 1
                tasks.create_task(work(message))


def main() -> int:
    """Read the command line and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A bot over srmudp, with asyncio.")
    parser.add_argument("--port", type=int, default=0, help="UDP port (default: the system chooses)")
    parser.add_argument("--key", help="identity file, so that the PeerId stays the same")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.port, options.key))
    print("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
