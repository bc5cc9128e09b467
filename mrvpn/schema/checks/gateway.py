"""The gateway on the entrypoint: services, ingress interfaces, clients, Firezone's settings.

Knows: the gateway's part of the description. Must not know: route rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mrvpn.schema.checks.near import GATEWAY_INTERFACE, GATEWAY_SERVICE, inside, near, network
from mrvpn.schema.checks.tunnels import entrypoint_tunnels
from mrvpn.schema.model import SECRET_KEYS, Description
from mrvpn.schema.source import Path_, Source

PASSWORD = 12  # characters that Firezone asks for
PROVIDERS = "openid_connect_providers"


def check(source: Source, d: Description) -> None:
    """Adds what is wrong with the gateway."""
    _services(source, d)
    _clients(source, d)
    _firezone(source, d)
    _unused(source, d)


def _services(source: Source, d: Description) -> None:
    mine = entrypoint_tunnels(d)
    ends = [("tunnels", name, "hosts", d.entrypoint or "") for name in mine]
    unsure = source.unsure(("entrypoint",)) or source.lacks(("tunnels",), 3) or any(map(source.touched, ends))
    here = {GATEWAY_SERVICE, *(s for name in mine if (s := d.tunnels[name].hosts[d.entrypoint or ""].compose_service))}
    known = {*mine, GATEWAY_INTERFACE}
    for service, interfaces in d.services.items():
        if service not in here and not unsure:
            message = f"the entrypoint has no service {service}{near(service, here)}"
            source.problem(("services", service), message, "unknown-service")
        for number, interface in enumerate(interfaces):
            _interface(source, ("services", service, number), interface, known)
    for number, interface in enumerate(d.routing.interfaces):
        _interface(source, ("routing", "interfaces", number), interface, known)


def _interface(source: Source, path: Path_, interface: str, known: set[str]) -> None:
    if interface not in known and not source.unsure(("tunnels", interface)) and not source.unsure(("entrypoint",)):
        message = f"{interface} is no interface of the entrypoint{near(interface, known)}"
        source.problem(path, message, "unknown-interface")


def _clients(source: Source, d: Description) -> None:
    if d.clients and d.gateway == "firezone" and not source.unsure(("gateway",)):
        message = "clients are described for `gateway: wireguard`; Firezone keeps its own"
        source.problem(("clients",), message, "clients")
    subnets = [network(p) for p in _subnets(d)]
    seen = {gateway_address(d, str(subnet)): "the gateway" for subnet in subnets}
    for name, client in d.clients.items():
        path: Path_ = ("clients", name, "addresses")
        if not client.addresses:
            source.problem(path, f"is empty: give the client an address of {subnets[0]}", "client-address")
        for number, address in enumerate(client.addresses):
            if not any(inside(network(address), s) for s in subnets):
                told = ", ".join(str(s) for s in subnets)
                source.problem((*path, number), f"{address} is not in {told}", "client-address")
            other = seen.setdefault(address, f"clients.{name}")
            if other != f"clients.{name}":
                source.problem((*path, number), f"{address} is {other}'s: choose another", "address-twice")


def _firezone(source: Source, d: Description) -> None:
    f = d.firezone
    for key, version in (("fz_client_subnet", 4), ("fz_mgmt_subnet", 4), ("fz_client_subnet6", 6)):
        prefix = getattr(f, key)
        if prefix and network(prefix).version != version:
            source.problem(("firezone", key), f"{prefix} is not IPv{version}", "family")
        elif prefix and network(prefix).num_addresses < 8:
            source.problem(("firezone", key), f"{prefix} is too small: a /29 at least", "subnet-small")
    _gateway_address(source, d)
    if isinstance(f.fz_admin_password, str):
        path: Path_ = ("firezone", "fz_admin_password")
        if len(f.fz_admin_password) < PASSWORD:
            source.problem(path, f"is too short: Firezone asks for {PASSWORD} characters at least", "password")
        message = "is a secret in plain text: write {secret: NAME} and put it into the master's secrets"
        source.problem(path, message, "plain-secret", warning=True)
    for name, oidc in f.fz_oidc.items():
        if isinstance(oidc.client_secret, str):
            message = "is a secret in plain text: write {secret: NAME} and put it into the master's secrets"
            source.problem(("firezone", "fz_oidc", name, "client_secret"), message, "plain-secret", warning=True)
    if f.fz_oidc and PROVIDERS in f.fz_configuration:
        message = "is set by fz_oidc already: keep one"
        source.problem(("firezone", "fz_configuration", PROVIDERS), message, "duplicate-key")
    for at in _plain(f.fz_configuration, ("firezone", "fz_configuration")):
        message = "is a secret in plain text: write {secret: NAME} and put it into the master's secrets"
        source.problem(at, message, "plain-secret", warning=True)


def _plain(value: Any, path: Path_) -> Iterator[Path_]:
    """Where a secret of Firezone's API stands as text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in SECRET_KEYS and isinstance(item, str):
                yield (*path, key)
            yield from _plain(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _plain(item, (*path, number))


def _gateway_address(source: Source, d: Description) -> None:
    wanted = d.firezone.fz_client_gateway
    if wanted is None or source.unsure(("firezone", "fz_client_subnet")):
        return
    path: Path_ = ("firezone", "fz_client_gateway")
    home = next((s for s in map(network, _subnets(d)) if inside(network(wanted), s)), None)
    if home is None:
        told = ", ".join(_subnets(d))
        source.problem(path, f"{wanted} is not in the clients' prefixes ({told})", "address-outside")
    elif network(wanted).network_address in (home.network_address, home.broadcast_address):
        source.problem(path, f"{wanted} is the first or last of {home}: choose one between", "address-outside")


def gateway_address(d: Description, prefix: str) -> str:
    """The gateway's own address in one of the clients' prefixes: the one described, else the first."""
    home, wanted = network(prefix), d.firezone.fz_client_gateway
    return wanted if wanted and inside(network(wanted), home) else str(home.network_address + 1)


def _subnets(d: Description) -> list[str]:
    return [p for p in (d.firezone.fz_client_subnet, d.firezone.fz_client_subnet6) if p]


def _unused(source: Source, d: Description) -> None:
    """Keys of MRVPN2 that are read and have no meaning here."""
    for key, why in (
        ("ws_port", "ipt_server has no websocket"),
        ("db", "ipt_server keeps its memory in its own volume"),
    ):
        if key in d.routing.model_fields_set:
            source.problem(("routing", key), f"has no meaning here: {why}", "no-meaning", warning=True)
