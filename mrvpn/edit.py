"""Edits of a description's text: text in, text out. Comments, quotes, order and alignment of all other lines stay.

Knows: where a key stands in YAML text, and how a new one is written beside its neighbours. Must not know: what the keys
mean (changes.py), files, git. Only the lines of the edit differ; the result is read again and compared with what was
meant, so that an edit that cannot be made in this text is an error, never a wrong file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from mrvpn.schema.source import TOP

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # without libyaml slower, the same result
Path = tuple[str | int, ...]
Texts = Mapping[str, str]  # file name -> text
INDENT = 2


class CannotEdit(Exception):
    """The edit cannot be made in this text; the message says where and what would be right."""


def put(text: str, path: Path, value: Any) -> str:
    """The text with a new key (or a new value of one that is there) at a path below `mrvpn:`; parents are made."""
    return _edited(text, path, lambda tree, full: _assign(tree, full, value), lambda doc, full: doc.put(full, value))


def append(text: str, path: Path, value: Any, at: int | None = None) -> str:
    """The text with an item added to the list at a path: at its end, or before item number `at`."""

    def mean(tree: Any, full: Path) -> None:
        held = _get(tree, full)
        if held is None:
            _assign(tree, full, [value])
        else:
            held.insert(len(held) if at is None else at, value)

    return _edited(text, path, mean, lambda doc, full: doc.append(full, value, at))


def drop(text: str, path: Path) -> str:
    """The text without the key or list item at a path; the comment lines right above it go with it."""

    def mean(tree: Any, full: Path) -> None:
        del _get(tree, full[:-1])[full[-1]]

    return _edited(text, path, mean, lambda doc, full: doc.drop(full))


def get(text: str, path: Path) -> Any:
    """The value at a path below `mrvpn:`; None where there is none."""
    tree = _load(text)
    return _get(tree, _top(tree) + path)


def file_of(texts: Texts, path: Path) -> str:
    """The file that holds most of a path: where its value stands or belongs."""
    if not texts:
        raise CannotEdit("there is no file to edit")

    def depth(name: str) -> int:
        tree = _load(texts[name])
        node, found = _get(tree, _top(tree)), 0
        for part in path:
            if not isinstance(node, dict) or part not in node:
                break
            node, found = node[part], found + 1
        return found

    return max(sorted(texts), key=depth)


def _edited(text: str, path: Path, mean: Callable[[Any, Path], None], write: Callable[[_Document, Path], str]) -> str:
    tree = _load(text)
    if not isinstance(tree, dict):
        raise CannotEdit("the file has no `mrvpn:` at its top")
    full = _top(tree) + path
    meant = _copy(tree)
    try:
        mean(meant, full)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CannotEdit(f"{_dotted(path)} does not stand in this file") from None
    result = write(_Document(text), full)
    try:
        same = _plain(_load(result)) == _plain(meant)
    except CannotEdit:
        same = False
    if not same:
        raise CannotEdit(f"{_dotted(path)} is written in a way that cannot be edited line by line: edit it by hand")
    return result


def _copy(tree: Any) -> Any:
    """A copy in which an alias and its anchor are two values: an edit of one is meant for that one."""
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree


def _plain(tree: Any) -> Any:
    """Maps and lists that are empty are as good as absent ones: what the last child leaves behind."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items() if value not in (None, {}, [])}
    return [_plain(value) for value in tree] if isinstance(tree, list) else tree


def _load(text: str) -> Any:
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise CannotEdit(f"line {mark.line + 1 if mark else 0}: not YAML: mend it first") from None


def _top(tree: Any) -> Path:
    """`mrvpn`, and the second wrapping that some files of MRVPN2 have."""
    found: Path = ()
    while isinstance(tree, dict) and len(tree) == 1 and len(found) < len(TOP):
        (key,) = tree
        if key not in TOP[len(found) :]:
            break
        found, tree = (*found, key), tree[key]
    return found or (TOP[0],)


def _get(tree: Any, path: Path) -> Any:
    for part in path:
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree


