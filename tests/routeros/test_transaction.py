"""Applies against a simulated router: versions, open behaviour, faults at every write, the net and what it holds."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from mrvpn.routeros import PATHS
from mrvpn.routeros.errors import Failed, Refusal, RouterError
from mrvpn.routeros.transaction import Order, Outcome, reconcile
from tests.routeros.conftest import FAR, REPO, until
from tests.simulators.routeros import Fault, Router, Simulator, Unverified, User

WG, PEERS = "/interface/wireguard", "/interface/wireguard/peers"
VERSIONS = ["7.12.2", "7.17", "7.18.2", "7.24.4"]
SETTINGS = [
    Unverified(),
    Unverified(mask_host_bits=True, bare_host_routes=True, print_defaults=False, spaced_rules=True),
    Unverified(overlap="steal", orphans="cascade", duplicate_routes=False),
    Unverified(orphans="trap", unroll_elsewhere=False),
]
Serve = Callable[..., Simulator]
Settings = Callable[..., dict[str, Any]]


class Rig:
    """A router, and applies on it; without TLS, for speed."""

    def __init__(
        self, proxy: ModuleType, settings: Settings, serve: Serve, section: dict[str, Any], router: Router
    ) -> None:
        self.router = router
        self.router.reachable.add(FAR)
        self.simulator = serve(router, None)
        self.section = copy.deepcopy(section)
        self.session = proxy.Session(settings(self.simulator, timeout=0.4))

    def order(self, **more: Any) -> Order:
        s = self.section
        return replace(Order(declared=s["rows"], pings=tuple(s["pings"]), hooks=s["hooks"], undo_after=60), **more)

    def apply(self, wait: float = 5, **more: Any) -> Outcome:
        return reconcile(self.session, self.order(**more), until(wait))

    def snapshot(self) -> dict[str, Any]:
        return {path: rows for path, rows in self.router.snapshot().items() if rows or path in PATHS}


@pytest.fixture
def rig(proxy_module: ModuleType, settings: Settings, serve: Serve, section: dict[str, Any]) -> Callable[..., Rig]:
    def make(version: str = "7.24.4", **more: Any) -> Rig:
        return Rig(proxy_module, settings, serve, section, Router(version=version, **more))

    return make


# -- what an apply does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unverified", SETTINGS, ids=lambda u: u.overlap + "-" + u.orphans)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_apply_and_the_next_which_writes_nothing(rig: Any, version: str, unverified: Unverified) -> None:
    it = rig(version, unverified=unverified)
    before = it.snapshot()
    first = it.apply()
    assert first.writes and len(first.hooks) == 2
    writes = it.router.writes
    it.router.prints.clear()
    second = it.apply()
    assert second.plan.changes == [] and second.writes == 0 and it.router.writes == writes
    declared = dict.fromkeys(it.section["rows"], 1)
    assert {path: count for path, count in it.router.prints.items() if path in PATHS} == declared
    assert it.router.safe is None and not it.router.find("/system/scheduler")
    # and away again: the router is as it was, but for what the user's own hook left
    it.section = {"rows": {path: [] for path in PATHS}, "pings": [], "hooks": {}}
    if unverified.orphans == "trap":
        with pytest.raises(RouterError, match="in use by /interface/list/member"):
            it.apply()
        it.router.rows["/interface/list/member"].clear()
    it.apply()
    left = [row["comment"] for row in it.router.rows["/interface/list/member"]]
    assert left == (["wg_tik"] if unverified.orphans == "keep" else [])
    it.router.rows["/interface/list/member"].clear()
    assert it.snapshot() == before


def test_the_rows_as_the_router_has_them(rig: Any) -> None:
    it = rig()
    it.apply()
    (interface,) = it.router.find(WG)
    assert interface["comment"].startswith("mrvpn:wg_tik:interface hooks:")
    assert interface["running"] == "true"
    (peer,) = it.router.find(PEERS)
    assert (peer["endpoint-address"], peer["endpoint-port"]) == ("203.0.113.10", "55825")
    assert it.router.find("/routing/table", name="wg_tik")[0]["fib"] == ""
    assert {row["dst-address"] for row in it.router.find("/ip/route")} == {"0.0.0.0/0"}
    assert {row["dst-address"] for row in it.router.find("/ipv6/route")} == {"::/0"}
    chain = [row.get("comment", "") for row in it.router.find("/ip/firewall/filter", chain="input")]
    assert [c.startswith("mrvpn:") for c in chain] == [True] * 3 + [False] * 3
    assert it.router.find("/interface/list/member", comment="wg_tik")[0]["list"] == "LAN"
    # no print asked for a secret
    assert it.router.find(PEERS)[0]["preshared-key"] != "*****"
    sent = [words for command, words in it.router.history if command == f"{WG}/add"]
    assert not any("private-key" in words for words in sent)


def test_test_mode_writes_nothing_and_tells_all(rig: Any) -> None:
    it = rig()
    before, writes = it.snapshot(), it.router.writes
    found = it.apply(test=True)
    assert it.snapshot() == before and it.router.writes == writes
    told = found.plan.told()
    assert told[WG]["mrvpn:wg_tik:interface"]["new"]["mtu"] == "1280"
    assert told[PEERS]["mrvpn:wg_tik:peer:entry"]["new"]["preshared-key"] == "*****"
    assert any("deploy" in line for line in found.hooks)


def test_test_mode_shows_a_change_field_by_field(rig: Any) -> None:
    it = rig()
    it.apply()
    it.section["rows"][WG][0]["mtu"] = 1400
    told = it.apply(test=True).plan.told()
    assert told == {WG: {"mrvpn:wg_tik:interface": {"mtu": {"old": "1280", "new": "1400"}}}}


def test_what_a_person_changed_is_put_right_and_the_persons_own_stays(rig: Any) -> None:
    it = rig()
    it.apply()
    interface = it.router.find(WG)[0]
    own = it.router.seed("/ip/firewall/filter", chain="input", action="log", comment='"quoted" – так $x')
    it.router._set(WG, {".id": interface[".id"], "mtu": "1500", "disabled": "yes"})
    for path in (PEERS, "/ip/route", "/routing/ospf/instance", "/ip/firewall/nat"):
        it.router._set(path, {".id": it.router.find(path)[0][".id"], "disabled": "yes"})
    it.router._move(
        "/ip/firewall/filter", {"numbers": own, "destination": it.router.find("/ip/firewall/filter")[0][".id"]}
    )
    changed = it.apply().plan.changes
    assert {type(change).__name__ for change in changed} == {"Set", "Move"}
    after = it.router.find(WG)[0]
    assert (after["mtu"], after["disabled"], after["public-key"]) == ("1280", "false", interface["public-key"])
    assert it.router.find("/ip/firewall/filter", comment='"quoted" – так $x')
    assert all(row.get("disabled", "false") == "false" for path in PATHS for row in it.router.find(path))
    assert it.apply().plan.changes == []


def test_a_new_preshared_key_is_written_once(rig: Any) -> None:
    it = rig()
    it.apply()
    it.section["rows"][PEERS][0]["preshared-key"] = "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyA="
    assert [type(change).__name__ for change in it.apply(force=True).plan.changes] == ["Set"]
    assert it.router.find(PEERS)[0]["preshared-key"].startswith("bmV3")
    assert it.apply().plan.changes == []


@pytest.mark.parametrize("version", ["7.17", "7.24.4"])
def test_more_changes_than_one_safe_mode_holds(rig: Any, version: str) -> None:
    it = rig(version)
    rows = [{"list": "x", "address": f"10.1.{n}.0/24", "comment": f"mrvpn:x:{n}"} for n in range(130)]
    it.section = {"rows": {"/ip/firewall/address-list": rows}, "pings": [], "hooks": {}}
    it.apply()
    assert len(it.router.find("/ip/firewall/address-list")) == 130
    before = it.snapshot()
    # a fault in the last part takes the first parts back, too
    it.section["rows"] = {"/ip/firewall/address-list": [{**row, "list": "y"} for row in rows]}
    it.router.faults.append(Fault("trap", ".*/set", write=100))
    with pytest.raises(Failed, match="taken back, the router is as before"):
        it.apply()
    assert it.snapshot() == before


# -- the net ---------------------------------------------------------------------------------------------------------

KINDS = [
    "trap",
    "trap_bare",
    "double_trap",
    "fatal",
    "fatal_bare",
    "cut_before",
    "cut_after",
    "cut_mid",
    "late",
    "ignored",
    "unknown",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["7.17", "7.24.4"])
def test_any_fault_at_any_write_leaves_the_router_as_it_was_or_as_wanted(rig: Any, version: str, kind: str) -> None:
    """Every kind at every write of a full apply, hooks and the undo script's own ones too."""
    it = rig(version)
    it.session.settings["timeout"] = 0.2  # what a late answer costs
    it.router.seed("/interface/list/member", list="WAN", interface="ether1")
    it.router.rows["/ip/address"][0]["comment"] = "mine"
    new = it.router.snapshot()
    before = it.snapshot()
    total = it.apply().writes
    assert total > 30
    outcomes: Counter[str] = Counter()
    for number in range(1, total + 1):
        it.router.rows = copy.deepcopy(new)
        fault = Fault(kind, write=number, seconds=0.3)  # type: ignore[arg-type]
        it.router.faults[:] = [fault]
        try:
            it.apply(force=True)
        except RouterError as error:
            assert str(error).endswith("taken back, the router is as before"), f"write {number}: {error}"
            assert it.snapshot() == before, f"write {number}: {error}"
            outcomes["taken back"] += 1
        else:
            writes = it.router.writes
            assert it.apply().plan.changes == [] and it.router.writes == writes, f"write {number}"
            outcomes["done"] += 1
        assert fault.times == 0, f"write {number}: no fault struck"
        assert it.router.safe is None
        assert not it.router.find("/system/scheduler"), f"write {number}"
    assert outcomes["taken back"], outcomes


