"""``python -m srmudp``: hands over to the command line in :mod:`srmudp.cli`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":  # a spawned process imports this module under another name
    sys.exit(main())
