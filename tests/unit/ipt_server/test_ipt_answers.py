"""What an answer calls for: which addresses are learned, under which rule, and what the client may see of it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipt_build import build, exits, rule

from ipt_server.core.answers import (
    AAAA,
    CNAME,
    DNAME,
    HTTPS,
    PTR,
    A,
    Answer,
    Judgement,
    judge,
    reverse_address,
    teachable,
)
from ipt_server.core.learned import Learned
from ipt_server.core.rules import Address, RuleSet
from ipt_server.dns import protocol

V4, V6 = ipaddress.ip_address("81.2.69.160"), ipaddress.ip_address("2a00:1450::1")
OWN: frozenset[Address] = frozenset(map(ipaddress.ip_address, ("203.0.113.20", "2001:db8::20")))


def ask(qname: str, *records: str) -> Answer:
    return protocol.parse("\n".join([f"n {A} 10.11.0.2 {qname}.", *records]).encode())


def of(owner: str, *addresses: Address, ttl: int = 60) -> str:
    """The records of a name's addresses."""
    return "\n".join(f"{A if a.version == 4 else AAAA} {ttl} {owner}. {a}" for a in addresses)


def https(owner: str, target: str = "") -> str:
    return f"{HTTPS} 60 {owner}. 1 {target}. ipv4hint={V4} ipv6hint={V6}"


def lessons(judgement: Judgement) -> list[tuple[str, str, str]]:
    return [(str(one.address), one.rule.id, one.name) for one in judgement.lessons]


UK = "routing.routes[0].suffix"
BBC = rule(0, "wg_uk", suffixes=["bbc.co.uk"])


def with_bbc(*extra: dict[str, Any], **over: Any) -> RuleSet:
    return RuleSet(build(BBC, *extra, **over), {})


def test_the_name_asked_for_decides() -> None:
    found = judge(ask("www.bbc.co.uk", of("www.bbc.co.uk", V4)), with_bbc(), {}, OWN)
    assert lessons(found) == [(str(V4), UK, "www.bbc.co.uk")] and found.ttl == 0 and not found.no_ipv6


@pytest.mark.parametrize("kind", [CNAME, DNAME])
def test_every_name_of_the_chain_decides(kind: int) -> None:
    chain = (f"{kind} 60 x.example. edge.bbc.co.uk.", of("edge.bbc.co.uk", V4))
    found = judge(ask("x.example", *chain), with_bbc(), {}, OWN)
    assert lessons(found) == [(str(V4), UK, "edge.bbc.co.uk")]
    # and from the asked name down to a cdn that no rule names
    chain = (f"{kind} 60 bbc.co.uk. e1.cdn.example.", of("e1.cdn.example", V4))
    assert lessons(judge(ask("bbc.co.uk", *chain), with_bbc(), {}, OWN)) == [(str(V4), UK, "bbc.co.uk")]


def test_a_name_of_no_rule_passes_untouched() -> None:
    assert judge(ask("x.example", of("x.example", V4)), with_bbc(), {}, OWN) == Judgement()


def test_the_target_of_an_https_record_inherits_and_its_hints_are_learned() -> None:
    record = https("bbc.co.uk", "svc.cdn.example")
    found = judge(ask("bbc.co.uk", record), with_bbc(), {}, OWN)
    assert found.inherit == (("svc.cdn.example", "bbc.co.uk"),) and len(found.lessons) == 2
    later = judge(ask("svc.cdn.example", of("svc.cdn.example", V4)), with_bbc(), dict(found.inherit), OWN)
    assert lessons(later) == [(str(V4), UK, "bbc.co.uk")]


def test_hints_are_stripped_where_the_settings_say_so() -> None:
    record = https("bbc.co.uk")
    found = judge(ask("bbc.co.uk", record), with_bbc(hints="strip"), {}, OWN)
    assert found.no_hints and not found.lessons


def test_an_exit_without_ipv6_teaches_none_and_withholds_it() -> None:
    plain = with_bbc(exits=exits(wg_uk={"ipv6": False}))
    found = judge(ask("bbc.co.uk", of("bbc.co.uk", V6)), plain, {}, OWN)
    assert found.no_ipv6 and not found.lessons
    # known from a time when the exit had it: withheld all the same
    table = Learned(10, 2, 300)
    table.learn(V6, BBC["mark"], True, 60, "bbc.co.uk", 0.0)
    assert judge(ask("bbc.co.uk", of("bbc.co.uk", V6)), plain, {}, OWN, table, 0.0).no_ipv6


