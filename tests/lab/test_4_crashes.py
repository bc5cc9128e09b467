"""What dies and comes back by itself, with no apply: the gateway's process, dockerd, whole hosts, the master.

Traffic runs through all of it and is counted: by its own exit, by another (never), lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import client, docker, hosts, power, salt, traffic
from lab.checks import failure, mesh
from lab.checks.apply import containers, recreated
from lab.checks.destinations import countries
from lab.client import GATEWAY4
from lab.deadline import until
from lab.internet import SITES
from lab.state import alive, descendants, processes, stop
from lab.topology import ENTRY, OFFICE, RU, UK, US, Host

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.usefixtures("lab", "learned")]
EVERY_EXIT = {UK: ("GB",), RU: ("RU", "CDN"), US: ("US",), ENTRY: ("DE",)}
IN_ORDER, POWER_CUT = "in order", "by a power cut"
BOOTS = [(ENTRY, IN_ORDER), (US, POWER_CUT), (OFFICE, POWER_CUT)]
if os.environ.get("MRVPN_SOAK"):
    BOOTS = [(host, how) for host in (ENTRY, US, OFFICE) for how in (IN_ORDER, POWER_CUT)]
AWAY = 10.0  # seconds of steady traffic without a master
WHOLE_WITHIN = 120.0  # seconds to every container running and healthy


@pytest.fixture
def learned() -> None:
    """A name is learned before each test, and must be known after it."""
    for kind in ("A", "AAAA"):
        until(f"www.shop.ru {kind} is answered", lambda k=kind: client.lookup("www.shop.ru", k), 60)  # type: ignore[misc]


@contextlib.contextmanager
def _no_master() -> Iterator[None]:
    """The master is away while the body runs, and back afterwards."""
    stop(descendants([pid for name, pid in processes() if name == "salt-master"]), seconds=5)
    assert not [name for name, _ in processes() if name == "salt-master"]
    try:
        yield
    finally:
        salt.start_master()
        salt.wait_minions()


def _states(host: Host) -> dict[str, str]:
    """{container: "running healthy namespace"} of a host, whatever runs."""
    ids = hosts.run(host, "docker", "ps", "-aq").split()
    form = "{{.Name}} {{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}-{{end}} {{.State.Pid}}"
    found = {}
    for line in hosts.run(host, "docker", "inspect", "-f", form, *ids).splitlines() if ids else []:
        name, status, health, pid = line.split()
        try:
            namespace = Path(f"/proc/{pid}/ns/net").stat().st_ino
        except OSError:
            namespace = 0
        found[name.lstrip("/")] = f"{status} {health} {namespace}"
    return found


def _whole(host: Host, names: set[str]) -> None:
    """Waits until these containers run, healthy, those of the gateway in one namespace."""

    def whole() -> bool:
        seen = _states(host)
        running = all(told.startswith(("running healthy", "running - ")) for told in seen.values())
        shared = {told.split()[2] for name, told in seen.items() if host is ENTRY}
        assert seen.keys() == names and running and len(shared) <= 1, seen
        return True

    start = time.monotonic()
    until(f"every container of {host.name} runs", whole, WHOLE_WITHIN, every=0.5)
    print(f"{host.name}: {len(names)} containers whole {time.monotonic() - start:.0f} s after traffic was back")


def test_the_gateways_process_is_killed() -> None:
    names, before = set(_states(ENTRY)), containers()

    def kill() -> None:
        pid = int(hosts.run(ENTRY, "docker", "inspect", "-f", "{{.State.Pid}}", "firezone"))
        os.kill(pid, signal.SIGKILL)

    print(failure.while_flowing("the gateway's process is killed", kill, EVERY_EXIT))
    _whole(ENTRY, names)
    assert set(recreated(before)) == {f"{ENTRY.name}/{name}" for name in names}, "each has joined the new namespace"


def test_dockerd_is_restarted() -> None:
    names = set(_states(ENTRY))

    def restart() -> None:
        docker.halt(ENTRY)
        docker.start(ENTRY)

    print(failure.while_flowing("dockerd is restarted", restart, EVERY_EXIT))
    _whole(ENTRY, names)


def test_hosts_are_booted_while_the_master_is_away() -> None:
    """What they had applied is all that they need. Afterwards an apply finds nothing to do."""
    with _no_master():
        print(_steady())
        for host, how in BOOTS:
            _boot(host, how)
        print(mesh.office())
        assert all(alive(pid) for name, pid in processes() if name.startswith("minion-"))
    assert salt.changes(salt.apply()) == {}


def _boot(host: Host, how: str) -> None:
    names = set(_states(host))

    def again() -> None:
        (power.shut_down if how == IN_ORDER else power.cut)(host)
        assert power.running(host) == []
        power.boot(host)

    print(failure.while_flowing(f"{host.name} is booted {how}", again, EVERY_EXIT))
    _whole(host, names)


def _steady() -> str:
    """Pings, flows and new connections of every country for a while, of which none is lost."""
    with (
        traffic.pinging(GATEWAY4) as near,
        traffic.pinging(SITES["GB"].ipv4) as far,
        traffic.flowing(SITES["RU"].ipv4, SITES["US"].ipv6) as flows,
    ):
        start = time.monotonic()
        while time.monotonic() - start < AWAY:
            countries()
    lost = near.lost + far.lost + sum(flow.sent - flow.answered for flow in flows)
    sent = near.sent + far.sent + sum(flow.sent for flow in flows)
    assert (near.lost, far.lost) == (0, 0) and lost <= sent / 20, "an answer may be late on a busy machine"
    return f"the master away: {lost} of {sent} pings and datagrams lost"
