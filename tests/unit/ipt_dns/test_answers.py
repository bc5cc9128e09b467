"""What an answer calls for: chains, targets that inherit, PTR, hints, exits without IPv6, TTLs."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from ipt_server import settings
from ipt_server.core.answers import Judgement, judge, reverse_address, teachable
from ipt_server.core.rules import RuleSet
from ipt_server.dns import protocol
from ipt_server.lists.formats import parse

RU, UK, US = 0x10000, 0x10001, 0x10002


def rules(*more: dict[str, Any], **changes: Any) -> RuleSet:
    """Three domain rules, wg_us without IPv6; `more` rules, changed settings."""
    value = {
        "version": "v",
        "ingress": ["wg-firezone"],
        "exits": [
            {"name": "_DEFAULT", "mark": 200, "table": 254},
            {"name": "wg_ru", "interface": "wg_ru", "mark": 201, "table": 201},
            {"name": "wg_uk", "interface": "wg_uk", "mark": 202, "table": 202},
            {"name": "wg_us", "interface": "wg_us", "mark": 203, "table": 203, "ipv6": False},
        ],
        "rules": [
            {"id": "ru", "mark": RU, "exit": "wg_ru", "kind": "domain", "patterns": [r".*\.ru"], "ttl": 40},
            {"id": "uk", "mark": UK, "exit": "wg_uk", "kind": "domain", "suffixes": ["uk"]},
            {"id": "us", "mark": US, "exit": "wg_us", "kind": "domain", "suffixes": ["example.com"]},
            *more,
        ],
        "domain_route_ttl": 300,
    }
    return RuleSet(settings.parse(value | changes), {})


def ask(
    ruleset: RuleSet, qname: str, *records: str, inherited: dict[str, str] | None = None, own: str = ""
) -> Judgement:
    head = f"n 1 10.11.0.2 {qname}"
    answer = protocol.parse("\n".join([head, *records]).encode())
    return judge(answer, ruleset, inherited or {}, frozenset(map(ipaddress.ip_address, own.split())))


def learned(judgement: Judgement) -> list[tuple[str, int, int, str]]:
    return [(str(x.address), x.rule.mark, x.ttl, x.name) for x in judgement.lessons]


def test_a_name_and_its_addresses_of_both_families() -> None:
    found = ask(rules(), "www.shop.ru.", "1 60 www.shop.ru. 81.2.69.160", "28 30 www.shop.ru. 2a00:23c5::160")
    assert learned(found) == [("81.2.69.160", RU, 40, "www.shop.ru"), ("2a00:23c5::160", RU, 40, "www.shop.ru")]
    assert (found.ttl, found.no_ipv6, found.no_hints) == (40, False, False)


def test_a_name_of_no_rule_calls_for_nothing() -> None:
    assert ask(rules(), "www.heise.de.", "1 60 www.heise.de. 81.2.69.160") == Judgement()


@pytest.mark.parametrize(
    ("records", "name"),
    [
        # the name asked for, in the middle of the chain, at its end
        (["5 60 a.ru. b.de.", "5 60 b.de. c.de.", "1 60 c.de. 81.2.69.160"], "a.ru"),
        (["5 60 a.de. b.ru.", "5 60 b.ru. c.de.", "1 60 c.de. 81.2.69.160"], "b.ru"),
        (["5 60 a.de. b.de.", "5 60 b.de. c.ru.", "1 60 c.ru. 81.2.69.160"], "c.ru"),
        # DNAME: the name is below its owner or its target
        (["39 60 old.ru. new.de.", "5 60 a.old.ru. a.new.de.", "1 60 a.new.de. 81.2.69.160"], "a.old.ru"),
        (["39 60 old.de. shop.ru.", "5 60 a.old.de. a.shop.ru.", "1 60 a.shop.ru. 81.2.69.160"], "shop.ru"),
    ],
)
def test_any_name_of_a_chain_may_match(records: list[str], name: str) -> None:
    qname = next(line.split()[2] for line in records if line.startswith("5"))
    assert learned(ask(rules(), qname, *records)) == [("81.2.69.160", RU, 40, name)]


def test_the_best_rule_of_a_chain_wins_and_its_name_is_told() -> None:
    chain = ["5 60 a.example.com. b.ru.", "1 60 b.ru. 81.2.69.160"]
    assert learned(ask(rules(), "a.example.com.", *chain)) == [("81.2.69.160", RU, 40, "b.ru")]


HTTPS = "65 60 a.ru. 1 edge.example.net. ipv4hint=81.2.69.161 ipv6hint=2a00:23c5::161"


def test_hints_are_learned_and_the_target_inherits() -> None:
    found = ask(rules(), "a.ru.", HTTPS)
    assert [x[0] for x in learned(found)] == ["81.2.69.161", "2a00:23c5::161"]
    assert found.inherit == (("edge.example.net", "a.ru"),)
    # the target's own question
    answer = ask(rules(), "edge.example.net.", "1 60 edge.example.net. 81.2.69.162", inherited=dict(found.inherit))
    assert learned(answer) == [("81.2.69.162", RU, 40, "a.ru")]
    # and a target of the target leads back to the name that matched
    https = "65 60 edge.example.net. 1 second.example.net."
    again = ask(rules(), "edge.example.net.", https, inherited=dict(found.inherit))
    assert again.inherit == (("second.example.net", "a.ru"),)


def test_hints_are_stripped_by_setting_and_the_target_still_inherits() -> None:
    found = ask(rules(hints="strip"), "a.ru.", HTTPS)
    assert (learned(found), found.no_hints, found.inherit) == ([], True, (("edge.example.net", "a.ru"),))


def test_an_exit_without_ipv6_withholds_it_and_learns_none() -> None:
    found = ask(
        rules(), "www.example.com.", "1 60 www.example.com. 81.2.69.160", "28 60 www.example.com. 2a00:23c5::160",
        "65 60 www.example.com. 1 . ipv4hint=81.2.69.161 ipv6hint=2a00:23c5::161",
    )  # fmt: skip
    assert [x[0] for x in learned(found)] == ["81.2.69.160", "81.2.69.161"]
    assert (found.no_ipv6, found.no_hints) == (True, False)


@pytest.mark.parametrize(
    ("qname", "address"),
    [
        ("160.69.2.81.in-addr.arpa.", "81.2.69.160"),
        ("0.6.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.c.3.2.0.0.a.2.ip6.arpa.", "2a00:23c5::160"),
    ],
)
def test_ptr_teaches_the_address_asked_about_under_the_name_answered(qname: str, address: str) -> None:
    assert learned(ask(rules(), qname, f"12 60 {qname} www.bbc.co.uk.")) == [(address, UK, 60, "www.bbc.co.uk")]
    assert ask(rules(), qname, f"12 60 {qname} www.heise.de.") == Judgement()


@pytest.mark.parametrize(
    "name",
    [
        "1.2.in-addr.arpa",
        "300.1.1.1.in-addr.arpa",
        "1.1.1.1.1.in-addr.arpa",
        "1.1.1.1.in-addr.arpa.ru",
        "x.ip6.arpa",
        ".".join("g" * 32) + ".ip6.arpa",
        ".".join("ab" for _ in range(32)) + ".ip6.arpa",
    ],
)
def test_names_that_ask_about_no_address(name: str) -> None:
    assert reverse_address(name) is None


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "192.168.1.1", "198.51.100.1"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:8.8.8.8"),
    ],
)
def test_what_is_never_learned(address: str) -> None:
    assert not teachable(ipaddress.ip_address(address), frozenset())


def test_own_addresses_are_never_learned() -> None:
    found = ask(rules(), "a.ru.", "1 60 a.ru. 81.2.69.160", "1 60 a.ru. 81.2.69.161", own="81.2.69.160 2a00:23c5::160")
    assert [x[0] for x in learned(found)] == ["81.2.69.161"]


def test_the_ttl_handed_out_is_the_smallest_and_the_lesson_carries_the_largest_of_those() -> None:
    both = {"id": "ttl", "mark": 0x10003, "exit": None, "kind": "domain", "suffixes": ["shop.ru"], "ttl": 20}
    found = ask(rules(both), "www.shop.ru.", "1 5 www.shop.ru. 81.2.69.160", "1 3600 www.shop.ru. 81.2.69.161")
    assert found.ttl == 20 and {x[2] for x in learned(found)} == {20}
    found = ask(rules(), "www.bbc.co.uk.", "1 5 www.bbc.co.uk. 81.2.69.160", "1 7 www.bbc.co.uk. 81.2.69.161")
    assert found.ttl == 0 and {x[2] for x in learned(found)} == {7}


def test_a_rule_without_an_exit_only_sets_a_ttl() -> None:
    only = {"id": "ttl", "mark": 0x10003, "exit": None, "kind": "domain", "suffixes": ["heise.de"], "ttl": 20}
    assert ask(rules(only), "www.heise.de.", "1 60 www.heise.de. 81.2.69.160") == Judgement(ttl=20)


def test_an_address_that_a_better_rule_covers_is_not_learned() -> None:
    prefix = {"id": "p", "mark": 0x10003, "exit": "wg_us", "kind": "prefix", "prefixes": ["81.2.69.0/24"], "weight": 10}
    found = ask(rules(prefix), "a.ru.", "1 60 a.ru. 81.2.69.160", "1 60 a.ru. 81.2.70.1")
    assert [x[0] for x in learned(found)] == ["81.2.70.1"]


def test_a_dot_inside_a_label_parts_no_labels() -> None:
    assert ask(rules(), "a\\.example.com.", "1 60 a\\.example.com. 81.2.69.160") == Judgement()
    assert learned(ask(rules(), "a\\.b.example.com.", "1 60 x.example.com. 81.2.69.160"))


def test_a_suffix_that_no_name_can_be_is_a_problem_of_its_rule() -> None:
    bad = {"id": "bad", "mark": 0x10003, "exit": "wg_us", "kind": "domain", "suffixes": ["п" * 70 + ".рф"]}
    with pytest.raises(settings.Refused, match=r"bad: .* is no name"):
        rules(bad)


def test_rules_of_lists() -> None:
    listed = {"id": "l", "mark": 0x10003, "exit": "wg_us", "kind": "domain", "lists": ["video", "news"]}
    value = {"lists": {"video": {"url": "https://example.com/x"}, "news": {"path": "/x"}}}
    with_lists = RuleSet(rules(listed, **value).settings, {}, lists={"video": parse("video.example\n")})
    assert [rule.id for rule in with_lists.match("www.video.example")] == ["l"]
    assert "video.example" in set(with_lists.suffixes())
    assert with_lists.match("www.news.example") == (), "a list that was not fetched yet covers nothing"


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ({}, "l: there is no list video; there are: none"),
        ({"other": {"path": "/x"}}, "l: there is no list video; there are: other"),
        ({"video": {}}, "lists.video: needs either `url` or `path`"),
        ({"video": {"path": "/x", "url": "https://example.com/x"}}, "lists.video: needs either `url` or `path`"),
        ({"video": {"path": "/x", "exit": "wg_no"}}, "lists.video: there is no exit wg_no"),
        ({"video": {"url": "ftp://example.com/x"}}, "lists.video.url"),
        ({"../video": {"path": "/x"}}, "lists.../video"),
    ],
)
def test_lists_that_cannot_be_used(lists: dict[str, Any], told: str) -> None:
    listed = {"id": "l", "mark": 0x10003, "exit": "wg_us", "kind": "domain", "lists": ["video"]}
    with pytest.raises(settings.Refused) as refused:
        rules(listed, lists=lists)
    assert any(problem.startswith(told) for problem in refused.value.problems), refused.value.problems
