"""Many sensors, one collector: readings flow into one ``queue.Queue``, whoever sent them.

The collector lets in everybody who knows it (a member list would be better: see ``accept`` in the tutorial)::

    python sensors.py collect --port 8000

Each sensor sends a reading a second. One that could not be delivered within five seconds is not worth sending::

    python sensors.py sense kitchen "<peerid>@192.168.1.20:8000"
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import sys
import time
from collections import defaultdict

from srmudp import Message, MultiHolepunchSocket

STALE = 5.0
"""Seconds after which a reading is of no interest any more."""


def collect(port: int, count: int | None) -> int:
    """Print each reading and the mean of its sensor so far; end after ``count`` of them."""
    # A full queue holds up the sensor whose reading does not fit, so memory stays bounded without any code of ours.
    readings: queue.Queue[Message] = queue.Queue(maxsize=1000)
    total: defaultdict[str, float] = defaultdict(float)
    number: defaultdict[str, int] = defaultdict(int)
    with MultiHolepunchSocket(port, name="collector", accept=True) as sock:
        sock.register_message_hook(readings)
        print(f"PeerId {sock.peer_id} port {sock.port}", flush=True)
        while count is None or sum(number.values()) < count:
            message = readings.get()
            try:
                celsius = float(json.loads(message.content)["celsius"])
            except (ValueError, KeyError, TypeError):  # never trust what comes from a network
                print(message.peer, "sent nonsense", flush=True)
                continue
            total[message.peer] += celsius
            number[message.peer] += 1
            mean = total[message.peer] / number[message.peer]
            print(f"{message.peer} {celsius:.1f} mean {mean:.1f} of {number[message.peer]}", flush=True)
    return 0


def sense(name: str, address: str, interval: float, count: int | None) -> int:
    """Measure (here: invent) a temperature every ``interval`` seconds, ``count`` times."""
    celsius = 20.0
    with MultiHolepunchSocket(name=name, peers={"collector": address}) as sock:
        sent = 0
        while count is None or sent < count:
            celsius += random.uniform(-0.5, 0.5)
            sock.send(json.dumps({"celsius": celsius}).encode(), recipient="collector", ttl=STALE)
            sent += 1
            time.sleep(interval)
    return 0


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description="Sensors that report to one collector, over srmudp.")
    commands = parser.add_subparsers(dest="command", required=True)
    collector = commands.add_parser("collect", help="receive readings")
    collector.add_argument("--port", type=int, default=0, help="UDP port (default: the system chooses)")
    sensor = commands.add_parser("sense", help="send readings")
    sensor.add_argument("name", help="what the sensor is called")
    sensor.add_argument("address", help="PEERID@HOST:PORT of the collector")
    sensor.add_argument("--interval", type=float, default=1.0, help="seconds between readings (default: %(default)s)")
    for command in (collector, sensor):
        command.add_argument("--count", type=int, help="end after so many readings")
    options = parser.parse_args()
    try:
        if options.command == "collect":
            return collect(options.port, options.count)
        return sense(options.name, options.address, options.interval, options.count)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
