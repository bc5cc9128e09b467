"""Tunnels: subnets, ends, ports, keys.

Knows: one tunnel and its neighbours on the same host. Must not know: route rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mrvpn.schema.checks.near import GATEWAY_SERVICE, IPNetwork, inside, network
from mrvpn.schema.model import Description, End, Tunnel, key_problem
from mrvpn.schema.source import Path_, Source, dotted


def check(source: Source, d: Description) -> None:
    """Adds what is wrong within and between tunnels."""
    for name, tunnel in d.tunnels.items():
        _subnet(source, name, tunnel)
        _sides(source, name, tunnel)
        for host, end in tunnel.hosts.items():
            _end(source, d, (name, host), end)
    _overlaps(source, d)
    _ports(source, d)
    _keys(source, d)


def _subnet(source: Source, name: str, tunnel: Tunnel) -> None:
    path = ("tunnels", name, "subnet")
    if not tunnel.subnet:
        source.problem(path, "is missing: give the tunnel a prefix, such as 10.9.20.0/24", "subnet-missing")
    families = [network(p).version for p in tunnel.subnet]
    if len(set(families)) != len(families):
        source.problem(path, "holds two prefixes of one family: keep one", "subnet-family")
    for prefix in tunnel.subnet:
        if network(prefix).num_addresses - 2 < len(tunnel.hosts):
            source.problem(path, f"{prefix} is too small for {len(tunnel.hosts)} hosts", "subnet-small")
        if network(prefix).is_multicast or network(prefix).prefixlen < 8:
            source.problem(path, f"{prefix} is no subnet for a tunnel: choose a private /24", "subnet-wide")


def _sides(source: Source, name: str, tunnel: Tunnel) -> None:
    path = ("tunnels", name, "hosts")
    if len(tunnel.hosts) < 2:
        source.problem(path, "a tunnel needs two hosts at least", "tunnel-ends", absent=True)
        return
    listening = {host for host, end in tunnel.hosts.items() if end.expose}
    if not listening:
        source.problem(path, "no host listens: give one of them `expose: PORT`", "no-exposed-side", absent=True)
    elif len(tunnel.hosts) > 2:
        deaf = sorted(set(tunnel.hosts) - listening)
        if len(deaf) > 1:
            message = f"{' and '.join(deaf)} cannot reach each other, as neither listens: their traffic goes by another"
            source.problem(path, message, "no-exposed-pair", warning=True, absent=True)
    for one in (4, 6):
        groups: list[tuple[str, IPNetwork]] = []
        for host, end in tunnel.hosts.items():
            nets = {network(p) for p in end.allowed_nets if network(p).version == one and network(p).is_multicast}
            groups += [(host, net) for net in sorted(nets)]
        hosts = dict.fromkeys(host for host, _ in groups)
        if len(hosts) > 1 and len(tunnel.hosts) > 2:
            message = (
                f"{' and '.join(hosts)} both have multicast in allowed_nets, but WireGuard gives a group to one peer: "
                "take it out, OSPF names its neighbours where there are more than two hosts"
            )
            source.problem(path, message, "multicast-twice")


def _end(source: Source, d: Description, at: tuple[str, str], end: End) -> None:
    name, host = at
    here = ("tunnels", name, "hosts", host)
    options = d.hosts.get(host)
    router = options is not None and options.os == "routeros" and not source.unsure(("hosts", host, "os"))
    if end.compose_service and end.compose_network:
        source.problem(here, "has both compose_service and compose_network: keep one", "compose-both")
    if end.compose_service and "autostart" in end.model_fields_set and end.autostart:
        message = "has autostart with compose_service, whose stack starts it: take autostart out"
        source.problem(here, message, "autostart", warning=True)
    elsewhere = d.entrypoint and host != d.entrypoint and not source.unsure(("entrypoint",))
    if end.compose_service == GATEWAY_SERVICE and elsewhere:
        message = f"the service {GATEWAY_SERVICE} is on the entrypoint, {d.entrypoint}, only: take compose_service out"
        source.problem((*here, "compose_service"), message, "unknown-service")
    if router and (end.compose_service or end.compose_network):
        source.problem(here, "is a RouterOS host, which runs no compose services: take it out", "routeros")
    if not router and (end.mikrotik_cleanup or end.mikrotik_deploy or end.table not in (None, "off")):
        keys = [key for key in ("mikrotik_cleanup", "mikrotik_deploy", "table") if key in end.model_fields_set]
        message = f"{' and '.join(keys)} would be RouterOS' alone: write hosts.{host}.os: routeros, or take it out"
        source.problem(here, message, "routeros", warning=True)
    if end.private is not None:
        keep = (
            f"to keep this one, set it on the router: /interface/wireguard/set {name} private-key=..."
            if router
            else f"put this one into {d.mrvpn_root}/wg_tunnels/{name}/private.key, 0600"
        )
        message = f"has no meaning here: private keys are made on their host and stay there; {keep}"
        source.problem((*here, "private"), message, "no-meaning", warning=True)
    if isinstance(end.psk, str):
        told = key_problem(end.psk)
        if told:
            source.problem((*here, "psk"), told, "value")
        message = "is a secret in plain text: write {secret: NAME} and put it into the master's secrets"
        source.problem((*here, "psk"), message, "plain-secret", warning=True)
    subnets = [network(p) for p in d.tunnels[name].subnet]
    for number, address in enumerate(end.address):
        path = (*here, "address", number)
        home = [s for s in subnets if inside(network(address), s)]
        if not home:
            told = ", ".join(d.tunnels[name].subnet) or "nothing"
            source.problem(path, f"{address} is not in the tunnel's subnet ({told})", "address-outside")
        elif network(address).network_address in (home[0].network_address, home[0].broadcast_address):
            source.problem(path, f"{address} is the first or last of {home[0]}: choose one between", "address-outside")
    if len({network(a).version for a in end.address}) != len(end.address):
        source.problem((*here, "address"), "holds two addresses of one family: keep one", "subnet-family")


def _overlaps(source: Source, d: Description) -> None:
    owned: list[tuple[IPNetwork, Path_]] = [
        (network(p), ("tunnels", name, "subnet")) for name, tunnel in d.tunnels.items() for p in tunnel.subnet
    ]
    owned += [(network(p), ("hosts", host, "lan")) for host, options in d.hosts.items() for p in options.lan]
    for key in ("fz_client_subnet", "fz_client_subnet6", "fz_mgmt_subnet"):
        prefix = getattr(d.firezone, key)
        owned += [(network(prefix), ("firezone", key))] if prefix else []
    for (wide, wide_path), (narrow, path) in nested(owned):
        if (
            path == wide_path or source.unsure(path) or source.unsure(wide_path)
        ):  # a default in place of what was written
            continue
        if path not in source.places:  # a default of ours: what was written is what can be changed
            (wide, wide_path), (narrow, path) = (narrow, path), (wide, wide_path)
        message = f"{narrow} overlaps {wide} of {dotted(wide_path)}: choose a prefix of its own"
        source.problem(path, message, "overlap")


def nested(
    owned: Iterable[tuple[IPNetwork, Path_]],
) -> Iterator[tuple[tuple[IPNetwork, Path_], tuple[IPNetwork, Path_]]]:
    """Every prefix that lies in another one (or equals it), with the narrowest such: (outer, inner)."""
    stack: list[tuple[IPNetwork, Path_]] = []
    for item in sorted(owned, key=lambda o: (o[0].version, int(o[0].network_address), o[0].prefixlen)):
        while stack and not (stack[-1][0].version == item[0].version and stack[-1][0].overlaps(item[0])):
            stack.pop()
        if stack:
            yield stack[-1], item
        stack.append(item)


def _ports(source: Source, d: Description) -> None:
    taken: dict[tuple[str, int], str] = {}
    reserved = d.port_range
    low, high = reserved or (0, 0)
    if low > high:
        source.problem(("port_range",), f"{low} is above {high}: write [first, last]", "port-range")
        reserved = None
    if d.entrypoint:
        port = d.firezone.fz_wireguard_port
        taken[d.entrypoint, port] = "firezone.fz_wireguard_port"
        if reserved and low <= port <= high:
            message = f"port {port} is inside port_range {low}-{high}, which is for tunnels: choose one outside"
            source.problem(("firezone", "fz_wireguard_port"), message, "port-taken")
    for name, tunnel in d.tunnels.items():
        for host, end in tunnel.hosts.items():
            if not end.expose:
                continue
            path = ("tunnels", name, "hosts", host, "expose")
            port = end.expose.port
            other = taken.setdefault((host, port), name)
            if other != name:
                source.problem(path, f"port {port} is taken by {other} on the same host", "port-taken")
            if reserved and end.compose_service and not low <= port <= high:
                message = f"port {port} is outside port_range {low}-{high}: the gateway restarts to publish it"
                source.problem(path, message, "port-range", warning=True)


def _keys(source: Source, d: Description) -> None:
    seen: dict[str, str] = {}
    places: list[tuple[Path_, str]] = [
        (("tunnels", name, "hosts", host, "public_key"), end.public_key)
        for name, tunnel in d.tunnels.items()
        for host, end in tunnel.hosts.items()
        if end.public_key
    ]
    places += [(("clients", name, "public_key"), client.public_key) for name, client in d.clients.items()]
    for path, key in places:
        other = seen.setdefault(key, dotted(path))
        if other != dotted(path):
            source.problem(path, f"the same key stands at {other}: every end has a key of its own", "key-twice")


def entrypoint_tunnels(d: Description) -> list[str]:
    """The tunnels that the entrypoint has an end of, in the order of the file."""
    return [name for name, tunnel in d.tunnels.items() if d.entrypoint in tunnel.hosts]
