"""Layers of ranges come down to disjoint intervals."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ipt_server.core.intervals import flatten

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
