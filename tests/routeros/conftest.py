"""Routers, sessions and rows for the tests of the RouterOS side."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mrvpn import compiler, views
from tests.simulators.routeros import Router, Simulator
from tests.simulators.routeros.certs import Authority, Pair

REPO = Path(__file__).parents[2]
DESCRIPTION = """\
mrvpn:
  entrypoint: entry
  gateway: wireguard
  hosts:
    entry: {endpoint: 203.0.113.10}
    router: {os: routeros, lan: [192.168.88.0/24]}
  tunnels:
    wg_tik:
      subnet: [10.9.22.0/24, "fd6d:7276:22::/64"]
      hosts:
        router:
          expose: 203.0.113.77:13231
          allowed_nets: [192.168.88.0/24]
          table: wg_tik
          masquerade: true
          mikrotik_cleanup: [':foreach i in=[/interface list member find comment="wg_tik"] do={ :do { /interface list \
member remove $i } on-error={} }']
          mikrotik_deploy: ['/interface list member add interface=wg_tik list=LAN comment="wg_tik"']
        entry: {expose: 55825, allowed_nets: [0.0.0.0/0, "::/0"], compose_service: firezone}
  routing: {interfaces: [wg-firezone], routes: [{interface: _DEFAULT, net: 0.0.0.0/0}]}
  services: {firezone: [wg-firezone, wg_tik]}
"""
FAR = "10.9.22.2"
PSK = base64.b64encode(hashlib.sha256(b"psk").digest()).decode()


def load(path: str) -> ModuleType:
    """A Salt module of the checkout as a plain module."""
    name = path.strip("_").replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(f"under_test_{name}", REPO / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def proxy_module() -> ModuleType:
    return load("_proxy/routeros.py")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def pair(authority: Authority) -> Pair:
    return authority.issue("router")


@pytest.fixture(scope="session")
def section(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The `routeros` section of the router's view."""
    path = tmp_path_factory.mktemp("network") / "network.yaml"
    path.write_text(DESCRIPTION)
    return section_of(path)


def section_of(path: Path) -> dict[str, Any]:
    compiled = compiler.compile_path(path)
    assert compiled.network is not None, "\n".join(map(str, compiled.problems))
    keys = {"entry": {"wg_tik": base64.b64encode(b"e" * 32).decode()}}
    found: dict[str, Any] = views.view(compiled.network, "router", keys, {"psk_root": PSK}.get)["routeros"]
    return found


@pytest.fixture
def settings(authority: Authority) -> Callable[..., dict[str, Any]]:
    """`settings(simulator)`: the proxy's pillar for a simulated router."""

    def make(simulator: Simulator, **more: Any) -> dict[str, Any]:
        tls = {"tls": {"ca": str(authority.file)}} if simulator.tls else {"plain": True}
        found = {"host": "127.0.0.1", "port": simulator.port, "username": "salt", "password": "s3cret", "timeout": 5}
        return {**found, **tls, **more}

    return make


@pytest.fixture
def serve(pair: Pair) -> Iterator[Callable[..., Simulator]]:
    """`serve(router)`: the router on the wire until the test ends."""
    running: list[Simulator] = []

    def start(router: Router, tls: Pair | None = pair) -> Simulator:
        simulator = Simulator(router, tls)
        simulator.__enter__()
        running.append(simulator)
        return simulator

    yield start
    for simulator in running:
        simulator.__exit__(None, None, None)


def until(seconds: float) -> Callable[[], bool]:
    """A pause that waits a little and is False when the time is over."""
    end = time.monotonic() + seconds

    def pause() -> bool:
        time.sleep(0.02)
        return time.monotonic() < end

    return pause


@pytest.fixture(scope="session")
def salt_factories_config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The master lives below pytest's own folder; the name is short, for sockets' paths are."""
    return {"root_dir": tmp_path_factory.mktemp("s"), "log_server_level": "error"}
