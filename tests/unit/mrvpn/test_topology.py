"""What is assigned: in the order of the file, stable under additions where a lock stands beside it."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrvpn import compiler, marks, topology
from mrvpn.__main__ import main
from mrvpn.topology import Network
from mrvpn.topology import lock as locks

Make = Callable[..., Network]


def test_addresses_in_the_order_of_the_hosts(network: Make) -> None:
    found = network()
    assert found.addresses == {
        "wg_uk": {
            "uk": ("10.9.20.1/24", "fd6d:7276:20::1/64"),
            "entry": ("10.9.20.2/24", "fd6d:7276:20::2/64"),
        }
    }
    assert found.link_local == {"wg_uk": {"uk": "fe80::1/64", "entry": "fe80::2/64"}}


def test_a_pinned_address_is_kept_and_the_others_count_on(network: Make) -> None:
    found = network({"tunnels": {"wg_uk": {"hosts": {"uk": {"address": ["10.9.20.77", "fd6d:7276:20::4d"]}}}}})
    assert found.addresses["wg_uk"]["uk"] == ("10.9.20.77/24", "fd6d:7276:20::4d/64")
    assert found.addresses["wg_uk"]["entry"] == ("10.9.20.2/24", "fd6d:7276:20::2/64")
    assert found.link_local["wg_uk"]["uk"] == "fe80::4d/64"


def test_a_tunnel_without_ipv6_has_no_link_local(network: Make) -> None:
    found = network({"tunnels": {"wg_uk": {"subnet": "10.9.20.0/24"}}})
    assert found.link_local == {}
    assert not found.exits[1].ipv6


def test_a_tunnel_of_ipv6_alone_has_a_router_id_all_the_same(network: Make) -> None:
    found = network({"tunnels": {"wg_uk": {"subnet": "fd6d:7276:20::/64"}}})
    ids = [number for spaces in found.router_ids.values() for number in spaces.values()]
    assert len(set(ids)) == 2
    assert all(ipaddress.IPv4Address(number) for number in ids)


def test_a_tunnel_added_at_the_end_moves_no_router_id_whatever_its_name(network: Make) -> None:
    more = {"subnet": "10.9.1.0/24", "hosts": {"uk": {"expose": 55830}, "entry": {"compose_service": "firezone"}}}
    before = network()
    after = network({"tunnels": {"wg_a": more}})
    assert list(after.addresses) == ["wg_uk", "wg_a"]
    assert after.router_ids["entry"] == before.router_ids["entry"]


@pytest.mark.parametrize(
    ("nets", "families"),
    [
        (["0.0.0.0/0", "::/0"], (True, True)),
        (["0.0.0.0/0"], (True, False)),
        (["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"], (True, True)),
        (["10.80.0.0/16"], (False, False)),
    ],
)
def test_families_of_an_exit(network: Make, nets: list[str], families: tuple[bool, bool]) -> None:
    found = network({"tunnels": {"wg_uk": {"hosts": {"uk": {"allowed_nets": nets}}}}})
    assert (found.exits[1].ipv4, found.exits[1].ipv6) == families


@pytest.mark.parametrize(("wish", "ipv6"), [("auto", True), ("route", True), ("strip", False)])
def test_ipv6_of_an_exit_as_wished(network: Make, wish: str, ipv6: bool) -> None:
    assert network({"exits": {"wg_uk": {"ipv6": wish}}}).exits[1].ipv6 is ipv6


def test_exits_have_marks_and_tables(network: Make) -> None:
    default, first = network().exits
    assert (default.name, default.interface, default.mark, default.table) == ("_DEFAULT", None, 200, 254)
    assert (first.name, first.mark, first.table) == ("wg_uk", 201, 201)


def test_mesh(network: Make) -> None:
    change = {
        "hosts": {"uk": {"lan": ["10.77.0.0/24"]}},
        "tunnels": {"wg_uk": {"hosts": {"uk": {"allowed_nets": ["0.0.0.0/0", "10.80.0.0/16", "224.0.0.0/4"]}}}},
    }
    found = network(change)
    assert found.mesh4 == ("10.9.20.0/24", "10.11.0.0/24", "10.77.0.0/24", "10.80.0.0/16")
    assert found.mesh6 == ("fd6d:7276:20::/64",)
    assert found.behind("wg_uk", "uk") == ["10.77.0.0/24", "10.80.0.0/16"]
    assert found.behind("wg_uk", "entry") == ["10.11.0.0/24"]


def test_rules_one_kind_each(network: Make) -> None:
    route = {"interface": "wg_uk", "net": ["198.51.100.0/24", "0.0.0.0/1", "128.0.0.0/1"], "country": ["UK", "EU"]}
    rules = network({"routing": {"routes": [route]}}).rules
    assert [(rule.id, rule.kind) for rule in rules] == [
        ("routing.routes[0].country", "country"),
        ("routing.routes[0].net", "prefix"),
        ("routing.routes[0].net", "default"),
    ]
    assert rules[0].values[0] == "GB"
    assert len(rules[0].values) == 28
    assert rules[2].values == ("0.0.0.0/1", "128.0.0.0/1", "::/0")  # a default of one family covers both


# --- the lock ---------------------------------------------------------------------------------------------------------


def base() -> dict[str, Any]:
    return {
        "entrypoint": "entry",
        "hosts": {"office": {"lan": ["10.77.0.0/24"]}},
        "tunnels": {
            name: {
                "subnet": [f"10.9.{n}.0/24", f"fd6d:7276:{n}::/64"],
                "hosts": {
                    host: {"expose": 55800 + n, "allowed_nets": ["0.0.0.0/0"] if name != "wg_hub" else []},
                    "entry": {"compose_service": "firezone"},
                },
            }
            for n, (name, host) in enumerate([("wg_uk", "uk"), ("wg_ru", "ru"), ("wg_hub", "office")], 20)
        },
        "routing": {
            "routes": [
                {"interface": "wg_uk", "country": "GB", "domain": ".*\\.uk"},
                {"interface": "wg_ru", "country": "RU", "net": "198.51.100.0/24"},
                {"interface": "_DEFAULT", "net": "0.0.0.0/0"},
            ]
        },
    }


def compiled(folder: Path, tree: dict[str, Any]) -> compiler.Compiled:
    (folder / "network.yaml").write_text(yaml.safe_dump({"mrvpn": tree}, sort_keys=False))
    found = compiler.compile_path(folder)
    assert found.network is not None, "\n".join(map(str, found.problems))
    return found


def assigned(found: Network) -> dict[str, Any]:
    """Every number of a network, by what it belongs to."""
    numbers: dict[str, Any] = {
        f"address {tunnel} {host}": texts for tunnel, hosts in found.addresses.items() for host, texts in hosts.items()
    }
    numbers |= {f"link {tunnel} {host}": t for tunnel, hosts in found.link_local.items() for host, t in hosts.items()}
    numbers |= {f"exit {e.name}": (e.mark, e.table) for e in found.exits}
    numbers |= {f"rule {rule.name}": n for rule, n in zip(found.rules, found.rule_numbers, strict=True)}
    numbers |= {f"id {host} {space}": i for host, spaces in found.router_ids.items() for space, i in spaces.items()}
    return numbers


def distinct(found: Network) -> None:
    for hosts in found.addresses.values():
        texts = [text for pair in hosts.values() for text in pair]
        assert len(texts) == len(set(texts))
    assert len({e.mark for e in found.exits}) == len({e.table for e in found.exits}) == len(found.exits)
    assert not {e.table for e in found.exits[1:]} & marks.RESERVED_TABLES
    assert len(set(found.rule_numbers)) == len(found.rules)
    ids = [i for spaces in found.router_ids.values() for i in spaces.values()]
    assert len(ids) == len(set(ids))


def put(mapping: dict[str, Any], at: int, key: str, value: Any) -> dict[str, Any]:
    items = list(mapping.items())
    items.insert(at % (len(items) + 1), (key, value))
    return dict(items)


additions = st.lists(
    st.tuples(st.sampled_from(["host", "tunnel", "rule", "remove"]), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=additions)
def test_additions_anywhere_never_renumber_what_the_lock_holds(
    steps: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    (tmp_path / "lock.yaml").unlink(missing_ok=True)
    tree = base()
    held: dict[str, Any] = {}
    for number, (kind, where, which) in enumerate(steps):
        found = compiled(tmp_path, tree)
        now = assigned(found.network)
        assert {key: now[key] for key in held if key in now} == {key: v for key, v in held.items() if key in now}
        held |= now
        (tmp_path / "lock.yaml").write_text(locks.dump(topology.lock_of(found.network, found.lock)))
        tree = copy.deepcopy(tree)
        tunnels = tree["tunnels"]
        if kind == "tunnel":
            ends = {
                f"h{number}": {"expose": 56000 + number, "allowed_nets": ["0.0.0.0/0"]},
                "entry": {"compose_service": "firezone"},
            }
            new = {"subnet": [f"10.8.{number}.0/24", f"fd6d:7277:{number}::/64"], "hosts": ends}
            tree["tunnels"] = put(tunnels, where, f"a{number}", new)
        elif kind == "host":
            name = list(tunnels)[which % len(tunnels)]
            tunnels[name]["hosts"] = put(tunnels[name]["hosts"], where, f"n{number}", {"expose": 57000 + number})
        elif kind == "rule":
            routes = tree["routing"]["routes"]
            routes.insert(where % (len(routes) + 1), {"interface": "wg_uk", "suffix": f"s{number}.example"})
        elif "wg_ru" in tunnels:  # its numbers stay taken
            del tunnels["wg_ru"]
            tree["routing"]["routes"] = [r for r in tree["routing"]["routes"] if r["interface"] != "wg_ru"]
        distinct(compiled(tmp_path, tree).network)
    now = assigned(compiled(tmp_path, tree).network)
    assert {key: now[key] for key in held if key in now} == {key: v for key, v in held.items() if key in now}


def test_without_a_lock_the_file_decides(tmp_path: Path) -> None:
    """As in MRVPN2; and so that the property above could fail."""
    before = assigned(compiled(tmp_path, base()).network)
    tree = base()
    tree["tunnels"]["wg_uk"]["hosts"] = put(tree["tunnels"]["wg_uk"]["hosts"], 0, "new", {"expose": 57000})
    after = assigned(compiled(tmp_path, tree).network)
    assert before["address wg_uk uk"] != after["address wg_uk uk"]


def test_a_freed_number_is_not_given_again_until_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled(tmp_path, base())
    assert main(["lock", str(tmp_path)]) == 0
    tree = base()
    tree["tunnels"]["wg_new"] = tree["tunnels"].pop("wg_ru")
    tree["tunnels"]["wg_new"]["subnet"] = "10.9.99.0/24"
    tree["routing"]["routes"][1]["interface"] = "wg_new"
    assert {e.name: e.mark for e in compiled(tmp_path, tree).network.exits}["wg_new"] == 512 + 4
    assert main(["lock", "--check", str(tmp_path)]) == 1
    assert main(["lock", "--prune", str(tmp_path)]) == 0
    assert main(["lock", "--check", str(tmp_path)]) == 0
    assert "wg_ru" not in (tmp_path / "lock.yaml").read_text()
    assert {e.name: e.mark for e in compiled(tmp_path, tree).network.exits}["wg_new"] == 512 + 4
    capsys.readouterr()


def test_the_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = compiled(tmp_path, base())
    lock = topology.lock_of(found.network)
    (tmp_path / "lock.yaml").write_text(locks.dump(lock))
    again = compiled(tmp_path, base())
    assert again.lock == lock
    assert again.problems == found.problems
    assert topology.lock_of(again.network, again.lock) == lock


def test_a_bad_description_is_not_locked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "network.yaml").write_text("mrvpn: {tunnels: []}\n")
    assert main(["lock", str(tmp_path)]) == 1
    assert not (tmp_path / "lock.yaml").exists()
    assert "refused" in capsys.readouterr().err


def test_the_result_does_not_depend_on_the_run(tmp_path: Path) -> None:
    one, other = compiled(tmp_path, base()).network, compiled(tmp_path, base()).network
    assert one == other
