"""The hook's datagram: text in, an Answer out; a verdict in, text out. docs/contracts.md, 5.

Knows: the datagram and DNS presentation format (by dnspython). Must not know: rules, whom a datagram came from. What
arrives is hostile: anything that is not understood raises Malformed with a reason.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from ipt_server.core.answers import AAAA, CNAME, DNAME, HTTPS, PTR, SVCB, A, Answer, Judgement, reverse_address
from ipt_server.core.rules import Address

MAX_RECORDS = 1000
MAX_TTL = 2**31 - 1
MAX_NAME = 1004  # 255 bytes of wire format, each escaped as \DDD
_A, _AAAA, _PTR = str(A), str(AAAA), str(PTR)
_CHAINS = frozenset(map(str, (CNAME, DNAME, PTR)))  # whose target is a name that was asked for, too
_SERVICES = frozenset(map(str, (SVCB, HTTPS)))
_PLAIN = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_HEAD = re.compile(rf"([!-~]{{1,64}}) ([0-9]{{1,5}}) (\S+) ({_PLAIN.pattern})")  # of nearly every datagram
_PLAIN_LABEL = re.compile(rb"[!-\-/-\[\]-~]*")  # printable, neither dot nor backslash


class Malformed(Exception):
    """A datagram that is no question of the hook; the text says why. `nonce` is what could be read of it, or ""."""

    def __init__(self, why: str, nonce: str = "") -> None:
        super().__init__(why)
        self.nonce = nonce


def name(text: str) -> str:
    """A name in presentation form, canonical: lower case, no last dot, escapes as the recursor writes them.

    The suffix filter hashes this text here and the recursor's own there, so that both must agree. Raises Malformed.
    """
    if len(text) <= 253 and _PLAIN.fullmatch(text):
        return text.rstrip(".").lower()
    return _escaped(text)


@functools.lru_cache(4096)
def _escaped(text: str) -> str:
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


def parse(data: bytes | bytearray) -> Answer:
    """The answer that a datagram tells of. Raises Malformed."""
    try:
        return _parse(data.decode("ascii"))
    except UnicodeDecodeError:
        why = "not ASCII"
    except Malformed as error:
        why = str(error)
    nonce = data[:65].decode("ascii", "replace").partition("\n")[0].partition(" ")[0]
    raise Malformed(why, nonce if _is_nonce(nonce) else "")


def _is_nonce(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and text.isprintable()


def _parse(text: str) -> Answer:
    first, *lines = text.split("\n")
    head = _HEAD.fullmatch(first)
    nonce, qtype, client, asked = head.groups() if head else _head(first)
    if len(lines) > MAX_RECORDS:
        raise Malformed(f"{len(lines)} records; at most {MAX_RECORDS}")
    if int(qtype) > 0xFFFF:
        raise _no_number(qtype, 0xFFFF)
    qname = asked.rstrip(".").lower() if head and len(asked) <= 253 else name(asked)
    names = [qname]
    addresses: list[Address] = []
    hints: list[Address] = []
    targets: list[str] = []
    largest = 0
    for line in lines:
        if not line:
            continue
        parts = line.split(" ", 3)
        if len(parts) != 4:
            raise Malformed(f"no record: {line[:80]!r}")
        kind, ttl_text, owner_text, content = parts
        if not ttl_text.isdigit() or len(ttl_text) > 10 or (ttl := int(ttl_text)) > MAX_TTL:
            raise _no_number(ttl_text, MAX_TTL)
        if ttl > largest:
            largest = ttl
        if owner_text == asked:  # as it mostly is
            owner = qname
        else:
            owner = name(owner_text)
            if kind != _PTR:
                names.append(owner)
        if kind == _A:
            addresses.append(_ipv4(content))
        elif kind == _AAAA:
            addresses.append(_ipv6(content))
        elif kind in _CHAINS:
            names.append(name(content))
            if kind == _PTR:
                about = reverse_address(qname)
                addresses += [about] if about is not None else ()
        elif kind in _SERVICES:
            found, target = _service(int(kind), owner, content)
            hints += found
            targets += [target] if target is not None else ()
        else:
            raise Malformed(f"no record that was asked for: {line[:80]!r}")
    chain = (qname,) if len(names) == 1 else tuple(dict.fromkeys(names))
    return Answer(nonce, _client(client), chain, largest, tuple(addresses), tuple(hints), tuple(targets))


def _head(first: str) -> list[str]:
    """The words of a first line whose name is not plain; in what it lacks lies what is wrong with another."""
    head = first.split(" ")
    if len(head) != 4 or not _is_nonce(head[0]):
        raise Malformed("the first line is not `<nonce> <qtype> <client> <qname>`")
    if not head[1].isdigit() or len(head[1]) > 5:
        raise _no_number(head[1], 0xFFFF)
    return head


def _no_number(text: str, largest: int) -> Malformed:
    return Malformed(f"no number from 0 to {largest}: {text[:80]!r}")


@functools.lru_cache(4096)
def _client(text: str) -> str:
    try:
        if "%" not in text:  # one with a scope is none that can be routed
            return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    raise _no_address(text)


def _no_address(text: str) -> Malformed:
    return Malformed(f"no address: {text[:80]!r}")


def _reader(family: int, address: Callable[[int], Address]) -> Callable[[str], Address]:
    """What reads one address of a family: inet_pton reads what ipaddress reads, in a fifth of its time."""

    @functools.lru_cache(65536)
    def read(text: str) -> Address:
        try:
            return address(int.from_bytes(socket.inet_pton(family, text), "big"))
        except OSError:
            raise _no_address(text) from None

    return read


_ipv4 = _reader(socket.AF_INET, ipaddress.IPv4Address)
_ipv6 = _reader(socket.AF_INET6, ipaddress.IPv6Address)


def _service(kind: int, owner: str, content: str) -> tuple[list[Address], str | None]:
    """SVCB and HTTPS, RFC 9460: the address hints, and the target ("." is the owner itself)."""
    try:
        rdata: Any = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.RdataType(kind), content)
        hints = [
            ipaddress.ip_address(text) for value in rdata.params.values() for text in getattr(value, "addresses", ())
        ]
        target = canonical(rdata.target.labels)
    except (dns.exception.DNSException, ValueError, UnicodeError, IndexError) as error:
        raise Malformed(f"no SVCB record: {content[:80]!r}: {error}") from None
    return hints, None if target in ("", owner) else target


def verdict(nonce: str, judgement: Judgement) -> bytes:
    """The datagram that lets an answer go, changed as the judgement says."""
    drop = ("6" if judgement.no_ipv6 else "") + ("h" if judgement.no_hints else "")
    if drop:
        return f"{nonce} D {judgement.ttl} {drop}".encode()
    return f"{nonce} T {judgement.ttl}".encode() if judgement.ttl else nonce.encode()


def refusal(nonce: str) -> bytes:
    """The datagram that makes an answer fail."""
    return f"{nonce} F".encode()
