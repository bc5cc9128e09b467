"""A tree of plain values -> a Description, and every problem in it.

Knows: pydantic's errors and how to tell them with place and remedy. Must not know: relations between keys (checks.py).
"""

from __future__ import annotations

import copy
import difflib
import functools
from typing import Any

from pydantic import BaseModel, ValidationError

from mrvpn.schema.model import SECRET_KEYS, Description
from mrvpn.schema.source import Path_, Source

LONGEST = 60  # characters of a value that a message repeats
ROUNDS = 20
HINTS = 500  # problems after which no nearest word is looked for


def parse(source: Source) -> Description | None:
    """The description; what has the wrong form is told, left out and noted in the source. None when nothing is left."""
    tree: Any = source.tree
    for number in range(ROUNDS):
        try:
            return Description.model_validate(tree)
        except ValidationError as error:
            if number == 0:
                tree = copy.deepcopy(tree)
            # what is missing only because it was left out before is not told
            paths = {
                _tell(source, dict(item), quiet=number > 0 and item["type"] == "missing")
                for item in error.errors(include_url=False)
            }
            for path in sorted(paths, key=len):
                _leave_out(source, tree, path)
    return None


def _leave_out(source: Source, tree: Any, path: Path_) -> None:
    """Takes the value at a path out of the tree; of a list the whole, as its other places must keep their numbers."""
    if source.unsure(path) and not _stands(tree, path):  # it went with what is around it
        return
    at = path
    while at:
        parent = functools.reduce(lambda node, part: node[part], at[:-1], tree) if _stands(tree, at) else None
        if isinstance(parent, dict):
            del parent[at[-1]]
            break
        if isinstance(parent, list) and at[:-1] == ("routing", "routes") and parent[int(at[-1])] != {}:
            parent[int(at[-1])] = {}
            break
        at = at[:-1]
    source.leave_out(at or path)


def _stands(tree: Any, path: Path_) -> bool:
    return _walk(tree, list(path)) == path


def _tell(source: Source, item: dict[str, Any], *, quiet: bool) -> Path_:
    """Adds a problem for one of pydantic's errors; the path of what is to be left out."""
    location = list(item["loc"])
    path = _walk(source.tree, location)
    if item["type"] == "extra_forbidden":
        unknown = str(location[-1])
        known = _keys_at(tuple(location[:-1]))
        few = len(source.problems) < HINTS
        near = difflib.get_close_matches(unknown, known, n=1) if few else []
        hint = f": did you mean `{near[0]}`?" if near else f"; known here: {', '.join(sorted(known))}" if known else ""
        message, code = f"unknown key{hint}", "unknown-key"
    elif item["type"] == "missing":
        message, code = f"`{location[-1]}` is missing", "missing"
    else:
        message, code = _message(item, path), "value"
    if not quiet and path not in source.left_out:
        source.problem(path, message, code)
    return path


def _message(item: dict[str, Any], path: Path_) -> str:
    """pydantic's error in our words; a value that may be a secret is not repeated."""
    kind, value, context = str(item["type"]), item["input"], item.get("ctx", {})
    hidden = any(part in SECRET_KEYS for part in path)
    shown = "this" if hidden else _shown(value)
    if kind == "value_error":
        return (
            "has the wrong form"
            if hidden and shown in str(item["msg"])
            else str(item["msg"]).removeprefix("Value error, ")
        )
    if kind.startswith("int_"):
        return f"{shown} is no whole number"
    if kind.startswith("bool_"):
        return f"{shown} is neither true nor false"
    if kind == "string_type":
        return f"{shown} is no text{': put it into quotes' if isinstance(value, (int, float)) else ''}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"{shown} is no map of keys and values"
    if kind in ("tuple_type", "list_type"):
        return f"{shown} is no list"
    if kind == "literal_error":
        return f"{shown} is unknown here: {context.get('expected', '')}"
    bounds = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
    bounds["less_than_equal"] = "at most"
    if kind in bounds:
        return f"{shown} is out of range: {bounds[kind]} {next(iter(context.values()))}"
    if kind in ("too_short", "too_long"):
        bound = context.get("max_length", context.get("min_length"))
        return f"{shown} of the wrong length: {context.get('actual_length')} where {bound} belong"
    return f"{shown} cannot be read: {item['msg']}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _walk(tree: Any, location: list[Any]) -> Path_:
    """The part of pydantic's location that stands in the tree: it names union members and validators too."""
    path: Path_ = ()
    for part in location:
        if (isinstance(tree, dict) and part in tree) or (
            isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        ):
            tree = tree[part]
            path = (*path, part)
    return path


def _keys_at(location: Path_) -> list[str]:
    """The keys that the model knows at a location."""
    model: Any = Description
    inside = False  # the next part names a map's entry or a list's place, not a field
    for part in location:
        if inside:
            inside = False
            continue
        found = model.model_fields.get(str(part)) if model else None
        annotation = found.annotation if found else None
        model = _inner(annotation)
        inside = getattr(annotation, "__origin__", None) in (dict, tuple)
    return list(model.model_fields) if model else []


def _inner(annotation: Any) -> Any:
    """The model inside dict[str, M], tuple[M, ...], M | None, Annotated[M, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in reversed(getattr(annotation, "__args__", ())):
        found = _inner(argument)
        if found is not None:
            return found
    return None
