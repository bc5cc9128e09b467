"""Marks, tables and the one precedence."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrvpn import marks, precedence


@pytest.mark.parametrize(
    ("table", "n", "number"),
    [
        (200, 0, 254),
        (200, 1, 201),
        (200, 52, 252),
        (200, 53, 256),
        (252, 1, 256),
        (253, 1, 256),
        (254, 1, 256),
        (255, 1, 256),
    ],
)
def test_tables_skip_the_kernels_own(table: int, n: int, number: int) -> None:
    assert marks.exit_table(table, n) == number


@given(st.integers(1, 2**20), st.integers(1, 1000))
def test_tables_are_distinct_and_never_the_kernels(table: int, n: int) -> None:
    found = [marks.exit_table(table, i) for i in (n, n + 1)]
    assert found[0] < found[1]
    assert not set(found) & marks.RESERVED_TABLES


def test_marks_lie_apart() -> None:
    exits = {marks.exit_mark(200, 0), marks.exit_mark(200, 1), marks.exit_mark(1, 0xFFFE)}
    rules = {marks.rule_mark(0), marks.rule_mark(marks.MAX_RULES - 1)}
    assert max(exits) < min(rules) <= max(rules) < marks.DEFAULT_RULE < marks.MESH
    assert all(mark & marks.MASK == mark for mark in exits | rules | {marks.DEFAULT_RULE, marks.MESH})


@pytest.mark.parametrize(("base", "n"), [(0xFFFF, 1), (0, 0), (-1, 0)])
def test_exit_marks_run_out(base: int, n: int) -> None:
    with pytest.raises(ValueError, match="pbr_mark"):
        marks.exit_mark(base, n)


@pytest.mark.parametrize("r", [-1, marks.MAX_RULES])
def test_rule_marks_run_out(r: int) -> None:
    with pytest.raises(ValueError, match="at most"):
        marks.rule_mark(r)


def test_what_wins() -> None:
    """From first to last, as the architecture says it."""
    key = precedence.key
    order = [
        key(9, "default", 0, 99),
        key(0, "domain", 0, 1),
        key(0, "domain", 0, 2),
        key(0, "prefix", 32, 9),
        key(0, "prefix", 8, 0),
        key(0, "country", 0, 0),
        key(0, "default", 1, 5),
        key(0, "default", 0, 3),
        key(-1, "domain", 0, 0),
    ]
    assert order == sorted(order)
    assert all(one < other for one, other in itertools.pairwise(order))


@pytest.mark.parametrize(("length", "kind"), [(0, "default"), (7, "default"), (8, "prefix"), (128, "prefix")])
def test_what_is_a_default(length: int, kind: str) -> None:
    assert precedence.kind_of_prefix(length) == kind
