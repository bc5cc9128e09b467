"""The phone: a WireGuard client of the gateway that sends everything through it, as phones do.

Knows: wg, ip, the gateway's address. Must not know: routing rules.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lab import hosts, topology
from lab.deadline import until
from lab.salt import CLIENT4, CLIENT6
from lab.state import RUN, spawn
from lab.topology import CLIENT, ENTRY, Host

INTERFACE = "wg0"
PORT = 51620
GATEWAY4 = "10.11.0.1"
KEY = RUN / "phone.key"


@dataclass(frozen=True)
class Phone:
    """A client: where it is, its key, its addresses in the gateway's network, its interface."""

    host: Host
    key: Path
    ipv4: str
    ipv6: str
    interface: str = INTERFACE


PHONE = Phone(CLIENT, KEY, CLIENT4, CLIENT6)


def make_key(path: Path = KEY) -> str:
    """Makes a phone's key (0600) and returns the public one."""
    key = X25519PrivateKey.generate()
    raw = key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    RUN.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(base64.b64encode(raw).decode() + "\n")
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(public).decode()


def connect(gateway_key: str, phone: Phone = PHONE) -> None:
    """Brings the tunnel up: default routes of both families through it, the gateway's own address by the underlay."""
    host, interface = phone.host, phone.interface
    existing = hosts.run(host, "ip", "link", "show", interface, check=False)
    if not existing:
        kernel = hosts.run(host, "sh", "-c", f"ip link add {interface} type wireguard 2>&1 || true")
        if kernel.strip():
            spawn("client-wireguard", [*hosts.enter(host), "wireguard-go", "--foreground", interface])
            until("the phone's interface", lambda: hosts.run(host, "wg", "show", interface), 10)
    conf = (
        f"[Interface]\nPrivateKey = {phone.key.read_text().strip()}\n[Peer]\nPublicKey = {gateway_key}\n"
        f"Endpoint = {ENTRY.ipv4}:{PORT}\nAllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 5\n"
    )
    hosts.run(host, "wg", "setconf", interface, "/dev/stdin", stdin=conf)
    for argv in (
        f"ip address replace {phone.ipv4}/32 dev {interface}",
        f"ip address replace {phone.ipv6}/128 dev {interface} nodad",
        f"ip link set {interface} up mtu 1280",
        f"ip route replace {ENTRY.ipv4}/32 via {topology.ROUTER4} dev eth0 src {host.ipv4}",
        f"ip route replace default dev {interface} src {phone.ipv4}",
        "ip -6 route del default dev eth0",
        f"ip -6 route replace default dev {interface} src {phone.ipv6}",
    ):
        hosts.run(host, *argv.split(), check=" del " not in argv)
    if host.root:
        hosts.run(host, "sh", "-c", f"echo nameserver {GATEWAY4} > /etc/resolv.conf")


def connected(phone: Phone = PHONE) -> bool:
    """Whether the gateway answers a ping through the tunnel."""
    return bool(hosts.run(phone.host, "ping", "-c1", "-W1", GATEWAY4, check=False).count("1 received"))


def fetch(url: str, *, seconds: float = 5, resolve: str | None = None, phone: Phone = PHONE) -> str:
    """The body of a GET from the phone, or "" where it failed."""
    extra = ["--resolve", resolve] if resolve else []
    return hosts.run(phone.host, "curl", "-s", "--max-time", str(seconds), *extra, url, check=False).strip()


def lookup(name: str, kind: str, *, tcp: bool = False, phone: Phone = PHONE) -> list[str]:
    """The answer lines of a DNS query from the phone."""
    argv = ["dig", "+short", "+time=3", "+tries=2", *(["+tcp"] if tcp else []), f"@{GATEWAY4}", name, kind]
    said = hosts.run(phone.host, *argv, check=False)
    return [line for line in said.splitlines() if line and not line.startswith(";")]
