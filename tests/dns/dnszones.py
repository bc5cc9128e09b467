"""The zones that the tests' authoritative server serves: plain ones, a signed one, a bogus one, below a signed root.

Knows: zone files, DNSSEC by dnspython. Must not know: servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import dns.dnssec
import dns.name
import dns.node
import dns.rdata
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

SERVER = "127.0.0.2"
MANY = 400

ZONES: dict[str, list[str]] = {
    "ru": [
        "www.shop 3600 A 81.2.69.160",
        "www.shop 3600 AAAA 2a00:23c5::160",
        "alias.shop 60 CNAME cdn.example.com.",
        "*.wild 60 A 81.2.69.163",
        "private.shop 60 A 192.168.1.1",
        "text.shop 60 TXT hello",
        "up.shop 60 A 81.2.69.176",
        "target.shop 60 A 81.2.69.177",
        "below.shop 60 A 81.2.69.178",
        r"a\.b\@c\032d.shop 60 A 81.2.69.164",
        r"weird.shop 60 HTTPS 1 e\@f\.g.example.net. alpn=h2",
        "svc.shop 60 HTTPS 1 edge.example.net. alpn=h2 ipv4hint=81.2.69.165 ipv6hint=2a00:23c5::165",
        *(f"n{n}.many 60 A 81.2.70.{n % 250 + 1}" for n in range(MANY)),
        *(f"big 60 A 81.2.{71 + n // 250}.{n % 250 + 1}" for n in range(250)),  # the recursor caches no more than 256
    ],
    "com": [
        "www.example 60 A 208.80.154.224",
        "www.example 60 AAAA 2620:0:861:ed1a::1",
        "cdn.example 60 A 208.80.154.225",
        "into.example 60 CNAME target.shop.ru.",
        "old.example 60 DNAME shop.ru.",
    ],
    "net": [
        "edge.example 60 A 81.2.69.166",
        r"e\@f\.g.example 60 A 81.2.69.167",
    ],
    "de": ["www.heise 60 A 46.4.84.1", *(f"n{n}.many 60 A 46.4.85.{n % 250 + 1}" for n in range(MANY))],
    "us": [
        "www.site 60 A 208.80.154.230",
        "www.site 60 AAAA 2620:0:861:ed1a::30",
        "six.site 60 AAAA 2620:0:861:ed1a::31",
        "www.site 60 HTTPS 1 . alpn=h2 ipv4hint=208.80.154.231 ipv6hint=2620:0:861:ed1a::32",
    ],
    "in-addr.arpa": ["179.69.2.81 60 PTR www.shop.ru.", "1.84.4.46 60 PTR www.heise.de."],
    "ip6.arpa": ["9.7.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.c.3.2.0.0.a.2 60 PTR www.shop.ru."],
    "signed": ["www.good 60 A 81.2.69.170", "long.good 3000 A 81.2.69.171", "other 60 A 81.2.69.172"],
    "bogus": ["www.bad 60 A 81.2.69.173", "long.bad 3000 A 81.2.69.174", "other 60 A 81.2.69.175"],
}
SIGNED = ("signed", "bogus")
Key = tuple[ec.EllipticCurvePrivateKey, dns.rdata.Rdata]


def write(folder: Path, zones: Mapping[str, Iterable[str]] = ZONES) -> str:
    """Writes every zone as `<zone>.zone`, the root as `root.zone`; returns the root's DS record."""
    delegations = []
    for zone, records in zones.items():
        key = _key()
        text = _text(zone, records)
        if zone in SIGNED:
            ds = dns.dnssec.make_ds(dns.name.from_text(zone), key[1], "SHA256")
            delegations.append(f"{zone}. 60 DS {ds.to_text()}")
            # bogus: by a key that the delegation does not name
            text = _signed(zone, text, _key() if zone == "bogus" else key)
        delegations.append(f"{zone}. 60 NS ns.{zone}.\nns.{zone}. 60 A {SERVER}")
        (folder / f"{zone}.zone").write_text(text)
    root = _key()
    text = _signed(".", _text(".", ["ns. 60 A " + SERVER, *delegations]), root)
    (folder / "root.zone").write_text(text)
    return dns.dnssec.make_ds(dns.name.root, root[1], "SHA256").to_text()


def _key() -> Key:
    private = ec.generate_private_key(ec.SECP256R1())
    return private, dns.dnssec.make_dnskey(private.public_key(), "ECDSAP256SHA256", flags=257)


def _text(zone: str, records: Iterable[str]) -> str:
    dot = "" if zone == "." else f"{zone}."
    head = [
        f"$ORIGIN {zone.strip('.')}.",
        f"@ 60 SOA ns.{dot} hostmaster.{dot} 1 3600 600 86400 5",
        f"@ 60 NS ns.{dot}",
    ]
    address = [] if zone == "." else [f"ns 60 A {SERVER}"]
    return "\n".join([*head, *address, *records]) + "\n"


def _signed(zone: str, text: str, key: Key) -> str:
    parsed = dns.zone.from_text(text, zone if zone == "." else f"{zone}.", relativize=False)
    with parsed.writer() as writer:
        dns.dnssec.sign_zone(parsed, writer, keys=[key], inception=0, expiration=2**31 - 1, dnskey_ttl=60)  # type: ignore[list-item]
    return parsed.to_text(relativize=False)