@pytest.mark.parametrize("over", [{"exits": exits(wg_uk={"ipv6": False})}, {"hints": "strip"}])
def test_where_nothing_is_to_be_withheld_the_answer_is_not_touched(over: dict[str, Any]) -> None:
    found = judge(ask("bbc.co.uk", of("bbc.co.uk", V4)), with_bbc(**over), {}, OWN)
    assert found.lessons and not found.no_ipv6 and not found.no_hints


def test_an_address_that_is_known_for_long_enough_is_no_lesson() -> None:
    table, answer = Learned(10, 2, 300), ask("bbc.co.uk", of("bbc.co.uk", V4))
    table.learn(V4, BBC["mark"], True, 60, "bbc.co.uk", 0.0)
    for now, known in ((0.0, True), (299.0, True), (301.0, False)):  # half of ten minutes
        assert (not judge(answer, with_bbc(), {}, OWN, table, now).lessons) == known
    # of another rule it is one
    table.entries[V4].mark += 1
    assert judge(answer, with_bbc(), {}, OWN, table, 0.0).lessons


@pytest.mark.parametrize(
    ("question", "address"),
    [("160.69.2.81.in-addr.arpa", V4), (V6.reverse_pointer, V6)],
)
def test_a_reverse_answer_teaches_the_address_asked_about(question: str, address: Address) -> None:
    found = judge(ask(question, f"{PTR} 60 {question}. www.bbc.co.uk."), with_bbc(), {}, OWN)
    assert lessons(found) == [(str(address), UK, "www.bbc.co.uk")]


EDGES = [
    ipaddress.ip_network(text)[at]
    for text in ("9.0.0.0/8", "11.0.0.0/8", "99.0.0.0/8", "223.0.0.0/8", "224.0.0.0/4", "198.18.0.0/15", "192.0.0.0/24",
                 "2000::/16", "2001::/16", "2001::/23", "2002::/16", "2003::/16", "3ffe::/16", "3fff::/20", "3fff::/16",
                 "4000::/16", "1fff::/16", "64:ff9b::/96", "::ffff:8.0.0.0/104")
    for at in (0, -1)
]  # fmt: skip


@given(st.ip_addresses() | st.ip_addresses(network="192.0.0.0/7") | st.ip_addresses(network="2000::/7")
       | st.sampled_from(EDGES))  # fmt: skip
@settings(max_examples=1000)
def test_what_may_be_learned_is_what_the_library_calls_global(address: Address) -> None:
    mapped = address.version == 6 and address.ipv4_mapped is not None
    expected = address.is_global and not address.is_multicast and not mapped
    assert teachable(address, frozenset()) == expected


@pytest.mark.parametrize("name", ["", "arpa", "1.2.3.in-addr.arpa", "x.1.2.3.in-addr.arpa", "1.ip6.arpa",
                                  ".".join("gggg" * 8) + ".ip6.arpa", "300.1.2.3.in-addr.arpa"])  # fmt: skip
def test_what_is_no_reverse_name_asks_about_no_address(name: str) -> None:
    assert reverse_address(name) is None


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.251", "0.0.0.0", "255.255.255.255",
     "203.0.113.20", "192.168.1.1", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "2001:db8::20", "::ffff:10.0.0.1"],
)  # fmt: skip
def test_what_may_never_be_learned(address: str) -> None:
    taught = ipaddress.ip_address(address)
    assert not teachable(taught, OWN)
    assert not judge(ask("bbc.co.uk", of("bbc.co.uk", taught)), with_bbc(), {}, OWN).lessons


def test_the_ttl_is_the_smallest_of_the_settings_and_the_rules() -> None:
    slow = with_bbc(rule(1, None, suffixes=["news.bbc.co.uk"], ttl=20), domain_route_ttl=120)
    for name, most in (("news.bbc.co.uk", 20), ("www.bbc.co.uk", 120)):
        assert judge(ask(name, of(name, V4, ttl=most + 1)), slow, {}, OWN).ttl == most
        assert judge(ask(name, of(name, V4, ttl=most)), slow, {}, OWN).ttl == 0, "nothing is to be changed"


def test_a_rule_that_only_sets_a_ttl_teaches_nothing() -> None:
    only = RuleSet(build(rule(0, None, suffixes=["x.example"], ttl=20)), {})
    found = judge(ask("x.example", of("x.example", V4)), only, {}, OWN)
    assert found == Judgement(ttl=20)


def test_an_address_that_a_heavier_rule_covers_is_not_learned() -> None:
    heavy = with_bbc(rule(1, "wg_us", prefixes=["81.2.69.0/24"], weight=10))
    assert not judge(ask("bbc.co.uk", of("bbc.co.uk", V4)), heavy, {}, OWN).lessons
    level = with_bbc(rule(1, "wg_us", prefixes=["81.2.69.0/24"]))
    assert judge(ask("bbc.co.uk", of("bbc.co.uk", V4)), level, {}, OWN).lessons
