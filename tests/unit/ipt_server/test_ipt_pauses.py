"""Full collections come when the daemon says so, and what they are for is still collected."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from ipt_server.pauses import COLLECT_EVERY, Pauses


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    thresholds, turn = gc.get_threshold(), sys.getswitchinterval()
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(turn)
    gc.unfreeze()


class Node:
    """Part of a cycle."""

    other: Node


def test_no_full_collection_comes_unasked() -> None:
    Pauses(lambda: 0.0).begin()
    before = gc.get_stats()[2]["collections"]
    kept = [[n] for n in range(500_000)]
    assert gc.get_stats()[2]["collections"] == before and len(kept) == 500_000


def test_what_outlived_the_young_generations_is_collected_once_an_hour() -> None:
    now = 0.0
    pauses = Pauses(lambda: now)
    pauses.begin()
    a, b = Node(), Node()
    a.other, b.other = b, a
    seen = weakref.ref(a)
    gc.collect(1)  # it is old now
    del a, b
    gc.collect(1)
    now = COLLECT_EVERY - 1
    assert not pauses.look() and seen() is not None
    now = COLLECT_EVERY
    assert pauses.look() and seen() is None
    assert not pauses.look()
