"""Why a rule won and each other lost, in words."""

from __future__ import annotations

import ipaddress

import pytest
from ipt_build import build, rule

from ipt_server.core import explain
from ipt_server.core.learned import Entry
from ipt_server.core.rules import RuleSet

UK = ipaddress.ip_address("81.2.69.160")
S = build(
    rule(0, "wg_uk", countries=["GB"]),
    rule(1, "wg_us", prefixes=["81.2.69.0/24", "81.2.0.0/16"]),
    rule(2, "wg_de", prefixes=["81.2.0.0/17"]),
    rule(3, "wg_us", kind="default", prefixes=["0.0.0.0/0", "::/0"]),
    rule(4, "wg_de", suffixes=["bbc.co.uk"]),
    rule(5, "wg_us", suffixes=["co.uk"]),
    rule(6, None, suffixes=["uk"], ttl=30),
    rule(7, "wg_de", countries=["EU", "GB"], weight=-1),
)
RULES = RuleSet(S, {"GB": {4: [(0x51020000, 0x5102FFFF)], 6: []}, "EU": {4: [], 6: []}})


def told(found: dict[str, object]) -> list[tuple[str, str]]:
    return [(one["rule"], one["why"]) for one in found["losers"]]  # type: ignore[attr-defined]


def test_an_address_by_its_longest_prefix() -> None:
    found = explain.address(UK, RULES, "GB")
    assert (found["rule"], found["exit"]) == ("routing.routes[1].net", "wg_us")
    assert found["reason"] == "a prefix of it covers the address (81.2.69.0/24)"
    assert told(found) == [
        ("routing.routes[2].net", "/17 is shorter than /24"),
        ("routing.routes[0].country", "a country comes after a prefix"),
        ("routing.routes[3].net", "a default comes after a prefix"),
        ("routing.routes[7].country", "weight -1 is less than 0"),
    ]


def test_an_address_by_a_name_that_was_learned() -> None:
    found = explain.address(UK, RULES, "GB", Entry(S.rules[4].mark, 99.0, "www.bbc.co.uk"))
    assert (found["rule"], found["exit"], found["reason"]) == (
        "routing.routes[4].suffix", "wg_de", "learned: www.bbc.co.uk matches",
    )  # fmt: skip
    assert told(found)[:3] == [
        ("routing.routes[5].suffix", "it stands later in the file"),
        ("routing.routes[6].suffix", "it has no exit: it only sets a TTL"),
        ("routing.routes[1].net", "a prefix comes after a name"),
    ]


def test_a_name() -> None:
    found = explain.name("x.co.uk", RULES)
    assert (found["rule"], found["exit"]) == ("routing.routes[5].suffix", "wg_us")
    assert told(found) == [("routing.routes[6].suffix", "it has no exit: it only sets a TTL")]
    assert explain.name("x.example", RULES)["rule"] is None


@pytest.mark.parametrize(
    ("address", "exit_", "reason"),
    [
        ("10.11.0.9", None, "declared mesh"),
        ("203.0.113.20", None, "of the gateway itself"),
        ("192.168.7.7", None, "a private destination"),
        ("8.8.8.8", "wg_us", "a default of it covers the address (0.0.0.0/0)"),
        ("2620::1", "wg_us", "a default of it covers the address (::/0)"),
    ],
)
def test_what_is_special(address: str, exit_: str | None, reason: str) -> None:
    found = explain.address(ipaddress.ip_address(address), RULES, None)
    assert found["exit"] == exit_ and reason in found["reason"]
