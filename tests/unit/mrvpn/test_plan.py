"""What a plan says: tunnels, peers, containers, rules, what traffic moves; beside a brute-force reference."""

from __future__ import annotations

import base64
import ipaddress
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from mrvpn import precedence
from mrvpn.__main__ import main
from mrvpn.plan import moves, plan
from mrvpn.schema.model import Route
from mrvpn.topology import Network
from mrvpn.topology.rules import flatten

REPO = Path(__file__).parents[3]
STATES = REPO / "salt"
Make = Callable[..., Network]

DE = {
    "wg_de": {
        "subnet": "10.9.30.0/24",
        "hosts": {
            "de": {"expose": "192.0.2.30:55830", "allowed_nets": ["0.0.0.0/0"]},
            "entry": {"compose_service": "firezone"},
        },
    }
}


def test_nothing(network: Make) -> None:
    found = plan(network(), network(), states=STATES)
    assert not found.changed
    assert found.as_json() == {
        "changed": False,
        "hosts": {},
        "rules": {"added": [], "removed": [], "moved": [], "changed": [], "reordered": False},
        "moves": [],
    }


def test_a_new_exit_recreates_nothing(network: Make) -> None:
    routes = [{"interface": "wg_de", "country": "DE"}]
    found = plan(network(), network({"tunnels": DE, "routing": {"routes": routes}}), states=STATES)
    entry, de, uk = sorted(found.hosts, key=lambda h: ["entry", "de", "uk"].index(h.host))
    assert de.status == "added"
    assert de.containers is not None and set(de.containers.created) == {"wg_de", "wg_de_frr"}
    assert entry.tunnels["added"]["wg_de"]["peers"] == ["de"]
    assert entry.containers is not None
    assert entry.containers.created == ("wg_de",)
    assert entry.containers.recreated == ()
    assert {"firezone_ipt", "firezone_frr"} <= set(entry.containers.reconfigured)
    # the mesh grew: what the others take by OSPF
    assert set(uk.parts) == {"mesh.ipv4", "frr[wg_uk_frr].accept.ipv4"}
    assert [move.as_json() for move in found.moves] == [
        {"from": "_DEFAULT", "to": "wg_de", "countries": ["DE"], "prefixes": None, "addresses": None},
        {"from": "wg_uk", "to": "_DEFAULT", "countries": ["GB"], "prefixes": None, "addresses": None},
    ]


@pytest.mark.parametrize(
    ("change", "recreated"),
    [
        ({"tunnels": {"wg_uk": {"hosts": {"entry": {"mtu": 1400}}}}}, set()),
        ({"tunnels": {"wg_uk": {"hosts": {"entry": {"expose": 55850}}}}}, set()),  # inside the range
        ({"tunnels": {"wg_uk": {"hosts": {"entry": {"expose": 1234}}}}}, {"firezone", "wg_uk"}),
        ({"port_range": [55800, 55999]}, {"firezone", "wg_uk"}),
        ({"routing": {"routes": []}}, set()),
    ],
)
def test_what_recreates_the_gateway(network: Make, change: dict[str, Any], recreated: set[str]) -> None:
    """And with it whatever shares its namespace."""
    found = {h.host: h for h in plan(network(), network(change), states=STATES).hosts}["entry"] if change else None
    assert found is not None and found.containers is not None
    assert recreated <= set(found.containers.recreated)
    assert bool(recreated) == bool(found.containers.recreated)


def test_peers(network: Make) -> None:
    third = {"tunnels": {"wg_uk": {"hosts": {"de": {"expose": "192.0.2.30:55824"}, "entry": {"allowed_nets": []}}}}}
    found = {h.host: h for h in plan(network(), network(third)).hosts}
    change = found["entry"].tunnels["changed"]["wg_uk"]
    assert change["peers"]["added"] == ["de"]
    back = {h.host: h for h in plan(network(third), network()).hosts}
    assert back["entry"].tunnels["changed"]["wg_uk"]["peers"]["removed"] == ["de"]
    assert back["de"].status == "removed"
    moved = network({"hosts": {"uk": {"endpoint": "203.0.113.21"}}})
    differences = {h.host: h for h in plan(network(), moved).hosts}["entry"].tunnels["changed"]["wg_uk"]["peers"][
        "changed"
    ]
    assert differences == {"uk": {"endpoint": ["203.0.113.20:55824", "203.0.113.21:55824"]}}


