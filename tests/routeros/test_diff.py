"""The pure part: normalisation, ownership, adoption, order; apply(diff(a, b), a) == b for random rows."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrvpn.routeros import PATHS, Add, Move, Remove, Set, applied, inverse, normal, plan, version_of
from mrvpn.routeros.diff import token_of
from mrvpn.routeros.feet import Feet, touched
from mrvpn.routeros.undo import quoted, script, staged
from tests.simulators.routeros.script import unquote

NEWEST = (7, 24)
MENUS = json.loads((Path(__file__).parents[1] / "simulators" / "routeros" / "menus.json").read_text())
KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(4)]
WG, PEERS, FILTER, TABLE, ROUTE = (
    "/interface/wireguard", "/interface/wireguard/peers", "/ip/firewall/filter", "/routing/table", "/ip/route",
)  # fmt: skip


def seen(rows: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    """Rows as they are compared: canonical values of every field that may be written, without ids."""
    facts = PATHS[path].fields
    return [{n: normal.canonical(f, row.get(n)) for n, f in facts.items() if f.kind != "secret"} for row in rows]


# -- facts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_every_field_is_one_the_router_takes_in_the_same_versions(path: str) -> None:
    menu = MENUS[path]["fields"]
    for name, field in PATHS[path].fields.items():
        theirs = menu[name]
        assert not theirs.get("read_only"), name
        for bound in ("since", "until"):
            ours = getattr(field, bound)
            assert (version_of(theirs[bound]) if bound in theirs else None) == ours, f"{name} {bound}"
        assert (field.kind == "flag") == bool(theirs.get("flag")), name
        assert (field.kind == "secret") == bool(theirs.get("sensitive")), name
        assert field.clear != "!" or theirs.get("unset"), name
    assert all(menu[name].get("read_only") for name in PATHS[path].read)


def test_no_secret_is_ever_asked_for() -> None:
    from mrvpn.routeros import proplist

    for path in PATHS:
        assert not {"private-key", "preshared-key"} & set(proplist(path, NEWEST))


@pytest.mark.parametrize(
    ("path", "name", "one", "other"),
    [
        (PEERS, "persistent-keepalive", "25", "25s"),
        (PEERS, "persistent-keepalive", 0, None),
        (PEERS, "persistent-keepalive", "00:01:33", "1m33s"),
        (PEERS, "allowed-address", ["10.9.0.0/24", "224.0.0.0/4"], "224.0.0.0/4,10.9.0.7/24"),
        (PEERS, "allowed-address", "FD00::/64", "fd00:0::/64"),
        (PEERS, "endpoint-address", "VPN.example.net", "vpn.example.net"),
        (PEERS, "endpoint-address", "2001:DB8::1", "2001:db8:0::1"),
        (PEERS, "endpoint-address", "", None),
        (PEERS, "disabled", "no", "false"),
        (WG, "mtu", 1420, None),
        (TABLE, "fib", True, ""),
        (TABLE, "fib", False, None),
        (ROUTE, "dst-address", "10.1.1.1/32", "10.1.1.1"),
        (ROUTE, "dst-address", None, "0.0.0.0/0"),
        ("/ip/firewall/mangle", "tcp-flags", "syn,fin", "fin,syn"),
        ("/ip/firewall/mangle", "passthrough", "yes", None),
        ("/routing/ospf/instance", "redistribute", ["connected", "static"], "static,connected"),
    ],
)
def test_two_spellings_of_one_value(path: str, name: str, one: Any, other: Any) -> None:
    field = PATHS[path].fields[name]
    assert normal.canonical(field, one) == normal.canonical(field, other)


@pytest.mark.parametrize("text", ["7.x", "eight", "", "7"])
def test_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="no RouterOS version"):
        version_of(text)


def test_versions() -> None:
    assert [version_of(t) for t in ("7.24.4 (stable)", "7.18", "7.19beta2")] == [(7, 24), (7, 18), (7, 19)]


# -- ownership -------------------------------------------------------------------------------------------------------


def wg(name: str = "wg_uk", token: str | None = None, **more: Any) -> dict[str, Any]:
    row = {"name": name, "mtu": 1280, "comment": token or f"mrvpn:{name}:interface", **more}
    return {key.replace("_", "-"): value for key, value in row.items()}


def test_a_strangers_interface_of_that_name_is_an_error() -> None:
    found = plan({WG: [wg()]}, {WG: [{".id": "*1", "name": "wg_uk", "comment": "Peter's"}]}, NEWEST)
    assert found.changes == [] and len(found.problems) == 1
    assert 'wg_uk exists and is not ours (row *1, comment "Peter\'s")' in found.problems[0]


def test_a_strangers_port_is_an_error() -> None:
    found = plan({WG: [wg(listen_port=13231)]}, {WG: [{".id": "*1", "name": "home", "listen-port": "13231"}]}, NEWEST)
    assert found.problems == [
        "/interface/wireguard: mrvpn:wg_uk:interface: listen-port 13231 is taken by `home`, which is not ours"
    ]


def test_two_rows_for_one_identity_are_an_error() -> None:
    rows = [{".id": f"*{n}", "name": f"w{n}", "comment": "mrvpn:wg_uk:interface"} for n in (1, 2)]
    found = plan({WG: [wg()]}, {WG: rows}, NEWEST)
    assert "rows *1, *2 both answer to it" in found.problems[0]
    assert found.changes == []


def test_an_mrvpn2_row_is_taken_over_in_place() -> None:
    found = plan({WG: [wg()]}, {WG: [{".id": "*7", "name": "wg_uk", "mtu": "1280", "comment": "wg_uk"}]}, NEWEST)
    (change,) = found.changes
    assert isinstance(change, Set) and change.id == "*7"
    assert change.values == {"comment": "mrvpn:wg_uk:interface"}
    assert found.adopted == ["/interface/wireguard *7 as mrvpn:wg_uk:interface"]


def test_what_of_mrvpn2_fits_nothing_stays_and_is_told() -> None:
    rows = [{".id": "*7", "name": "wg_uk", "comment": "wg_uk"}, {".id": "*8", "name": "old", "comment": "wg_uk"}]
    found = plan({WG: [wg()]}, {WG: rows}, NEWEST)
    assert "row *8" in found.notices[0]
    assert not [change for change in found.changes if isinstance(change, Remove)]


def test_dynamic_rows_are_never_ours() -> None:
    rows = [{".id": "*0", "name": "wg_uk", "dynamic": "true", "comment": "mrvpn:x:y"}]
    found = plan({WG: [wg()]}, {WG: rows}, NEWEST)
    assert [type(change) for change in found.changes] == [Add]


@pytest.mark.parametrize(
    ("row", "version", "told"),
    [
        ({"responder": "yes"}, (7, 16), "RouterOS 7.16 has no field `responder` on /interface/wireguard/peers (it is"),
        ({"is-responder": "yes"}, (7, 17), "gone after 7.16); the nearest is `responder`"),
        ({"keepalive": 25}, NEWEST, "writes on /interface/wireguard/peers; the nearest is `persistent-keepalive`"),
        ({"private-key": "x"}, NEWEST, "`private-key` is no field that MRVPN writes"),
        ({"persistent-keepalive": "soon"}, NEWEST, "persistent-keepalive: 'soon' is no time"),
        ({"allowed-address": "10.0.0.0/33"}, NEWEST, "allowed-address"),
        ({"comment": "no token"}, NEWEST, "must have a comment that begins with mrvpn:<tunnel>:<role>"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be(row: dict[str, Any], version: tuple[int, int], told: str) -> None:
    found = plan({PEERS: [{"interface": "wg_uk", "comment": "mrvpn:wg_uk:peer", **row}]}, {}, version)
    assert told in "\n".join(found.problems)


def test_all_problems_at_once() -> None:
    found = plan({WG: [wg(nmae="x"), wg(mut=1)], PEERS: [{"comment": "?"}]}, {}, NEWEST)
    assert len(found.problems) == 3


# -- preshared keys --------------------------------------------------------------------------------------------------


def test_a_preshared_key_is_sent_once_and_again_when_it_changes() -> None:
    row = {"interface": "wg_uk", "public-key": KEYS[0], "allowed-address": "10.0.0.0/8", "comment": "mrvpn:wg_uk:peer"}
    first = plan({PEERS: [{**row, "preshared-key": KEYS[1]}]}, {}, NEWEST)
    assert KEYS[1] not in str(first.told())
    state = applied(first.changes, {})
    assert "preshared-key" not in state[PEERS][0]
    assert plan({PEERS: [{**row, "preshared-key": KEYS[1]}]}, state, NEWEST).changes == []
    (change,) = plan({PEERS: [{**row, "preshared-key": KEYS[2]}]}, state, NEWEST).changes
    assert isinstance(change, Set) and change.values["preshared-key"] == KEYS[2]
    (gone,) = plan({PEERS: [{**row, "preshared-key": None}]}, state, NEWEST).changes
    assert isinstance(gone, Set) and gone.values == {"preshared-key": "", "comment": "mrvpn:wg_uk:peer"}


# -- order -----------------------------------------------------------------------------------------------------------


def test_dependencies_first_and_removals_the_other_way() -> None:
    declared = {
        "/ip/address": [{"address": "10.9.0.1/24", "interface": "wg_new", "comment": "mrvpn:wg_new:address"}],
        WG: [wg("wg_new")],
    }
    actual = {
        WG: [{".id": "*1", "name": "wg_old", "comment": "mrvpn:wg_old:interface"}],
        "/ip/address": [
            {".id": "*2", "address": "10.8.0.1/24", "interface": "wg_old", "comment": "mrvpn:wg_old:address"}
        ],
    }
    order = [(type(c).__name__, c.path) for c in plan(declared, actual, NEWEST).changes]
    assert order == [("Add", WG), ("Add", "/ip/address"), ("Remove", "/ip/address"), ("Remove", WG)]
    # the port of the old one is wanted: it goes first, with what hangs on it
    actual[WG][0]["listen-port"] = "13231"
    declared[WG][0]["listen-port"] = 13231
    order = [(type(c).__name__, c.path) for c in plan(declared, actual, NEWEST).changes]
    assert order == [("Remove", "/ip/address"), ("Remove", WG), ("Add", WG), ("Add", "/ip/address")]


def test_filter_rules_stand_before_the_strangers_drop() -> None:
    rows = [
        {".id": "*D", "chain": "input", "action": "passthrough", "dynamic": "true"},
        {".id": "*1", "chain": "forward", "action": "drop"},
        {".id": "*2", "chain": "input", "action": "drop"},
    ]
    declared = [
        {"chain": "input", "action": "accept", "protocol": p, "comment": f"mrvpn:t:{p}"} for p in ("udp", "ospf")
    ]
    found = plan({FILTER: declared}, {FILTER: rows}, NEWEST)
    after = applied(found.changes, {FILTER: rows})[FILTER]
    assert [row.get("protocol", row[".id"]) for row in after] == ["*D", "*1", "udp", "ospf", "*2"]
    # a person moved the drop up: ours go before it again, and nothing else is touched
    moved = [after[0], after[4], after[1], after[2], after[3]]
    again = plan({FILTER: declared}, {FILTER: moved}, NEWEST)
    assert {type(change) for change in again.changes} == {Move}
    assert plan({FILTER: declared}, applied(again.changes, {FILTER: moved}), NEWEST).changes == []


def test_peers_that_exchange_their_networks() -> None:
    rows = [
        {
            ".id": f"*{n}",
            "interface": "w",
            "public-key": KEYS[n],
            "allowed-address": f"10.{n}.0.0/16",
            "comment": f"mrvpn:t:{n}",
        }
        for n in (1, 2)
    ]
    declared = [
        {"interface": "w", "public-key": KEYS[n], "allowed-address": f"10.{3 - n}.0.0/16", "comment": f"mrvpn:t:{n}"}
        for n in (1, 2)
    ]
    found = plan({PEERS: declared}, {PEERS: rows}, NEWEST)
    assert [type(change) for change in found.changes] == [Remove, Set, Add]


def test_interfaces_that_exchange_their_names_are_refused() -> None:
    rows = [{".id": "*1", "name": "a", "comment": "mrvpn:x:i"}, {".id": "*2", "name": "b", "comment": "mrvpn:y:i"}]
    found = plan({WG: [wg("b", "mrvpn:x:i"), wg("a", "mrvpn:y:i")]}, {WG: rows}, NEWEST)
    assert "exchanges a name or port" in found.problems[0]


# -- the session's own feet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "row", "cut"),
    [
        ("/ip/address", {"address": "10.9.0.1/24", "interface": "wg_uk"}, True),
        ("/ip/address", {"address": "10.9.0.9/24", "interface": "other"}, False),
        (WG, {"name": "wg_uk"}, True),
        (PEERS, {"interface": "wg_uk"}, True),
        (PEERS, {"interface": "wg_us"}, False),
        ("/ip/route", {"dst-address": "0.0.0.0/0"}, True),
        ("/ip/route", {"dst-address": "0.0.0.0/0", "routing-table": "wg_uk"}, False),
        ("/ip/route", {"dst-address": "192.0.2.0/24"}, False),
    ],
)
def test_what_the_session_stands_on(path: str, row: dict[str, str], cut: bool) -> None:
    actual = {"/ip/address": [{".id": "*1", "address": "10.9.0.1/24", "interface": "wg_uk"}]}
    ident = "*1" if row.get("address") == "10.9.0.1/24" else "*2"
    full = {**row, ".id": ident, "comment": "mrvpn:t:x"}
    if path == "/ip/address" and ident == "*1":
        actual[path] = [full]
    else:
        actual.setdefault(path, []).append(full)
    feet = Feet("10.9.0.1", "10.9.20.7")
    removal = Remove(path, "mrvpn:t:x", ident, full)
    assert bool(touched([removal], actual, feet)) is cut
    assert touched([Set(path, "mrvpn:t:x", ident, {"comment": "y"}, (), {"comment": "x"})], actual, feet) == []


# -- undoing ---------------------------------------------------------------------------------------------------------


@given(st.text())
def test_quoting_is_read_back(text: str) -> None:
    assert unquote(quoted(text)) == text


def test_the_script_of_an_inverse() -> None:
    row = {".id": "*3", "name": "a", "fib": "", "comment": 'say "hi" $x – так'}
    text = script(
        inverse(
            [Remove(TABLE, "t", "*3", row), Set(TABLE, "t", "*4", {"name": "b"}, ("fib",), {"name": "c", "fib": ""})],
            {},
        )
    )
    assert text.splitlines() == [
        ':do { /routing/table/set *4 name="c" fib="yes" } on-error={}',
        ':do { /routing/table/add name="a" fib="yes" '
        'comment="say \\"hi\\" \\$x \\E2\\80\\93 \\D1\\82\\D0\\B0\\D0\\BA" } on-error={}',
    ]


def test_removals_are_staged() -> None:
    first, last = staged([Remove(WG, "t", "*3", {"name": "a"})])
    assert isinstance(first[0], Set) and first[0].values == {"disabled": "yes"}
    assert [change.id for change in last] == ["*3"]


# -- apply(diff(a, b), a) == b ---------------------------------------------------------------------------------------

ROLES = ("a", "b", "c", "d")


def _row(path: str, role: str, draw: st.DrawFn) -> dict[str, Any]:
    pools: dict[str, dict[str, list[Any]]] = {
        WG: {
            "mtu": ["1280", "1420"],
            "listen-port": ["13231", "13232", "13233", "13234"],
            "disabled": ["true", "false"],
        },
        PEERS: {
            "interface": ["w1", "w2"],
            "public-key": list(KEYS),
            "allowed-address": ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16,10.4.0.0/16", "10.4.0.0/16"],
            "persistent-keepalive": ["25", "25s", "0s", None],
            "endpoint-address": ["", "a.example", "2001:db8::1", None],
        },
        TABLE: {"fib": [True, None]},
        FILTER: {"chain": ["input", "forward"], "action": ["accept", "drop"], "protocol": ["udp", "ospf", None]},
    }
    row = {name: draw(st.sampled_from(values)) for name, values in pools[path].items()}
    if path in (WG, TABLE):
        row["name"] = draw(st.sampled_from(["n1", "n2", "n3", "n4", "n5", "n6"])) if path == TABLE else f"n{role}"
    row["comment"] = f"mrvpn:t:{role}"
    return row


@st.composite
def tables(draw: st.DrawFn, path: str) -> list[dict[str, Any]]:
    """Rows of a path with distinct tokens, as a router would take them."""
    rows: list[dict[str, Any]] = []
    for role in draw(st.permutations(ROLES))[: draw(st.integers(0, 4))]:
        row = _row(path, role, draw)
        names = {WG: "listen-port", TABLE: "name"}.get(path)
        if names and any(other[names] == row[names] for other in rows):
            continue
        if path == PEERS and any(
            other["interface"] == row["interface"]
            and (
                other["public-key"] == row["public-key"]
                or set(other["allowed-address"].split(",")) & set(row["allowed-address"].split(","))
            )
            for other in rows
        ):
            continue
        rows.append(row)
    return rows


def stored(rows: list[dict[str, Any]], strangers: int = 0) -> list[dict[str, str]]:
    """Rows as a router prints them, strangers' rows between."""
    found: list[dict[str, str]] = []
    for number, row in enumerate(rows):
        shown = {n: "" if v is True else str(v) for n, v in row.items() if v is not None}
        found.append({".id": f"*{number + 1:X}", **shown})
    for number in range(strangers):
        found.insert(number * 2, {".id": f"*F{number}", "chain": "input", "action": "drop", "comment": "mine"})
    return found


