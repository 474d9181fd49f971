"""The chat of srmudp, started from this folder: ``python chat_app.py -p 8000 -n Alice``. ``--help`` tells the rest.

It is the same as ``srmudp chat``; the program itself is the package ``srmudp.chat``. To write your own, begin with
``notes.py``, which is short.
"""

from __future__ import annotations

import sys

from srmudp.chat import main

if __name__ == "__main__":
    sys.exit(main())