@pytest.mark.parametrize("command", ["/safe-mode/take", "/safe-mode/release", "/safe-mode/unroll"])
@pytest.mark.parametrize("kind", ["trap", "cut_before", "cut_after", "late", "ignored"])
def test_faults_of_safe_mode_itself(rig: Any, command: str, kind: str) -> None:
    it = rig()
    before = it.snapshot()
    it.router.faults.append(Fault(kind, command, seconds=1.0))  # type: ignore[arg-type]
    if "unroll" in command:
        it.router.faults.append(Fault("trap", ".*/add", write=5))
    try:
        it.apply()
    except RouterError:
        it.router.tick()
        if it.router.safe is not None:  # unroll was refused: the session's end undoes it
            it.session.close()
            pause = until(5)
            while it.router.safe is not None and pause():
                pass
        assert it.snapshot() == before
    else:
        assert it.apply().plan.changes == []
    assert it.router.safe is None


def test_a_tunnel_that_dies_by_the_change_is_taken_back(rig: Any) -> None:
    it = rig()
    it.apply()
    before = it.snapshot()
    it.section["rows"][PEERS][0]["allowed-address"] = ["10.200.0.0/16"]
    with pytest.raises(
        Failed, match=r"10\.9\.22\.2 answered a ping from the router before the changes and does not now"
    ):
        it.apply(wait=0.3)
    assert it.snapshot() == before