def _assign(tree: Any, path: Path, value: Any) -> None:
    for part in path[:-1]:
        if isinstance(tree, dict) and tree.get(part) is None:
            tree[part] = {}
        tree = tree[part]
    tree[path[-1]] = value


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


class _Dumper(yaml.SafeDumper):
    """Quotes as the example network has them: double ones, but single ones around a regex."""

    def choose_scalar_style(self) -> str:
        style: str = super().choose_scalar_style()
        return '"' if style == "'" and "\\" not in getattr(self.event, "value", "") else style

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _flow(value: Any) -> str:
    """A value on one line, quoted where YAML 1.1 needs it."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=2**31, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _block(key: Any, value: Any, indent: int) -> list[str]:
    """Lines of `key: value`: maps of maps stand one key a line, the innermost in one line each."""
    pad = " " * indent
    if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
        lines = [f"{pad}{_flow(key)}:"]
        for inner_key, inner in value.items():
            lines += _block(inner_key, inner, indent + INDENT)
        return lines
    return [f"{pad}{_flow(key)}: {_flow(value)}"]


class _Document:
    """One YAML text and the marks of its nodes."""

    def __init__(self, text: str) -> None:
        self.end = "\r\n" if "\r\n" in text else "\n"
        self.lines = text.splitlines()
        self.trailing = text.endswith(("\n", "\r")) or not text
        self.root: Any = yaml.compose(text, Loader=Loader)

    def text(self) -> str:
        return self.end.join(self.lines) + (self.end if self.trailing else "")

    # --- finding

    def _node(self, path: Path) -> Any:
        """The node at a path; None where there is none."""
        node = self.root
        for part in path:
            node = next((value for key, value in self._pairs(node) if key == part), None)
        return node

    def _pairs(self, node: Any) -> list[tuple[Any, Any]]:
        if isinstance(node, yaml.MappingNode):
            return [(key.value, value) for key, value in node.value]
        return list(enumerate(node.value)) if isinstance(node, yaml.SequenceNode) else []

    def _last_line(self, node: Any) -> int:
        """The last line that holds something of a node: a block's own end mark lies behind the comments after it."""
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            child = node.value[-1]
            return self._last_line(child[1] if isinstance(child, tuple) else child)
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            line = node.end_mark.line - (1 if node.end_mark.column == 0 else 0)
            while line > node.start_mark.line and not self.lines[line].strip():
                line -= 1
            return int(line)
        return int(node.end_mark.line)

    def _is_empty(self, node: Any) -> bool:
        return isinstance(node, yaml.ScalarNode) and not node.style and node.value in ("", "~", "null")

    def _key(self, path: Path) -> Any:
        parent = self._node(path[:-1])
        return next(key for key, _ in parent.value if key.value == path[-1])

    # --- writing

    def put(self, path: Path, value: Any) -> str:
        node = self._node(path)
        if node is not None and not self._is_empty(node):
            return self._replace(path, node, value)
        if node is not None:
            return self._fill(path, value)
        parent = self._node(path[:-1])
        if parent is None or self._is_empty(parent):
            if len(path) == 1:
                self.lines += _block(path[0], value, 0)
                return self.text()
            return self.put(path[:-1], {path[-1]: value})
        if not isinstance(parent, yaml.MappingNode):
            raise CannotEdit(f"{_dotted(path[:-1])} is no map")
        if parent.flow_style:
            return self._into_flow(parent, f"{_flow(path[-1])}: {_flow(value)}")
        first = parent.value[0][0].start_mark
        new = _block(path[-1], value, first.column)
        self._insert(self._last_line(parent) + 1, new)
        return self.text()

    def _fill(self, path: Path, value: Any) -> str:
        """`key:` without a value gets one."""
        mark = self._key(path).start_mark
        line = self.lines[mark.line]
        new = _block(path[-1], value, mark.column)
        rest = line[self._key(path).end_mark.column :].lstrip(" :")
        comment = f"  {rest}" if rest.startswith("#") else ""
        self.lines[mark.line : mark.line + 1] = [line[: mark.column] + new[0].lstrip() + comment, *new[1:]]
        return self.text()

    def _replace(self, path: Path, node: Any, value: Any) -> str:
        start, end = node.start_mark, node.end_mark
        single = isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">")
        if not single and not (isinstance(node, yaml.CollectionNode) and node.flow_style):
            # a block: its lines go, the new value stands behind the key
            last = self._last_line(node)
            at = start.line if start.line == self._key(path).start_mark.line else start.line - 1
            head = self.lines[at][: self._key(path).end_mark.column]
            self.lines[at : last + 1] = [f"{head}: {_flow(value)}"]
            return self.text()
        before, after = self.lines[start.line][: start.column], self.lines[end.line][end.column :]
        self.lines[start.line : end.line + 1] = [before + _flow(value) + after]
        return self.text()

    def append(self, path: Path, value: Any, at: int | None) -> str:
        node = self._node(path)
        if node is None or self._is_empty(node):
            return self.put(path, [value])
        if not isinstance(node, yaml.SequenceNode):
            raise CannotEdit(f"{_dotted(path)} is no list")
        if node.flow_style or not node.value:
            return self._into_flow(node, _flow(value), at)
        # an item's node begins behind its dash
        first = node.value[0].start_mark
        dash = self.lines[first.line].rfind("-", 0, first.column)
        new = [f"{' ' * dash}- {_flow(value)}"]
        if at is None or at >= len(node.value):
            self._insert(self._last_line(node) + 1, new)
        else:
            self._insert(self._above(node.value[at].start_mark.line, dash, first=at == 0), new)
        return self.text()

    def _into_flow(self, node: Any, entry: str, at: int | None = None) -> str:
        """Adds an entry to a `{...}` or `[...]`, on the line of the neighbour that it follows."""
        if node.value and at is not None and at < len(node.value):
            child = node.value[at]
            mark = (child[0] if isinstance(child, tuple) else child).start_mark
            self._splice(mark.line, mark.column, f"{entry}, ")
        elif node.value:
            child = node.value[-1]
            mark = (child[1] if isinstance(child, tuple) else child).end_mark
            self._splice(mark.line, mark.column, f", {entry}")
        else:
            self._splice(node.start_mark.line, node.start_mark.column + 1, entry)
        return self.text()

    def drop(self, path: Path) -> str:
        parent, node = self._node(path[:-1]), self._node(path)
        entries = [key for key, _ in self._pairs(parent)]
        place = entries.index(path[-1])
        if parent.flow_style:
            return self._out_of_flow(parent, place)
        start = parent.value[place]
        mark = (start[0] if isinstance(start, tuple) else start).start_mark
        column = mark.column if isinstance(start, tuple) else self.lines[mark.line].rfind("-", 0, mark.column)
        if self.lines[mark.line][:column].strip():
            raise CannotEdit(f"{_dotted(path)} shares its line with what stays: edit it by hand")
        first = self._above(mark.line, column, first=place == 0)
        del self.lines[first : self._last_line(node) + 1]
        return self.text()

    def _out_of_flow(self, parent: Any, place: int) -> str:
        def begin(number: int) -> Any:
            child = parent.value[number]
            return (child[0] if isinstance(child, tuple) else child).start_mark

        def end(number: int) -> Any:
            child = parent.value[number]
            return (child[1] if isinstance(child, tuple) else child).end_mark

        if place + 1 < len(parent.value):
            start, stop = begin(place), begin(place + 1)
        elif place:
            start, stop = end(place - 1), end(place)
        else:
            start, stop = begin(place), end(place)
        before, after = self.lines[start.line][: start.column], self.lines[stop.line][stop.column :]
        self.lines[start.line : stop.line + 1] = [before + after]
        return self.text()

    def _above(self, line: int, column: int, *, first: bool) -> int:
        """The line of the comment that introduces an entry; what stands above a first entry is its parent's."""
        while not first and line and self.lines[line - 1].startswith(f"{' ' * column}#"):
            line -= 1
        return line

    def _insert(self, line: int, new: list[str]) -> None:
        if line >= len(self.lines):
            self.trailing = True
        self.lines[line:line] = new

    def _splice(self, line: int, column: int, text: str) -> None:
        whole = self.lines[line]
        self.lines[line] = whole[:column] + text + whole[column:]
