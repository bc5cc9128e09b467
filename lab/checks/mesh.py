"""Rows 4 and 8: the offices behind their tunnels, both ways, and an office that announces what is not its own.

Knows: the offices' LANs, FRR's words. Must not know: how OSPF is configured.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Sequence

from lab import client, hosts, router, topology
from lab.checks.destinations import countries, url
from lab.checks.outcome import require
from lab.deadline import until
from lab.salt import CLIENT4, CLIENT6
from lab.state import REPO, alive, processes, sh, spawn
from lab.topology import ENTRY, OFFICE, OFFICE_LAN, ROUTER_LAN, Lan

STRANGE = {4: "0.0.0.0/1", 6: "::/1"}
MAX_AGE = 3600  # an LSA of this age is being withdrawn: RFC 2328, 14


def _from(lan: Lan, address: str) -> str:
    """What the phone's web server saw of a request from a LAN."""
    return sh(*hosts.into(lan.netns), "curl", "-s", "--max-time", "5", url(address), check=False).strip()


def _serve_on_phone() -> None:
    """A web server on the phone, for the office to reach."""
    if not any(name == "phone-web" and alive(pid) for name, pid in processes()):
        command = [*hosts.enter(topology.CLIENT), "env", f"PYTHONPATH={REPO}", sys.executable]
        spawn("phone-web", [*command, "-m", "lab.servers", "web"])


def _vtysh(enter: Sequence[str], *commands: str) -> str:
    return sh(*enter, "vtysh", *(part for command in commands for part in ("-c", command)), check=False)


def _entrypoint() -> list[str]:
    return [*hosts.enter(ENTRY), "docker", "exec", "firezone_frr"]


def _both_ways(lan: Lan) -> None:
    """The phone reaches a LAN and the LAN the phone, each seen with its own address; Wrong or TimedOut else."""
    _serve_on_phone()
    for address, own in zip(lan.server, (CLIENT4, CLIENT6), strict=True):
        seen = until(f"the {lan.name}'s server {address} answers", lambda a=address: client.fetch(url(a)), 30)  # type: ignore[misc]
        require([] if seen == own else [f"the {lan.name}'s server saw {seen}, not the phone's {own}"])
    for address, own in zip((CLIENT4, CLIENT6), lan.server, strict=True):
        seen = until(f"the phone {address} answers the {lan.name}", lambda a=address: _from(lan, a), 30)  # type: ignore[misc]
        require([] if seen == own else [f"the phone saw {seen}, not the {lan.name}'s {own}"])


def office() -> str:
    """Row 4."""
    _both_ways(OFFICE_LAN)
    _announce()
    return "both ways with their own addresses, IPv4 and IPv6; 0.0.0.0/1 and ::/1 heard and refused"


def mikrotik() -> str:
    """Row 8: the way there and the way back are OSPF's, made of the rows that the router holds."""
    _both_ways(ROUTER_LAN)
    problems = []
    for family, there, back in zip((4, 6), ROUTER_LAN.router, (f"{CLIENT4}/24", f"{CLIENT6}/64"), strict=True):
        for where, enter, address in (("the entrypoint", _entrypoint(), there), ("the router", router.enter(), back)):
            prefix = str(ipaddress.ip_interface(address).network)
            told = sh(*enter, "ip", "-json", f"-{family}", "route", "show", prefix)
            routes = [(route["dev"], route["protocol"]) for route in json.loads(told or "[]")]
            problems += [] if routes == [("wg_router", "ospf")] else [f"{where} has {routes} to {prefix}"]
    require(problems)
    return "both ways with their own addresses, IPv4 and IPv6; every route of it is OSPF's"


def _announce() -> None:
    """Lets the office announce half the internet; raises Wrong where anything at the entrypoint or the router moves."""
    wish = ["configure terminal", f"ip route {STRANGE[4]} Null0", f"ipv6 route {STRANGE[6]} Null0"]
    wish += ["router ospf", "redistribute static", "exit", "router ospf6", "redistribute static", "exit"]
    _vtysh([*hosts.enter(OFFICE), "docker", "exec", "mrvpn_frr"], *wish)
    try:
        for where, enter in (("the entrypoint", _entrypoint()), ("the router", router.enter())):
            until(f"{where} hears the office's 0.0.0.0/1", lambda e=enter: _heard4(e), 30)  # type: ignore[misc]
            until(f"{where} hears the office's ::/1", lambda e=enter: _heard6(e), 30)  # type: ignore[misc]
            problems = []
            for family, prefix in STRANGE.items():
                routes = sh(*enter, "ip", f"-{family}", "route", "show", "table", "all").splitlines()
                problems += [f"{where} took {line}" for line in routes if line.startswith(prefix)]
            require(problems)
        countries()
    finally:
        # back to what its file says
        hosts.run(OFFICE, "docker", "exec", "mrvpn_frr", "mrvpn-frr", "reload", check=False)


def _heard4(enter: Sequence[str]) -> bool:
    heard = json.loads(_vtysh(enter, "show ip ospf database external json")).get("asExternalLinkStates", [])
    return any(lsa["networkMask"] == 1 and lsa["lsaAge"] < MAX_AGE for lsa in heard)


def _heard6(enter: Sequence[str]) -> bool:
    return f"Prefix: {STRANGE[6]}\n" in _vtysh(enter, "show ipv6 ospf6 database as-external detail")
