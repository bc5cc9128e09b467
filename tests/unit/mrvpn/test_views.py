"""Views: endpoints, what peers allow, preshared keys, OSPF, the gateway, settings."""

from __future__ import annotations

import base64
import copy
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrvpn import views
from mrvpn.topology import Network, collapse
from mrvpn.views import psk
from mrvpn.views.settings import settings

Make = Callable[..., Network]


def view(network: Network, host: str, **keys: Any) -> dict[str, Any]:
    return views.view(network, host, keys.get("public_keys", {}), keys.get("secret", lambda name: None))


def peer(network: Network, host: str, tunnel: str = "wg_uk", **keys: Any) -> dict[str, Any]:
    (found,) = view(network, host, **keys)["tunnels"][tunnel]["peers"]
    return found


@pytest.mark.parametrize(
    ("expose", "endpoint"),
    [
        (55824, "203.0.113.20:55824"),
        ("55824", "203.0.113.20:55824"),
        ("198.51.100.9:55824", "198.51.100.9:55824"),
        ("[2001:db8::1]:55824", "[2001:db8::1]:55824"),
        ("vpn.example.net:55824", "vpn.example.net:55824"),
    ],
)
def test_endpoints(network: Make, expose: object, endpoint: str) -> None:
    found = network({"tunnels": {"wg_uk": {"hosts": {"uk": {"expose": expose}}}}})
    assert peer(found, "entry")["endpoint"] == endpoint
    assert peer(found, "uk")["endpoint"] is None
    assert view(found, "uk")["tunnels"]["wg_uk"]["listen_port"] == 55824


def test_an_ipv6_endpoint_of_a_host_is_in_brackets(network: Make) -> None:
    assert peer(network({"hosts": {"uk": {"endpoint": "2001:db8::20"}}}), "entry")["endpoint"] == "[2001:db8::20]:55824"


def test_without_an_endpoint_there_is_none(network: Make) -> None:
    assert peer(network({"hosts": {"uk": None}}), "entry")["endpoint"] is None


@pytest.mark.parametrize(
    ("told", "endpoint"),
    [
        ("198.51.100.7", "198.51.100.7:55824"),
        ("2001:db8::7", "[2001:db8::7]:55824"),
        ("10.9.20.1", None),  # of the mesh: the tunnel would lead into itself
        ("127.0.0.1", None),
        ("a.b", None),
    ],
)
def test_else_the_host_tells_its_address(network: Make, told: str, endpoint: str | None) -> None:
    found = network({"hosts": {"uk": None}})
    seen = views.view(found, "entry", {}, lambda name: None, (), {"uk": told, "entry": "192.0.2.99"})
    assert seen["tunnels"]["wg_uk"]["peers"][0]["endpoint"] == endpoint
    # what the description says goes before it
    seen = views.view(network(), "entry", {}, lambda name: None, (), {"uk": told})
    assert seen["tunnels"]["wg_uk"]["peers"][0]["endpoint"] == "203.0.113.20:55824"


def test_what_a_peer_is_allowed(network: Make) -> None:
    nets = {"allowed_nets": ["10.80.0.0/17", "10.80.128.0/17"]}
    found = network({"hosts": {"uk": {"lan": ["10.77.0.0/24"]}}, "tunnels": {"wg_uk": {"hosts": {"uk": nets}}}})
    assert peer(found, "entry")["allowed_ips"] == [
        "10.9.20.1/32",
        "10.77.0.0/24",
        "10.80.0.0/16",  # collapsed
        "224.0.0.0/4",  # OSPF's groups
        "fd6d:7276:20::1/128",
        "fe80::1/128",
        "ff02::/16",
    ]
    # what clients come from is behind the entrypoint
    assert peer(found, "uk")["allowed_ips"] == ["0.0.0.0/0", "::/0"]


