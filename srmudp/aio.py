"""Sockets for asyncio: the same names, arguments and errors as in :mod:`srmudp`, awaited where they wait.

::

    from srmudp.aio import MultiHolepunchSocket

    async with MultiHolepunchSocket(port=8000, peers={"bob": "bob.example:8001"}) as sock:
        await sock.send(b"Hello, Bob!", recipient="bob")
        message = await sock.receive(timeout=1.0)
"""

from .sockets.aio.delivery import Delivery
from .sockets.aio.multi import MultiHolepunchSocket

__all__ = ["Delivery", "MultiHolepunchSocket"]
