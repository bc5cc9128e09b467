"""YAML files of a description -> one tree of plain values, and the place of every key in it.

Knows: YAML, files. Must not know: which keys mean what. The files are plain data: no Jinja, no aliases, no tags.
Built from the parser's events in one pass: depth, aliases and tags are refused before anything grows from them.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mrvpn.errors import Problem

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML without libyaml: slower, the same result
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

LOCK = "lock.yaml"
MAX_BYTES = 10 * 2**20
MAX_DEPTH = 32
Path_ = tuple[str | int, ...]
TOP = ("mrvpn", "mrvpn_config")


@dataclass
class Source:
    """The merged tree under `mrvpn:`, where each path stands (file, line), and the problems met while reading.

    `left_out` holds the paths whose values were of no use: nothing that depends on them is a finding of its own.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[Path_, tuple[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    complete: bool = True  # every file could be read
    left_out: set[Path_] = field(default_factory=set)
    _above: set[Path_] = field(default_factory=set)  # every path above one that was left out

    def place(self, path: Path_) -> tuple[str, int]:
        """File and line of a path, or of the nearest one above it that stands in a file."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (self.files[0] if self.files else "", 0))

    def problem(self, path: Path_, message: str, code: str, *, warning: bool = False, absent: bool = False) -> None:
        """Adds a problem at a path, unless something at or above it was left out.

        `absent`: it tells of what is not there, which may be what was left out below.
        """
        if self.touched(path) if absent else self.unsure(path):
            return
        file, line = self.place(path)
        self.problems.append(Problem(file, line, dotted(path), message, code, "warning" if warning else "error"))

    def unsure(self, path: Path_) -> bool:
        """Whether a path, or one above it, was left out."""
        return bool(self.left_out) and any(path[:n] in self.left_out for n in range(1, len(path) + 1))

    def lacks(self, path: Path_, levels: int) -> bool:
        """Whether anything at a path, above it, or so many levels below it was left out."""
        return self.unsure(path) or any(
            len(left) <= len(path) + levels and left[: len(path)] == path for left in self.left_out
        )

    def leave_out(self, path: Path_) -> None:
        """Notes that a path's value is of no use."""
        self.left_out.add(path)
        self._above.update(path[:n] for n in range(1, len(path)))

    def touched(self, path: Path_) -> bool:
        """Whether anything at, above or below a path was left out."""
        return self.unsure(path) or path in self._above


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
        files = sorted(p for p in path.glob("*.yaml") if p.name != LOCK)
        for other in sorted(path.glob("*.yml")):
            message = f"is not read: rename it to {other.stem}.yaml"
            source.problems.append(Problem(other.name, 0, "", message, "not-read", "warning"))
        if not files:
            source.problems.append(Problem(str(path), 0, "", "no *.yaml file here", "no-files"))
    elif path.is_file():
        files = [path]
    else:
        source.problems.append(Problem(str(path), 0, "", "no such file or folder", "no-files"))
        files = []
    source.complete = bool(files)
    for file in files:
        if not _read_file(file, source):
            source.complete = False
    return source


def read_beside(file: Path, source: Source) -> tuple[dict[str, Any], dict[Path_, int]] | None:
    """The map and the lines of a YAML file that is no part of the description; None with problems added."""
    text = _text(file, source)
    if text is None:
        return None
    reader = _Reader(source, file.name)
    tree = reader.document(text)
    for path, message, code, line in reader.problems:
        source.problems.append(Problem(file.name, line, dotted(path), message, code))
    return None if tree is None or reader.problems else (tree, reader.lines)


def _text(file: Path, source: Source) -> str | None:
    line = 0
    try:
        size = file.stat().st_size
        raw = file.read_bytes() if size <= MAX_BYTES else b""
        if size <= MAX_BYTES:
            return raw.decode("utf-8-sig")
        message, code = f"is {size} bytes; a description file has at most {MAX_BYTES}", "too-large"
    except OSError as error:
        message, code = f"cannot be read: {error.strerror}", "unreadable"
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        message, code = f"is not UTF-8 (byte {error.start}): save it as UTF-8", "encoding"
    source.problems.append(Problem(file.name, line, "", message, code))
    return None


def _read_file(file: Path, source: Source) -> bool:
    """Adds the map under `mrvpn:` to the source; False with problems added where it has none."""
    source.files.append(file.name)
    text = _text(file, source)
    if text is None:
        return False
    reader = _Reader(source, file.name)
    tree: Any = reader.document(text)
    if tree is None:
        return False
    prefix: Path_ = ()
    # some files of MRVPN2 wrap everything once more
    while isinstance(tree, dict) and len(tree) == 1 and next(iter(tree)) in TOP[len(prefix) :]:
        (key,) = tree
        tree, prefix = tree[key], (*prefix, key)
    if not prefix or not isinstance(tree, dict):
        told = "must hold a map" if prefix else "must be the one key at the top"
        source.problems.append(Problem(file.name, 1, "", f"`mrvpn:` {told}", "top"))
        return False
    cut = len(prefix)
    for path, message, code, line in reader.problems:
        source.problems.append(Problem(file.name, line, dotted(path[cut:]), message, code))
        if code in ("tag", "value"):
            source.leave_out(path[cut:])
    lines = {path[cut:]: line for path, line in reader.lines.items() if len(path) > cut}
    _merge(source, source.tree, tree, (), (file.name, lines))
    for path, line in lines.items():
        source.places.setdefault(path, (file.name, line))
    return True


def _merge(
    source: Source, into: dict[str, Any], tree: dict[str, Any], path: Path_, at: tuple[str, dict[Path_, int]]
) -> None:
    """Adds a file's keys to `into`: maps merge across files, anything else set twice is a problem."""
    file, lines = at
    for key, value in tree.items():
        here = (*path, key)
        if key not in into:
            into[key] = value
        elif isinstance(into[key], dict) and isinstance(value, dict):
            _merge(source, into[key], value, here, at)
        else:
            other = "{}:{}".format(*source.place(here))
            message = f"is set already in {other}: keep one"
            source.problems.append(Problem(file, lines[here], dotted(here), message, "duplicate-key"))


class _Stop(Exception):
    """The document cannot be used; the problem has been added."""


class _Reader:
    """One file's events -> plain values, with the line of every path."""

    def __init__(self, source: Source, file: str) -> None:
        self._source = source
        self._file = file
        self._events: Iterator[Any] = iter(())
        self.lines: dict[Path_, int] = {}
        self.problems: list[tuple[Path_, str, str, int]] = []  # of the values: path, message, code, line

    def document(self, text: str) -> dict[str, Any] | None:
        """The one document's map; None with the reason added to the source's problems."""
        try:
            self._events = yaml.parse(text, Loader=Loader)
            next(self._events)  # the stream begins
            event = next(self._events)
            if isinstance(event, yaml.StreamEndEvent):
                self._stop(None, "is empty: `mrvpn:` stands at the top of every file", "top")
            found = self._value(next(self._events), (), 0)
            next(self._events)  # the document ends
            event = next(self._events)
            if not isinstance(event, yaml.StreamEndEvent):
                self._stop(event, "holds a second document: one file, one document", "syntax")
            if not isinstance(found, dict):
                self._stop(None, "`mrvpn:` must be the one key at the top", "top")
            return found  # type: ignore[no-any-return]
        except _Stop:
            return None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            indent = text.splitlines()[line - 1 : line] if line else []
            hint = " (tabs cannot indent YAML: use spaces)" if indent and "\t" in _indent(indent[0]) else ""
            self._add(line, f"is not YAML: {error.problem}{hint}", "syntax")
        except yaml.YAMLError as error:
            self._add(0, f"is not YAML: {str(error).splitlines()[0]}", "syntax")
        return None

    def _add(self, line: int, message: str, code: str) -> None:
        self._source.problems.append(Problem(self._file, line, "", message, code))

    def _stop(self, event: Any, message: str, code: str) -> None:
        self._add(event.start_mark.line + 1 if event else 0, message, code)
        raise _Stop

    def _value(self, event: Any, path: Path_, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.AliasEvent):
            self._stop(event, f"aliases (*{event.anchor}) are not read: write the value out", "alias")
        if depth == MAX_DEPTH:
            self._stop(event, f"is nested more than {MAX_DEPTH} levels deep", "depth")
        if event.tag is not None:
            self._tag(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                here = (*path, len(items))
                self.lines[here] = event.start_mark.line + 1
                items.append(self._value(event, here, depth + 1))
            return items
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                self._value(event, path, depth + 1)
                self._value(next(self._events), path, depth + 1)
                self.problems.append((path, "a key must be a plain word", "key", line))
                continue
            key, here = event.value, (*path, event.value)
            twice = key in found
            if twice:
                message = f"stands twice in this map, first in line {self.lines[here]}: keep one"
                self.problems.append((here, message, "duplicate-key", line))
            else:
                self.lines[here] = line
            value = self._value(next(self._events), here, depth + 1)
            if not twice:
                found[key] = value
        return found

    def _scalar(self, event: Any, path: Path_) -> Any:
        if event.tag is not None:
            return self._tag(event, path)
        if not event.implicit[0]:  # in quotes, or a block
            return event.value
        try:
            return _plain(event.value)
        except ValueError:
            message = "cannot be read as a number: put it into quotes"
            self.problems.append((path, message, "value", event.start_mark.line + 1))
            return None

    def _tag(self, event: Any, path: Path_) -> Any:
        hint = ": write {secret: NAME} and put it into the master's secrets" if "vault" in event.tag else ""
        message = f"tags ({event.tag.replace('tag:yaml.org,2002:', '!!')}) are not read{hint}"
        self.problems.append((path, message, "tag", event.start_mark.line + 1))
        return None


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


_yaml = yaml.SafeLoader("")


def _resolve(text: str) -> str:
    return _yaml.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call, no-any-return]


@functools.lru_cache(maxsize=8192)
def _plain(text: str) -> Any:
    """A plain scalar as YAML 1.1 reads it: null, bool, int, float or text. Raises ValueError.

    Two exceptions: `NO` is Norway, and dates stay text.
    """
    if text == "NO":
        return text
    node = yaml.ScalarNode(_resolve(text), text)
    construct = yaml.SafeLoader.yaml_constructors.get(node.tag)
    value = construct(_yaml, node) if construct else text
    return text if isinstance(value, (datetime.date, bytes)) else value
