"""Hostile bytes: datagrams, lists of every format, the file of learned addresses. Refused or read, never worse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_server import memory
from ipt_server.core.names import NameIndex
from ipt_server.dns import protocol
from ipt_server.lists.formats import FORMATS, ListRefused, parse

# the same 300 cases in every run of the tests; `make fuzz` looks for new ones
CASES = int(os.environ.get("MRVPN_FUZZ", "300"))
profile = settings(deadline=None, derandomize="MRVPN_FUZZ" not in os.environ, max_examples=CASES)
pieces = st.sampled_from(
    [
        *("payload:", "- ", "DOMAIN,", "DOMAIN-REGEX,", "+.", "*.", "full:", "regexp:", "keyword:", "server=/", "/"),
        *("0.0.0.0 ", "::1 ", "example.com", "пример.рф", "xn--", "@cn", " ", "#", "'", '"', "\\", "(", "[", "{9999}"),
        *("\n", "\r", "\x00", "\ufeff", "a" * 64),
    ]
)
texts = st.lists(pieces | st.text(max_size=8), max_size=40).map("".join)
words = [
    b"n-1",
    b" ",
    b"\n",
    b"1",
    b"28",
    b"65",
    b"60",
    b"10.0.0.1",
    b"a.ru.",
    b"81.2.69.1",
    b"2a00::1",
    b"\\",
    b"\\255",
]
datagrams = st.lists(st.sampled_from(words) | st.binary(max_size=6), max_size=60).map(b"".join)


@given(datagrams)
@profile
def test_datagrams(data: bytes) -> None:
    try:
        protocol.parse(data)
    except protocol.Malformed:
        return


@given(texts, st.sampled_from(["auto", *FORMATS]))
@profile
def test_lists(text: str, kind: str) -> None:
    try:
        found = parse(text, kind)
    except ListRefused as refused:
        assert len(str(refused)) < 400
        return
    index = NameIndex()
    index.add_listed(1, found)
    index.finish()
    for name in [*found.exact, *found.suffixes]:
        assert index.match(name) == {1}


@given(st.binary(max_size=400))
@profile
def test_memory(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "fuzz-learned.jsonl"
    path.write_bytes(data)
    memory.load(path, 0.0)
