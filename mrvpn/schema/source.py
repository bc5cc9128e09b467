"""YAML files of a description -> one tree of plain values, and the place of every key in it.

Knows: YAML, files. Must not know: which keys mean what. The files are plain data: no Jinja, no aliases, no tags.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mrvpn.errors import Problem

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML without libyaml: slower, the same result
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

MAX_BYTES = 10 * 2**20
Path_ = tuple[str | int, ...]


@dataclass
class Source:
    """The merged tree under `mrvpn:`, where each path stands (file, line), and the problems met while reading."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[Path_, tuple[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def place(self, path: Path_) -> tuple[str, int]:
        """File and line of a path, or of the nearest one above it that stands in a file."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (self.files[0] if self.files else "", 0))

    def problem(self, path: Path_, message: str, code: str, *, warning: bool = False) -> None:
        """Adds a problem at a path."""
        file, line = self.place(path)
        self.problems.append(Problem(file, line, dotted(path), message, code, "warning" if warning else "error"))


def dotted(path: Path_) -> str:
    """`routing.routes[0].interface` for ("routing", "routes", 0, "interface")."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read(path: Path) -> Source:
    """Reads a file, or every *.yaml of a folder but lock.yaml, in the order of their names."""
    source = Source()
    if path.is_dir():
        files = sorted(p for p in path.glob("*.yaml") if p.name != "lock.yaml")
        if not files:
            source.problems.append(Problem(str(path), 0, "", "no *.yaml file here", "no-files"))
    elif path.exists():
        files = [path]
    else:
        source.problems.append(Problem(str(path), 0, "", "no such file or folder", "no-files"))
        return source
    for file in files:
        _read_file(file, source)
    return source


def _read_file(file: Path, source: Source) -> None:
    name = file.name
    source.files.append(name)

    def fail(message: str, code: str, line: int = 0) -> None:
        source.problems.append(Problem(name, line, "", message, code))

    try:
        raw = file.read_bytes()
    except OSError as error:
        return fail(f"cannot be read: {error.strerror}", "unreadable")
    if len(raw) > MAX_BYTES:
        return fail(f"is {len(raw)} bytes; a description file has at most {MAX_BYTES}", "too-large")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return fail(
            f"is not UTF-8 (byte {error.start}): save it as UTF-8", "encoding", raw[: error.start].count(b"\n") + 1
        )
    try:
        for event in yaml.parse(text, Loader=Loader):
            if isinstance(event, yaml.AliasEvent):
                return fail("aliases (*name) are not read: write the value out", "alias", _line(event))
        node = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        hint = " (tabs cannot indent YAML: use spaces)" if "\\t" in str(error.problem) else ""
        return fail(f"is not YAML: {error.problem}{hint}", "syntax", line)
    except (yaml.YAMLError, RecursionError) as error:
        return fail(f"is not YAML: {error}", "syntax")
    if node is None:
        return fail("is empty: `mrvpn:` stands at the top of every file", "top")
    if not isinstance(node, yaml.MappingNode) or [k.value for k, _ in node.value] not in (["mrvpn"], ["mrvpn_config"]):
        return fail("`mrvpn:` must be the one key at the top", "top", node.start_mark.line + 1)
    body = node.value[0][1]
    if isinstance(body, yaml.MappingNode) and [k.value for k, _ in body.value] == ["mrvpn_config"]:
        body = body.value[0][1]  # some files of MRVPN2 wrap everything once more
    if not isinstance(body, yaml.MappingNode):
        return fail("`mrvpn:` must hold a map", "top", node.start_mark.line + 1)
    _merge(source, source.tree, body, (), name)


def _merge(source: Source, into: dict[str, Any], node: yaml.MappingNode, path: Path_, file: str) -> None:
    """Adds a map's keys to `into`: maps merge across files, anything else set twice is a problem."""
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = str(key_node.value)
        here = (*path, key)
        place = (file, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            source.problems.append(Problem(*place, dotted(path), "a key must be a plain word", "key"))
            continue
        if key in seen:
            source.problems.append(Problem(*place, dotted(here), "stands twice in this map: keep one", "duplicate-key"))
            continue
        seen.add(key)
        if key in into and isinstance(into[key], dict) and isinstance(value_node, yaml.MappingNode):
            _merge(source, into[key], value_node, here, file)
            continue
        if key in into:
            other = "{}:{}".format(*source.place(here))
            source.problems.append(
                Problem(*place, dotted(here), f"is set already in {other}: keep one", "duplicate-key")
            )
            continue
        source.places[here] = place
        into[key] = _value(source, value_node, here, file)


def _value(source: Source, node: yaml.Node, path: Path_, file: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        _merge(source, found, node, path, file)
        return found
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, item in enumerate(node.value):
            source.places[(*path, number)] = (file, item.start_mark.line + 1)
            items.append(_value(source, item, (*path, number), file))
        return items
    try:
        return _scalars.construct_object(node)
    except (yaml.YAMLError, ValueError):
        source.problem(path, f"cannot be read as {node.tag.rpartition(':')[2]}: put it into quotes", "value")
        return None


_scalars = yaml.SafeLoader("")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0
