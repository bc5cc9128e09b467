"""Overlapping layers of ranges -> disjoint intervals, each with the mark of the best layer there.

Knows: integers and their packed form. Must not know: rules, where ranges come from.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Interval = tuple[int, int, int]  # first, last, mark
SIZE = {4: 4, 6: 16}  # bytes of an address


class Intervals:
    """Disjoint intervals of one family in order, packed: first address, the one after the last (0: past the end), mark.

    Hundreds of thousands of tuples would be a hundred megabytes; packed they are ten, and go to disk and kernel as they
    are. Numbers of addresses are big-endian, marks in the machine's order.
    """

    def __init__(self, family: int, packed: bytes = b"") -> None:
        self.family = family
        self.packed = packed
        self.stride = 2 * SIZE[family] + 4
        self._starts: list[int] | None = None
        if len(packed) % self.stride:
            raise ValueError(f"{len(packed)} bytes are no whole number of intervals")

    @classmethod
    def of(cls, family: int, intervals: Iterable[Interval]) -> Intervals:
        """The packed form of (first, last, mark) in order."""
        size, top = SIZE[family], 1 << 8 * SIZE[family]
        mark = struct.Struct("=I").pack
        return cls(
            family,
            b"".join(
                first.to_bytes(size, "big") + ((last + 1) % top).to_bytes(size, "big") + mark(m)
                for first, last, m in intervals
            ),
        )

    def __len__(self) -> int:
        return len(self.packed) // self.stride

    def __getitem__(self, number: int) -> Interval:
        return next(iter(self.part(number, number + 1)._unpacked()))

    def __iter__(self) -> Iterator[Interval]:
        return self._unpacked()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervals) and (self.family, self.packed) == (other.family, other.packed)

    __hash__ = None  # type: ignore[assignment]

    def _unpacked(self) -> Iterator[Interval]:
        size = SIZE[self.family]
        number, top = int.from_bytes, 1 << 8 * size
        for first, end, mark in struct.iter_unpack(f"={size}s{size}sI", self.packed):
            yield number(first, "big"), (number(end, "big") or top) - 1, mark

    def part(self, start: int, stop: int) -> Intervals:
        """Intervals number `start` up to, not with, `stop`."""
        return Intervals(self.family, self.packed[start * self.stride : stop * self.stride])

    @functools.cached_property
    def layers(self) -> tuple[Intervals, Intervals]:
        """Two layers that say the same with fewer intervals: where the first has none, the second says.

        The second covers what these intervals cover, and no more. Countries lie scattered over each other's space: an
        interval between two of one mark is an exception to them, which become one. A world is a third smaller so.
        """
        form = struct.Struct(f"={SIZE[self.family]}s{SIZE[self.family]}sI")
        records = list(form.iter_unpack(self.packed))
        over: list[tuple[bytes, bytes, int]] = []
        under: list[tuple[bytes, bytes, int]] = []
        start = 0
        for stop, (_, end, _) in enumerate(records, 1):
            if stop < len(records) and records[stop][0] == end:
                continue
            run, before = records[start:stop], None
            for record, ground in zip(run, _grounds([mark for _, _, mark in run]), strict=True):
                if record[2] != ground:
                    over.append(record)
                first = under.pop()[0] if ground == before else record[0]
                under.append((first, record[1], ground))
                before = ground
            start = stop
        upper, lower = (b"".join(form.pack(*record) for record in layer) for layer in (over, under))
        return Intervals(self.family, upper), Intervals(self.family, lower)

    def mark_of(self, address: int) -> int | None:
        """The mark of the interval that holds an address, or None."""
        if self._starts is None:
            size = SIZE[self.family]
            self._starts = [
                int.from_bytes(first, "big") for (first,) in struct.iter_unpack(f"={size}s{size + 4}x", self.packed)
            ]
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        first, last, mark = self[at]
        return mark if first <= address <= last else None


def _grounds(marks: Sequence[int]) -> list[int]:
    """The mark to lay beneath each of a run of touching intervals: pieces beneath and exceptions above are fewest.

    A piece can begin anywhere, so that the cheapest ground up to an interval is cheaper than any other by one at most:
    it is enough to know which marks are cheapest. An interval of such a mark costs nothing, any other one more.
    """
    cheapest: set[int] = set()
    free = []
    for mark in marks:
        free.append(mark in cheapest)
        if free[-1]:
            cheapest = {mark}
        else:
            cheapest.add(mark)
    found, ground = [0] * len(marks), marks[-1]
    for number in reversed(range(len(marks))):
        if free[number]:
            ground = marks[number]
        found[number] = ground
        if ground == marks[number] and not free[number]:  # its piece begins here
            ground = marks[number - 1]
    return found


def flatten(layers: Iterable[tuple[Any, int, Sequence[tuple[int, int]]]]) -> list[Interval]:
    """The disjoint intervals of (key, mark, ranges) layers; the smallest key wins; neighbours of one mark are merged.

    A sweep over the ends of all ranges with a heap of the open ones: O(n log n) in the number of ranges.
    """
    # keys become small integers first: comparing tuples is what a sweep over a whole world would spend its time on
    known = list(layers)
    rank = {key: number for number, key in enumerate(sorted({key for key, _, _ in known}))}
    ranges = [(first, last, rank[key], mark) for key, mark, found in known for first, last in found]
    ranges.sort()
    found: list[Interval] = []
    heap: list[tuple[int, int, int]] = []  # rank, last, mark
    push, pop, count = heapq.heappush, heapq.heappop, len(ranges)
    position = at = upto = 0
    start = end = before = -1  # the interval that is being grown: first, last, mark
    while position < count or heap:
        if not heap:
            at = max(at, ranges[position][0])
        while position < count and ranges[position][0] <= at:
            _, last, key, mark = ranges[position]
            push(heap, (key, last, mark))
            position += 1
        while heap and heap[0][1] < at:
            pop(heap)
        if not heap:
            continue
        _, upto, mark = heap[0]
        if position < count and ranges[position][0] <= upto:
            upto = ranges[position][0] - 1
        if mark == before and end == at - 1:
            end = upto
        else:
            if before != -1:
                found.append((start, end, before))
            start, end, before = at, upto, mark
        at = upto + 1
    if before != -1:
        found.append((start, end, before))
    return found
