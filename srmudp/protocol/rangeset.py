"""Sorted sets of integers kept as ranges: acknowledged numbers, received bytes of a stream, numbers still to be resent.

Cost follows the number of ranges, never the distance between two numbers, so one number far ahead costs no more than
the next one (attacks 13 and 14). Appending at the end, nearly every call in practice, is constant time; elsewhere a
bisection and a list insertion.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """A set of integers as disjoint, ascending, inclusive ranges; neighbours are merged. Not thread-safe.

    ``len()`` is the number of ranges, iteration gives ``(first, last)`` ascending, and an empty set is false.

    Args:
        ranges: inclusive ranges to begin with, in any order.
        max_ranges: the most ranges kept; the lowest one is dropped when there would be more. None is unbounded:
            only for sets whose numbers we chose ourselves.

    Raises:
        ValueError: ``max_ranges`` below 1, or a range that ends before it begins.
    """

    __slots__ = ("_firsts", "_lasts", "_max_ranges")

    def __init__(self, ranges: Iterable[tuple[int, int]] = (), *, max_ranges: int | None = None) -> None:
        if max_ranges is not None and max_ranges < 1:
            raise ValueError("max_ranges must be at least 1")
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._max_ranges = max_ranges
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> int:
        """Put ``first`` to ``last`` (inclusive; alone if None) in; returns how many of them were not there before.

        The count is taken before ``max_ranges`` drops anything, so 0 always means "known already".

        Raises:
            ValueError: the range ends before it begins.
        """
        if last is None:
            last = first
        elif last < first:
            raise ValueError(f"range ends before it begins: {first}..{last}")
        lasts = self._lasts
        if lasts:
            end = lasts[-1]
            if first == end + 1:  # the next in order
                lasts[-1] = last
                return last - end
            if first <= end:
                return self._merge(first, last)
        self._firsts.append(first)
        lasts.append(last)
        self._trim()
        return last - first + 1

    def _merge(self, first: int, last: int) -> int:
        firsts, lasts = self._firsts, self._lasts
        low = bisect_left(lasts, first - 1)  # the first range that touches ours or lies above it
        high = bisect_right(firsts, last + 1, low)  # one past the last range that touches ours
        if low == high:
            firsts.insert(low, first)
            lasts.insert(low, last)
            self._trim()
            return last - first + 1
        known = sum(lasts[i] - firsts[i] + 1 for i in range(low, high))
        first = min(first, firsts[low])
        last = max(last, lasts[high - 1])
        firsts[low:high] = (first,)
        lasts[low:high] = (last,)
        return last - first + 1 - known

    def _trim(self) -> None:
        bound = self._max_ranges
        if bound is not None and len(self._firsts) > bound:
            del self._firsts[0], self._lasts[0]

    def remove(self, first: int, last: int | None = None) -> int:
        """Take ``first`` to ``last`` (inclusive; alone if None) out; returns how many of them were there.

        Splitting a range may drop the lowest one where ``max_ranges`` is reached.

        Raises:
            ValueError: the range ends before it begins.
        """
        if last is None:
            last = first
        elif last < first:
            raise ValueError(f"range ends before it begins: {first}..{last}")
        firsts, lasts = self._firsts, self._lasts
        low = bisect_left(lasts, first)
        high = bisect_right(firsts, last, low)
        if low == high:
            return 0
        begin, end = firsts[low], lasts[high - 1]
        gone = sum(lasts[i] - firsts[i] + 1 for i in range(low, high))
        rest: list[tuple[int, int]] = []
        if begin < first:
            rest.append((begin, first - 1))
        if end > last:
            rest.append((last + 1, end))
        firsts[low:high] = [part[0] for part in rest]
        lasts[low:high] = [part[1] for part in rest]
        self._trim()
        return gone - sum(b - a + 1 for a, b in rest)

    def remove_below(self, number: int) -> None:
        """Forget everything smaller than ``number``."""
        firsts, lasts = self._firsts, self._lasts
        if not firsts or firsts[0] >= number:
            return
        cut = bisect_left(lasts, number)
        del firsts[:cut], lasts[:cut]
        if firsts and firsts[0] < number:
            firsts[0] = number

    def clear(self) -> None:
        """Forget everything."""
        self._firsts.clear()
        self._lasts.clear()

    def newest(self, limit: int) -> tuple[tuple[int, int], ...]:
        """At most ``limit`` ranges ``(first, last)``, the highest first: what an acknowledgement names."""
        if limit <= 0:
            return ()
        firsts, lasts = self._firsts, self._lasts
        if len(firsts) == 1:
            return ((firsts[0], lasts[0]),)
        return tuple(zip(firsts[: -limit - 1 : -1], lasts[: -limit - 1 : -1], strict=True))

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The gaps ``(first, last)``, ascending, that the set leaves within ``first`` to ``last`` (inclusive)."""
        firsts, lasts = self._firsts, self._lasts
        if lasts and first >= firsts[-1] and last >= first:  # what is new has the highest numbers, nearly always
            end = lasts[-1]
            if last <= end:
                return []
            return [(first if first > end else end + 1, last)]
        gaps: list[tuple[int, int]] = []
        index = bisect_left(lasts, first)
        while first <= last:
            if index == len(firsts) or firsts[index] > last:
                gaps.append((first, last))
                break
            if first < firsts[index]:
                gaps.append((first, firsts[index] - 1))
            first = lasts[index] + 1
            index += 1
        return gaps

    def covers(self, first: int, last: int) -> bool:
        """True if every number from ``first`` to ``last`` (inclusive) is in the set; an empty span is covered."""
        if last < first:
            return True
        index = bisect_left(self._lasts, first)
        return index < len(self._lasts) and self._firsts[index] <= first and last <= self._lasts[index]

    def count(self) -> int:
        """How many integers are in the set. Linear in the number of ranges."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    @property
    def first(self) -> int | None:
        """The smallest number, or None if empty."""
        return self._firsts[0] if self._firsts else None

    @property
    def last(self) -> int | None:
        """The largest number, or None if empty."""
        return self._lasts[-1] if self._lasts else None

    def __contains__(self, number: int) -> bool:
        index = bisect_left(self._lasts, number)
        return index < len(self._lasts) and self._firsts[index] <= number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._firsts == other._firsts and self._lasts == other._lasts

    __hash__ = None  # type: ignore[assignment]  # as the language has it for what changes and can be compared

    def __repr__(self) -> str:
        shown = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in self.newest(8)[::-1])
        return f"RangeSet({'... ' if len(self) > 8 else ''}{shown})"
