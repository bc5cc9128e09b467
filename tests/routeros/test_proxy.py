"""A real master, a real salt-proxy, a simulated router: every state twice, with and without test=True, and bad news.

master -- router (proxy, API over TLS) -- simulated RouterOS 7.24      entry: only in the description
"""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from proxies import Site, master
from saltfactories.manager import FactoriesManager
from saltfactories.plugins.event_listener import EventListener

from mrvpn.routeros import PATHS
from tests.routeros.conftest import DESCRIPTION, FAR
from tests.simulators.routeros import Fault, Router, Simulator, User
from tests.simulators.routeros.certs import Authority, Pair

pytestmark = pytest.mark.timeout(300)
PASSWORD = "a-password-of-the-router"
FAR_KEY = base64.b64encode(b"e" * 32).decode()
MANAGED = "routeros.managed router"
WG, PEERS = "/interface/wireguard", "/interface/wireguard/peers"


@pytest.fixture(scope="module")
def site(salt_factories: FactoriesManager, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    description = DESCRIPTION.replace("entry: {expose: 55825,", f'entry: {{expose: 55825, public_key: "{FAR_KEY}",')
    made = master(salt_factories, folder, description)
    with made.started():
        site = Site(made, folder)
        try:
            yield site
        finally:
            site.stop()


@pytest.fixture(scope="module")
def simulator(site: Site, authority: Authority, pair: Pair) -> Iterator[Simulator]:
    router = Router(identity="office", users=(User(password=PASSWORD),))
    router.reachable.add(FAR)
    with Simulator(router, pair) as simulator:
        tls = {"ca": str(authority.file)}
        settings = {"host": "127.0.0.1", "port": simulator.port, "username": "salt", "password": PASSWORD, "tls": tls}
        site.proxy("router", {**settings, "timeout": 4})
        yield simulator


@pytest.fixture
def fresh(simulator: Simulator) -> Router:
    """The router as it was when it was bought."""
    router = simulator.router
    new = Router()
    router.rows, router.safe, router.users = new.rows, None, (User(password=PASSWORD),)
    router.faults.clear()
    router.observers.clear()
    router.version = "7.24.4"
    return router


def test_test_ping_tells_the_truth_and_grains_tell_the_router(site: Site, simulator: Simulator) -> None:
    assert site.salt("router", "test.ping") is True
    assert site.salt("router", "grains.get", "routeros") == {
        "identity": "office", "version": "7.24.4 (stable)", "board": "CHR", "architecture": "x86_64",
    }  # fmt: skip
    simulator.stop()
    assert site.salt("router", "test.ping") is False
    told = site.salt("router", "routeros.print", "/ip/address")
    assert told == f"ERROR: router 127.0.0.1 port {simulator.port} does not answer: Connection refused"
    simulator.start()
    assert site.salt("router", "test.ping") is True


def test_the_proxys_host_is_out_of_reach(site: Site, simulator: Simulator) -> None:
    """Asked by a state: of a direct call Salt says that it is not available only after it loaded every module."""
    touched = site.folder / "touched"
    answer = site.salt("router", "state.single", "cmd.run", f"touch {touched}")
    assert not touched.exists()
    assert "True" not in str([state.get("result") for state in answer.values()] if isinstance(answer, dict) else answer)


def test_keys_are_made_by_the_router_and_travel_by_the_mine(site: Site, fresh: Router) -> None:
    results = site.states("router", "state.apply", "mrvpn.publish")
    assert all(result["result"] for result in results.values()), results
    (interface,) = fresh.find(WG)
    deadline = time.monotonic() + 60
    while True:
        view = site.run("pillar.show_pillar", "entry", "unmask=True").data["mrvpn"]
        if view["tunnels"]["wg_tik"]["peers"][0]["public_key"] == interface["public-key"]:
            break
        assert time.monotonic() < deadline, view["tunnels"]["wg_tik"]["peers"]
        time.sleep(0.3)
    again = site.states("router", "state.apply", "mrvpn.publish")
    assert not again["routeros.present mrvpn interfaces"]["changes"]
    assert fresh.find(WG)[0]["public-key"] == interface["public-key"]


def test_the_whole_tree_in_test_mode_then_twice(site: Site, fresh: Router, event_listener: EventListener) -> None:
    before, start = fresh.snapshot(), time.time()
    master_log = Path(site.master.config["log_file"])
    told_before = master_log.stat().st_size
    planned = site.states("router", "state.apply", "test=True")[MANAGED]
    assert planned["result"] is None and fresh.snapshot() == before
    assert planned["changes"][WG]["mrvpn:wg_tik:interface"]["new"]["mtu"] == "1280"
    assert "hook would run: wg_tik deploy" in planned["comment"]
    first = site.states("router")[MANAGED]
    assert first["result"] is True and first["changes"] == planned["changes"]
    writes = fresh.writes
    fresh.prints.clear()
    second = site.states("router")[MANAGED]
    assert second["result"] is True and second["changes"] == {} and fresh.writes == writes
    assert {path: count for path, count in fresh.prints.items() if path in PATHS} == dict.fromkeys(PATHS, 1)
    third = site.states("router", "state.apply", "test=True")[MANAGED]
    assert third["result"] is True and third["changes"] == {}
    # no secret in what was returned, nor on the bus, nor in a log
    psk = fresh.rows[PEERS][0]["preshared-key"]
    assert len(base64.b64decode(psk)) == 32
    events = event_listener.get_events([(site.master.id, "*")], after_time=start)
    assert events
    logs = {
        "proxy": site.proxies["router"].log,
        "proxy's output": (site.proxies["router"].folder / "out").read_text(),
        "master": master_log.read_bytes()[told_before:].decode(errors="replace"),
    }
    assert "routeros.managed" in logs["proxy"]
    for secret in (psk, PASSWORD, fresh.rows[WG][0]["private-key"]):
        assert secret not in json.dumps([first, planned, second])
        assert not [event for event in events if secret in str(event.data)]
        assert [name for name, text in logs.items() if secret in text] == []


def test_the_proxy_notes_which_view_is_there(site: Site, fresh: Router) -> None:
    """What `mrvpn.status` compares; a run that fails leaves the note of before."""
    version = site.run("pillar.show_pillar", "router").data["mrvpn"]["version"]
    cache = Path(site.salt("router", "config.get", "cachedir"))
    shutil.rmtree(cache / "mrvpn", ignore_errors=True)
    fresh.faults.append(Fault("trap", "/interface/wireguard/add"))
    assert not all(state["result"] for state in site.states("router").values())
    assert site.salt("router", "routeros.status")["applied"] == {}
    fresh.faults.clear()
    assert all(state["result"] for state in site.states("router").values())
    near = {"instance": "mrvpn", "interface": "wg_tik", "router-id": FAR, "address": FAR, "state": "Full"}
    fresh.neighbors = lambda: [near]
    told = site.salt("router", "routeros.status")
    assert told["applied"]["version"] == version
    assert [{name: row[name] for name in near} for row in told["neighbors"]] == [near]
    (peer,) = told["peers"]
    assert (peer["interface"], peer["preshared-key"]) == ("wg_tik", "*****")
    fresh.neighbors = None


def test_each_state_twice(site: Site, fresh: Router) -> None:
    row = {"list": "LAN", "interface": "ether1", "comment": "mrvpn:t:member"}
    guard = {"path": "/interface/list/member", "comment": "by hook"}
    table = {"name": "x", "fib": True, "comment": "mrvpn:x:table"}
    command = '/interface list member add list=WAN interface=bridge comment="by hook"'
    sls = {
        "there": {"routeros.present": [{"rows": {"/interface/list/member": [row]}}]},
        "exactly": {"routeros.managed": [{"owner": "mrvpn:x:"}, {"rows": {"/routing/table": [table]}}]},
        "own": {"routeros.hook": [{"commands": [command]}, {"guard": guard}]},
        "mrvpn:gone:": {"routeros.absent": [{"paths": ["/routing/table"]}]},
    }
    (site.folder / "data" / "each.sls").write_text(yaml.safe_dump(sls, sort_keys=False))
    fresh.seed("/routing/table", name="gone", comment="mrvpn:gone:table")
    before, writes = fresh.snapshot(), fresh.writes
    planned = site.states("router", "state.apply", "each", "test=True")
    assert {result["result"] for result in planned.values()} == {None} and fresh.snapshot() == before
    assert fresh.writes == writes
    done = site.states("router", "state.apply", "each")
    assert all(result["result"] and result["changes"] for result in done.values()), done
    writes = fresh.writes
    again = site.states("router", "state.apply", "each")
    assert all(result["result"] and not result["changes"] for result in again.values()), again
    assert fresh.writes == writes
    assert [row["name"] for row in fresh.find("/routing/table")] == ["main", "x"]
    assert len(fresh.find("/interface/list/member")) == 2


def test_bad_news_are_told_in_a_line_and_nothing_is_half_done(site: Site, fresh: Router) -> None:
    fresh.seed(WG, name="wg_tik", comment='of a "person" – так')
    before = fresh.snapshot()
    foreign = site.states("router")[MANAGED]
    assert foreign["result"] is False and "exists and is not ours" in foreign["comment"]
    assert "comment 'of a \"person\" – так'" in foreign["comment"]
    assert fresh.snapshot() == before
    fresh.rows[WG].clear()
    before = fresh.snapshot()
    fresh.faults.append(Fault("late", "/ip/route/add", seconds=6))
    late = site.states("router")[MANAGED]
    assert late["result"] is False and "no answer in time; taken back, the router is as before" in late["comment"]
    assert fresh.snapshot() == before
    fresh.users = ()
    denied = site.states("router")[MANAGED]
    assert denied["result"] is False and "login of salt refused" in denied["comment"]
    assert "Traceback" not in denied["comment"] + late["comment"]
    assert fresh.snapshot() == before


def test_a_tunnel_taken_out_of_the_description_leaves_the_router(site: Site, fresh: Router) -> None:
    own = fresh.snapshot()
    assert site.states("router")[MANAGED]["changes"]
    gone = site.states("router", "state.apply", "mrvpn.routeros.absent")
    assert all(result["result"] for result in gone.values()) and gone["routeros.absent mrvpn:"]["changes"], gone
    fresh.rows["/interface/list/member"].clear()  # the hook's
    assert fresh.snapshot() == own


def test_two_routers_in_one_process_are_never_mixed_up(site: Site, pair: Pair, authority: Authority) -> None:
    """A deltaproxy's sub-proxies share their modules: each job must reach its own router."""
    names = ["delta-a", "delta-b"]
    with Simulator(Router(identity="delta-a"), pair) as a, Simulator(Router(identity="delta-b"), pair) as b:
        for name, simulator in zip(names, (a, b), strict=True):
            common = {"host": "127.0.0.1", "username": "salt", "password": "s3cret"}
            site.pillar(name, {**common, "port": simulator.port, "tls": {"ca": str(authority.file)}})
        site.pillar("control", {"proxytype": "deltaproxy", "parallel_startup": True, "ids": names})
        site.start("control", metaproxy="deltaproxy")
        for name in names:
            site.wait(name)
            assert site.salt(name, "routeros.command", "/system/identity/print") == [{"name": name}]
            assert site.salt(name, "grains.get", "routeros:identity") == name
        b.stop()
        assert [site.salt(name, "test.ping") for name in names] == [True, False]
        b.start()
        site.proxies["control"].stop()
