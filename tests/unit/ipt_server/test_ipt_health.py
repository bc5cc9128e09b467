"""An exit's state with a clock of its own, and who stands in for one that is down."""

from __future__ import annotations

import pytest
from ipt_build import build, exits, rule

from ipt_server.core.failover import exit_of, stand_in
from ipt_server.core.health import ExitHealth
from ipt_server.core.rules import RuleSet
from ipt_server.settings import Health
from mrvpn import marks


def probed(**over: object) -> ExitHealth:
    return ExitHealth(Health.model_validate({"icmp": ["1.1.1.1"], "down_after": 3, "up_after": 2} | over))


def test_a_single_lost_probe_is_nothing_and_three_are_down() -> None:
    state = probed()
    assert not any(
        state.round(answered, "lost", now) for now, answered in enumerate([False, False, True, False, False])
    )
    assert state.up
    assert state.round(False, "1.1.1.1 does not answer a ping", 6)
    assert (state.up, state.reason, state.since) == (False, "1.1.1.1 does not answer a ping", 6)
    assert not state.round(False, "lost", 7), "down is told once"


def test_up_needs_rounds_in_a_row() -> None:
    state = probed()
    for now in range(3):
        state.round(False, "lost", now)
    assert not state.round(True, "", 4) and not state.round(False, "lost", 5) and not state.round(True, "", 6)
    assert state.round(True, "", 7) and state.up and state.changes == 2


def test_a_route_that_ospf_withdrew_is_down_at_once_whatever_the_probes_say() -> None:
    state = probed(route="10.9.20.1/32")
    state.round(True, "", 1)
    assert state.signals(True, False, 2) and "OSPF" in state.reason
    assert not state.round(True, "", 3) and not state.round(True, "", 4) and not state.up
    assert state.signals(True, True, 5) and state.up, "the probes were well all the while"


def test_without_probes_up_waits_for_quiet() -> None:
    state = ExitHealth(Health(route="10.9.20.1/32", interval=2, up_after=5))
    assert state.signals(True, False, 0)
    assert not state.signals(True, True, 1) and not state.signals(True, True, 10)
    assert not state.signals(True, False, 10.5), "it flapped: the wait begins anew"
    assert not state.signals(True, True, 11) and not state.signals(True, True, 20)
    assert state.signals(True, True, 21)


def test_an_interface_may_be_away_for_as_long_as_a_restart_takes() -> None:
    state = ExitHealth(Health(grace=3, interval=1, up_after=2))
    assert not state.signals(False, True, 0) and not state.signals(False, True, 2.9)
    assert not state.signals(True, True, 3) and state.up
    assert not state.signals(False, True, 4) and state.signals(False, True, 7)
    assert not state.signals(False, True, 8) and not state.signals(True, True, 9) and state.signals(True, True, 11)


@pytest.mark.parametrize(
    ("down", "on_down", "instead"),
    [
        ((), "block", "wg_uk"),
        (("wg_uk",), "block", "wg_us"),
        (("wg_uk", "wg_us"), "block", "wg_de"),
        (("wg_uk", "wg_us", "wg_de"), "block", None),
        (("wg_uk", "wg_us", "wg_de"), "default", "_DEFAULT"),
        (("wg_us",), "block", "wg_uk"),
    ],
)
def test_the_first_living_fallback_stands_in(down: tuple[str, ...], on_down: str, instead: str | None) -> None:
    uk = {"fallback": ["wg_us", "wg_de"], "on_down": on_down}
    s = build(rule(0, "wg_uk", suffixes=["x"]), rule(1, None, suffixes=["y"], ttl=5), exits=exits(wg_uk=uk))
    found = stand_in(s.exit("wg_uk"), down, s)
    assert (found and found.name) == instead
    elements = dict(exit_of(RuleSet(s, {}), down))
    assert elements.get(marks.rule_mark(0)) == (found.mark if found else None)
    assert elements[marks.DEFAULT_RULE] == 200 and marks.rule_mark(1) not in elements
