"""The learned table with a clock of its own: no answer that was let go outlives its element."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_server.core.learned import GRACE, SHORTEST, Address, Change, Full, Learned

A1, A2, A3 = (ipaddress.ip_address(a) for a in ("81.2.69.160", "81.2.69.161", "2001:db8:1::1"))
TRIES, TIMEOUT_MS = 2, 300


@dataclass
class KernelModel:
    """What a map with timeouts does with the table's changes: an element is there until its time is over."""

    elements: dict[Address, tuple[int, float]] = field(default_factory=dict)

    def take(self, change: Change | None, now: float) -> None:
        if change is None:
            return
        alive = self.elements.get(change.address, (0, 0.0))[1] > now
        assert not alive or change.replaces, "an element that is there can only be replaced"
        self.elements.pop(change.address, None)
        if change.mark is not None:
            self.elements[change.address] = (change.mark, now + change.timeout)

    def mark(self, address: Address, now: float) -> int:
        mark, until = self.elements.get(address, (0, 0.0))
        return mark if until > now else 0


def table(limit: int = 100) -> Learned:
    return Learned(limit, TRIES, TIMEOUT_MS)


steps = st.lists(
    st.tuples(
        st.floats(0, 900),  # seconds since the step before
        st.sampled_from((A1, A2, A3)),
        st.sampled_from((1, 2)),  # rule mark; 1 wins over 2
        st.sampled_from((0, 1, 10, 300, 599, 601, 3600, 86_400)),  # TTL
    ),
    max_size=25,
)


@settings(max_examples=300)
@given(steps)
def test_an_element_outlives_every_answer_that_was_let_go(drawn: list[tuple[float, Address, int, int]]) -> None:
    learned, kernel, now = table(), KernelModel(), 0.0
    promised: dict[Address, float] = {}  # until when some client or cache may hold an answer with this address
    for wait, address, mark, ttl in drawn:
        # just before the next answer every promise that still stands is kept
        for at in (now + wait / 2, now + wait):
            for known, until in promised.items():
                assert at >= until or kernel.mark(known, at), f"{known} went out without a mark at {at}"
        now += wait
        entry = learned.entries.get(address)
        better = entry is None or mark < entry.mark
        kernel.take(learned.learn(address, mark, better, ttl, "n", now), now)
        # the answer may sit in the recursor's packet cache for its TTL, and reach the client tries x timeout later
        promised[address] = max(promised.get(address, 0), now + ttl + TRIES * TIMEOUT_MS / 1000)
        assert kernel.mark(address, now) == learned.entries[address].mark
        assert kernel.mark(address, now + 300), "a client may connect minutes after an answer of a short TTL"


def test_the_better_name_keeps_the_address_and_the_conflict_is_counted() -> None:
    learned, kernel = table(), KernelModel()
    kernel.take(learned.learn(A1, 2, True, 10, "worse", 0), 0)
    kernel.take(learned.learn(A1, 1, True, 10, "better", 1), 1)
    assert (kernel.mark(A1, 2), learned.entries[A1].name) == (1, "better")
    assert learned.learn(A1, 2, False, 10, "worse", 2) is None
    assert (kernel.mark(A1, 3), learned.entries[A1].name, learned.conflicts) == (1, "better", 2)


def test_a_hot_name_costs_no_system_call_until_half_of_its_life_is_over() -> None:
    learned = table()
    assert learned.learn(A1, 1, True, 10, "n", 0)
    assert learned.learn(A1, 1, True, 10, "n", SHORTEST / 2 - 1) is None
    renewed = learned.learn(A1, 1, True, 10, "n", SHORTEST / 2 + 1)
    assert renewed is not None and renewed.replaces and renewed.timeout == SHORTEST


def test_an_address_that_a_connection_renewed_lives_on() -> None:
    learned = table()
    learned.learn(A1, 1, True, 10, "n", 0)
    learned.outlive(A1, 1000.0)
    learned.outlive(A2, 1000.0)
    assert [address for address, _ in learned.alive(SHORTEST + 1)] == [A1]
    assert learned.alive(1001.0) == []


def test_a_long_ttl_lives_its_ttl_and_the_way_of_the_answer() -> None:
    assert table().life(3600) == pytest.approx(3600 + TRIES * TIMEOUT_MS / 1000 + GRACE)


def test_a_full_table_refuses_what_is_new_renews_what_is_known_and_evicts_only_the_dead() -> None:
    learned = table(limit=2)
    learned.learn(A1, 1, True, 10, "one", 0)
    learned.learn(A2, 1, True, 10, "two", 100)
    with pytest.raises(Full, match="2 learned addresses"):
        learned.learn(A3, 1, True, 10, "three", 200)
    assert set(learned.entries) == {A1, A2}
    assert learned.learn(A1, 1, True, 10, "one", 400)  # known: renewed although the table is full
    assert learned.learn(A3, 1, True, 10, "three", 100 + SHORTEST + 1)  # A2 is past its life
    assert set(learned.entries) == {A1, A3}
