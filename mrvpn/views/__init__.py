"""One plain dict per host: all that this host needs and nothing of another's secrets. See docs/contracts.md, 1.

Knows: the network. Must not know: Salt, templates, files.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mrvpn import __version__
from mrvpn.topology import (
    GATEWAY_INTERFACE,
    GATEWAY_SERVICE,
    MULTICAST4,
    MULTICAST6,
    Network,
    client_subnets,
    collapse,
    gateway_addresses,
    namespace,
)
from mrvpn.views import firezone, hub, psk, routeros
from mrvpn.views.content import content_hash
from mrvpn.views.secret import Marked, Resolve, Secrets, Unfit, masked, unresolved
from mrvpn.views.settings import HOOK, RECURSOR_PORT, RECURSOR_UID, services, settings

Keys = Mapping[str, Mapping[str, str]]  # host -> interface -> public key

KEEPALIVE = 25
BRIDGE = "br-mrvpn"


@dataclass(frozen=True)
class _Told:
    """What a description does not hold: keys and addresses that hosts tell, and the master's secrets."""

    public_keys: Keys
    addresses: Mapping[str, str]
    secrets: Secrets


def view(
    network: Network,
    host: str,
    public_keys: Keys,
    secret: Resolve,
    notices: Iterable[str] = (),
    addresses: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The view of a host; a minion that is not in the description gets one that says so.

    `notices` are the warnings that concern it; `addresses` where hosts say they are, for those that the description
    gives no endpoint. Raises Unfit, with all of them, where secrets are not there or cannot be used.
    """
    secrets = Secrets(secret)
    told = _Told(public_keys, addresses or {}, secrets)
    d = network.description
    if host not in network.ends:
        found: dict[str, Any] = {"host": host, "member": False, "root": d.mrvpn_root}
        return {"version": content_hash(found), **found}
    is_entry = host == d.entrypoint
    names = network.ends[host]
    options = d.hosts.get(host)
    found = {
        "host": host,
        "member": True,
        "root": d.mrvpn_root,
        "os": options.os if options else "linux",
        "notices": list(notices),
        "image": {"name": d.image.name or f"mrvpn:{__version__}", "source": d.image.source},
        "docker": {
            "manage": d.docker.manage,
            "source": d.docker.source,
            "min_engine": "20.10",
            "min_compose": "2.20",
        },
        "mesh": {"ipv4": list(network.mesh4), "ipv6": list(network.mesh6)},
        "gateway": _gateway(network) if is_entry else None,
        "tunnels": {name: _tunnel(network, name, host, told) for name in names},
        "frr": _frr(network, host),
        "recursor": _recursors(network) if is_entry else None,
        "routing": [
            {"service": f"{service}_ipt", "namespace": service, "settings": settings(network, service)}
            for service in services(network)
        ]
        if is_entry
        else None,
        "country_database": {
            "source": "salt://mrvpn/country/country.mmdb",
            "path": "mrvpn/country/country.mmdb",
        }
        if is_entry
        else None,
        "host_guard": _host_guard(network, host, names),
        "lan": list(options.lan) if options else [],
    }
    hub.extend(found, network, host)
    firezone.extend(found, network, secrets)
    routeros.extend(found, network)
    secrets.settle()
    return {"version": content_hash(found), **found}


def _compose_network(network: Network) -> dict[str, Any]:
    """The gateway's own compose network: fixed addresses, so that the host can tell what went through our NAT."""
    subnet4 = ipaddress.ip_network(network.description.firezone.fz_mgmt_subnet)
    # a ULA of ours beside it, derived so that two entrypoints on one wire differ
    tag = content_hash([str(subnet4), network.description.entrypoint])
    subnet6 = ipaddress.ip_network(f"fd6d:{tag[:4]}:{tag[4:8]}:{tag[8:12]}::/64")
    return {
        "name": "mrvpn",
        "bridge": BRIDGE,
        "subnets": [str(subnet4), str(subnet6)],
        "addresses": [str(subnet4.network_address + 2), str(subnet6.network_address + 2)],
    }


def _gateway(network: Network) -> dict[str, Any]:
    d = network.description
    clients = []
    for name, client in sorted(d.clients.items()):
        addresses = [str(ipaddress.ip_network(address)) for address in client.addresses]
        clients.append({"name": name, "public_key": client.public_key, "preshared_key": None, "addresses": addresses})
    return {
        "kind": d.gateway,
        "service": GATEWAY_SERVICE,
        "interface": GATEWAY_INTERFACE,
        "listen_port": d.firezone.fz_wireguard_port,
        "mtu": 1280,
        "addresses": gateway_addresses(d),
        "clients": clients,
        "network": _compose_network(network),
        "port_range": list(d.port_range) if d.port_range else None,
        "services": services(network),
    }


def _host_guard(network: Network, host: str, names: Iterable[str]) -> dict[str, Any] | None:
    """What the host itself refuses: un-NATed packets of the gateway's bridge, early ones to published ports."""
    d = network.description
    ends = [d.tunnels[name].hosts[host] for name in names if namespace(network.description, name, host) != "host"]
    ports = {end.expose.port for end in ends if end.expose}
    reserved = None
    bridge, addresses = None, []
    if host == d.entrypoint:
        bridge, addresses = BRIDGE, _compose_network(network)["addresses"]
        reserved = list(d.port_range) if d.port_range else None
        ports.add(d.firezone.fz_wireguard_port)
    published = [str(port) for port in sorted(ports) if not (reserved and reserved[0] <= port <= reserved[1])]
    published += [f"{reserved[0]}-{reserved[1]}"] if reserved else []
    if bridge is None and not published:
        return None
    return {"bridge": bridge, "addresses": addresses, "reserved_ports": reserved, "published": published}


def _tunnel(network: Network, name: str, host: str, told: _Told) -> dict[str, Any]:
    d = network.description
    end = d.tunnels[name].hosts[host]
    link_local = network.link_local.get(name, {})
    return {
        "interface": name,
        "namespace": namespace(network.description, name, host),
        "compose_network": end.compose_network,
        "autostart": end.autostart,
        "addresses": list(network.addresses[name][host]),
        "link_local": link_local.get(host),
        "listen_port": end.expose.port if end.expose else None,
        "mtu": end.mtu,
        "table": end.table or "off",
        "masquerade": end.masquerade,
        "hooks": {"cleanup": list(end.mikrotik_cleanup), "deploy": list(end.mikrotik_deploy)},  # RouterOS commands
        "keepalive": KEEPALIVE,
        "peers": [_peer(network, name, host, peer, told) for peer in d.tunnels[name].hosts if peer != host],
    }


def _peer(network: Network, name: str, host: str, peer: str, told: _Told) -> dict[str, Any]:
    d = network.description
    end = d.tunnels[name].hosts[peer]
    host_part = end.expose.host if end.expose else None
    options = d.hosts.get(peer)
    host_part = host_part or (options.endpoint if options else None) or _address(network, told.addresses.get(peer))
    endpoint = None
    if end.expose and host_part:
        endpoint = f"[{host_part}]:{end.expose.port}" if ":" in host_part else f"{host_part}:{end.expose.port}"
    return {
        "host": peer,
        "public_key": end.public_key or told.public_keys.get(peer, {}).get(name),
        "preshared_key": _preshared(network, name, host, peer, told.secrets),
        "endpoint": endpoint,
        "allowed_ips": list(_allowed(network, name, peer)),
    }


def _address(network: Network, told: str | None) -> str | None:
    """The address that a host tells of itself, where it can be one: not of the mesh, which it would lead into."""
    try:
        address = ipaddress.ip_address(told or "")
    except ValueError:
        return None
    mesh = map(ipaddress.ip_network, network.mesh4 if address.version == 4 else network.mesh6)
    return None if address.is_loopback or any(address in prefix for prefix in mesh) else str(address)


def _allowed(network: Network, name: str, peer: str) -> list[str]:
    """What a host's peers in a tunnel allow from it, as in wg(8)."""
    known: list[str] | None = network.memo.get(("allowed", name, peer))
    if known is not None:
        return known
    d = network.description
    own = [f"{text.split('/')[0]}/{128 if ':' in text else 32}" for text in network.addresses[name][peer]]
    allowed = [*own, *network.behind(name, peer), *d.tunnels[name].hosts[peer].allowed_nets]
    allowed4, allowed6 = list(collapse(allowed, 4)), list(collapse(allowed, 6))
    if name in network.link_local and "::/0" not in allowed6:
        allowed6.append(network.link_local[name][peer].split("/")[0] + "/128")
    if len(d.tunnels[name].hosts) == 2:
        # OSPF's groups: of several peers only one could have them
        allowed4 += [] if "0.0.0.0/0" in allowed4 else [MULTICAST4]
        allowed6 += [] if "::/0" in allowed6 or name not in network.link_local else [MULTICAST6]
    network.memo["allowed", name, peer] = [*allowed4, *allowed6]
    return [*allowed4, *allowed6]


def _preshared(network: Network, name: str, host: str, peer: str, secrets: Secrets) -> str | None:
    ends = network.description.tunnels[name].hosts
    for at in (host, peer):
        if ends[at].psk is not None:
            return secrets.key(f"tunnels.{name}.hosts.{at}.psk", ends[at].psk)
    root = secrets.optional("psk_root")
    return Marked(psk.derive(root, name, host, peer)) if root else None


def _frr(network: Network, host: str) -> list[dict[str, Any]]:
    """One FRR per network namespace: the gateway's, the host's, or each standalone tunnel's."""
    d = network.description
    options = d.hosts.get(host)
    lan = list(options.lan) if options else []
    found = []
    for space, tunnels in sorted(network.spaces.get(host, {}).items()):
        interfaces = [_ospf(network, name) for name in tunnels]
        announce = lan if space == "host" else []
        mine = [*announce]
        networks = [prefix for name in tunnels for prefix in d.tunnels[name].subnet] + announce
        if host == d.entrypoint and space == GATEWAY_SERVICE:
            passive = {"name": GATEWAY_INTERFACE, "passive": True, "cost": None, "bfd": False}
            interfaces.append({**passive, "ipv6": d.firezone.fz_client_subnet6 is not None})
            mine += client_subnets(d)
            networks += client_subnets(d)
        found.append(
            {
                "service": f"{space}_frr" if space != "host" else "mrvpn_frr",
                "namespace": space,
                "folder": f"wg_tunnels/{space}/frr" if space in d.tunnels else "mrvpn/frr",
                "router_id": network.router_ids[host][space],
                "interfaces": interfaces,
                # each by itself: merged with a new neighbour it would be another line, and its interface leave OSPF
                "networks": sorted({p for p in networks if ":" not in p}, key=ipaddress.IPv4Network),
                "announce": {"ipv4": list(collapse(announce, 4)), "ipv6": list(collapse(announce, 6))},
                "accept": {
                    # nobody's announcement replaces what is connected here
                    "ipv4": network.mesh_without(mine, 4),
                    "ipv6": network.mesh_without(mine, 6),
                },
            }
        )
    return found


def _ospf(network: Network, name: str) -> dict[str, Any]:
    return {"name": name, "passive": False, "cost": None, "ipv6": name in network.link_local, "bfd": True}


def _recursors(network: Network) -> list[dict[str, Any]]:
    d = network.description
    local = ["127.0.0.0/8", "::1/128"]
    return [
        {
            "service": f"{service}_pdns",
            "namespace": service,
            "folder": "mrvpn/powerdns/etc",
            "interfaces": interfaces,
            "port": RECURSOR_PORT,
            "allow_from": [*network.mesh4, *network.mesh6, *local],
            "upstream": list(d.dns.upstream),
            "forward": {zone: list(addresses) for zone, addresses in sorted(d.dns.forward.items())},
            "exempt": list(d.dns.exempt),
            "bypass": d.dns.bypass.enabled,
            "max_ttl": d.routing.domain_route_ttl,
            "dnssec": d.dns.dnssec,
            "threads": 2,
            "hook": dict(HOOK),
            "user": {"name": "pdns", "uid": RECURSOR_UID},
        }
        for service, interfaces in services(network).items()
    ]


__all__ = ["Keys", "Resolve", "Unfit", "masked", "unresolved", "view"]
