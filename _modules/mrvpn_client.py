"""A client's configuration of the plain gateway, as text and as a QR code for a phone.

Knows: the gateway's files as they are deployed on this host, WireGuard's keys. Must not know: the description, the
pillar. Stores nothing: a private key that is made here is in the answer and nowhere else.
"""

import base64
import io
import ipaddress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from salt.exceptions import CommandExecutionError

INTERFACE = "wg-firezone"
KEEPALIVE = 25


def _pairs(path):
    lines = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
    return [(key.strip(), value.strip()) for key, _, value in lines]


def _gateway(root):
    """(addresses, port, mtu) of the gateway, and every client's addresses by name."""
    folder = Path(root) / "firezone" / "live"
    try:
        pairs = _pairs(folder / "interface.conf")
    except FileNotFoundError:
        raise CommandExecutionError(
            f"{folder}/interface.conf is missing: the plain gateway (`gateway: wireguard`) is not deployed on this host"
        ) from None
    addresses = [ipaddress.ip_interface(value) for key, value in pairs if key == "Address"]
    values = dict(pairs)
    clients = {
        path.stem: [ipaddress.ip_network(part.strip()) for part in dict(_pairs(path))["AllowedIPs"].split(",")]
        for path in sorted((folder / "peers").glob("*.conf"))
    }
    return addresses, int(values["ListenPort"]), int(values["MTU"]), clients


def _free(gateway, clients):
    """The first address of each of the gateway's prefixes that nobody has."""
    found = []
    for interface in gateway:
        taken = {network.network_address for networks in clients.values() for network in networks} | {interface.ip}
        hosts = (address for address in interface.network.hosts() if address not in taken)
        address = next(hosts, None)
        if address is None:
            raise CommandExecutionError(f"{interface.network} has no free address: take a client out, or widen it")
        found.append(str(address))
    return found


def _checked(addresses, gateway, clients, name):
    taken = {str(network.network_address): other for other, networks in clients.items() for network in networks}
    for address in addresses:
        if not any(ipaddress.ip_address(address) in interface.network for interface in gateway):
            networks = ", ".join(str(interface.network) for interface in gateway)
            raise CommandExecutionError(f"{address} is not in {networks}")
        if taken.get(address, name) != name:
            raise CommandExecutionError(f"{address} is the address of {taken[address]}")
    return [str(ipaddress.ip_address(address)) for address in addresses]


def _public(key):
    try:
        if len(base64.b64decode(key, validate=True)) != 32:
            raise ValueError
    except ValueError:
        raise CommandExecutionError("public_key is no WireGuard key: 32 bytes in base64, 44 characters") from None
    return key


def _qr(text):
    try:
        import segno
    except ImportError:
        raise CommandExecutionError(
            "the Python package segno is missing: install it for QR codes, or qr=False"
        ) from None
    out = io.StringIO()
    segno.make(text, error="l").terminal(out, compact=True)
    return out.getvalue()


def config(name, endpoint, public_key=None, addresses=None, allowed_ips=None, qr=True, root="/opt/mrvpn"):
    """
    What a client needs and what the description must say of it: ``{"description", "config", "qr"}``.

    Without ``public_key`` a key pair is made; its private half is in ``config`` and ``qr``, this once, and is stored
    nowhere. With it the client keeps its own private key: ``config`` has a place for it, and there is no QR code.

    CLI Example:

    .. code-block:: bash

        salt-call --local mrvpn_client.config phone vpn.example.net
        salt entry mrvpn_client.config laptop vpn.example.net public_key=...

    name
        of the client, as it will stand under ``clients``
    endpoint
        the entrypoint's public name or address
    addresses
        its addresses; the first free ones by default, or those that it has
    """
    if public_key is None and __opts__.get("file_client") != "local":
        raise CommandExecutionError(
            "a private key must not pass by the master, which keeps answers: run this on the entrypoint with "
            "`salt-call --local`, or give public_key"
        )
    gateway, port, mtu, clients = _gateway(root)
    server = __salt__["mrvpn_wireguard.public_keys"](root).get(INTERFACE)
    if server is None:
        raise CommandExecutionError(f"the gateway has no key yet below {root}: apply the states first")
    known = [str(network.network_address) for network in clients.get(name, [])]
    wanted = _checked(addresses or known or _free(gateway, clients), gateway, clients, name)
    if public_key is None:
        key = X25519PrivateKey.generate()
        private = base64.b64encode(key.private_bytes_raw()).decode()
        public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    else:
        private, public = "# the client's own private key", _public(public_key)
    families = {ipaddress.ip_address(address).version for address in wanted}
    everything = [prefix for version, prefix in ((4, "0.0.0.0/0"), (6, "::/0")) if version in families]
    dns = [str(interface.ip) for interface in gateway if interface.version in families]
    host = f"[{endpoint}]" if ":" in endpoint else endpoint
    text = "\n".join(
        [
            "[Interface]",
            f"PrivateKey = {private}",
            f"Address = {', '.join(str(ipaddress.ip_network(address)) for address in wanted)}",
            f"DNS = {', '.join(dns)}",
            f"MTU = {mtu}",
            "",
            "[Peer]",
            f"PublicKey = {server}",
            f"Endpoint = {host}:{port}",
            f"AllowedIPs = {', '.join(allowed_ips or everything)}",
            f"PersistentKeepalive = {KEEPALIVE}",
            "",
        ]
    )
    return {
        "description": {"mrvpn": {"clients": {name: {"public_key": public, "addresses": wanted}}}},
        "config": text,
        "qr": _qr(text) if qr and public_key is None else None,
    }
