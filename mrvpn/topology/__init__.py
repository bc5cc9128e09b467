"""What follows from a checked description: addresses, peers, marks, tables. Pure, in the order of the file.

Knows: the typed description. Must not know: YAML, Salt, what a host's files look like (views).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from mrvpn import marks
from mrvpn.schema.checks import GATEWAY_INTERFACE, GATEWAY_SERVICE
from mrvpn.schema.model import DEFAULT_EXIT, Description, Route

MULTICAST4 = "224.0.0.0/4"  # OSPFv2's groups; RouterOS takes it as one prefix
MULTICAST6 = "ff02::/16"


@dataclass(frozen=True)
class Exit:
    """A way out of the entrypoint; `interface` None is the default gateway's."""

    name: str
    interface: str | None
    mark: int
    table: int
    ipv4: bool
    ipv6: bool


@dataclass(frozen=True)
class Network:
    """A description with what was assigned. Addresses are text; prefixes canonical."""

    description: Description
    addresses: dict[str, dict[str, tuple[str, ...]]]  # tunnel -> host -> "ip/length" per family
    link_local: dict[str, dict[str, str]]  # tunnels with IPv6: tunnel -> host -> fe80::n/64
    exits: tuple[Exit, ...]
    mesh4: tuple[str, ...]
    mesh6: tuple[str, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host of the description, in the order in which the tunnels name them."""
        return tuple(dict.fromkeys(host for tunnel in self.description.tunnels.values() for host in tunnel.hosts))

    def behind(self, tunnel: str, host: str) -> list[str]:
        """What is declared behind a host as its peers in a tunnel see it: its `lan` and its allowed_nets but defaults
        and multicast; for the entrypoint the clients' prefixes."""
        options = self.description.hosts.get(host)
        found = list(options.lan) if options else []
        found += [p for p in self.description.tunnels[tunnel].hosts[host].allowed_nets if is_declared(p)]
        if host == self.description.entrypoint:
            found += client_subnets(self.description)
        return found


def is_declared(prefix: str) -> bool:
    """Whether an allowed prefix names part of the mesh: neither a default nor multicast."""
    network = ipaddress.ip_network(prefix)
    return network.prefixlen >= 8 and not network.is_multicast


def client_subnets(d: Description) -> list[str]:
    """The gateway's client prefixes, IPv4 first."""
    return [p for p in (d.firezone.fz_client_subnet, d.firezone.fz_client_subnet6) if p]


def collapse(prefixes: list[str] | tuple[str, ...], version: int) -> tuple[str, ...]:
    """The prefixes of one family, overlaps and neighbours merged, sorted."""
    networks = [ipaddress.ip_network(p) for p in prefixes]
    if version == 4:
        return tuple(str(n) for n in ipaddress.collapse_addresses(n for n in networks if n.version == 4))
    return tuple(str(n) for n in ipaddress.collapse_addresses(n for n in networks if n.version == 6))


def build(d: Description) -> Network:
    """Assigns everything that the description leaves open."""
    addresses: dict[str, dict[str, tuple[str, ...]]] = {}
    link_local: dict[str, dict[str, str]] = {}
    mesh: list[str] = list(client_subnets(d))
    for options in d.hosts.values():
        mesh += options.lan
    for name, tunnel in d.tunnels.items():
        subnets = [ipaddress.ip_network(p) for p in tunnel.subnet]
        mesh += tunnel.subnet
        addresses[name] = {}
        for number, (host, end) in enumerate(tunnel.hosts.items(), 1):
            pinned = {ipaddress.ip_address(a).version: a for a in end.address}
            addresses[name][host] = tuple(
                f"{pinned.get(s.version, str(s.network_address + number))}/{s.prefixlen}" for s in subnets
            )
            if any(s.version == 6 for s in subnets):
                link_local.setdefault(name, {})[host] = f"fe80::{number:x}/64"
            mesh += [p for p in end.allowed_nets if is_declared(p)]
    return Network(d, addresses, link_local, _exits(d), collapse(mesh, 4), collapse(mesh, 6))


def _exits(d: Description) -> tuple[Exit, ...]:
    """`_DEFAULT`, then every tunnel of the entrypoint in the order of the file."""
    r = d.routing
    exits = [Exit(DEFAULT_EXIT, None, marks.exit_mark(r.pbr_mark, 0), marks.exit_table(r.table, 0), True, True)]
    mine = [name for name, tunnel in d.tunnels.items() if d.entrypoint in tunnel.hosts]
    for number, name in enumerate(mine, 1):
        tunnel = d.tunnels[name]
        offered = {ipaddress.ip_network(p).version for host, end in tunnel.hosts.items() if host != d.entrypoint
                   for p in end.allowed_nets if ipaddress.ip_network(p).prefixlen == 0}  # fmt: skip
        has6 = any(ipaddress.ip_network(p).version == 6 for p in tunnel.subnet)
        wish = d.exits[name].ipv6 if name in d.exits else "auto"
        ipv6 = wish == "route" or (wish == "auto" and has6 and 6 in offered)
        mark, table = marks.exit_mark(r.pbr_mark, number), marks.exit_table(r.table, number)
        exits.append(Exit(name, name, mark, table, 4 in offered, ipv6))
    return tuple(exits)


def matches(route: Route) -> list[tuple[str, tuple[str, ...]]]:
    """A route's kinds of match, one rule each: (field, values)."""
    return [
        (field, values)
        for field, values in (
            ("country", route.country),
            ("domain", route.domain),
            ("suffix", route.suffix),
            ("net", route.net),
        )
        if values
    ]


def namespace(network: Network, tunnel: str, host: str) -> str:
    """Where a host's end of a tunnel lives: a compose service, "host" (it has a LAN), or "own"."""
    end = network.description.tunnels[tunnel].hosts[host]
    options = network.description.hosts.get(host)
    return end.compose_service or ("host" if options and options.lan else "own")


__all__ = ["GATEWAY_INTERFACE", "GATEWAY_SERVICE", "Exit", "Network", "build", "collapse", "is_declared", "matches"]
