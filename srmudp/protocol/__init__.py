"""One peer, no I/O: the state machine and its organs. Bytes and ``now`` in, bytes and events out.

May import ground, wire and crypto; never socket, threading, time, asyncio, os or random. Every call is made under the
endpoint lock; ``now`` is ``time.monotonic()`` in seconds and never goes back.
"""
