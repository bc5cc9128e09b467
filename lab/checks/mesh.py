"""Row 4: the office behind its tunnel, both ways, and an office that announces what is not its own.

Knows: the office's LAN, FRR's words. Must not know: how OSPF is configured.
"""

from __future__ import annotations

import json
import sys

from lab import client, hosts, topology
from lab.checks.destinations import countries, url
from lab.checks.outcome import require
from lab.deadline import until
from lab.salt import CLIENT4, CLIENT6
from lab.state import REPO, alive, processes, sh, spawn
from lab.topology import ENTRY, OFFICE, OFFICE_LAN, OFFICE_LAN_SERVER

STRANGE = {4: "0.0.0.0/1", 6: "::/1"}
MAX_AGE = 3600  # an LSA of this age is being withdrawn: RFC 2328, 14


def _from_office_lan(address: str) -> str:
    """What the phone's web server saw of a request from the office's LAN."""
    curl = ["curl", "-s", "--max-time", "5", url(address)]
    return sh("ip", "netns", "exec", OFFICE_LAN, *curl, check=False).strip()


def _serve_on_phone() -> None:
    """A web server on the phone, for the office to reach."""
    if not any(name == "phone-web" and alive(pid) for name, pid in processes()):
        command = [*hosts.enter(topology.CLIENT), "env", f"PYTHONPATH={REPO}", sys.executable]
        spawn("phone-web", [*command, "-m", "lab.servers", "web"])


def _vtysh(host: topology.Host, service: str, *commands: str) -> str:
    argv = [part for command in commands for part in ("-c", command)]
    return hosts.run(host, "docker", "exec", service, "vtysh", *argv, check=False)


def office() -> str:
    """Row 4."""
    _serve_on_phone()
    for address, own in zip(OFFICE_LAN_SERVER, (CLIENT4, CLIENT6), strict=True):
        seen = until(f"the office's server {address} answers", lambda a=address: client.fetch(url(a)), 30)  # type: ignore[misc]
        require([] if seen == own else [f"the office's server saw {seen}, not the phone's {own}"])
    for address, own in zip((CLIENT4, CLIENT6), OFFICE_LAN_SERVER, strict=True):
        seen = until(f"the phone {address} answers the office", lambda a=address: _from_office_lan(a), 30)  # type: ignore[misc]
        require([] if seen == own else [f"the phone saw {seen}, not the office's {own}"])
    _announce()
    return "both ways with their own addresses, IPv4 and IPv6; 0.0.0.0/1 and ::/1 heard and refused"


def _announce() -> None:
    """Lets the office announce half the internet; raises Wrong where anything at the entrypoint moves."""
    wish = ["configure terminal", f"ip route {STRANGE[4]} Null0", f"ipv6 route {STRANGE[6]} Null0"]
    wish += ["router ospf", "redistribute static", "exit", "router ospf6", "redistribute static", "exit"]
    _vtysh(OFFICE, "mrvpn_frr", *wish)
    try:
        until("the entrypoint hears the office's 0.0.0.0/1", _heard4, 30)
        until("the entrypoint hears the office's ::/1", _heard6, 30)
        problems = []
        for family, prefix in STRANGE.items():
            routes = hosts.run(ENTRY, "docker", "exec", "firezone", "ip", f"-{family}", "route", "show", "table", "all")
            problems += [f"the entrypoint took {line}" for line in routes.splitlines() if line.startswith(prefix)]
        require(problems)
        countries()
    finally:
        # back to what its file says
        hosts.run(OFFICE, "docker", "exec", "mrvpn_frr", "mrvpn-frr", "reload", check=False)


def _heard4() -> bool:
    text = _vtysh(ENTRY, "firezone_frr", "show ip ospf database external json")
    heard = json.loads(text).get("asExternalLinkStates", [])
    return any(lsa["networkMask"] == 1 and lsa["lsaAge"] < MAX_AGE for lsa in heard)


def _heard6() -> bool:
    return f"Prefix: {STRANGE[6]}\n" in _vtysh(ENTRY, "firezone_frr", "show ipv6 ospf6 database as-external detail")
