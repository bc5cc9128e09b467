"""The rows that a router's view declares."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrvpn.routeros import PATHS, plan
from tests.routeros.conftest import DESCRIPTION, section_of

NEWEST, OLDEST = (7, 24), (7, 12)


@pytest.fixture
def described(tmp_path: Path) -> Any:
    """`described(change)`: the section after the description was changed."""

    def make(change: Any = None) -> dict[str, Any]:
        description = yaml.safe_load(DESCRIPTION)
        if change is not None:
            change(description["mrvpn"])
        (tmp_path / "n.yaml").write_text(yaml.safe_dump(description))
        return section_of(tmp_path / "n.yaml")

    return make


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_row_is_one_that_every_version_takes(described: Any, version: tuple[int, int]) -> None:
    section = described()
    assert list(section["rows"]) == list(PATHS)
    found = plan(section["rows"], {}, version)
    assert found.problems == [] and found.changes


def test_routes_only_where_table_names_one(described: Any) -> None:
    assert described()["rows"]["/ip/route"]
    for table in (None, "off", "auto", "main"):
        section = described(lambda d, t=table: d["tunnels"]["wg_tik"]["hosts"]["router"].update(table=t))
        assert not section["rows"]["/ip/route"] and not section["rows"]["/routing/table"]


def test_two_tunnels_may_share_a_table(described: Any) -> None:
    def second(d: dict[str, Any]) -> None:
        router = {"table": "wg_tik", "expose": 13232}
        d["tunnels"]["wg_two"] = {"subnet": "10.9.24.0/24", "hosts": {"router": router, "entry": {"expose": 55826}}}
        d["tunnels"]["wg_two"]["hosts"]["entry"] |= {"allowed_nets": ["0.0.0.0/0"], "compose_service": "firezone"}
        d["services"]["firezone"].append("wg_two")

    section = described(second)
    assert [row["name"] for row in section["rows"]["/routing/table"]] == ["wg_tik"]
    assert {row["gateway"] for row in section["rows"]["/ip/route"]} == {"wg_tik", "wg_two"}
    assert section["unknown"] == ["wg_two: entry"]
    assert plan(section["rows"], {}, NEWEST).problems == []


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [("198.51.100.7", "198.51.100.7"), ("2001:db8::7", "2001:db8::7"), ("vpn.example.net",) * 2],
)
def test_endpoints_of_every_kind(described: Any, endpoint: str, address: str) -> None:
    section = described(lambda d: d["hosts"]["entry"].update(endpoint=endpoint))
    (peer,) = section["rows"]["/interface/wireguard/peers"]
    assert (peer["endpoint-address"], peer["endpoint-port"]) == (address, 55825)


def test_the_mesh_is_never_masqueraded(described: Any) -> None:
    rows = described()["rows"]
    (nat,) = rows["/ip/firewall/nat"]
    assert nat["dst-address-list"] == "!mrvpn-mesh" and nat["out-interface"] == "!wg_tik"
    mesh = {row["address"] for row in rows["/ip/firewall/address-list"]}
    assert {"10.9.22.0/24", "10.11.0.0/24", "192.168.88.0/24"} <= mesh
    assert all(ipaddress.ip_network(prefix) for prefix in mesh)
    quiet = described(lambda d: d["tunnels"]["wg_tik"]["hosts"]["router"].update(masquerade=False))["rows"]
    assert not quiet["/ip/firewall/nat"] and not quiet["/ip/firewall/address-list"]


def test_the_router_takes_only_declared_prefixes_from_ospf(described: Any) -> None:
    rows = described()["rows"]
    chains: dict[str, list[str]] = {}
    for row in rows["/routing/filter/rule"]:
        chains.setdefault(row["chain"], []).append(row["rule"])
    assert {row["in-filter-chain"] for row in rows["/routing/ospf/instance"]} == set(chains)
    assert all(rules[-1] == "reject" for rules in chains.values())
    accepted = [rule for rules in chains.values() for rule in rules[:-1]]
    assert "if (dst in 10.11.0.0/24) {accept}" in accepted
    # its own LAN is nobody else's to announce, and a default is no part of the mesh
    assert not [rule for rule in accepted if "192.168.88.0" in rule or "/0)" in rule]


def test_an_edited_hook_is_a_change(described: Any) -> None:
    def edit(d: dict[str, Any]) -> None:
        d["tunnels"]["wg_tik"]["hosts"]["router"]["mikrotik_deploy"] = [":put other"]

    comments = [described(change)["rows"]["/interface/wireguard"][0]["comment"] for change in (None, edit)]
    assert comments[0] != comments[1]
    assert all(comment.startswith("mrvpn:wg_tik:interface hooks:") for comment in comments)


def test_three_hosts_in_a_tunnel_have_no_ospf_on_a_router(described: Any) -> None:
    def third(d: dict[str, Any]) -> None:
        d["tunnels"]["wg_tik"]["hosts"]["third"] = {"expose": "203.0.113.9:1"}

    section = described(third)
    assert len(section["rows"]["/interface/wireguard/peers"]) == 1 and section["unknown"] == ["wg_tik: third"]
    assert not section["rows"]["/routing/ospf/instance"]
