"""Which changes touch the path that the session to the router itself runs over.

Knows: rows and changes. Must not know: sockets; both addresses of the session are handed in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from mrvpn.routeros.diff import Add, Change, Remove, Rows, Set

HARMLESS = {"comment"}


@dataclass(frozen=True)
class Feet:
    """The router's address that the session came to, and the address it came from, as the router and we see them."""

    local: str
    remote: str


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return None


def touched(changes: Sequence[Change], actual: Rows, feet: Feet) -> list[str]:
    """A line per change that could cut the session off; none where the session comes another way."""
    local, remote = _address(feet.local), _address(feet.remote)
    interfaces = set()
    addresses = set()
    for path in ("/ip/address", "/ipv6/address"):
        for row in actual.get(path, ()):
            if local is not None and ipaddress.ip_interface(row["address"]).ip == local:
                interfaces.add(row.get("interface", ""))
                addresses.add((path, row[".id"]))
    found = []
    for change in changes:
        why = _why(change, actual, addresses, interfaces, remote)
        if why:
            found.append(f"{change.path} {change.token}: {why}")
    return found


def _why(
    change: Change,
    actual: Rows,
    addresses: set[tuple[str, str]],
    interfaces: set[str],
    remote: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> str | None:
    row = _row(change, actual)
    if isinstance(change, Set) and set(change.values) | set(change.clears) <= HARMLESS:
        return None
    if isinstance(change, (Set, Remove)):
        if (change.path, change.id) in addresses:
            return "the session to the router uses this address"
        if change.path == "/interface/wireguard" and row.get("name") in interfaces:
            return "the session to the router comes through this interface"
        if change.path == "/interface/wireguard/peers" and row.get("interface") in interfaces:
            return "the session to the router comes through this peer"
        if change.path.startswith("/routing/ospf/interface-template") and row.get("interfaces") in interfaces:
            return "the way back of the session is learned here"
    if change.path.endswith("/route") and remote is not None and row.get("routing-table", "main") == "main":
        try:
            covered = remote in ipaddress.ip_network(row.get("dst-address") or "0.0.0.0/0", strict=False)
        except ValueError:
            covered = False
        if covered:
            return f"the way back to {remote} goes by this route"
    return None


def _row(change: Change, actual: Rows) -> dict[str, str]:
    if isinstance(change, Add):
        return change.row
    for row in actual.get(change.path, ()):
        if row[".id"] == change.id:
            return dict(row)
    return {}
