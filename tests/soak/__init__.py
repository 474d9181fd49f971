"""Long runs, each a command: ``python -m tests.soak.NAME --help`` tells what it does and how long it takes.

Nothing here is collected by pytest; the suite runs short forms of the same (``tests/real``).
"""