def test_secrets_are_compared_and_never_shown(network: Make) -> None:
    def psk(value: object) -> Network:
        return network({"tunnels": {"wg_uk": {"hosts": {"uk": {"psk": value}}}}})

    one, two = (base64.b64encode(word * 32).decode() for word in (b"1", b"2"))
    for old, new in (
        (one, two),
        ({"secret": "hush-a"}, {"secret": "hush-b"}),
        (one, None),
        (one, {"secret": "hush-a"}),
    ):
        found = plan(psk(old), psk(new) if new else network())
        text = json.dumps(found.as_json())
        assert found.changed
        assert not [secret for secret in ("hush", one, two) if secret in text]
        assert "***" in text


def test_rules(network: Make) -> None:
    def rules(*routes: dict[str, Any]) -> Network:
        return network({"tunnels": DE, "routing": {"routes": list(routes)}})

    old = rules({"interface": "wg_uk", "country": ["GB", "IE"]}, {"interface": "wg_uk", "suffix": "a.example"})
    new = rules(
        {"interface": "wg_de", "suffix": "b.example"},
        {"interface": "wg_uk", "country": "GB", "weight": 2},
        {"interface": "wg_de", "country": "IE"},
    )
    assert plan(old, new).rules.as_json() == {
        "added": [{"field": "suffix", "value": "b.example", "exit": "wg_de"}],
        "removed": [{"field": "suffix", "value": "a.example", "exit": "wg_uk"}],
        "moved": [{"field": "country", "value": "IE", "from": "wg_uk", "to": "wg_de"}],
        "changed": [{"field": "country", "value": "GB", "changes": {"weight": [0, 2]}}],
        "reordered": False,
    }
    swapped = rules({"interface": "wg_uk", "suffix": "a.example"}, {"interface": "wg_uk", "country": ["GB", "IE"]})
    assert plan(old, swapped).rules.reordered


def test_another_default_moves_the_rest_of_the_world(network: Make) -> None:
    routes = [{"interface": "wg_uk", "country": "GB"}, {"interface": "wg_uk", "net": "0.0.0.0/0"}]
    (move,) = plan(network(), network({"routing": {"routes": routes}})).moves
    assert (move.old, move.new, move.countries) == ("_DEFAULT", "wg_uk", ("*",))


# --- addresses --------------------------------------------------------------------------------------------------------

RANGES = {
    "GB": {4: [(10, 19), (40, 49)], 6: [(5, 9)]},
    "FR": {4: [(20, 29)], 6: []},
    "DE": {4: [(30, 39), (60, 69)], 6: [(10, 20)]},
}
EXITS = st.sampled_from(["a", "b", "_DEFAULT", None])
NETS = st.sampled_from(["0.0.0.0/0", "0.0.0.0/1", "0.0.0.16/28", "0.0.0.32/27", "0.0.0.41/32", "::/0", "::8/125"])
ROUTES = st.lists(
    st.builds(
        lambda exit_, field, country, net, weight: Route.model_validate(
            {"interface": exit_, "weight": weight, **({"country": country} if field else {"net": net})}
        ),
        EXITS,
        st.booleans(),
        st.lists(st.sampled_from(list(RANGES)), min_size=1, max_size=2),
        st.lists(NETS, min_size=1, max_size=2),
        st.integers(0, 1),
    ),
    max_size=5,
).map(tuple)


def best(routes: tuple[Route, ...], family: int, number: int) -> str:
    """The exit of an address: every rule looked at, the one order asked."""
    found = []
    for rule in flatten(routes):
        if rule.route.interface is None:
            continue
        for value in rule.values:
            if rule.field == "country":
                if any(a <= number <= b for a, b in RANGES[value][family]):
                    found.append((precedence.key(rule.route.weight, "country", 0, rule.position), rule.route.interface))
            else:
                prefix = ipaddress.ip_network(value)
                if prefix.version == family and int(prefix.network_address) <= number <= int(prefix.broadcast_address):
                    kind = precedence.kind_of_prefix(prefix.prefixlen)
                    key = precedence.key(rule.route.weight, kind, prefix.prefixlen, rule.position)
                    found.append((key, rule.route.interface))
    return min(found)[1] if found else "_DEFAULT"


@given(ROUTES, st.sampled_from([4, 6]))
def test_flatten_as_the_reference_says(routes: tuple[Route, ...], family: int) -> None:
    parts = list(moves.flatten(flatten(routes), RANGES, family))
    end = 2 ** {4: 32, 6: 128}[family] - 1
    assert parts[0][0] == 0
    assert parts[-1][1] == end
    assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(parts))
    for number in (*range(80), 127, 128, 2**31 - 1, 2**31, end):
        (exit_,) = [exit_ for first, last, exit_ in parts if first <= number <= last]
        assert exit_ == best(routes, family, number)


