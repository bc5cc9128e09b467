"""The hook's datagram: text in, an Answer out; a verdict in, text out. docs/contracts.md, 5.

Knows: the datagram and DNS presentation format (by dnspython). Must not know: rules, sockets. What arrives is
hostile: anything that is not understood raises Malformed with a reason.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from ipt_server.core.answers import AAAA, CNAME, DNAME, HTTPS, PTR, SVCB, A, Answer, Judgement, Record

MAX_RECORDS = 1000
_WANTED = frozenset((A, AAAA, CNAME, DNAME, PTR, SVCB, HTTPS))


class Malformed(Exception):
    """A datagram that is no question of the hook; the text says why. `nonce` is what could be read of it, or ""."""

    def __init__(self, why: str, nonce: str = "") -> None:
        super().__init__(why)
        self.nonce = nonce


@functools.lru_cache(16384)
def name(text: str) -> str:
    """A name in presentation form, canonical: lower case, no last dot. Raises Malformed."""
    try:
        return dns.name.from_text(text).to_text(omit_final_dot=True).lower()
    except (dns.exception.DNSException, UnicodeError, ValueError) as error:
        raise Malformed(f"no name: {text[:80]!r}: {error}") from None


def parse(data: bytes) -> Answer:
    """The answer that a datagram tells of. Raises Malformed."""
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("not ASCII") from None
    head = lines[0].split(" ")
    nonce = head[0] if head[0] and len(head[0]) <= 64 and head[0].isprintable() else ""
    if len(head) != 4 or not nonce:
        raise Malformed("the first line is not `<nonce> <qtype> <client> <qname>`", nonce)
    if len(lines) - 1 > MAX_RECORDS:
        raise Malformed(f"{len(lines) - 1} records; at most {MAX_RECORDS}", nonce)
    try:
        qtype, qname = int(head[1]), name(head[3])
        records = tuple(_record(line) for line in lines[1:] if line)
    except Malformed as error:
        raise Malformed(str(error), nonce) from None
    except ValueError as error:
        raise Malformed(str(error), nonce) from None
    return Answer(nonce, qtype, head[2], qname, records)


def _record(line: str) -> Record:
    parts = line.split(" ", 3)
    if len(parts) != 4:
        raise Malformed(f"no record: {line[:80]!r}")
    kind, ttl, owner, content = int(parts[0]), int(parts[1]), name(parts[2]), parts[3]
    if kind not in _WANTED or not 0 <= ttl < 2**31:
        raise Malformed(f"no record that was asked for: {line[:80]!r}")
    if kind == A:
        return Record(kind, ttl, owner, (ipaddress.IPv4Address(content),))
    if kind == AAAA:
        return Record(kind, ttl, owner, (ipaddress.IPv6Address(content),))
    if kind in (CNAME, DNAME, PTR):
        return Record(kind, ttl, owner, target=name(content))
    return _service(kind, ttl, owner, content)


def _service(kind: int, ttl: int, owner: str, content: str) -> Record:
    """SVCB and HTTPS, RFC 9460: the target ("." is the owner itself) and the address hints."""
    try:
        rdata: Any = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.RdataType(kind), content)
    except (dns.exception.DNSException, ValueError) as error:
        raise Malformed(f"no SVCB record: {content[:80]!r}: {error}") from None
    target = rdata.target.to_text(omit_final_dot=True).lower()
    hints: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for value in rdata.params.values():
        for text in getattr(value, "addresses", ()):
            hints.append(ipaddress.ip_address(text))
    return Record(kind, ttl, owner, tuple(hints), None if target in ("", ".", owner) else target)


def verdict(nonce: str, judgement: Judgement) -> bytes:
    """The datagram that lets an answer go, changed as the judgement says."""
    drop = ("6" if judgement.no_ipv6 else "") + ("h" if judgement.no_hints else "")
    if drop:
        return f"{nonce} D {judgement.ttl} {drop}".encode()
    return f"{nonce} T {judgement.ttl}".encode() if judgement.ttl else nonce.encode()


def refusal(nonce: str) -> bytes:
    """The datagram that makes an answer fail."""
    return f"{nonce} F".encode()
