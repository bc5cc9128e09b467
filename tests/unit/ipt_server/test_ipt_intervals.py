"""Layers of ranges come down to disjoint intervals."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ipt_server.core.intervals import Intervals, flatten

TOP = 40
span = st.tuples(st.integers(0, TOP), st.integers(0, TOP)).map(lambda p: (min(p), max(p)))
layers = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.lists(span, max_size=6)), max_size=6)


@given(layers)
def test_each_number_carries_the_mark_of_its_best_layer(drawn: list[tuple[int, int, list[tuple[int, int]]]]) -> None:
    # one key, one mark: as a rule's key is its own
    keyed = [((key, number), mark, ranges) for number, (key, mark, ranges) in enumerate(drawn)]
    found = flatten(keyed)
    for number in range(TOP + 2):
        covering = [(key, mark) for key, mark, ranges in keyed if any(a <= number <= b for a, b in ranges)]
        got = [mark for first, last, mark in found if first <= number <= last]
        assert got == ([min(covering)[1]] if covering else [])
    for (_, last, mark), (first, _, following) in itertools.pairwise(found):
        assert last < first and not (last + 1 == first and mark == following)


def test_the_last_address_of_a_family_is_covered() -> None:
    top = (1 << 128) - 1
    assert flatten([((0,), 7, [(0, top)]), ((1,), 8, [(5, top)])]) == [(0, top, 7)]


def test_nothing_comes_of_nothing() -> None:
    assert flatten([]) == [] and flatten([((0,), 1, [])]) == []


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(1, 4)), max_size=12))
def test_two_layers_say_the_same_with_the_fewest_intervals(drawn: list[tuple[int, int, int]]) -> None:
    """Against a search through every choice of what lies beneath."""
    plain: list[tuple[int, int, int]] = []
    at = 0
    for length, gap, mark in drawn:
        gap = max(0, gap - 2)  # they mostly touch
        if plain and not gap and plain[-1][2] == mark:
            gap = 1
        plain.append((at + gap, at + gap + length - 1, mark))
        at += gap + length
    whole = Intervals.of(4, plain)
    over, under = whole.layers
    for number in range(at + 1):
        above = over.mark_of(number)
        assert whole.mark_of(number) == (under.mark_of(number) if above is None else above)
        assert above is None or under.mark_of(number) is not None
    assert len(over) + len(under) == _fewest(plain)


def _fewest(plain: list[tuple[int, int, int]]) -> int:
    marks = {mark for _, _, mark in plain}
    costs = {None: 0}
    for number, (first, _, mark) in enumerate(plain):
        touches = number > 0 and plain[number - 1][1] + 1 == first
        costs = {
            ground: min(cost + (not touches or before != ground) for before, cost in costs.items()) + (mark != ground)
            for ground in marks
        }
    return min(costs.values())


def test_layers_reach_the_last_address() -> None:
    top = (1 << 32) - 1
    over, under = Intervals.of(4, [(0, 9, 1), (10, 19, 2), (20, top, 1)]).layers
    assert (list(over), list(under)) == ([(10, 19, 2)], [(0, top, 1)])
