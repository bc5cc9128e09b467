"""The phone: a WireGuard client of the gateway that sends everything through it, as phones do.

Knows: wg, ip, the gateway's address. Must not know: routing rules.
"""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lab import hosts, topology
from lab.deadline import until
from lab.salt import CLIENT4, CLIENT6
from lab.state import RUN, spawn
from lab.topology import CLIENT, ENTRY

INTERFACE = "wg0"
PORT = 51620
GATEWAY4 = "10.11.0.1"
KEY = RUN / "phone.key"


def make_key() -> str:
    """Makes the phone's key (0600) and returns the public one."""
    key = X25519PrivateKey.generate()
    raw = key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    RUN.mkdir(parents=True, exist_ok=True)
    KEY.touch(mode=0o600)
    KEY.chmod(0o600)
    KEY.write_text(base64.b64encode(raw).decode() + "\n")
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(public).decode()


def connect(gateway_key: str) -> None:
    """Brings the tunnel up: default routes of both families through it, the gateway's own address by the underlay."""
    existing = hosts.run(CLIENT, "ip", "link", "show", INTERFACE, check=False)
    if not existing:
        kernel = hosts.run(CLIENT, "sh", "-c", f"ip link add {INTERFACE} type wireguard 2>&1 || true")
        if kernel.strip():
            spawn("client-wireguard", [*hosts.enter(CLIENT), "wireguard-go", "--foreground", INTERFACE])
            until("the phone's interface", lambda: hosts.run(CLIENT, "wg", "show", INTERFACE), 10)
    conf = (
        f"[Interface]\nPrivateKey = {KEY.read_text().strip()}\n[Peer]\nPublicKey = {gateway_key}\n"
        f"Endpoint = {ENTRY.ipv4}:{PORT}\nAllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 5\n"
    )
    hosts.run(CLIENT, "wg", "setconf", INTERFACE, "/dev/stdin", stdin=conf)
    for argv in (
        f"ip address replace {CLIENT4}/32 dev {INTERFACE}",
        f"ip address replace {CLIENT6}/128 dev {INTERFACE} nodad",
        f"ip link set {INTERFACE} up mtu 1280",
        f"ip route replace {ENTRY.ipv4}/32 via {topology.ROUTER4} dev eth0 src {CLIENT.ipv4}",
        f"ip route replace default dev {INTERFACE} src {CLIENT4}",
        "ip -6 route del default dev eth0",
        f"ip -6 route replace default dev {INTERFACE} src {CLIENT6}",
    ):
        hosts.run(CLIENT, *argv.split(), check=" del " not in argv)
    hosts.run(CLIENT, "sh", "-c", f"echo nameserver {GATEWAY4} > /etc/resolv.conf")


def connected() -> bool:
    """Whether the gateway answers a ping through the tunnel."""
    return bool(hosts.run(CLIENT, "ping", "-c1", "-W1", GATEWAY4, check=False).count("1 received"))


def fetch(url: str, *, seconds: float = 5, resolve: str | None = None) -> str:
    """The body of a GET from the phone, or "" where it failed."""
    extra = ["--resolve", resolve] if resolve else []
    return hosts.run(CLIENT, "curl", "-s", "--max-time", str(seconds), *extra, url, check=False).strip()


def lookup(name: str, kind: str, *, tcp: bool = False) -> list[str]:
    """The answer lines of a DNS query from the phone."""
    argv = ["dig", "+short", "+time=3", "+tries=2", *(["+tcp"] if tcp else []), f"@{GATEWAY4}", name, kind]
    return [line for line in hosts.run(CLIENT, *argv, check=False).splitlines() if line and not line.startswith(";")]
