"""ip rules and tables as text: what is wanted, and the commands from what is there to it."""

from __future__ import annotations

from typing import Any

import pytest
from ipt_build import build, exits

from ipt_server.kernel.routes import Snapshot, table_commands, wanted_rules

S = build(exits=exits(wg_us={"ipv6": False})[:3])
LINKS = frozenset({"lo", "eth0", "wg_uk", "wg_us"})
FLOOR = {"type": "unreachable", "dst": "default", "metric": 9999}


def seen(*, links: frozenset[str] = LINKS, **tables: list[dict[str, Any]]) -> Snapshot:
    """`t201=[...]`: the IPv4 routes of a table."""
    return Snapshot(links, {4: {int(name[1:]): routes for name, routes in tables.items()}, 6: {}})


def own(interface: str) -> dict[str, Any]:
    return {"dst": "default", "dev": interface, "metric": 1}


def test_connected_and_mesh_come_before_any_table_but_their_own() -> None:
    assert wanted_rules(S) == [
        "pref 100 fwmark 0xc8/0x3ffff lookup 254",
        "pref 110 lookup main suppress_prefixlength 0",
        "pref 120 fwmark 0x20000/0x3ffff type unreachable",
        "pref 130 fwmark 0xc9/0x3ffff lookup 201",
        "pref 140 fwmark 0xca/0x3ffff lookup 202",
    ]


@pytest.mark.parametrize(
    ("there", "commands"),
    [
        (
            seen(),
            [
                "route replace unreachable default metric 9999 table 201",
                "route replace default dev wg_uk metric 1 table 201",
                "route replace unreachable default metric 9999 table 202",
                "route replace default dev wg_us metric 1 table 202",
            ],
        ),
        (seen(t201=[own("wg_uk"), FLOOR], t202=[own("wg_us"), FLOOR]), []),
        # an interface that vanished took its route with it; one that returned gets it back
        (seen(links=LINKS - {"wg_uk"}, t201=[FLOOR], t202=[own("wg_us"), FLOOR]), []),
        (seen(t201=[FLOOR], t202=[own("wg_us"), FLOOR]), ["route replace default dev wg_uk metric 1 table 201"]),
        # what is nobody's goes
        (
            seen(t201=[own("wg_uk"), FLOOR, own("eth0"), {"dst": "1.2.3.0/24", "dev": "eth0"}],
                 t202=[own("wg_us"), FLOOR]),
            ["route del default dev eth0 metric 1 table 201", "route del 1.2.3.0/24 dev eth0 table 201"],
        ),
    ],
)  # fmt: skip
def test_tables_hold_their_own_exit_and_a_floor(there: Snapshot, commands: list[str]) -> None:
    assert table_commands(S, there, 4) == commands


def test_an_exit_without_ipv6_has_only_the_floor_there() -> None:
    commands = table_commands(S, Snapshot(LINKS, {4: {}, 6: {202: [own("wg_us")]}}), 6)
    assert "route del default dev wg_us table 202" in commands
    assert "route replace unreachable default metric 9999 table 202" in commands


def test_the_default_interface_is_that_of_the_smallest_metric() -> None:
    main = [{"dst": "default", "dev": "eth1", "metric": 200}, {"dst": "default", "dev": "eth0"}]
    assert seen(t254=main).default_interface() == "eth0"
    hops = [{"dst": "default", "nexthops": [{"dev": "eth2"}, {"dev": "eth3"}]}]
    assert seen(t254=hops).default_interface() == "eth2"
    assert seen().default_interface() is None


def test_a_host_route_counts_only_by_its_own_interface() -> None:
    there = seen(t254=[{"dst": "10.9.20.1", "dev": "wg_uk"}, {"dst": "10.9.0.0/16", "dev": "wg_us"}])
    assert there.reaches("10.9.20.1/32", "wg_uk")
    assert not there.reaches("10.9.20.1/32", "wg_us") and not there.reaches("10.9.21.1/32", "wg_us")
