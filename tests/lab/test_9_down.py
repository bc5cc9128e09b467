"""The lab goes away whole, even when its parts were killed before it: run last."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest

from lab import hosts, topology, up
from lab.state import LAB, cgroups, in_cgroups, processes, sh

KEEP = os.environ.get("MRVPN_LAB_KEEP") == "1"
pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("lab")]


def _killed(pid: int) -> bool:
    """Whether it was there to be killed: a health check ends by itself, and what a container runs with its first."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_after_a_crash_down_leaves_nothing() -> None:
    if KEEP:
        pytest.skip("MRVPN_LAB_KEEP=1: the lab stays")
    own = dict(processes())
    assert all(_killed(own[name]) for name in ("dockerd-uk", "salt-master", "nsd"))
    assert len(list(itertools.islice(filter(_killed, in_cgroups()), 3))) == 3
    up.down()
    assert processes() == []
    assert in_cgroups() == []
    assert cgroups() == []
    namespaces = [line.split()[0] for line in sh("ip", "netns", "list").splitlines() if line.strip()]
    assert [name for name in namespaces if name.startswith(topology.PREFIX)] == []
    assert hosts.mounts() == []
    assert not (LAB / "hosts").exists() and not (LAB / "run").exists()
    still = [name for name, pid in own.items() if Path(f"/proc/{pid}/ns/net").exists()]
    assert still == []
