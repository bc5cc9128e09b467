"""A tree of plain values -> a Description, or every problem in it.

Knows: pydantic's errors and how to tell them with place and remedy. Must not know: relations between keys (checks.py).
"""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from mrvpn.schema.model import Description
from mrvpn.schema.source import Path_, Source


def parse(source: Source) -> Description | None:
    """The description, or None where a value has the wrong form; problems are added to the source."""
    try:
        return Description.model_validate(source.tree)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            _tell(source, dict(item))
        return None


def _tell(source: Source, item: dict[str, Any]) -> None:
    # pydantic's location names union members and validators too: keep only what stands in the tree
    path: Path_ = ()
    location = list(item["loc"])
    if item["type"] == "extra_forbidden":
        path, unknown = _walk(source.tree, location[:-1]), str(location[-1])
        near = difflib.get_close_matches(unknown, _keys_at(path), n=1)
        hint = f": did you mean `{near[0]}`?" if near else f"; known here: {', '.join(sorted(_keys_at(path)))}"
        source.problem((*path, unknown), f"unknown key{hint}", "unknown-key")
        return
    path = _walk(source.tree, location)
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        path, message = (*path, str(location[-1])), "is missing"
    source.problem(path, message, "value")


def _walk(tree: Any, location: list[Any]) -> Path_:
    path: Path_ = ()
    for part in location:
        if (isinstance(tree, dict) and part in tree) or (
            isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        ):
            tree = tree[part]
        else:
            continue
        path = (*path, part)
    return path


def _keys_at(path: Path_) -> list[str]:
    """The keys that the model knows at a path."""
    model: Any = Description
    inside = False  # the next part names a map's entry or a list's place, not a field
    for part in path:
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
