"""The kernel of text agrees with the real one: the same calls on both, the text loaded elsewhere, both listed."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from kernel_rig import Namespace, sh

from ipt_server.core.learned import Change, ClientAddress
from ipt_server.core.rules import RuleSet
from ipt_server.kernel import routes, skeleton
from ipt_server.kernel.printed import Printed
from ipt_server.kernel.state import Element, Kernel
from ipt_server.settings import parse
from mrvpn import marks

pytestmark = pytest.mark.root
LINKS = ("wg-firezone", "wg_uk", "wg_us", "eth0")
SCATTERED = 5  # the first of two variants with one rule's space within another's
ADDRESSES = [ipaddress.ip_address(a) for a in ("93.184.215.14", "93.184.215.15", "2a00:1450::1", "2a00:1450::2")]
NAMES = ("www.example.com", "", 'quo"ted.example', "x" * 127)
CLIENTS = {4: ipaddress.ip_address("10.11.0.2"), 6: ipaddress.ip_address("fd6d:7276:11::2")}


def rules(variant: int, scope: str = "all") -> RuleSet:
    """Generations that differ in intervals, in exits, in fallbacks, in families."""
    found: list[dict[str, Any]] = [
        {"id": "uk", "exit": "wg_uk", "kind": "prefix", "prefixes": ["81.2.69.0/24", "2a00:1450::/32"]},
        {"id": "us", "exit": "wg_us", "kind": "prefix", "prefixes": ["198.51.100.0/24", "203.0.113.7/32"]},
        {"id": "names", "exit": "wg_uk", "kind": "domain", "suffixes": ["bbc.co.uk"]},
        {"id": "rest", "exit": "wg_us", "kind": "default", "prefixes": ["0.0.0.0/0", "::/0"]},
    ]
    wide = {**found[0], "prefixes": ["81.0.0.0/8", "93.0.0.0/8", "2a00::/16", "2a10::/16"]}
    within = {**found[1], "prefixes": [f"{p}.0.0/16" for p in ("81.2", "81.7", "81.9", "93.4")]}
    within["prefixes"] += [f"{p}::/32" for p in ("2a00:2", "2a00:7", "2a00:9", "2a10:4")]
    chosen = (found, found[:3], found[1:], [*found[1:3], found[0]], [{**found[0], "exit": "wg_us"}, *found[1:3]],
              [wide, within], [within, wide])  # fmt: skip
    exits = [
        {"name": "_DEFAULT", "interface": None, "mark": 200, "table": 254},
        {"name": "wg_uk", "interface": "wg_uk", "mark": 201, "table": 201, "fallback": ["wg_us"]},
        {"name": "wg_us", "interface": "wg_us", "mark": 202, "table": 202, "ipv6": variant % 2 == 0},
    ]
    return RuleSet(
        parse(
            {
                "version": f"{variant:016x}",
                "ingress": ["wg-firezone"],
                "tunnels": [{"interface": "wg_uk", "sources": ["10.9.20.0/24"]}, {"interface": "wg_us", "sources": []}],
                "mesh": {"ipv4": ["10.9.20.0/24", "10.11.0.0/24"], "ipv6": ["fd6d:7276:11::/64"]},
                "exits": exits,
                "rules": [{"mark": marks.rule_mark(n), **rule} for n, rule in enumerate(chosen[variant])],
                "own": ["203.0.113.20"],
                "recursor": {"port": 5301, "interfaces": ["wg-firezone"], "uid": 0, "control": "/nonexistent"},
                "learn_scope": scope,
            }
        ),
        {},
    )


@pytest.fixture
def places() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with the same interfaces."""
    made = [Namespace(f"mrvpn-kp{os.getpid()}-{n}") for n in range(2)]
    try:
        for namespace in made:
            sh("ip", "netns", "add", namespace.name)
            for name in ("lo", *LINKS):
                if name != "lo":
                    peer = f"p{LINKS.index(name)}"
                    namespace.ip("link", "add", name, "type", "veth", "peer", "name", peer)
                    namespace.ip("link", "set", peer, "up")
                    namespace.ip("link", "set", name, "addrgenmode", "none")
                namespace.ip("link", "set", name, "up")
            namespace.ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
            namespace.ip("route", "add", "default", "via", "192.0.2.1")
        yield made[0], made[1]
    finally:
        for namespace in made:
            sh("ip", "netns", "del", namespace.name)


def seen(namespace: Namespace) -> list[Any]:
    """What the tools list of us: elements in order, without what time and handles do to it."""
    tables = json.loads(namespace.run("nft", "-j", "list", "table", "inet", "mrvpn"))["nftables"]
    listed = []
    for item in tables:
        for kind, value in item.items():
            if kind == "metainfo":
                continue
            value = {k: v for k, v in value.items() if k not in ("handle", "index", "packets", "bytes")}
            text = re.sub(r', "expires": [0-9]+', "", json.dumps(value))
            listed.append((kind, [json.dumps(e) for e in json.loads(text).pop("elem", [])], text))
    ordered = [(kind, sorted(elements), re.sub(r'"elem": .*', "", text)) for kind, elements, text in listed]
    ip = [
        namespace.run("ip", f"-{family}", *what)
        for family in (4, 6)
        for what in (("rule", "show"), ("route", "show", "table", "201"), ("route", "show", "table", "202"))
    ]
    return [*sorted(ordered), *ip]


