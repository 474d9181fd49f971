"""What punching can do between every pair of NATs, as data: measured with an independent programme on the same kinds.

S works with the signalled address alone, O if a side also answers the address it observes, T if the first datagrams
have a small TTL, P needs the next port guessed; RB needs many sockets at random ports (birthday); R cannot work.
"""

from __future__ import annotations

from typing import Final

EASY: Final = frozenset("SOTP")
"""Letters of pairs that connect within :data:`WITHIN`."""
WITHIN: Final = 3.0
"""Seconds, 95th percentile, for a pair that connects."""
BIRTHDAY_WITHIN: Final = 30.0
"""The same for RB."""
FAIL_WITHIN: Final = 3.0
"""Seconds in which the ends of a pair that cannot connect have to say why."""

_TABLE: Final = """
                open fire full rest port sadm sseq sym  tcp  lin  lopn lrnd cgpr cgsy
open            S    S    S    S    S    O    O    O    R    S    O    O    S    O
firewall        S    S    S    S    S    RB   P    RB   R    S    T    RB   S    RB
full-cone       S    S    S    S    S    O    O    O    R    S    O    O    S    O
restricted      S    S    S    S    S    O    O    O    R    S    O    O    S    O
port-restricted S    S    S    S    S    RB   P    RB   R    S    T    RB   S    RB
symmetric-adm   O    RB   O    O    RB   R    R    R    R    RB   RB   R    RB   R
symmetric-seq   O    P    O    O    P    R    R    R    R    P    RB   R    P    R
symmetric       O    RB   O    O    RB   R    R    R    R    RB   RB   R    RB   R
tcp-only        R    R    R    R    R    R    R    R    R    R    R    R    R    R
linux           S    S    S    S    S    RB   P    RB   R    S    T    RB   S    RB
linux-open      O    T    O    O    T    RB   RB   RB   R    T    T    RB   T    RB
linux-random    O    RB   O    O    RB   R    R    R    R    RB   RB   R    RB   R
cgnat-pr        S    S    S    S    S    RB   P    RB   R    S    T    RB   S    RB
cgnat-sym       O    RB   O    O    RB   R    R    R    R    RB   RB   R    RB   R
"""

MORE: Final = {"double": "cgnat-pr", "forwarded": "full-cone"}
"""Kinds that are not in the table and behave as one that is. Who has a port forwarded tells that one to the others."""


def _read() -> dict[tuple[str, str], str]:
    rows = [line.split() for line in _TABLE.strip().splitlines()[1:]]
    kinds = [row[0] for row in rows]
    table = {(row[0], kind): letter for row in rows for kind, letter in zip(kinds, row[1:], strict=True)}
    like = {kind: kind for kind in kinds} | MORE
    found = {(one, two): table[like[one], like[two]] for one in like for two in like}
    # A port that lets everybody in is one known address, whatever the router does with other ports.
    found |= {pair: "S" for pair, letter in found.items() if "forwarded" in pair and letter == "O"}
    return found


LETTERS: Final = _read()
"""First kind and second kind to the letter."""

KINDS: Final = tuple(dict.fromkeys(one for one, _ in LETTERS))