def test_a_far_end_that_never_answered_is_told_and_keeps_nothing_back(rig: Any) -> None:
    it = rig()
    it.router.reachable.clear()
    assert it.apply().notices == ["10.9.22.2 does not answer a ping from the router yet"]


def test_a_router_that_lets_nobody_in_any_more_is_taken_back(rig: Any) -> None:
    it = rig()
    before = it.snapshot()
    users = it.router.users
    it.router.observers.append(lambda: setattr(it.router, "users", ()))
    with pytest.raises(Failed, match="login of salt refused"):
        it.apply()
    it.router.observers.clear()
    it.router.users = users
    assert it.snapshot() == before


def test_the_router_undoes_by_itself_when_it_cannot_be_reached(rig: Any) -> None:
    """Before 7.18: the router goes away in the middle and is back too late for us."""
    it = rig("7.17")
    before = it.snapshot()
    it.router.observers.append(lambda: len(it.router.find("/ip/address")) > 1 and setattr(it.router, "users", ()))
    users = it.router.users
    it.simulator.cut()
    it.router.faults.append(Fault("cut_after", "/ip/address/add"))
    with pytest.raises(Failed, match="it undoes the changes by itself within 1 s"):
        it.apply(wait=0.1, undo_after=1)
    it.router.observers.clear()
    pause = until(10)
    while it.snapshot() != before and pause():
        pass
    assert it.snapshot() == before
    it.router.users = users


