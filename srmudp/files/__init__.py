"""File transfer over the messages of a socket: offers, consent, resume after any break, checksums, safe names.

An application room: uses the public API as any program would, from the threads of the program. FILES.md describes the
messages. No input or output: :mod:`.messages`, :mod:`.names`, :mod:`.incoming`, :mod:`.outgoing`. The disk:
:mod:`.source`, :mod:`.folder`. Threads: :mod:`.sender`, :mod:`.receiver`, :mod:`.hub`.

::

    from srmudp.files import FileTransfers, TransferState

    files = FileTransfers(sock, "Downloads", on_change=print)
    sock.register_message_hook(files.handle)
    files.send("bob", "holiday.mp4")
    files.accept(1)

What a peer offers is a question to the application, until that calls ``accept(number)``. A break of any kind is made
good: a lost connection by itself; a killed sender by sending the same again, a killed receiver by starting it again
with the same folder and identity. What had come is kept in ``NAME.part`` and compared with the sender's file before
the rest is asked for.
"""

from .hub import FileTransfers
from .progress import Transfer, TransferState

__all__ = ["FileTransfers", "Transfer", "TransferState"]
