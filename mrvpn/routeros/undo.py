"""The changes that take others back, and a script of them that the router runs by itself.

Removing loses what cannot be read back (keys), so where a router has no safe mode, rows are disabled first and
removed when the rest is proven: `staged` splits a plan that way.

Knows: changes, RouterOS's quoting. Must not know: how anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mrvpn.routeros.diff import Add, Change, Move, Remove, Rows, Set
from mrvpn.routeros.facts import PATHS


def quoted(text: str) -> str:
    """A RouterOS string literal: quotes, backslashes and `$` escaped, other bytes than printable ASCII as \\XX."""
    plain = {'"': '\\"', "\\": "\\\\", "$": "\\$", "\n": "\\n", "\r": "\\r", "\t": "\\t", "?": "\\?"}
    body = ""
    for byte in text.encode():
        char = chr(byte)
        body += plain.get(char, char if 32 <= byte < 127 else f"\\{byte:02X}")
    return f'"{body}"'


def staged(changes: Sequence[Change]) -> tuple[list[Change], list[Change]]:
    """The changes, and what waits until they are proven, for no inverse brings it back: removals (`disabled=yes`
    first), new preshared keys of rows that are there."""
    first: list[Change] = []
    last: list[Change] = []
    for change in changes:
        if isinstance(change, Set) and _secrets(change.path) & set(change.values):
            rest = {n: text for n, text in change.values.items() if n not in (*_secrets(change.path), "comment")}
            keys = {n: text for n, text in change.values.items() if n not in rest}
            if rest or change.clears:
                old = {n: change.old.get(n) for n in (*rest, *change.clears)}
                first.append(Set(change.path, change.token, change.id, rest, change.clears, old))
            last.append(Set(change.path, change.token, change.id, keys, (), {n: change.old.get(n) for n in keys}))
            continue
        if isinstance(change, Remove) and not change.early:
            last.append(change)
            if change.row.get("disabled") != "true":
                old = {"disabled": change.row.get("disabled")}
                first.append(Set(change.path, change.token, change.id, {"disabled": "yes"}, (), old))
        else:
            first.append(change)
    return first, last


def _secrets(path: str) -> set[str]:
    return {field.name for field in PATHS[path].fields.values() if field.kind == "secret"}


def lost(changes: Sequence[Change]) -> list[str]:
    """What of staged changes no inverse brings back: rows that hold keys and must go for others' sake."""
    return [
        f"{change.path} {change.token}: its key would be lost"
        for change in changes
        if isinstance(change, Remove) and (PATHS[change.path].keep or _secrets(change.path))
    ]


def inverse(changes: Sequence[Change], actual: Rows) -> list[Change]:
    """The changes that take `changes` back, last first; rows that were added are named by `@token`."""
    found: list[Change] = []
    gone = {(change.path, change.id) for change in changes if isinstance(change, Remove)}

    def after(path: str, ident: str) -> str | None:
        """The next row of the menu as it was that is still there."""
        if PATHS[path].within is None:
            return None
        ids = [row[".id"] for row in actual.get(path, ()) if row.get("dynamic") != "true"]
        rest = ids[ids.index(ident) + 1 :] if ident in ids else []
        return next((other for other in rest if (path, other) not in gone), None)

    for change in reversed(changes):
        if isinstance(change, Add):
            found.append(Remove(change.path, change.token, f"@{change.token}", dict(change.row)))
        elif isinstance(change, Remove):
            found.append(
                Add(change.path, change.token, _writable(change.path, change.row), after(change.path, change.id))
            )
        elif isinstance(change, Set):
            found.append(_back(change))
        else:
            target = after(change.path, change.id)
            if target is not None:
                found.append(Move(change.path, change.token, change.id, target))
    return found


def _writable(path: str, row: Mapping[str, str]) -> dict[str, str]:
    facts = PATHS[path].fields
    return {
        name: "yes" if facts[name].kind == "flag" else text
        for name, text in row.items()
        if name in facts and (text != "" or facts[name].kind == "flag")
    }


def _back(change: Set) -> Set:
    facts = PATHS[change.path].fields
    values: dict[str, str] = {}
    clears: list[str] = []
    for name, text in change.old.items():
        if facts[name].kind == "secret":
            continue
        if text is not None and (text != "" or facts[name].clear == ""):
            values[name] = text
        elif facts[name].kind == "flag" and text == "":
            values[name] = "yes"
        elif facts[name].clear == "!":
            clears.append(name)
        else:
            clear = facts[name].clear
            values[name] = clear if clear is not None else facts[name].default or "no"
    new = {**change.values, **dict.fromkeys(change.clears, "")}
    return Set(change.path, change.token, change.id, values, tuple(clears), {name: new[name] for name in new})


def script(changes: Sequence[Change]) -> str:
    """RouterOS commands for the changes; each is tried for itself: one that fails does not keep the others back."""
    lines = []
    for change in changes:
        if isinstance(change, Remove):
            where = f"[find comment={quoted(change.row['comment'])}]" if change.id.startswith("@") else change.id
            command = f"{change.path}/remove {where}"
        elif isinstance(change, Add):
            place = f" place-before={change.before}" if change.before is not None else ""
            command = f"{change.path}/add {_words(change.row)}{place}"
        elif isinstance(change, Move):
            command = f"{change.path}/move {change.id} destination={change.before}"
        else:
            clears = " ".join(f"!{name}" for name in change.clears)
            command = f"{change.path}/set {change.id} {_words(change.values)} {clears}".rstrip()
        lines.append(f":do {{ {command} }} on-error={{}}")
    return "\n".join(lines)


def _words(values: Mapping[str, str]) -> str:
    return " ".join(f"{name}={quoted(text)}" for name, text in values.items())
