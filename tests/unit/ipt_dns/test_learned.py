"""The learned table by a fake clock: what was handed out is outlived, bounds and shares hold, nothing leaks."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_server import memory
from ipt_server.core.learned import GRACE, SHORTEST, Address, Change, Entry, Full, Learned


def ip(number: int) -> Address:
    return ipaddress.IPv4Address(0x08000000 + number)


def table(limit: int = 1000) -> Learned:
    return Learned(limit, tries=2, timeout_ms=300)


class Kernel:
    """Elements with timeouts, as nft keeps them."""

    def __init__(self) -> None:
        self.elements: dict[Address, tuple[int, float]] = {}

    def take(self, change: Change | None, now: float) -> None:
        if change is None:
            return
        standing = self.elements.get(change.address)
        if change.replaces:
            assert standing and standing[1] > now, "an element that is not there cannot be replaced"
        else:
            assert not standing or standing[1] <= now, "an element that stands is replaced, not added"
        assert change.mark is not None
        self.elements[change.address] = (change.mark, now + change.timeout)

    def mark(self, address: Address, now: float) -> int | None:
        mark, expiry = self.elements.get(address, (None, 0.0))
        return mark if expiry > now else None


answers = st.lists(
    st.tuples(
        st.integers(0, 5),  # address
        st.integers(1, 3),  # rule; the smaller wins
        st.integers(0, 5000),  # TTL handed out
        st.floats(0, 900),  # seconds since the last one
        st.sampled_from(["a", "b", ""]),
    ),
    max_size=60,
)


@given(answers)
@settings(max_examples=300)
def test_an_element_outlives_every_answer_that_was_let_go_because_of_it(
    events: list[tuple[int, int, int, float, str]],
) -> None:
    learned, kernel, now = table(), Kernel(), 1000.0
    promised: dict[
        Address, float
    ] = {}  # until when a client may hold an answer: the TTL, and as long as the verdict may take
    best: dict[Address, int] = {}
    for number, rule, ttl, passed, client in events:
        now += passed
        address = ip(number)
        if promised.get(address, 0) <= now and kernel.mark(address, now) is None:
            best.pop(address, None)
        entry = learned.entries.get(address)
        kernel.take(learned.learn(address, rule, entry is None or rule < entry.mark, ttl, "n", now, client), now)
        best[address] = min(rule, best.get(address, rule))
        promised[address] = max(promised.get(address, 0), now + ttl + 2 * 0.3)
        assert kernel.mark(address, now) == best[address] == learned.entries[address].mark
        for known, until in promised.items():
            if until > now:
                assert kernel.mark(known, until - 1e-6) is not None, "a cached answer would go out unrouted"


def test_life_is_the_longest_of_three() -> None:
    assert table().life(10) == SHORTEST
    assert table().life(3600) == 3600 + 2 * 0.3 + GRACE


def test_a_hot_name_costs_no_change_until_half_of_its_life_is_over() -> None:
    learned = table()
    assert learned.learn(ip(1), 7, True, 60, "a", 0.0)
    assert [learned.learn(ip(1), 7, False, 60, "a", float(t)) for t in range(0, 301)] == [None] * 301
    assert learned.learn(ip(1), 7, False, 60, "a", 301.0) == Change(ip(1), 7, 600.0, True, "a")
    # a longer TTL than the element lives is a reason at any time
    assert learned.learn(ip(1), 7, False, 4000, "a", 302.0) == Change(ip(1), 7, 4005.6, True, "a")


def test_names_that_share_an_address() -> None:
    learned = table()
    learned.learn(ip(1), 7, True, 60, "a", 0.0)
    assert learned.learn(ip(1), 8, False, 60, "b", 1.0) is None, "the worse name changes nothing"
    assert (learned.entries[ip(1)].name, learned.conflicts) == ("a", 1)
    assert learned.learn(ip(1), 6, True, 60, "c", 2.0) == Change(ip(1), 6, 600.0, True, "c")
    assert (learned.entries[ip(1)].name, learned.entries[ip(1)].conflicts) == ("c", 2)
    # but the worse name's answer lives as long
    assert learned.learn(ip(1), 8, False, 4000, "b", 3.0) == Change(ip(1), 6, 4005.6, True, "c")


def test_a_full_table_of_living_elements_refuses_and_room_comes_with_time() -> None:
    learned = table(limit=4)
    for number in range(4):
        learned.learn(ip(number), 7, True, 60, "a", float(number))
    with pytest.raises(Full, match="4 learned addresses"):
        learned.learn(ip(9), 7, True, 60, "a", 10.0)
    assert learned.learn(ip(2), 7, False, 4000, "a", 10.0), "what is there is renewed"
    assert learned.learn(ip(9), 7, True, 60, "a", 601.5)
    assert set(learned.entries) == {ip(2), ip(3), ip(9)}


def test_one_client_cannot_fill_the_table_for_others() -> None:
    learned = table(limit=1000)
    taken = {"hostile": 0, "phone": 0, "laptop": 0}
    number = 0
    for client in taken:
        for _ in range(1000):
            number += 1
            try:
                learned.learn(ip(number), 7, True, 60, "a", 0.0, client)
            except Full:
                break
            taken[client] += 1
    assert taken["hostile"] == 500 and taken["phone"] > 300 and taken["laptop"] > 100
    assert sum(taken.values()) == len(learned.entries) <= 1000
    assert learned.refused == 3
    # what was given is given back
    assert learned.learn(ip(0), 7, True, 60, "a", 601.0, "hostile")
    assert len(learned.entries) == 1


def test_a_change_that_the_kernel_refused_is_taken_back_whole() -> None:
    learned = table(limit=10)
    learned.learn(ip(1), 7, True, 60, "a", 0.0, "phone")
    for turn in range(5000):
        for address, mark in ((ip(1), 6), (ip(2), 7)):
            before = learned.snapshot(address)
            learned.learn(address, mark, True, 60, "b", float(turn) / 100, "phone")
            learned.restore(address, before)
    assert list(learned.entries.items()) == [(ip(1), Entry(7, 600.0, "a", 0, "phone"))]
    assert len(learned._due) < 2000 and learned._owned == {"phone": 1}
    assert learned.alive(601.0) == [] and learned._owned == {}


def test_a_table_taken_over_expires_as_its_entries_say() -> None:
    learned = table()
    learned.replace([(ip(1), Entry(7, 50.0, "a", client="phone")), (ip(2), Entry(8, 100.0, "b"))])
    assert [a for a, _ in learned.alive(60.0)] == [ip(2)]
    assert learned._owned == {}


def test_a_change_of_rules_judges_every_living_entry_again() -> None:
    learned = table()
    for number, client in enumerate(("phone", "phone", "laptop")):
        learned.learn(ip(number), 7, True, 60, f"n{number}", 0.0, client)
    learned.replace([*learned.alive(0.0), (ip(9), Entry(7, 10.0, "past"))])
    marks = {"n0": 8, "n1": None, "n2": 7}
    changes = learned.rejudge(lambda address, entry: marks[entry.name], 20.0)
    assert changes == [Change(ip(0), 8, SHORTEST - 20, True, "n0"), Change(ip(1), None, SHORTEST - 20, True, "n1")]
    learned.rejudge(lambda address, entry: 8, 20.0)
    assert {a: (e.mark, e.client) for a, e in learned.entries.items()} == {ip(0): (8, "phone"), ip(2): (8, "laptop")}
    assert learned._owned == {"phone": 1, "laptop": 1}
    assert learned.alive(601.0) == []


def test_memory_keeps_what_it_is_given(tmp_path: Path) -> None:
    entries = {ip(1): Entry(7, 50.0, "a\\.b.ru", 0, "10.11.0.2"), ipaddress.ip_address("2a00::1"): Entry(8, 60.0, "")}
    path = tmp_path / "state" / "learned.jsonl"
    journal = memory.Journal(path, 1_000_000.0)
    journal.touch()
    assert journal.begin(0)
    journal.write(entries.items(), contextlib.nullcontext())
    assert memory.load(path, 1_000_000.0) == entries
    assert memory.load(tmp_path / "nothing", 0) == {}


def test_what_is_learned_while_the_file_is_written_anew_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "learned.jsonl"
    journal = memory.Journal(path, 0)
    journal.add([(ip(1), Entry(7, 50.0, "old"))])
    assert set(memory.load(path, 0)) == {ip(1)}  # before the answer is let go: a kill forgets nothing
    assert not journal.begin(0)
    journal.touch()
    assert journal.begin(0)

    def entries() -> Iterator[tuple[Address, Entry]]:
        yield ip(2), Entry(7, 50.0, "kept")
        journal.add([(ip(3), Entry(7, 50.0, "meanwhile"))])
        assert set(memory.load(path, 0)) == {ip(1), ip(3)}

    journal.write(entries(), contextlib.nullcontext())
    assert set(memory.load(path, 0)) == {ip(2), ip(3)}
    journal.add([(ip(4), Entry(7, 50.0, "after"))])
    assert set(memory.load(path, 0)) == {ip(2), ip(3), ip(4)}
    journal.touch()
    assert journal.begin(0)
    journal.write([], contextlib.nullcontext())
    assert not journal.begin(0)


def test_the_file_is_written_anew_when_most_of_it_is_of_the_past(tmp_path: Path) -> None:
    journal = memory.Journal(tmp_path / "learned.jsonl", 0)
    for _ in range(memory._FEW + 1):
        journal.add([(ip(1), Entry(7, 50.0, "hot"))])
    assert not journal.begin(memory._FEW + 1), "as many stand"
    assert journal.begin(1)
    journal.write([(ip(1), Entry(7, 50.0, "hot"))], contextlib.nullcontext())
    assert len((tmp_path / "learned.jsonl").read_text().splitlines()) == 1
    assert not journal.begin(1)


@given(name=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF)), expiry=st.floats(0, 1e9))
def test_a_line_is_what_json_says_of_it(name: str, expiry: float) -> None:
    entry = Entry(0x1FFFF, expiry, name, 0, "10.11.0.2")
    written = memory._line(ip(1), entry, 1e9)
    assert json.loads(written) == [str(ip(1)), 0x1FFFF, round(expiry + 1e9, 1), name, "10.11.0.2"]
    assert written.endswith("\n") and written.isascii()


def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    journal = memory.Journal(tmp_path / "file" / "learned.jsonl", 0)
    (tmp_path / "file").write_text("no folder")
    journal.add([(ip(1), Entry(7, 50.0, "a"))])
    assert journal.begin(0)
    with pytest.raises(OSError):
        journal.write([], contextlib.nullcontext())
    (tmp_path / "file").unlink()
    assert journal.begin(0)
    journal.write([(ip(1), Entry(7, 50.0, "a"))], contextlib.nullcontext())
    assert set(memory.load(tmp_path / "file" / "learned.jsonl", 0)) == {ip(1)}


def test_memory_passes_over_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "learned.jsonl"
    lines = [
        '["8.0.0.1", 7, 50, "a"]',
        "",
        "{}",
        '["8.0.0.2"',
        '["x", 7, 50, "a"]',
        "[5, 7, 50, 1]",
        '["8.0.0.3", 7, Infinity, "a"]',
        '["8.0.0.4", 7, NaN, "a"]',
        '["8.0.0.5", 1e400, 50, "a"]',
        "[" * 100_000,
        "\x00",
    ]
    path.write_text("\n".join(lines) + '\n["8.0.0.6", 7, 50, "a", "10.11.0.2"]')
    assert set(memory.load(path, 0)) == {ip(1), ip(6)}
