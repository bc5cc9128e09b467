"""The hook's datagram: text in, an Answer out; a verdict in, text out. docs/contracts.md, 5.

Knows: the datagram and DNS presentation format (by dnspython). Must not know: rules, sockets. What arrives is
hostile: anything that is not understood raises Malformed with a reason.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from ipt_server.core.answers import AAAA, CNAME, DNAME, HTTPS, PTR, SVCB, A, Answer, Judgement, Record

MAX_RECORDS = 1000
MAX_NAME = 1004  # 255 bytes of wire format, each escaped as \DDD
_WANTED = frozenset((A, AAAA, CNAME, DNAME, PTR, SVCB, HTTPS))
_NONCE = re.compile(r"[!-~]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_PLAIN = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_PLAIN_LABEL = re.compile(rb"[!-\-/-\[\]-~]*")  # printable, neither dot nor backslash


class Malformed(Exception):
    """A datagram that is no question of the hook; the text says why. `nonce` is what could be read of it, or ""."""

    def __init__(self, why: str, nonce: str = "") -> None:
        super().__init__(why)
        self.nonce = nonce


@functools.lru_cache(16384)
def name(text: str) -> str:
    """A name in presentation form, canonical: lower case, no last dot, escapes as the recursor writes them.

    The suffix filter hashes this text here and the recursor's own there, so that both must agree. Raises Malformed.
    """
    if len(text) <= 253 and _PLAIN.fullmatch(text):
        return text.rstrip(".").lower()
    if len(text) > MAX_NAME:
        raise Malformed(f"no name: {text[:80]!r}: {len(text)} characters")
    try:
        labels = dns.name.from_text(text).labels
    except (dns.exception.DNSException, UnicodeError, ValueError) as error:
        raise Malformed(f"no name: {text[:80]!r}: {error}") from None
    return canonical(labels)


def canonical(labels: tuple[bytes, ...]) -> str:
    """Labels of an absolute name as canonical text: `.` and `\\` behind a backslash, what is not printable as \\DDD."""
    return ".".join(_label(label.lower()) for label in labels[:-1])


def _label(label: bytes) -> str:
    if _PLAIN_LABEL.fullmatch(label):
        return label.decode("ascii")
    return "".join(
        f"\\{chr(byte)}" if byte in b".\\" else chr(byte) if 0x20 < byte < 0x7F else f"\\{byte:03d}" for byte in label
    )


def parse(data: bytes) -> Answer:
    """The answer that a datagram tells of. Raises Malformed."""
    head_line, _, rest = data.partition(b"\n")
    head = head_line.decode("ascii", "replace").split(" ")
    nonce = head[0] if _NONCE.fullmatch(head[0]) else ""
    if len(head) != 4 or not nonce or not head_line.isascii():
        raise Malformed("the first line is not `<nonce> <qtype> <client> <qname>`", nonce)
    try:
        lines = rest.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("not ASCII", nonce) from None
    if len(lines) > MAX_RECORDS:
        raise Malformed(f"{len(lines)} records; at most {MAX_RECORDS}", nonce)
    try:
        qtype, qname = _number(head[1], 0xFFFF), name(head[3])
        client = _client(head[2])
        records = tuple(_record(line) for line in lines if line)
    except Malformed as error:
        raise Malformed(str(error), nonce) from None
    return Answer(nonce, qtype, client, qname, records)


def _number(text: str, largest: int) -> int:
    value = int(text) if _NUMBER.fullmatch(text) else -1
    if not 0 <= value <= largest:
        raise Malformed(f"no number from 0 to {largest}: {text[:80]!r}")
    return value


@functools.lru_cache(4096)
def _client(text: str) -> str:
    return str(_address(text, ipaddress.ip_address))


@functools.lru_cache(65536)
def _address(text: str, family: Any) -> Any:
    """An address of a family; one with a scope is none that can be routed. Raises Malformed."""
    try:
        if "%" not in text:
            return family(text)
    except ValueError:
        pass
    raise Malformed(f"no address: {text[:80]!r}")


def _record(line: str) -> Record:
    parts = line.split(" ", 3)
    if len(parts) != 4:
        raise Malformed(f"no record: {line[:80]!r}")
    kind, ttl, content = _number(parts[0], 0xFFFF), _number(parts[1], 2**31 - 1), parts[3]
    if kind not in _WANTED:
        raise Malformed(f"no record that was asked for: {line[:80]!r}")
    owner = name(parts[2])
    if kind == A:
        return Record(kind, ttl, owner, (_address(content, ipaddress.IPv4Address),))
    if kind == AAAA:
        return Record(kind, ttl, owner, (_address(content, ipaddress.IPv6Address),))
    if kind in (CNAME, DNAME, PTR):
        return Record(kind, ttl, owner, target=name(content))
    return _service(kind, ttl, owner, content)


def _service(kind: int, ttl: int, owner: str, content: str) -> Record:
    """SVCB and HTTPS, RFC 9460: the target ("." is the owner itself) and the address hints."""
    try:
        rdata: Any = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.RdataType(kind), content)
        hints = tuple(
            ipaddress.ip_address(text) for value in rdata.params.values() for text in getattr(value, "addresses", ())
        )
        target = canonical(rdata.target.labels)
    except (dns.exception.DNSException, ValueError, UnicodeError, IndexError) as error:
        raise Malformed(f"no SVCB record: {content[:80]!r}: {error}") from None
    return Record(kind, ttl, owner, hints, None if target in ("", owner) else target)


def verdict(nonce: str, judgement: Judgement) -> bytes:
    """The datagram that lets an answer go, changed as the judgement says."""
    drop = ("6" if judgement.no_ipv6 else "") + ("h" if judgement.no_hints else "")
    if drop:
        return f"{nonce} D {judgement.ttl} {drop}".encode()
    return f"{nonce} T {judgement.ttl}".encode() if judgement.ttl else nonce.encode()


def refusal(nonce: str) -> bytes:
    """The datagram that makes an answer fail."""
    return f"{nonce} F".encode()
