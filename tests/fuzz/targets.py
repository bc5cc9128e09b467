"""What is fuzzed: bytes in, nothing out; an exception is a find. Seeds are the texts that the other tests pin.

Each target states what must hold of what is accepted, too: a parser that accepts anything would never raise.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ipt_server import memory
from ipt_server import settings as daemon_settings
from ipt_server.core.names import NameIndex
from ipt_server.core.rules import RuleSet
from ipt_server.dns import policies, protocol
from ipt_server.lists import includes
from ipt_server.lists.formats import FORMATS, ListRefused, parse
from mrvpn.compiler import compile_path

GOLDEN = Path(__file__).parents[1] / "golden" / "descriptions"
GOOD = Path(__file__).parents[1] / "bad" / "good"


def datagram(data: bytes) -> None:
    """A question of the hook."""
    try:
        protocol.parse(data)
    except protocol.Malformed as malformed:
        assert str(malformed)


def names(data: bytes) -> None:
    """A list: the first byte picks the format, the rest is the text."""
    listed(data[1:].decode(errors="replace"), ("auto", *FORMATS)[data[0] % 6] if data else "auto")


def listed(text: str, kind: str) -> None:
    """A list of a format: what it covers is matched, and no name becomes anything else in a policy zone."""
    try:
        found = parse(text, kind)
    except ListRefused as refused:
        assert 0 < len(str(refused)) < 400
        return
    index = NameIndex()
    index.add_listed(1, found)
    index.finish()
    for name in [*found.exact, *found.suffixes]:
        assert index.match(name) == {1}, name
    zone, _ = policies.zone([found])
    assert all(line.endswith(" CNAME .") for line in zone.removeprefix(policies.HEAD).splitlines())
    assert "rpz-" not in {line.split()[0].rpartition(".")[2][:4] for line in zone.splitlines()}


def included(data: bytes) -> None:
    """Lists that include each other: files a, b, ... are what NUL bytes part."""
    files = dict(zip("abcdefgh", data.decode(errors="replace").split("\0"), strict=False))

    def read(name: str) -> str:
        if name not in files:
            raise ListRefused("is not there")
        return files[name]

    try:
        whole = includes.whole(files["a"], "a", read)
    except ListRefused as refused:
        assert str(refused)
        return
    assert includes.whole(whole, "a", read) == whole, "nothing is left to include"


def settings(data: bytes) -> None:
    """The daemon's settings: refused with every problem as a line, or good for rules."""
    try:
        value = daemon_settings.load(_file("settings.yaml", data))
    except daemon_settings.Refused as refused:
        assert refused.problems and all(refused.problems)
        return
    RuleSet(value, {}).release()


def description(data: bytes) -> None:
    """The description: problems with their place, or a network."""
    compiled = compile_path(_file("network.yaml", data))
    assert compiled.network is not None or compiled.errors
    for problem in compiled.problems:
        assert str(problem)


def remembered(data: bytes) -> None:
    """The file of learned addresses, as a crash may leave it."""
    memory.load(_file("learned.jsonl", data), 0.0)


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="mrvpn-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name.partition(".")[0] / name  # a description's file is read with what lies beside it
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


# --- seeds


def golden_settings() -> Iterator[dict[str, Any]]:
    """The settings in every golden view."""
    for path in sorted(GOLDEN.glob("*/views.json")):
        for view in json.loads(path.read_text())["views"].values():
            for routing in view.get("routing") or ():
                yield {"version": "v", **routing["settings"]}


def _lists() -> Iterator[str]:
    from tests.unit.ipt_lists import test_formats as golden

    yield from (
        golden.PLAIN,
        golden.HOSTS,
        golden.DNSMASQ,
        golden.CLASH_DOMAINS,
        golden.CLASH_CLASSICAL,
        golden.GEOSITE,
    )


def _included() -> Iterator[str]:
    yield "a.com\ninclude:b @ads @-cn\n\0b.com @ads\ninclude:c\n\0full:c.com @ads @cn\nregexp:^c$ @ads # c\n"
    yield "include:b\n\0include:a\n"


def _datagrams() -> Iterator[str]:
    yield (
        "ab-1 1 10.11.0.2 WWW.shop.ru.\n5 60 www.shop.ru. cdn.example.com.\n1 30 cdn.example.com. 81.2.69.160\n"
        "28 31 cdn.example.com. 2a00:23c5::160\n"
        '65 32 cdn.example.com. 1 edge.example.com. alpn="h2,h3" ipv4hint=81.2.69.161 ipv6hint=2a00:23c5::161'
    )
    yield "n 12 fd00::2 160.69.2.81.in-addr.arpa.\n12 60 160.69.2.81.in-addr.arpa. a\\.b\\032c.Shop.RU."


def _remembered() -> Iterator[str]:
    yield '{"a": "81.2.69.160", "m": 65536, "e": 1.5, "n": "www.shop.ru"}\n'


def _descriptions() -> Iterator[str]:
    for path in [*sorted(GOOD.glob("*.yaml")), *sorted(GOLDEN.glob("*/network.yaml"))]:
        yield path.read_text()


@dataclass(frozen=True)
class Target:
    """A function of bytes, texts to begin with, and how many times dearer a case is than a datagram's."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[str]]
    cost: int = 1


TARGETS = {
    "datagram": Target(datagram, _datagrams),
    "names": Target(names, lambda: (chr(n) + text for text in _lists() for n in (0, *range(1, 6)))),
    "included": Target(included, _included),
    "settings": Target(settings, lambda: map(json.dumps, golden_settings()), 20),
    "description": Target(description, _descriptions, 40),
    "remembered": Target(remembered, _remembered, 2),
}
