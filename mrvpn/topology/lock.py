"""`lock.yaml`: what was assigned once, so that nothing is renumbered when a host, tunnel or rule is added anywhere.

Knows: the form of the lock. Must not know: how numbers are chosen (assign.py). What is no longer described stays in the
lock, and its numbers stay taken, until it is pruned: the kernel may still hold connections with a freed mark.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mrvpn import marks
from mrvpn.errors import Problem
from mrvpn.schema.model import Address, Port
from mrvpn.schema.source import LOCK, Path_, Source, dotted, read_beside

HEAD = """\
# What was assigned: addresses, ports, marks, tables, router ids. Written by `mrvpn lock`; goes into git.
# Taking a line out sets its number free.
"""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LockedExit(_Model):
    """The numbers of an exit."""

    mark: Annotated[int, Field(gt=0, le=marks.MAX_EXIT_MARK)]
    table: Annotated[int, Field(gt=0, lt=2**32)]


class Lock(_Model):
    """All that is pinned; empty where there is no lock."""

    version: Literal[1] = 1
    addresses: dict[str, dict[str, tuple[Address, ...]]] = {}  # tunnel -> host -> one a family
    ports: dict[str, dict[str, Port]] = {}  # tunnel -> host
    exits: dict[str, LockedExit] = {}
    rules: dict[str, Annotated[int, Field(ge=0, lt=marks.MAX_RULES)]] = {}  # a rule's name -> its number
    router_ids: dict[str, dict[str, Annotated[str, BeforeValidator(lambda v: str(ipaddress.IPv4Address(v)))]]] = {}


def place(path: Path) -> Path:
    """Where the lock of a description (file or folder) is."""
    return (path if path.is_dir() else path.parent) / LOCK


def read(path: Path, source: Source) -> Lock:
    """The lock beside a description; an empty one where there is none, or, with problems added, where it is bad."""
    file = place(path)
    if not file.is_file():
        return Lock()
    found = read_beside(file, source)
    if found is None:
        return Lock()
    tree, lines = found

    def problem(at: Path_, message: str) -> None:
        while at and at not in lines:
            at = at[:-1]
        line = lines.get(at, 1)
        source.problems.append(Problem(LOCK, line, dotted(at), f"{message}: run `mrvpn lock` from a good one", "lock"))

    try:
        lock = Lock.model_validate(tree)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            problem(tuple(item["loc"]), f"cannot be read ({item['msg']})")
        return Lock()
    for kind, numbers in _numbers(lock):
        seen: dict[Any, Path_] = {}
        for at, number in numbers:
            other = seen.setdefault(number, at)
            if other != at:
                problem(at, f"{kind} {number} is {dotted(other)}'s already")
    return lock


def _numbers(lock: Lock) -> Iterator[tuple[str, list[tuple[Path_, Any]]]]:
    """What must be different from each other, by kind."""
    yield "mark", [(("exits", name), e.mark) for name, e in lock.exits.items()]
    yield "table", [(("exits", name), e.table) for name, e in lock.exits.items()]
    yield "rule", [(("rules", name), number) for name, number in lock.rules.items()]
    for tunnel, hosts in lock.addresses.items():
        yield "address", [(("addresses", tunnel, host), a) for host, found in hosts.items() for a in found]
    ids = [
        ((("router_ids", host, space)), i) for host, spaces in lock.router_ids.items() for space, i in spaces.items()
    ]
    yield "router id", [(at, number) for at, number in ids]


class _Dumper(yaml.SafeDumper):
    """Lists and innermost maps in one line each, so that a change is one line of a review."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = False
        return node

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def dump(lock: Lock) -> str:
    """The text of the file."""
    tree = {key: value for key, value in lock.model_dump(mode="json").items() if value}
    return HEAD + yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=200, allow_unicode=True)
