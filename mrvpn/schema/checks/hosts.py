"""Hosts: who is the entrypoint, where each is reached, what is behind it.

Knows: hosts and the tunnels they have ends of. Must not know: what a rule matches.
"""

from __future__ import annotations

import ipaddress

from mrvpn.schema.checks.near import IPNetwork, near, network
from mrvpn.schema.checks.tunnels import entrypoint_tunnels
from mrvpn.schema.model import Description
from mrvpn.schema.source import Path_, Source


def check(source: Source, d: Description) -> None:
    """Adds what is wrong with hosts."""
    hosts = {host for tunnel in d.tunnels.values() for host in tunnel.hosts}
    unsure = source.lacks(("tunnels",), 3)  # a host of a tunnel, at most
    if d.entrypoint and d.tunnels and d.entrypoint not in hosts and not unsure:
        message = f"{d.entrypoint} has no end of any tunnel{near(d.entrypoint, hosts)}"
        source.problem(("entrypoint",), message, "entrypoint")
        source.leave_out(("entrypoint",))
    if not d.entrypoint and (d.routing.routes or d.services or d.clients) and not source.unsure(("entrypoint",)):
        message = "is missing: name the host where clients enter, or nothing is routed"
        source.problem(("entrypoint",), message, "entrypoint")
        source.leave_out(("entrypoint",))  # what follows from it is no finding of its own
    for host in d.hosts:
        if hosts and host not in hosts and not unsure:
            message = f"has no end of any tunnel{near(host, hosts)}"
            source.problem(("hosts", host), message, "unknown-host", warning=True)
    entry = d.hosts.get(d.entrypoint or "")
    if entry is not None and entry.os == "routeros":
        message = "is the entrypoint, which runs Docker: it must be linux"
        source.problem(("hosts", d.entrypoint or "", "os"), message, "routeros")
        source.leave_out(("hosts", d.entrypoint or "", "os"))
    _lans(source, d)
    _endpoints(source, d)
    _behind(source, d)


def _lans(source: Source, d: Description) -> None:
    """A LAN is announced from its host's own network namespace: some tunnel must be there."""
    outside = {host for tunnel in d.tunnels.values() for host, end in tunnel.hosts.items() if not end.compose_service}
    inside = {host for tunnel in d.tunnels.values() for host in tunnel.hosts} - outside
    for host, options in d.hosts.items():
        if options.lan and host in inside:
            message = f"is not reached: every tunnel of {host} is in a container's network, none in the host's own"
            source.problem(("hosts", host, "lan"), message, "lan-unreached", warning=True)


def _endpoints(source: Source, d: Description) -> None:
    """An endpoint that is reached through the mesh is not reached at all."""
    mesh: list[tuple[IPNetwork, str]] = [
        (network(p), f"tunnels.{name}.subnet") for name, tunnel in d.tunnels.items() for p in tunnel.subnet
    ]
    mesh += [(network(p), f"hosts.{host}.lan") for host, options in d.hosts.items() for p in options.lan]
    for name, tunnel in d.tunnels.items():
        for host, end in tunnel.hosts.items():
            at = f"tunnels.{name}.hosts.{host}.allowed_nets"
            mesh += [(n, at) for p in end.allowed_nets if (n := network(p)).prefixlen >= 8 and not n.is_multicast]
    for key in ("fz_client_subnet", "fz_client_subnet6", "fz_mgmt_subnet"):
        prefix = getattr(d.firezone, key)
        mesh += [(network(prefix), f"firezone.{key}")] if prefix else []
    by_prefix = {(n.version, n.prefixlen, int(n.network_address)): at for n, at in reversed(mesh)}
    lengths = {version: sorted({n.prefixlen for n, _ in mesh if n.version == version}) for version in (4, 6)}
    for path, text in _endpoint_texts(d):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        bits = address.max_prefixlen
        for length in lengths[address.version]:
            first = int(address) >> (bits - length) << (bits - length)
            inside = by_prefix.get((address.version, length, first))
            if inside is not None:
                message = (
                    f"{address} lies in a prefix of {inside}: the tunnel would have to be reached through the mesh"
                )
                source.problem(path, message, "endpoint-inside")
                break


def _endpoint_texts(d: Description) -> list[tuple[Path_, str]]:
    found: list[tuple[Path_, str]] = [
        (("hosts", host, "endpoint"), options.endpoint) for host, options in d.hosts.items() if options.endpoint
    ]
    for name, tunnel in d.tunnels.items():
        for host, end in tunnel.hosts.items():
            if end.expose and end.expose.host:
                found.append((("tunnels", name, "hosts", host, "expose"), end.expose.host))
    return found


def _behind(source: Source, d: Description) -> None:
    """Hosts that others cannot find (no endpoint), and offices that bring nothing into the mesh."""
    exits = {route.interface for route in d.routing.routes} | {f for e in d.exits.values() for f in e.fallback}
    mine = set(entrypoint_tunnels(d))
    unsure = source.touched(("routing",)) or source.touched(("exits",))
    for name, tunnel in d.tunnels.items():
        for host, end in tunnel.hosts.items():
            options = d.hosts.get(host)
            here: Path_ = ("tunnels", name, "hosts", host)
            reached = (end.expose and end.expose.host) or (options and options.endpoint)
            if end.expose and not reached and not source.touched(("hosts", host)):
                message = (
                    f"has no address to be reached at: write hosts.{host}.endpoint (else the host's own report is used)"
                )
                source.problem((*here, "expose"), message, "no-endpoint", warning=True)
            if name not in mine or host == d.entrypoint or name in exits or unsure:
                continue
            declared = [p for p in end.allowed_nets if network(p).prefixlen >= 8 and not network(p).is_multicast]
            if not declared and not (options and options.lan) and not source.unsure(("hosts", host, "lan")):
                message = (
                    f"no rule uses {name} as an exit, and nothing is declared behind {host}: write hosts.{host}.lan"
                )
                source.problem(here, message, "no-lan", warning=True, absent=True)
