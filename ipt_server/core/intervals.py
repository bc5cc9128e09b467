"""Overlapping layers of ranges -> disjoint intervals, each with the mark of the best layer there.

Knows: integers. Must not know: addresses' families, rules.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

Interval = tuple[int, int, int]  # first, last, mark


def flatten(layers: Iterable[tuple[Any, int, Sequence[tuple[int, int]]]]) -> list[Interval]:
    """The disjoint intervals of (key, mark, ranges) layers; the smallest key wins; neighbours of one mark are merged.

    A sweep over the ends of all ranges with a heap of the open ones: O(n log n) in the number of ranges.
    """
    ranges = [(first, last, key, mark) for key, mark, found in layers for first, last in found]
    ranges.sort(key=lambda r: r[0])
    found: list[Interval] = []
    heap: list[tuple[Any, int, int]] = []  # key, last, mark
    position = 0
    at = 0
    while position < len(ranges) or heap:
        if not heap:
            at = max(at, ranges[position][0])
        while position < len(ranges) and ranges[position][0] <= at:
            _, last, key, mark = ranges[position]
            heapq.heappush(heap, (key, last, mark))
            position += 1
        while heap and heap[0][1] < at:
            heapq.heappop(heap)
        if not heap:
            continue
        _, last, mark = heap[0]
        upto = min(last, ranges[position][0] - 1) if position < len(ranges) else last
        if found and found[-1][2] == mark and found[-1][1] == at - 1:
            found[-1] = (found[-1][0], upto, mark)
        else:
            found.append((at, upto, mark))
        at = upto + 1
    return found