def test_keys_come_from_the_description_or_the_owner(network: Make) -> None:
    theirs = {"uk": {"wg_uk": "from-uk", "other": "x"}, "entry": {"wg_uk": "from-entry"}}
    assert peer(network(), "entry", public_keys=theirs)["public_key"] == "from-uk"
    assert peer(network(), "uk", public_keys=theirs)["public_key"] == "from-entry"
    assert peer(network(), "entry", public_keys={"entry": {"wg_uk": "not uk's"}})["public_key"] is None
    own = base64.b64encode(bytes(32)).decode()
    found = network({"tunnels": {"wg_uk": {"hosts": {"uk": {"public_key": own}}}}})
    assert peer(found, "entry", public_keys=theirs)["public_key"] == own


def test_preshared_keys(network: Make) -> None:
    given_key = base64.b64encode(bytes(range(32))).decode()
    secrets = {"psk_root": "root", "mine": given_key}
    both = [peer(network(), host, secret=secrets.get)["preshared_key"] for host in ("uk", "entry")]
    assert both == [psk.derive("root", "wg_uk", "entry", "uk")] * 2
    assert peer(network(), "uk")["preshared_key"] is None
    for given_by in ("uk", "entry"):
        found = network({"tunnels": {"wg_uk": {"hosts": {given_by: {"psk": {"secret": "mine"}}}}}})
        assert [peer(found, host, secret=secrets.get)["preshared_key"] for host in ("uk", "entry")] == [given_key] * 2
    with pytest.raises(views.Unfit, match=r"^tunnels.wg_uk.hosts.entry.psk: is no WireGuard key[^']*$"):
        peer(found, "uk", secret={"mine": "hush"}.get)


NAMES = st.text("abc", min_size=1, max_size=3)


@given(NAMES, NAMES, NAMES)
def test_derived_keys(tunnel: str, one: str, other: str) -> None:
    key = psk.derive("root", tunnel, one, other)
    assert len(base64.b64decode(key)) == 32
    assert key == psk.derive("root", tunnel, other, one)
    assert key != psk.derive("root2", tunnel, one, other)
    assert key != psk.derive("root", tunnel + "x", one, other)
    assert key != psk.derive("root", tunnel, one + "x", other)


def test_a_stranger_gets_nothing(network: Make) -> None:
    assert view(network(), "stranger").keys() == {"version", "host", "member", "root"}


def test_roles(network: Make) -> None:
    entry, uk = view(network(), "entry"), view(network(), "uk")
    assert entry.keys() == uk.keys()  # every key is always there
    for key in ("gateway", "recursor", "routing", "country_database"):
        assert entry[key] is not None
        assert uk[key] is None
    assert entry["tunnels"]["wg_uk"]["namespace"] == "firezone"
    assert uk["tunnels"]["wg_uk"]["namespace"] == "own"
    assert uk["frr"][0]["folder"] == "wg_tunnels/wg_uk/frr"
    assert uk["host_guard"] == {"bridge": None, "addresses": [], "reserved_ports": None, "published": ["55824"]}


def test_a_host_with_a_lan(network: Make) -> None:
    office = view(network({"hosts": {"uk": {"lan": ["10.77.0.0/24"]}}}), "uk")
    assert office["tunnels"]["wg_uk"]["namespace"] == "host"
    (frr,) = office["frr"]
    assert (frr["service"], frr["namespace"], frr["folder"]) == ("mrvpn_frr", "host", "mrvpn/frr")
    assert frr["announce"] == {"ipv4": ["10.77.0.0/24"], "ipv6": []}
    assert "10.77.0.0/24" not in frr["accept"]["ipv4"]
    assert office["host_guard"] is None


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(24, 30)), max_size=6),
    st.lists(st.tuples(st.integers(0, 63), st.integers(24, 32)), max_size=4),
)
def test_the_mesh_without_ones_own(mesh: list[tuple[int, int]], own: list[tuple[int, int]]) -> None:
    """Address by address, as the sets say it."""

    def nets(pairs: list[tuple[int, int]]) -> list[str]:
        return [str(ipaddress.ip_network((f"10.0.{n // 8}.{n % 8 * 32}", length), strict=False)) for n, length in pairs]

    def members(prefixes: list[str]) -> set[int]:
        found: set[int] = set()
        for prefix in map(ipaddress.ip_network, prefixes):
            found |= set(range(int(prefix.network_address), int(prefix.broadcast_address) + 1))
        return found

    network = object.__new__(Network)
    object.__setattr__(network, "mesh4", collapse(nets(mesh), 4))
    object.__setattr__(network, "mesh6", ())
    left = network.mesh_without(nets(own), 4)
    assert members(left) == members(nets(mesh)) - members(nets(own))
    assert list(collapse(left, 4)) == left