def agree(places: tuple[Namespace, Namespace], calls: list[tuple[str, Any]], scope: str = "all") -> None:
    """Makes the calls on both kernels and compares what the two namespaces hold then."""
    real_place, text_place = places
    with real_place.inside():
        look = routes.look()
        kernels = (Kernel(), Printed(look.links, look.default_interface()))
        for kernel in kernels:
            force: RuleSet | None = None
            table: dict[Any, Element] = {}
            for call, value in calls:
                if call == "rules":
                    force = rules(value, scope)
                    kernel.apply(force, list(table.values()))
                elif call == "down":
                    assert force is not None
                    kernel.down = frozenset(value)
                    kernel.open(force)
                else:
                    changes = []
                    for number in value:
                        address = ADDRESSES[number]
                        key = address if scope == "all" else ClientAddress(CLIENTS[address.version], address)
                        mark = marks.rule_mark(number % 2) if call == "learn" else None
                        changes.append(Change(key, mark, 600, key in table, NAMES[number]))
                        table.pop(key, None)
                        if mark is not None:
                            table[key] = Element(key, mark, 600, NAMES[number])
                    kernel.learn([c for c in changes if c.mark is not None or c.replaces])
        kernels[0].close()
    text_place.run("nft", "-f", "-", text=kernels[1].nft())
    for family in (4, 6):
        text_place.run("ip", f"-{family}", "-batch", "-", text=kernels[1].ip(family))
    text, real = seen(text_place), seen(real_place)
    missing, extra = ([line for line in one if line not in other] for one, other in ((real, text), (text, real)))
    assert (missing, extra) == ([], []), "what the text lacks, and what it has beside"


CASES: dict[str, list[tuple[str, Any]]] = {
    "from nothing": [("rules", 0)],
    "another generation lies in the other buffer": [("rules", 0), ("rules", 2)],
    "there and back": [("rules", 0), ("rules", 2), ("rules", 0)],
    "learned": [("rules", 0), ("learn", [0, 2]), ("learn", [1]), ("forget", [0])],
    "learned and carried along": [("rules", 0), ("learn", [0, 1, 2, 3]), ("rules", 3)],
    "an exit is down": [("rules", 0), ("down", ["wg_uk"])],
    "every exit is down, and one comes back": [("rules", 0), ("down", ["wg_uk", "wg_us"]), ("down", ["wg_us"])],
    "an exit loses a family": [("rules", 0), ("rules", 1)],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scope", ["all", "client"])
def test_the_text_is_what_the_kernel_holds(places: tuple[Namespace, Namespace], case: str, scope: str) -> None:
    agree(places, CASES[case], scope)


@pytest.mark.parametrize("large", [6, 3, 1])
def test_layers_and_shards_too(
    places: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    """As a world has them, with few intervals: a layer of one map beneath and above, then each of several."""
    monkeypatch.setattr(skeleton, "LARGE", large)
    monkeypatch.setattr(skeleton, "SHARDS", 2)
    counts = {6: (1, 1), 3: (2, 1), 1: (2, 2)}[large]
    assert skeleton.counts(rules(SCATTERED).intervals) == {4: counts, 6: counts}
    agree(places, [("rules", SCATTERED), ("rules", 2), ("rules", SCATTERED), ("rules", SCATTERED + 1)])


@pytest.mark.parametrize("seed", range(6))
def test_random_calls(places: tuple[Namespace, Namespace], seed: int) -> None:
    dice = random.Random(seed)
    calls: list[tuple[str, Any]] = [("rules", dice.randrange(5))]
    for _ in range(dice.randrange(3, 9)):
        match dice.randrange(4):
            case 0:
                calls.append(("rules", dice.randrange(5)))
            case 1:
                calls.append(("down", dice.sample(["wg_uk", "wg_us"], dice.randrange(3))))
            case kind:
                calls.append(("learn" if kind == 2 else "forget", dice.sample(range(4), dice.randrange(1, 4))))
    agree(places, calls)


def test_a_difference_is_seen(places: tuple[Namespace, Namespace]) -> None:
    """So that the tests above can fail: an element more, a rule more."""
    agree(places, CASES["learned"])
    before = seen(places[0])
    for command in (
        ("nft", "add", "element", "inet", "mrvpn", "learned4", "{ 192.0.2.9 timeout 600s : 0x10000 }"),
        ("ip", "rule", "add", "pref", "500", "fwmark", "0x99", "lookup", "201"),
    ):
        places[0].run(*command)
        assert seen(places[0]) != before
        before = seen(places[0])
