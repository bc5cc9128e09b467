"""What happens to a running network: an exit is taken out and brought back, a host's records are lost, an exit dies."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from lab import hosts, internet, salt, traffic
from lab.checks.apply import containers
from lab.checks.destinations import countries, leaves_by
from lab.client import GATEWAY4
from lab.deadline import until
from lab.internet import SITES
from lab.state import Trouble
from lab.topology import ENTRY, MANAGED, MASTER, MINIONS, UK, US

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.usefixtures("lab", "description")]
FAILOVER_SEEN = 15.0  # seconds to a new connection by the fallback; what it takes is printed


def runner(*argv: str) -> dict[str, Any]:
    answer = salt.run(*argv)
    assert isinstance(answer, dict), answer
    return answer


def test_master_and_minions_run_with_exactly_what_the_states_write() -> None:
    assert salt.master_settings() == {}
    for host in MANAGED:  # a router's proxy has no settings on its host
        assert salt.changes(salt.apply(host.name, "mrvpn.minion")) == {}


def test_a_host_with_other_modules_gets_the_masters_before_anything_is_applied() -> None:
    kept = "/var/cache/salt/minion/extmods/modules/mrvpn_frr.py"
    hosts.run(UK, "sh", "-c", f"echo '# of another version' >> {kept}")
    with pytest.raises(Trouble, match=r"modules/mrvpn_frr\.py.*apply again"):
        salt.apply(UK.name)
    assert "another version" not in hosts.run(UK, "cat", kept)
    assert salt.changes(salt.apply(UK.name)) == {}


def test_status_tells_people_and_monitoring_the_same() -> None:
    salt_run = str(salt.BIN / "salt-run")
    # Trouble where the exit code is not 0
    shown = until("there is nothing to warn of", lambda: hosts.run(MASTER, salt_run, "mrvpn.status"), 60)
    far_end = f"wg_uk +entry +uk +{UK.ipv4}:55824 .* 0% +[0-9.]+ ms"
    for words in ("uk +up", far_end, "wg_uk +up", "generation [0-9]+,"):
        assert re.search(words, shown), f"{words}: {shown}"

    def monitored() -> bool:
        start = time.monotonic()
        told = json.loads(hosts.run(MASTER, salt_run, "--out=json", "mrvpn.status", check=False))
        print(f"status of {len(told['hosts'])} hosts: {time.monotonic() - start:.1f} s")
        assert told["retcode"] == 0, told["problems"]
        assert set(told["hosts"]) == {host.name for host in MINIONS}
        linux = [told["hosts"][host.name] for host in MANAGED]
        peers = [peer for host in linux for tunnel in host["tunnels"].values() for peer in tunnel]
        assert len(peers) == 9 and all(peer["loss"] == 0 and peer["latency"] > 0 for peer in peers), peers
        return True

    # two looks are two measurements: a ping may be lost in one of them
    until("monitoring is told of it all", monitored, 60)


def test_an_exit_goes_and_comes_back_with_its_traffic() -> None:
    before = containers()
    with traffic.pinging(GATEWAY4) as near, traffic.pinging(SITES["GB"].ipv4) as far:
        gone = runner("mrvpn.remove_exit", "us", "to=_DEFAULT")
        assert {told["result"] for told in gone["hosts"].values()} == {"applied"}
        assert leaves_by(ENTRY, SITES["US"]) == []
        assert hosts.run(US, "docker", "ps", "-aq").split() == []
        assert "wg_us" not in hosts.run(ENTRY, "docker", "exec", "firezone", "ip", "link")
        start = time.monotonic()
        # the rules that were moved to the default stand before the new one: its weight decides
        rule = [r"domain=.*\.com", "net=208.80.154.0/24,2620:0:861:ed1a::/64", "weight=1"]
        back = runner("mrvpn.add_exit", "us", "host=us", f"endpoint={US.ipv4}", *rule)
        assert back["flows"]["up"] is True
        until("the US leaves by us", lambda: leaves_by(US, SITES["US"]) == [], 30)
        print(f"add_exit to the first packet through it: {time.monotonic() - start:.0f} s")
    assert (near.lost, far.lost) == (0, 0)
    # the gateway, the recursor and every other tunnel ran through all of it
    kept = {name: told for name, told in before.items() if not name.endswith(("wg_us", "wg_us_frr"))}
    after = containers()
    assert {name: after.get(name) for name in kept} == kept
    # Trouble where the exit code is not 0
    status = until("there is nothing to warn of", lambda: runner("mrvpn.status"), 60)
    assert [problem for problem in status["problems"] if not problem.startswith("notice: ")] == []
    explained = runner("mrvpn.explain", SITES["US"].ipv4)
    assert "wg_us" in json.dumps(explained)


def test_a_lost_record_costs_reloads_and_nothing_else() -> None:
    before = {name: told.split()[0] for name, told in containers().items()}
    hosts.run(ENTRY, "rm", "/opt/mrvpn/.mrvpn/applied.json")
    with traffic.pinging(SITES["GB"].ipv4) as pings:
        changed = salt.changes(salt.apply())
    assert set(changed) == {ENTRY.name}
    assert {name: told.split()[0] for name, told in containers().items()} == before and pings.lost == 0
    countries()


def test_an_exit_that_dies_is_stood_in_for_and_live_flows_never_change_exits() -> None:
    (salt.DESCRIPTION / "exits.yaml").write_text("mrvpn:\n  exits:\n    wg_us: {fallback: [wg_uk]}\n")
    salt.apply()
    america = SITES["US"]
    until("the US leaves by us", lambda: leaves_by(US, america) == [], 30)
    with traffic.flowing(america.ipv4, america.ipv6) as flows:
        internet.count_reset()
        with internet.cut(US):
            start = time.monotonic()
            until("new connections leave by uk", lambda: leaves_by(UK, america) == [], FAILOVER_SEEN)
            print(f"failover seen by a client: {time.monotonic() - start:.1f} s")
        until("new connections leave by us again", lambda: leaves_by(US, america) == [], 60)
        inside = internet.counted().inside
    assert inside == {}, "packets that no NAT has seen"
    for flow in flows:
        assert set(flow.seen or ()) <= {US.ipv4, US.ipv6, UK.ipv4, UK.ipv6}
    assert internet.counted().elsewhere(US.name, [america.ipv4, america.ipv6]).keys() <= {UK.name}
