"""What the table is told of the kernel's elements, and what an answer that needs nothing costs."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

import pytest
from ipt_build import build, rule

from ipt_server import memory
from ipt_server.core.answers import Answer
from ipt_server.core.learned import SHORTEST, Change, Learned
from ipt_server.core.rules import RuleSet
from ipt_server.teacher import Teacher

FIRST, SECOND = (ipaddress.ip_address(f"81.2.69.{n}") for n in (1, 2))


class Kernel:
    """Takes all in, and counts the calls."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Change]] = []

    def learn(self, changes: Sequence[Change]) -> None:
        self.calls.append(changes)


class Lesson:
    """A teacher with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.now, self.kernel, self.file = 0.0, Kernel(), folder / "learned.jsonl"
        rules = RuleSet(build(rule(0, "wg_uk", suffixes=["uk"])), {})
        self.took: list[float] = []
        journal = memory.Journal(self.file, 0.0)
        self.teacher = Teacher(rules, Learned(10, 2, 300), self.kernel, journal, lambda: self.now, self.took.append)

    def ask(self, *addresses: ipaddress.IPv4Address | ipaddress.IPv6Address, name: str = "bbc.uk") -> None:
        self.teacher.teach(Answer("n", "10.11.0.2", (name,), 60, addresses))


@pytest.fixture
def it(tmp_path: Path) -> Lesson:
    return Lesson(tmp_path)


def test_an_answer_whose_addresses_are_known_asks_nothing_of_the_kernel(it: Lesson) -> None:
    it.ask(FIRST)
    it.ask(FIRST)
    assert len(it.kernel.calls) == 1
    it.ask(FIRST, SECOND)
    assert [change.address for change in it.kernel.calls[1]] == [SECOND]
    it.now = SHORTEST / 2 + 1
    it.ask(FIRST)
    assert [(change.address, change.replaces) for change in it.kernel.calls[2]] == [(FIRST, True)]
    it.teacher.settle()
    assert len(it.took) == 3


def test_what_is_about_to_end_is_asked_for_and_outlives_what_the_table_knew(it: Lesson) -> None:
    it.ask(FIRST)
    it.now = 400.0
    it.ask(SECOND)
    assert it.teacher.ending(120) == []
    it.now = SHORTEST - 100
    assert it.teacher.ending(120) == [FIRST]
    it.teacher.outlive({FIRST: 550.0})
    assert it.teacher.ending(120) == []
    it.now = SHORTEST + 50
    assert {key for key, _ in it.teacher.alive()} == {FIRST, SECOND}
    # a restart knows it, too
    assert memory.load(it.file, 0.0)[FIRST].expiry == SHORTEST - 100 + 550
    it.teacher.outlive({ipaddress.ip_address("81.2.69.3"): 10.0})  # forgotten meanwhile
    assert {key for key, _ in it.teacher.alive()} == {FIRST, SECOND}


def test_an_answer_does_not_wait_for_the_file_whose_name_the_kernel_has(it: Lesson) -> None:
    it.ask(FIRST)
    assert it.kernel.calls[0][0].name == "bbc.uk" and not it.file.exists()
    it.teacher.settle()
    assert [entry.name for entry in memory.load(it.file, 0.0).values()] == ["bbc.uk"]
    it.ask(SECOND)
    it.teacher.save()
    assert list(memory.load(it.file, 0.0)) == [FIRST, SECOND]


@pytest.mark.parametrize("unfit", ['a"b.uk', f"{'x' * 125}.uk"])
def test_a_name_that_no_element_can_carry_is_in_the_file_before_the_answer_goes(it: Lesson, unfit: str) -> None:
    it.ask(FIRST)
    it.ask(SECOND, name=unfit)
    assert {key: entry.name for key, entry in memory.load(it.file, 0.0).items()} == {FIRST: "bbc.uk", SECOND: unfit}
