"""The hook's datagram: what is well-formed is read exactly, what is not is refused and never raises anything else."""

from __future__ import annotations

import ipaddress

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipt_server.core.answers import Answer, Judgement
from ipt_server.dns import protocol

HEAD = b"ab-1 1 10.11.0.2 www.shop.ru."


def test_a_whole_answer() -> None:
    text = (
        b"ab-1 1 10.11.0.2 WWW.shop.ru.\n"
        b"5 60 www.shop.ru. cdn.example.com.\n"
        b"1 30 cdn.example.com. 81.2.69.160\n"
        b"28 31 cdn.example.com. 2a00:23c5::160\n"
        b'65 32 cdn.example.com. 1 edge.example.com. alpn="h2,h3" ipv4hint=81.2.69.161,81.2.69.162 '
        b"ipv6hint=2a00:23c5::161\n"
        b"65 33 cdn.example.com. 1 . alpn=h2"
    )
    answer = protocol.parse(text)
    ip = ipaddress.ip_address
    assert answer == Answer(
        "ab-1",
        "10.11.0.2",
        ("www.shop.ru", "cdn.example.com"),
        60,
        (ip("81.2.69.160"), ip("2a00:23c5::160")),
        (ip("81.2.69.161"), ip("81.2.69.162"), ip("2a00:23c5::161")),
        ("edge.example.com",),
    )


def test_ptr_of_a_name_with_escapes() -> None:
    answer = protocol.parse(
        b"n 12 fd00::2 160.69.2.81.in-addr.arpa.\n12 60 160.69.2.81.in-addr.arpa. a\\.b\\032c.Shop.RU."
    )
    assert answer.names == ("160.69.2.81.in-addr.arpa", "a\\.b\\032c.shop.ru")
    assert answer.addresses == (ipaddress.ip_address("81.2.69.160"),)


@pytest.mark.parametrize(
    ("data", "nonce"),
    [
        (b"", ""),
        (b"\n", ""),
        (b"ab-1", "ab-1"),
        (b"ab-1 1 10.11.0.2", "ab-1"),
        (b"x" * 65 + b" 1 10.11.0.2 a.", ""),
        (b"\x00 1 10.11.0.2 a.", ""),
        (b"ab-1 1 10.11.0.2 \xff.ru.", "ab-1"),
        (HEAD + b"\n1 60 www.shop.ru. \xff", "ab-1"),
        (b"ab-1 -1 10.11.0.2 a.", "ab-1"),
        (b"ab-1 1_0 10.11.0.2 a.", "ab-1"),
        (b"ab-1 65536 10.11.0.2 a.", "ab-1"),
        (b"ab-1 " + b"9" * 5000 + b" 10.11.0.2 a.", "ab-1"),
        (b"ab-1 1 nobody a.", "ab-1"),
        (b"ab-1 1 10.11.0.2 a..b.", "ab-1"),
        (b"ab-1 1 10.11.0.2 " + b"a" * 64 + b".", "ab-1"),
        (b"ab-1 1 10.11.0.2 " + b"abcdefg." * 32, "ab-1"),
        (b"ab-1 1 10.11.0.2 " + b"\\300.", "ab-1"),
        (HEAD + b"\n1 60 www.shop.ru.", "ab-1"),
        (HEAD + b"\n1 60 www.shop.ru. 300.1.1.1", "ab-1"),
        (HEAD + b"\n1 60 www.shop.ru. 2a00:23c5::160", "ab-1"),
        (HEAD + b"\n28 60 www.shop.ru. 2a00:23c5::160%eth0", "ab-1"),
        (HEAD + b"\n16 60 www.shop.ru. text", "ab-1"),
        (HEAD + b"\n1 2147483648 www.shop.ru. 81.2.69.160", "ab-1"),
        (HEAD + b"\n1 -5 www.shop.ru. 81.2.69.160", "ab-1"),
        (HEAD + b"\n65 60 www.shop.ru. 1 . ipv4hint=nonsense", "ab-1"),
        (HEAD + b"\n65 60 www.shop.ru. junk", "ab-1"),
        (HEAD + b"\n1 60 www.shop.ru. 81.2.69.160" * 2000, "ab-1"),
    ],
)
def test_what_is_refused_and_which_nonce_gets_told(data: bytes, nonce: str) -> None:
    with pytest.raises(protocol.Malformed) as refused:
        protocol.parse(data)
    assert refused.value.nonce == nonce
    assert len(str(refused.value)) < 300, "a message as long as what it is about"


def test_a_datagram_of_60_kb_within_bounds_is_read() -> None:
    lines = b"".join(b"\n1 60 %s.shop.ru. 81.2.%d.%d" % (b"n" * 40, n >> 8, n & 255) for n in range(999))
    data = HEAD + lines
    assert 60_000 < len(data) < 70_000
    assert len(protocol.parse(data).addresses) == 999


def test_the_longest_name() -> None:
    text = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]) + "."
    assert protocol.name(text) == text[:-1]
    with pytest.raises(protocol.Malformed):
        protocol.name(text.replace("d", "dd", 1))
    # every byte escaped: 1,004 characters
    escaped = "".join(f"\\{0x80 + n % 64}" for n in range(63))
    assert protocol.name(f"{escaped}.{escaped}.{escaped}.") == f"{escaped}.{escaped}.{escaped}"


labels = st.lists(st.binary(min_size=1, max_size=63), min_size=1, max_size=3)


def as_the_recursor_writes(label: bytes) -> str:
    """DNSName::toString: case kept, backslash before dot and backslash, \\DDD for what is not printable."""
    return "".join("\\" + chr(b) if b in b"\\." else chr(b) if 0x20 < b < 0x7F else f"\\{b:03d}" for b in label)


@given(labels)
def test_any_name_reads_as_the_recursor_writes_it(name: list[bytes]) -> None:
    text = ".".join(map(as_the_recursor_writes, name)) + "."
    canonical = protocol.name(text)
    assert canonical == text[:-1].lower()
    assert dns.name.from_text(canonical).labels[:-1] == tuple(label.lower() for label in name)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda b: HEAD + b"\n" + b))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        protocol.parse(data)
    except protocol.Malformed:
        return


words = st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=40)
lines = st.tuples(st.sampled_from(["1", "5", "12", "28", "39", "64", "65", "x"]), words, words, words).map(" ".join)


@given(st.lists(lines, max_size=5))
def test_any_records_are_read_or_refused(records: list[str]) -> None:
    try:
        protocol.parse(HEAD + b"\n" + "\n".join(records).encode())
    except protocol.Malformed:
        return


@pytest.mark.parametrize(
    ("judgement", "text"),
    [
        (Judgement(), b"n"),
        (Judgement(ttl=60), b"n T 60"),
        (Judgement(ttl=60, no_ipv6=True), b"n D 60 6"),
        (Judgement(no_hints=True), b"n D 0 h"),
        (Judgement(ttl=5, no_ipv6=True, no_hints=True), b"n D 5 6h"),
    ],
)
def test_verdicts(judgement: Judgement, text: bytes) -> None:
    assert protocol.verdict("n", judgement) == text
    assert protocol.refusal("n") == b"n F"