def test_safe_mode_held_by_someone_else(rig: Any, proxy_module: ModuleType, settings: Settings) -> None:
    it = rig()
    other = proxy_module.Session(settings(it.simulator))
    other.call("/safe-mode/take")
    writes = it.router.writes
    with pytest.raises(Refusal, match="safe mode cannot be taken"):
        it.apply()
    assert it.router.writes == writes
    other.call("/safe-mode/release")


@pytest.mark.parametrize("version", ["7.12.2", "7.17"])
def test_no_undo_script_no_change_without_force(rig: Any, version: str) -> None:
    it = rig(version, device_mode_home=True)
    before = it.snapshot()
    with pytest.raises(Refusal, match=r"not allowed by device-mode.*refused without force"):
        it.apply()
    assert it.snapshot() == before
    assert "changed without a net" in "\n".join(it.apply(force=True).notices)


def test_what_cannot_be_taken_back_waits_until_the_rest_is_proven(rig: Any) -> None:
    it = rig("7.17")
    it.apply()
    it.section["rows"][PEERS][0]["preshared-key"] = "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyA="
    it.section["rows"][WG][0]["mtu"] = 1300
    it.section["rows"]["/ip/firewall/nat"] = []
    it.router.history.clear()
    it.apply()
    order = [(command, sorted(words)) for command, words in it.router.history if "execute" not in command]
    names = [command for command, _ in order]
    assert names.index("/system/scheduler/remove") < names.index("/ip/firewall/nat/remove")
    keys = next(n for n, (command, words) in enumerate(order) if "preshared-key" in words)
    assert names.index("/system/scheduler/remove") < keys


# -- bad input -------------------------------------------------------------------------------------------------------


def test_what_the_session_stands_on_is_refused_without_force(rig: Any) -> None:
    it = rig()
    it.apply()
    it.section["rows"]["/ip/address"][0]["address"] = "10.9.22.9/24"
    it.router.rows["/ip/address"][-1]["address"] = "127.0.0.1/24"
    before = it.snapshot()
    with pytest.raises(Refusal, match="the session to the router uses this address; it is refused without force"):
        it.apply()
    assert it.snapshot() == before
    it.apply(force=True)
    assert it.router.find("/ip/address")[-1]["address"] == "10.9.22.9/24"


def test_too_old(rig: Any) -> None:
    with pytest.raises(Refusal, match=r"RouterOS 7\.11\.2 \(stable\) is too old: 7\.12 is the oldest"):
        rig("7.11.2").apply()


@pytest.mark.parametrize(
    ("lacking", "told"),
    [("write", "not enough permissions"), ("read", "not enough permissions"), ("test", "needs the policy test")],
)
@pytest.mark.parametrize("version", ["7.17", "7.24.4"])
def test_a_user_without_a_policy(rig: Any, version: str, lacking: str, told: str) -> None:
    it = rig(version, users=(User(policies=frozenset({"read", "write", "api", "test"} - {lacking})),))
    before = it.snapshot()
    with pytest.raises(RouterError, match=told):
        it.apply()
    assert it.snapshot() == before and it.router.writes == 0


def test_a_foreign_object_and_all_other_problems_at_once(rig: Any) -> None:
    it = rig()
    it.router.seed(WG, name="wg_tik", comment="Peter's", listen_port="13231")
    it.section["rows"]["/ip/address"][0]["adress"] = "x"
    before = it.snapshot()
    with pytest.raises(Refusal) as refused:
        it.apply()
    assert len(refused.value.reasons) >= 1
    assert "nearest is `address`" in str(refused.value)
    del it.section["rows"]["/ip/address"][0]["adress"]
    with pytest.raises(Refusal, match="exists and is not ours"):
        it.apply()
    assert it.snapshot() == before


