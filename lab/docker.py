"""Each Docker host's own dockerd, and the image in it.

Knows: dockerd, its socket, the image file. Must not know: what runs in containers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import hosts, image
from lab.deadline import until
from lab.state import CGROUP, alive, processes, spawn, stop
from lab.topology import MANAGED, Host

# Engines 20.10 to 26 need both flags for IPv6 NAT; with the userland proxy a reserved port range costs 200 processes.
DAEMON_JSON = {"experimental": True, "ip6tables": True, "userland-proxy": False}


def start(host: Host) -> None:
    """Starts the host's dockerd and waits until it answers; before and after it what its units run, as at a boot."""
    hosts.run(host, "sh", "-c", "cat > /etc/docker/daemon.json", stdin=json.dumps(DAEMON_JSON))
    _unit(host, "mrvpn-host-guard")
    hosts.run(host, "rm", "-f", "/var/run/docker.pid")
    name = f"dockerd-{host.name}"
    pid = spawn(name, [*hosts.enter(host), "dockerd", "--cgroup-parent", f"/{CGROUP}/{host.name}"])
    until(f"{name} answers", lambda: alive(pid) and hosts.run(host, "docker", "version"), 60)
    _unit(host, "mrvpn-containers")


def _unit(host: Host, name: str) -> None:
    """Runs what a unit of this name runs, where an apply has left one."""
    unit = Path(f"/etc/systemd/system/{name}.service")
    found = hosts.run(host, "sed", "-n", "s/^ExecStart=//p", str(unit), check=False).split()
    if found:
        hosts.run(host, *found, timeout=180)


def halt(host: Host) -> None:
    """Stops the host's dockerd; its containers stop with it."""
    stop([pid for name, pid in processes() if name == f"dockerd-{host.name}"], seconds=30)


@contextlib.contextmanager
def hung(host: Host) -> Iterator[None]:
    """The host's dockerd answers nobody while the body runs; its containers go on."""
    (pid,) = [pid for name, pid in processes() if name == f"dockerd-{host.name}"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def load(host: Host, image_id: str) -> bool:
    """Loads the image where the host has another one; returns whether it did."""
    seen = hosts.run(host, "docker", "image", "inspect", "-f", "{{.Id}}", image.name(), check=False)
    if seen.strip() == image_id:
        return False
    hosts.run(host, "docker", "load", "-i", str(image.TARBALL), timeout=300)
    return True


def load_all(image_id: str) -> None:
    """Loads the image into every host, two at a time: the disk gains nothing from more."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda host: load(host, image_id), MANAGED))