def test_settings(network: Make) -> None:
    found = settings(network(), "firezone")
    (rule,) = found["rules"]
    assert rule == {
        "id": "routing.routes[0].country",
        "mark": 0x10000,
        "exit": "wg_uk",
        "kind": "country",
        "weight": 0,
        "metric": 200,
        "ttl": None,
        "live": "keep",
        "countries": ["GB"],
        "patterns": [],
        "suffixes": [],
        "prefixes": [],
    }
    assert found["ingress"] == ["wg-firezone"]
    assert found["tunnels"] == [{"interface": "wg_uk", "sources": ["10.9.20.0/24", "fd6d:7276:20::/64"]}]
    own = ["10.9.20.1", "10.9.20.2", "10.11.0.1", "203.0.113.10", "203.0.113.20", "fd6d:7276:20::1", "fd6d:7276:20::2"]
    assert found["own"] == own


def test_settings_are_taken_by_the_daemon(network: Make) -> None:
    from ipt_server.settings import Settings

    found = network(
        {"routing": {"routes": [{"interface": "wg_uk", "country": "GB", "domain": ".*\\.uk", "net": "::/0"}]}}
    )
    Settings.model_validate(copy.deepcopy(settings(found, "firezone")))


@pytest.mark.parametrize(
    ("routing", "route", "live"),
    [({}, {}, "keep"), ({"clean_conntrack": True}, {}, "cut"), ({"clean_conntrack": True}, {"live": "keep"}, "keep")],
)
def test_what_happens_to_live_connections(network: Make, routing: Any, route: Any, live: str) -> None:
    found = network({"routing": {**routing, "routes": [{"interface": "wg_uk", "country": "GB", **route}]}})
    assert settings(found, "firezone")["rules"][0]["live"] == live


def test_services(network: Make) -> None:
    assert view(network(), "entry")["gateway"]["services"] == {"firezone": ["wg-firezone"]}
    found = view(network({"services": {"firezone": ["wg-firezone", "wg_uk"]}}), "entry")
    assert found["gateway"]["services"] == {"firezone": ["wg-firezone", "wg_uk"]}
    assert found["recursor"][0]["interfaces"] == ["wg-firezone", "wg_uk"]
    assert found["routing"][0]["settings"]["recursor"]["interfaces"] == ["wg-firezone"]  # only ingress is redirected


@pytest.mark.parametrize(
    ("subnet", "health"),
    [
        (["10.9.20.0/24", "fd6d:7276:20::/64"], {"route": "fd6d:7276:20::1/128"}),
        (["10.9.20.0/24"], {"icmp": ["10.9.20.1"]}),
    ],
)
def test_an_exit_with_a_stand_in_is_judged_by_its_far_end(network: Make, subnet: list[str], health: object) -> None:
    found = network({"tunnels": {"wg_uk": {"subnet": subnet}}, "exits": {"wg_uk": {"fallback": ["_DEFAULT"]}}})
    (uk,) = [e for e in settings(found, "firezone")["exits"] if e["name"] == "wg_uk"]
    assert uk["health"] == health
    described = network({"exits": {"wg_uk": {"fallback": ["_DEFAULT"], "health": {"icmp": "9.9.9.9"}}}})
    (uk,) = [e for e in settings(described, "firezone")["exits"] if e["name"] == "wg_uk"]
    assert uk["health"] == {"icmp": ["9.9.9.9"]}