@pytest.mark.parametrize("version", ["7.17", "7.24.4"])
def test_a_hook_that_fails(rig: Any, version: str) -> None:
    it = rig(version)
    it.section["hooks"]["wg_tik"]["deploy"] = ["/interface lst member add interface=wg_tik"]
    before = it.snapshot()
    with pytest.raises(Failed, match=r"hook wg_tik deploy failed: '/interface lst .*bad command name lst.*as before"):
        it.apply()
    assert it.snapshot() == before
    # the next apply tries it again, for everything was taken back
    it.section["hooks"]["wg_tik"]["deploy"] = []
    assert it.apply().writes


def test_a_port_that_an_interface_of_ours_cannot_have(rig: Any) -> None:
    """A stranger's interface that is disabled keeps its port: the router takes the row, and then tells of trouble."""
    it = rig()
    it.router.seed(WG, name="home", listen_port="13231", disabled="yes")
    it.router.observers.append(lambda: it.router.rows[WG][0].update(disabled="false"))
    before = it.snapshot()["/ip/address"]
    with pytest.raises(Failed, match=r"Listen port already used|does not hold what was written"):
        it.apply()
    assert it.router.snapshot()["/ip/address"] == before


def test_ipv6_endpoints(rig: Any) -> None:
    it = rig()
    row = it.section["rows"][PEERS][0]
    row["endpoint-address"] = "2001:DB8::10"
    it.apply()
    assert it.router.find(PEERS)[0]["endpoint-address"] == "2001:db8::10"
    assert it.apply().plan.changes == []


def test_both_ends_agree_on_ospfs_timers(section: dict[str, Any]) -> None:
    """OSPF makes no adjacency where they differ; the far end's stand in FRR's template."""
    template = (REPO / "salt" / "mrvpn" / "frr" / "files" / "frr.conf.j2").read_text()
    for row in section["rows"]["/routing/ospf/interface-template"]:
        for timer in ("hello-interval", "dead-interval"):
            assert f"{timer} {row[timer].removesuffix('s')}\n" in template


@st.composite
def row_sets(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """Rows of four menus that a router would take together: an interface, its addresses, a table, rules in order."""
    names = draw(st.lists(st.sampled_from(["wg_a", "wg_b", "wg_c"]), unique=True))
    rules = draw(st.permutations(["udp", "tcp", "ospf", "gre"]))[: draw(st.integers(0, 4))]
    mtus = st.sampled_from([1280, 1420])
    flags = st.sampled_from([True, None])
    return {
        WG: [
            {"name": n, "mtu": draw(mtus), "listen-port": 13000 + ord(n[-1]), "comment": f"mrvpn:{n}:i"} for n in names
        ],
        "/ip/address": [
            {"address": f"10.0.{ord(n[-1])}.{draw(st.integers(1, 3))}/24", "interface": n, "comment": f"mrvpn:{n}:a"}
            for n in names
            if draw(st.booleans())
        ],
        "/routing/table": [
            {"name": f"t-{n}", "fib": draw(flags), "disabled": draw(flags), "comment": f"mrvpn:{n}:t"} for n in names
        ],
        "/ip/firewall/filter": [
            {
                "chain": draw(st.sampled_from(["input", "forward"])),
                "action": "accept",
                "protocol": p,
                "comment": f"mrvpn:x:{p}",
            }
            for p in rules
        ],
    }


@pytest.mark.parametrize("version", ["7.12.2", "7.24.4"])
@hypothesis.settings(
    deadline=None, max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(steps=st.lists(row_sets(), min_size=2, max_size=3))
def test_from_any_rows_to_any_others_on_a_router(rig: Any, version: str, steps: list[dict[str, Any]]) -> None:
    it = rig(version)
    before = it.snapshot()
    for rows in [*steps, {path: [] for path in steps[0]}]:
        it.section = {"rows": rows, "pings": [], "hooks": {}}
        it.apply()
        writes = it.router.writes
        assert it.apply().plan.changes == [] and it.router.writes == writes
    assert it.snapshot() == before
