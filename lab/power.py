"""A host's power: taken away in order or all at once, and the boot after it, as its init system would do it.

Knows: which processes are a host's own, the order of what starts. Must not know: Salt's states, the description,
what runs in containers.
"""

from __future__ import annotations

import contextlib
import os
import signal

from lab import docker, hosts, salt
from lab.deadline import until
from lab.state import alive, in_cgroups, reap
from lab.topology import Host


def running(host: Host) -> list[int]:
    """The processes of a host: its daemons, by their mount namespace, and its containers', by their cgroup."""
    return [*hosts.processes(host), *in_cgroups(host.name)]


def shut_down(host: Host) -> None:
    """Stops minion and dockerd in order, and with it every container."""
    salt.stop_minion(host)
    docker.halt(host)
    cut(host)  # what is left of them


def cut(host: Host) -> None:
    """Kills everything that runs on the host at once: nothing is told, nothing is written."""

    def dark() -> bool:
        left = [pid for pid in running(host) if alive(pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        return not left

    until(f"{host.name} is dark", dark, 20)


def boot(host: Host) -> None:
    """What a boot brings back: the kernel without anybody's interfaces and rules, then the units, then the minion."""
    hosts.forget(host)
    docker.start(host)
    salt.start_minion(host)
