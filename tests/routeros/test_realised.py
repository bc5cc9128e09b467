"""Two simulated routers whose rows are real: WireGuard between them, OSPF over it, LAN to LAN.

lan-a 192.168.10.1 -- [ a ] 203.0.113.1 ---- veth ---- 203.0.113.2 [ b ] -- lan-b 192.168.20.1
                          wg_ab 10.9.30.1 ============ 10.9.30.2
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mrvpn import compiler, views
from mrvpn.routeros.transaction import Order, reconcile
from tests.conftest import IMAGE_ROOT
from tests.routeros.conftest import PSK, until
from tests.simulators.routeros import Router
from tests.simulators.routeros.realise import Realised

pytestmark = [pytest.mark.root, pytest.mark.image]
DESCRIPTION = """\
mrvpn:
  entrypoint: entry
  gateway: wireguard
  hosts:
    a: {os: routeros, lan: [192.168.10.0/24], endpoint: 203.0.113.1}
    b: {os: routeros, lan: [192.168.20.0/24], endpoint: 203.0.113.2}
  tunnels:
    wg_ab:
      subnet: [10.9.30.0/24, "fd6d:7276:30::/64"]
      hosts:
        a: {expose: 13231, allowed_nets: [192.168.10.0/24]}
        b: {expose: 13231, allowed_nets: [192.168.20.0/24]}
    wg_other:
      subnet: 10.9.31.0/24
      hosts: {c: {}, entry: {expose: "203.0.113.9:55825", compose_service: firezone}}
  routing: {interfaces: [wg-firezone], routes: [{interface: _DEFAULT, net: 0.0.0.0/0}]}
  services: {firezone: [wg-firezone]}
"""


def sh(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@pytest.fixture
def spaces() -> Iterator[dict[str, str]]:
    names = {side: f"mrvpn-ros{os.getpid()}{side}" for side in "ab"}
    try:
        for name in names.values():
            sh("ip", "netns", "add", name)
        sh(
            "ip",
            "link",
            "add",
            "eth0",
            "netns",
            names["a"],
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            names["b"],
        )
        for number, (side, name) in enumerate(names.items(), 1):
            sh("ip", "-n", name, "address", "add", f"203.0.113.{number}/24", "dev", "eth0")
            sh("ip", "-n", name, "link", "add", f"lan-{side}", "type", "veth", "peer", "name", f"pc-{side}")
            sh("ip", "-n", name, "address", "add", f"192.168.{number}0.1/24", "dev", f"lan-{side}")
            for link in ("lo", "eth0", f"lan-{side}", f"pc-{side}"):
                sh("ip", "-n", name, "link", "set", link, "up")
        yield names
    finally:
        for name in names.values():
            sh("ip", "netns", "del", name, check=False)


def test_lan_to_lan(
    spaces: dict[str, str],
    proxy_module: ModuleType,
    settings: Callable[..., Any],
    serve: Callable[..., Any],
    tmp_path: Path,
) -> None:
    assert (IMAGE_ROOT / "usr").is_dir(), f"no image at {IMAGE_ROOT}: make image"
    (tmp_path / "network.yaml").write_text(DESCRIPTION)
    network = compiler.compile_path(tmp_path / "network.yaml").network
    assert network is not None
    routers = {side: Router(identity=side) for side in "ab"}
    sessions = {side: proxy_module.Session(settings(serve(routers[side], None), timeout=15)) for side in "ab"}
    with (
        Realised(routers["a"], spaces["a"], IMAGE_ROOT, tmp_path / "a") as a,
        Realised(routers["b"], spaces["b"], IMAGE_ROOT, tmp_path / "b") as b,
    ):
        # the routers make their keys; each then learns the other's
        keys: dict[str, dict[str, str]] = {}
        for side in "ab":
            section = views.view(network, side, {}, {"psk_root": PSK}.get)["routeros"]
            rows = {"/interface/wireguard": section["rows"]["/interface/wireguard"]}
            reconcile(sessions[side], Order(declared=rows, remove=False), until(10))
            keys[side] = {"wg_ab": routers[side].find("/interface/wireguard")[0]["public-key"]}
        sections = {side: views.view(network, side, keys, {"psk_root": PSK}.get)["routeros"] for side in "ab"}
        for side, section in sections.items():
            assert section["unknown"] == []
            reconcile(sessions[side], Order(declared=section["rows"]), until(10))
        deadline = time.monotonic() + 90
        while not (a.ping("192.168.20.1") and a.ping("fd6d:7276:30::2")):
            told = [
                a.inside("vtysh", "-c", f"show {what}", check=False).stdout for what in ("ip ospf neighbor", "ip route")
            ]
            assert time.monotonic() < deadline, [*told, a.errors, b.errors]
            time.sleep(0.3)
        assert "192.168.20.0/24" in a.inside("vtysh", "-c", "show ip route ospf").stdout
        neighbors = sessions["a"].call("/routing/ospf/neighbor/print")
        assert {(row["interface"], row["state"]) for row in neighbors} == {("wg_ab", "Full")}, neighbors
        # the far end answers now: a change that would cut it off is taken back
        order = Order(declared=sections["a"]["rows"], pings=tuple(sections["a"]["pings"]))
        assert reconcile(sessions["a"], order, until(10)).plan.changes == []
        assert not a.errors and not b.errors
        # and away again
        empty: dict[str, list[Any]] = {path: [] for path in sections["a"]["rows"]}
        reconcile(sessions["a"], Order(declared=empty), until(10))
        deadline = time.monotonic() + 30
        while "wg_ab" in a.inside("ip", "link").stdout:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_nothing_outlives_a_simulator_that_is_killed(spaces: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.simulators.routeros", "--control", str(tmp_path / "control")]
    command += ["--netns", spaces["a"], "--image", str(IMAGE_ROOT), "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None and b"ports" in program.stdout.readline()
        own = sh("ip", "netns", "pids", spaces["a"]).split()
        assert own
        program.kill()
    deadline = time.monotonic() + 20
    while sh("ip", "netns", "pids", spaces["a"]).split():
        assert time.monotonic() < deadline
        time.sleep(0.1)
