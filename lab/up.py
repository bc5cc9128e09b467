"""Bringing the lab up and down, step by step, with progress and times.

Knows: the order. Must not know: how a step is done.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from lab import client, docker, hosts, image, internet, router, salt, topology
from lab.deadline import until
from lab.state import LAB, REPO, RUN, Trouble, cgroups, descendants, in_cgroups, processes, sh, spawn, stop
from lab.topology import HOSTS, LANS, MANAGED, ROUTER

TIMES = LAB / "times.json"
console = Console(stderr=True)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Shows a step while it runs and its time when it is done; keeps the time for the figures."""
    start = time.monotonic()
    with console.status(what):
        yield
    taken = time.monotonic() - start
    console.print(f"  [green]done[/] {what} [dim]{taken:.1f} s[/]")
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    times[what] = round(taken, 2)
    TIMES.parent.mkdir(parents=True, exist_ok=True)
    TIMES.write_text(json.dumps(times, indent=1) + "\n")


def is_up() -> bool:
    """Whether `up` once came to its end and nothing of it has gone since."""
    marker = RUN / "up"
    if not marker.exists():
        return False
    return int(marker.read_text().split()[0]) <= len(processes())


def is_current() -> bool:
    """Whether the standing lab runs what the checkout holds: a master keeps the package that it started with."""
    return (RUN / "up").read_text().split()[1] == image.content_hash()


def up() -> None:
    """Builds the whole lab; leaves it for `down` where a step fails."""
    left = leftovers()
    if left:
        raise Trouble("a lab is left over (" + ", ".join(left) + "): run `python -m lab down` first")
    RUN.mkdir(parents=True, exist_ok=True)
    TIMES.unlink(missing_ok=True)
    start = time.monotonic()
    with step("image: built once, from the machine's own Debian mirror"):
        image_id = image.ensure()
    with step("hosts: a network namespace and a root of its own each"):
        hosts.make_network(HOSTS)
        for lan in LANS:
            hosts.make_lan(lan)
        for host in HOSTS:
            if host.root:
                hosts.make_root(host)
    with step("internet: servers of four countries, DNS, the offices' web servers"):
        internet.start()
        for lan in LANS:
            spawn(f"{lan.name}-web", [*hosts.into(lan.netns), sys.executable, "-m", "lab.servers", "web"], cwd=REPO)
    with step("router: a simulated RouterOS with its API over TLS"):
        router.start()
    with step("docker: one dockerd per host, image loaded"):
        for host in MANAGED:
            docker.start(host)
        docker.load_all(image_id)
    with step("salt: master, minions, the router's proxy, keys exchanged"):
        salt.configure()
        salt.start_master()
        for host in MANAGED:
            salt.start_minion(host)
        router.start_proxy()
        salt.wait_minions()
        # only now: the reactor brings hosts of a description that start to it, and this is for the proof to do
        salt.describe(client.make_key())
    with step("orchestration: WireGuard keys made on their hosts, public ones in the mine"):
        salt.orchestrate("orch.keys")
    with step("client: a phone with the gateway's public key"):
        client.connect(salt.gateway_key())
    (RUN / "up").write_text(f"{len(processes())} {image.content_hash()}")
    console.print(f"lab up in {time.monotonic() - start:.0f} s")


def leftovers() -> list[str]:
    """What an earlier lab left: processes, namespaces, cgroups."""
    found = [f"{name} (process {pid})" for name, pid in processes()]
    listed = sh("ip", "netns", "list", check=False)
    found += [line.split()[0] for line in listed.splitlines() if line.startswith(topology.PREFIX)]
    return found[:8]


def down() -> None:
    """Takes everything of the lab away, also after a crash; keeps the image."""
    with step("processes: stopped by the PIDs that were recorded"):
        own = processes()
        containers = in_cgroups()
        clients = [pid for name, pid in own if not name.startswith("dockerd-")]
        stop(descendants(clients), seconds=5)
        stop([pid for name, pid in own if name.startswith("dockerd-")], seconds=20)
        stop([*containers, *in_cgroups(), *descendants([pid for _, pid in own])], seconds=2)
        # whose parent died before, and what no one recorded
        stop([pid for host in HOSTS if host.root for pid in hosts.processes(host)], seconds=2)
    with step("mounts, namespaces, cgroups, state: removed"):
        hosts.unmake()
        _remove(_remove_cgroups, "cgroups")
        for path in ("run", "network", "files"):
            shutil.rmtree(LAB / path, ignore_errors=True)


def _remove_cgroups() -> None:
    for folder in cgroups():
        folder.rmdir()


def _remove(work: Callable[[], object], what: str) -> None:
    def tried() -> bool:
        work()
        return True

    until(f"{what} removed", tried, 10)


def reach(host: str) -> list[str]:
    """The command prefix for `exec HOST`."""
    if host == ROUTER.name:
        return router.enter()
    if host in topology.BY_NAME:
        return hosts.enter(topology.BY_NAME[host])
    others = ("internet", *(lan.name for lan in LANS))
    if host in others:
        return hosts.into(topology.PREFIX + host)
    raise Trouble(f"no host {host}: {', '.join([*topology.BY_NAME, *others])}")
