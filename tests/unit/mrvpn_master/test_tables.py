"""What people see of an answer: every figure stands in its table, problems last and by severity, nothing is markup."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mrvpn_master import shown

PEER = {"host": "entry", "endpoint": "192.0.2.1:55824", "handshake": 75, "rx": 1536, "tx": 3 * 2**30}
STATUS: dict[str, Any] = {
    "hosts": {
        "entry": {
            "reachable": True, "version": "aaaa", "deployed": "aaaa", "tunnels": {"wg_uk": [PEER | {"host": "uk"}]},
            "ospf": {"wg_uk": {"10.9.20.1": "Full/-"}}, "software": {"salt": "3008.3", "docker": "26.1.5"},
            "generation": 7, "learned": 42, "database_age_days": 1.5,
        },
        "uk": {
            "reachable": True, "version": "bbbb", "deployed": "cccc", "ospf": {"wg_uk": {"10.9.20.2": "ExStart/-"}},
            "tunnels": {"wg_uk": [PEER | {"loss": 0.3, "latency": 12.34}]},
        },
        "ru": {"reachable": False},
        "us": {
            "reachable": True, "version": None, "deployed": "dddd", "ospf": {},
            "tunnels": {"wg_us": {"error": "[red]gone"}},
        },
    },
    "exits": {
        "wg_uk": {"up": True, "health": None},
        "wg_ru": {"up": False, "health": {"reason": "no answer", "seconds": 4000}},
    },
    "deployment": {"commit": "0123456789abcdef", "checked": {"time": 0, "commit": "0123456789abcdef"}},
    "drift": {"uk": ["mrvpn project"]},
    "problems": ["critical: ru: does not answer", "notice: entry: old"],
    "retcode": 2,
}  # fmt: skip


def lines(answer: dict[str, Any], **how: Any) -> list[str]:
    return shown.text(answer, **{"width": 160, "colour": False, **how}).splitlines()


def row(*cells: str) -> re.Pattern[str]:
    return re.compile(r"\s+".join(map(re.escape, cells)))


@pytest.mark.parametrize(
    "cells",
    [
        ("entry", "up", "aaaa", "aaaa", "3008.3", "26.1.5"),
        ("uk", "not as deployed", "bbbb", "cccc"),
        ("ru", "away"),
        ("us", "not as deployed", "never applied", "dddd"),
        ("wg_uk", "uk", "entry", "192.0.2.1:55824", "1 min 15 s ago", "1.5 KiB", "3.0 GiB", "30%", "12.3 ms"),
        ("wg_us", "us", "[red]gone"),
        ("entry", "wg_uk", "10.9.20.1", "Full/-"),
        ("wg_uk", "up", "its interface is up"),
        ("wg_ru", "down", "no answer for 1 h 6 min"),
        ("entry: generation 7, 42 addresses learned, country database 1.5 days old",),
        ("deployed: 0123456789ab, the branch was looked at 1970-01-01 00:00:00 UTC",),
        ("drift: uk: mrvpn project",),
    ],
)
def test_a_status_is_tables(cells: tuple[str, ...]) -> None:
    assert any(row(*cells).search(line) for line in lines(STATUS)), "\n".join(lines(STATUS))


def test_problems_stand_last_and_colours_are_for_terminals() -> None:
    assert lines(STATUS)[-2:] == STATUS["problems"]
    assert lines(STATUS | {"problems": []})[-1] == "no problems"
    assert "\x1b" not in "".join(lines(STATUS)) and "\x1b[1;31m" in "".join(lines(STATUS, colour=True))


def test_a_narrow_terminal_loses_nothing() -> None:
    text = "".join(lines(STATUS, width=100))
    assert "…" not in text and "55824" in text


def test_a_change_says_what_was_done_and_where_it_stands() -> None:
    answer = {
        "done": "add exit de (de)", "commit": "0123456789abcdef", "plan": ["entry", "  + wg_de: 10.9.24.2/24"],
        "hosts": {"de": {"result": "failed", "why": ["docker: no"]}}, "notes": ["a note"], "warnings": [],
        "seconds": 3.2,
    }  # fmt: skip
    assert lines(answer) == [
        "add exit de (de) (commit 0123456789ab)", "  entry", "    + wg_de: 10.9.24.2/24", "de: failed", "  docker: no",
        "a note", "3.2 s",
    ]  # fmt: skip
    refused = lines({"error": "it is refused", "problems": ["a.yaml:1: no"], "stands": answer, "retcode": 1})
    assert refused[:3] == ["it is refused", "  a.yaml:1: no", "add exit de (de) (commit 0123456789ab)"]


@pytest.mark.parametrize(("count", "wanted"), [(0, "0 B"), (1023, "1023 B"), (2**20, "1.0 MiB"), (2**50, "1024.0 TiB")])
def test_sizes(count: int, wanted: str) -> None:
    assert shown.size(count) == wanted


@pytest.mark.parametrize(("seconds", "wanted"), [(0, "0 s"), (61, "1 min 1 s"), (86400, "1 d"), (90061, "1 d 1 h")])
def test_durations(seconds: int, wanted: str) -> None:
    assert shown.duration(seconds) == wanted