@given(ROUTES, ROUTES)
def test_moves_as_the_reference_says(old: tuple[Route, ...], new: tuple[Route, ...]) -> None:
    found = moves._prefixes(flatten(old), flatten(new), RANGES)
    pairs = {(move.old, move.new) for move in found}
    numbers = [(4, n) for n in (*range(80), 2**31, 2**32 - 1)] + [(6, n) for n in (*range(30), 2**127)]
    seen = {(best(old, f, n), best(new, f, n)) for f, n in numbers}
    assert pairs == {(one, other) for one, other in seen if one != other}
    for move in found:
        touched = {
            country
            for country, families in RANGES.items()
            for family, ranges in families.items()
            for first, last in ranges
            for n in range(first, last + 1)
            if (best(old, family, n), best(new, family, n)) == (move.old, move.new)
        }
        assert set(move.countries) == touched


def test_moves_are_counted(network: Make) -> None:
    old = network({"routing": {"routes": [{"interface": "wg_uk", "country": "GB"}]}})
    new = network({"routing": {"routes": [{"interface": "_DEFAULT", "country": "GB"}]}})
    (move,) = plan(old, new, ranges=RANGES).moves
    # 10-19: 10/31 12/30 16/30; 40-49: 40/29 48/31; IPv6 5-9: 5 6/127 8/127
    assert (move.old, move.new, move.countries, move.prefixes, move.addresses) == ("wg_uk", "_DEFAULT", ("GB",), 8, 20)


@pytest.mark.parametrize(
    "record",
    [lambda code: {"country": {"iso_code": code}}, lambda code: {"country_code": code}, lambda code: {"country": code}],
)
def test_a_database_of_any_shape(record: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True)
    writer.insert_network(IPSet(["192.0.2.0/24", "198.51.100.0/24"]), record("GB"))
    writer.insert_network(IPSet(["2001:db8::/32"]), record("DE"))
    path = tmp_path / "country.mmdb"
    writer.to_db_file(str(path))
    ranges = moves.read_ranges(str(path))
    assert {(str(ipaddress.IPv4Address(a)), str(ipaddress.IPv4Address(b))) for a, b in ranges["GB"][4]} == {
        ("192.0.2.0", "192.0.2.255"),
        ("198.51.100.0", "198.51.100.255"),
    }
    assert ranges["DE"][6] == [(0x20010DB8 << 96, ((0x20010DB8 + 1) << 96) - 1)]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    text = (REPO / "tests" / "bad" / "good" / "network.yaml").read_text()
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "old" / "network.yaml").write_text(text)
    (tmp_path / "new" / "network.yaml").write_text(text.replace("country: GB", "country: [GB, IE]"))
    return tmp_path / "old", tmp_path / "new"


def test_exit_codes(trees: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = map(str, trees)
    assert main(["plan", old, old]) == 0
    assert capsys.readouterr().out == "nothing changes\n"
    assert main(["plan", old, new]) == 2
    out = capsys.readouterr().out
    assert "  + country IE -> wg_uk\n" in out
    assert "  ~ IE: _DEFAULT -> wg_uk\n" in out
    assert "    no container is recreated\n" in out
    assert main(["plan", old, new, "--format", "json"]) == 2
    assert json.loads(capsys.readouterr().out)["moves"][0]["countries"] == ["IE"]
    (trees[1] / "network.yaml").write_text("mrvpn: []\n")
    assert main(["plan", old, new]) == 1
    assert "refused" in capsys.readouterr().err


def test_a_database_that_is_none(trees: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = map(str, trees)
    assert main(["plan", old, new, "--country-database", f"{new}/network.yaml"]) == 1
    assert "is no country database" in capsys.readouterr().err
    assert main(["plan", old, new, "--country-database", f"{new}/gone"]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("case", ["mesh", "spellings", "mrvpn2-schema", "firezone"])
def test_every_golden_case_against_the_example(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    golden = REPO / "tests" / "golden" / "descriptions" / case
    assert main(["plan", str(REPO / "pillar" / "network"), str(golden), "--format", "json"]) == 2
    found = json.loads(capsys.readouterr().out)
    hosts = {host for host, plan_ in found["hosts"].items() if plan_["status"] != "removed"}
    described = json.loads((golden / "views.json").read_text())["views"]
    assert hosts == set(described) - {"stranger"}
    assert yaml.safe_dump(found)
