"""Each capability of the image's containers taken away alone: what stands in `cap_add` is needed (docs/adr/0010).

The entrypoint's services as its own project has them, all at once on its Engine, each in a network of its own: whole,
and once without each capability.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab import hosts
from lab.checks.failure import COMPOSE
from lab.deadline import until
from lab.topology import ENTRY

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.usefixtures("lab")]
PROJECT, FILE = "alone", "/root/alone.yml"
WHOLE = "whole"
SERVICES = ("firezone_frr", "firezone_pdns", "firezone_ipt", "wg_uk")
# needed later than for the start: what then cannot be signalled
KILLS = {"firezone_frr": "$(cat /run/frr/ospfd.pid)", "firezone_pdns": "1"}
GIVEN = {("firezone_pdns", "NET_ADMIN")}  # stands there because MRVPN2 has it there
LATER = 5.0  # seconds in which nothing that lacks something becomes healthy after all the others are
IPV6 = {f"net.ipv6.conf.{which}.disable_ipv6": "0" for which in ("all", "default")}


def alone(service: dict[str, Any], without: str) -> dict[str, Any]:
    """A service of the project in a network of its own, without a capability."""
    kept = {key: value for key, value in service.items() if key not in ("network_mode", "depends_on", "container_name")}
    volumes = [dict(volume) for volume in service["volumes"]]
    for volume in volumes:
        if volume["type"] == "volume":  # the daemon and the recursor share one
            volume["source"] = f"own-{without.lower()}"
    caps = [cap for cap in service["cap_add"] if cap.removeprefix("CAP_") != without]
    sysctls = {**service.get("sysctls", {}), **IPV6}
    return {**kept, "cap_add": caps, "volumes": volumes, "sysctls": sysctls, "restart": "no"}


@pytest.fixture
def made() -> Iterator[dict[tuple[str, str], str]]:
    """{(service, capability that it lacks): container}; they are taken away again."""
    config = json.loads(hosts.run(ENTRY, *COMPOSE, "config", "--format", "json"))["services"]
    lacking = {
        (name, cap): alone(config[name], cap)
        for name in SERVICES
        for cap in (WHOLE, *(cap.removeprefix("CAP_") for cap in config[name]["cap_add"]))
    }
    services = {f"{name}-{cap.lower()}": service for (name, cap), service in lacking.items()}
    volumes = {v["source"]: {} for s in services.values() for v in s["volumes"] if v["type"] == "volume"}
    hosts.put(ENTRY, FILE, yaml.safe_dump({"name": PROJECT, "services": services, "volumes": volumes}))
    compose = ("docker", "compose", "--file", FILE)
    try:
        hosts.run(ENTRY, *compose, "up", "--detach", timeout=200)
        yield {(name, cap): f"{PROJECT}-{name}-{cap.lower()}-1" for name, cap in lacking}
    finally:
        hosts.run(ENTRY, *compose, "down", "--volumes", "--timeout=1", timeout=200)


def healthy() -> set[str]:
    """The project's healthy containers."""
    only = ("--filter", f"label=com.docker.compose.project={PROJECT}", "--filter", "health=healthy")
    return set(hosts.run(ENTRY, "docker", "ps", *only, "--format", "{{.Names}}").split())


def test_each_capability_is_needed(made: dict[tuple[str, str], str]) -> None:
    well = {key: name for key, name in made.items() if key[1] in (WHOLE, "KILL") or key in GIVEN}
    until("those that lack nothing at the start are healthy", lambda: healthy() >= set(well.values()), 90)
    time.sleep(LATER)
    assert healthy() == set(well.values())
    for name, process in KILLS.items():
        signal = ("sh", "-c", f"kill -0 {process} && echo may")
        may = {
            cap: hosts.run(ENTRY, "docker", "exec", made[name, cap], *signal, check=False) for cap in (WHOLE, "KILL")
        }
        assert may == {WHOLE: "may\n", "KILL": ""}, name
