"""Hostile bytes into every parser (targets.py): refused or read, never worse."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_server.lists.formats import FORMATS
from tests.fuzz import targets
from tests.fuzz.targets import TARGETS

# the same 300 cases in every run of the tests; `make fuzz` looks for new ones
CASES = int(os.environ.get("MRVPN_FUZZ", "300"))


def cases(name: str) -> settings:
    """As many cases as the target's cost allows."""
    count = max(20, CASES // TARGETS[name].cost)
    return settings(deadline=None, derandomize="MRVPN_FUZZ" not in os.environ, max_examples=count)


pieces = st.sampled_from(
    [
        *("payload:", "- ", "DOMAIN,", "DOMAIN-REGEX,", "+.", "*.", "full:", "regexp:", "keyword:", "server=/", "/"),
        *("0.0.0.0 ", "::1 ", "example.com", "пример.рф", "xn--", "@cn", " ", "#", "'", '"', "\\", "(", "[", "{9999}"),
        *("IP-CIDR,", "192.0.2.0/24", "rpz-ip", ".", "\n", "\r", "\x00", "\ufeff", "a" * 64),
    ]
)
texts = st.lists(pieces | st.text(max_size=8), max_size=40).map("".join)
including = st.lists(
    st.sampled_from(
        ["include:a", "include:b", "include:c", "include:", " @ads", " @-ads", "x.com", "\n", "\n", "\0", "#"]
    )
    | st.text(max_size=4),
    max_size=40,
).map("".join)
words = st.sampled_from(
    b"n-1,\x20,\n,1,28,65,60,10.0.0.1,a.ru.,81.2.69.1,2a00::1,\\,\\255,ipv4hint=1.2.3.4,alpn=h2".split(b",")
)
datagrams = st.lists(words | st.binary(max_size=6), max_size=60).map(b"".join)
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6) | st.sampled_from(
        ["_DEFAULT", "wg_uk", "0.0.0.0/0", "::/0", "10.0.0.1", ".*\\.ru", "(", "1d", "/x", "https://x", "domain", "GB"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
# where, what goes there (in place of it or beside it), whether it is taken out instead
changes = st.lists(st.tuples(st.integers(0, 10**6), junk, st.booleans()), min_size=1, max_size=4)
GOLDEN = list(targets.golden_settings())


def changed(value: Any, many: list[tuple[int, Any, bool]]) -> Any:
    """The value with some of its parts taken out or replaced."""
    value = copy.deepcopy(value)
    for at, new, out in many:
        places: list[tuple[Any, Any]] = []
        todo = [value]
        for node in todo:
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            places += [(node, key) for key in keys]
            todo += [node[key] for key in keys]
        if not places:
            return new
        node, key = places[at % len(places)]
        if out:
            del node[key]
        else:
            node[key] = new
    return value


@given(datagrams)
@cases("datagram")
def test_datagrams(data: bytes) -> None:
    targets.datagram(data)


@given(texts, st.sampled_from(["auto", *FORMATS]))
@cases("names")
def test_lists(text: str, kind: str) -> None:
    targets.listed(text, kind)


@given(including)
@cases("included")
def test_lists_that_include(text: str) -> None:
    targets.included(text.encode())


@given(st.sampled_from(GOLDEN), changes)
@cases("settings")
def test_settings(value: dict[str, Any], many: list[tuple[int, Any, bool]]) -> None:
    targets.settings(json.dumps(changed(value, many)).encode())


@given(st.binary(max_size=200) | texts.map(str.encode))
@cases("settings")
def test_settings_that_are_no_mapping(data: bytes) -> None:
    targets.settings(data)


@given(st.sampled_from(list(TARGETS["description"].seeds())), st.integers(0, 10**6), st.integers(0, 60), texts)
@cases("description")
def test_descriptions(text: str, at: int, width: int, new: str) -> None:
    at %= len(text)
    targets.description((text[:at] + new + text[at + width :]).encode(errors="surrogatepass"))


@given(st.binary(max_size=400))
@cases("remembered")
def test_memory(data: bytes) -> None:
    targets.remembered(data)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_well_formed(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed.encode())
