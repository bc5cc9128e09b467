"""The facts of `paths.yaml` as frozen values, and which of them a version has.

Knows: paths, fields, versions. Must not know: rows, changes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import yaml

Kind = Literal[
    "text", "int", "bool", "duration", "address", "network", "networks", "words", "host", "flag", "secret", "rule"
]
Version = tuple[int, int]
OLDEST: Version = (7, 12)
SAFE_MODE: Version = (7, 18)  # first version that has safe mode over the API


@dataclass(frozen=True)
class Field:
    """A field that may be written; see the head of paths.yaml."""

    name: str
    kind: Kind
    default: str | None = None
    clear: str | None = None
    since: Version | None = None
    until: Version | None = None

    def known(self, version: Version) -> bool:
        """Whether that version has it."""
        return (self.since is None or version >= self.since) and (self.until is None or version <= self.until)


@dataclass(frozen=True)
class PathFacts:
    """A menu; see the head of paths.yaml."""

    path: str
    order: int
    fields: dict[str, Field]
    identity: tuple[str, ...]
    exclusive: bool
    unique: tuple[tuple[str, ...], ...]
    apart: tuple[str, str] | None
    keep: bool
    within: str | None
    top: bool
    read: tuple[str, ...]

    def unknown(self, name: str, version: Version) -> str | None:
        """What is wrong with a field's name on that version, with the nearest name; None where it is right."""
        field = self.fields.get(name)
        if field is not None and field.known(version):
            return None
        shown = f"RouterOS {version[0]}.{version[1]}"
        if field is not None:
            since, until = (f"{v[0]}.{v[1]}" if v else None for v in (field.since, field.until))
            when = f"there since {since}" if since and version < (field.since or version) else f"gone after {until}"
            nearest = self._nearest(name, version)
            return f"{shown} has no field `{name}` on {self.path} (it is {when}){nearest}"
        return f"`{name}` is no field that MRVPN writes on {self.path}{self._nearest(name, version)}"

    def _nearest(self, name: str, version: Version) -> str:
        names = [field.name for field in self.fields.values() if field.known(version)]
        found = difflib.get_close_matches(name, names, 1)
        return f"; the nearest is `{found[0]}`" if found else ""


def version_of(text: str) -> Version:
    """(7, 18) of `7.18`, `7.18.2`, `7.24.4 (stable)`, `7.19beta2`; ValueError else."""
    numbers = text.strip().split(" ")[0].split(".")
    minor = ""
    for char in numbers[1] if len(numbers) > 1 else "":
        if not char.isdigit():
            break
        minor += char
    if not numbers[0].isdigit() or not minor:
        raise ValueError(f"{text!r} is no RouterOS version such as 7.18.2")
    return int(numbers[0]), int(minor)


def _field(name: str, raw: dict[str, Any]) -> Field:
    bounds = {key: version_of(raw[key]) if key in raw else None for key in ("since", "until")}
    return Field(name, raw["kind"], raw.get("default"), raw.get("clear"), bounds["since"], bounds["until"])


def _load() -> dict[str, PathFacts]:
    raw = yaml.safe_load(resources.files("mrvpn.routeros").joinpath("paths.yaml").read_text(encoding="utf-8"))
    found = [
        PathFacts(
            path=path,
            order=menu["order"],
            fields={name: _field(name, facts) for name, facts in menu["fields"].items()},
            identity=tuple(menu["identity"]),
            exclusive=menu.get("exclusive", True),
            unique=tuple(tuple(names) for names in menu.get("unique", ())),
            apart=(menu["apart"][0], menu["apart"][1]) if "apart" in menu else None,
            keep=menu.get("keep", False),
            within=menu.get("within"),
            top=menu.get("top", False),
            read=tuple(menu.get("read", ())),
        )
        for path, menu in raw.items()
    ]
    return {facts.path: facts for facts in sorted(found, key=lambda facts: facts.order)}


PATHS: dict[str, PathFacts] = _load()


def proplist(path: str, version: Version) -> tuple[str, ...]:
    """The fields to ask for: all that are written but secrets, and what tells dynamic rows and diagnostics."""
    facts = PATHS[path]
    names = [f.name for f in facts.fields.values() if f.known(version) and f.kind != "secret"]
    return (".id", *names, "dynamic", *facts.read, *(() if ".about" in facts.read else (".about",)))