@pytest.mark.parametrize("path", [WG, PEERS, TABLE, FILTER])
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_apply_of_a_diff_is_the_wanted(path: str, data: st.DataObject) -> None:
    strangers = data.draw(st.integers(0, 2)) if path == FILTER else 0
    before = stored(data.draw(tables(path)), strangers)
    wanted = data.draw(tables(path))
    found = plan({path: wanted}, {path: before}, NEWEST)
    if path == WG and any("exchanges" in problem for problem in found.problems):
        return  # two interfaces that exchange their ports: refused, for a key would be lost
    assert found.problems == []
    after = applied(found.changes, {path: before})
    ours = [row for row in after[path] if token_of(row.get("comment"))]
    key = (lambda row: str(row["comment"])) if PATHS[path].within is None else (lambda row: str(row["chain"]))
    assert seen(sorted(ours, key=key), path) == seen(sorted(wanted, key=key), path)
    assert [r for r in after[path] if not token_of(r.get("comment"))] == [
        r for r in before if not token_of(r.get("comment"))
    ]
    assert plan({path: wanted}, after, NEWEST).changes == []
    # and back again by the inverse, keys aside
    back = applied(inverse(found.changes, {path: before}), after)
    order = (lambda row: str(row["comment"])) if PATHS[path].within is not None else key
    assert sorted(seen(back[path], path), key=order) == sorted(seen(before, path), key=order)
