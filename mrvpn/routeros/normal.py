"""When two spellings are one value: `25` and `25s`, `yes` and `true`, an absent field and its default.

Knows: kinds of fields. Must not know: paths, which rows belong together.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from mrvpn.routeros.facts import Field

Canonical = str | int | bool | frozenset[str]

UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
EMPTY: dict[str, Canonical] = {
    "int": 0, "bool": False, "flag": False, "duration": 0, "networks": frozenset(), "words": frozenset(),
}  # fmt: skip


def seconds(text: str) -> int:
    """Seconds of `25`, `25s`, `1m33s`, `00:01:33`; ValueError else."""
    text = text.strip()
    if re.fullmatch(r"\d+", text):
        return int(text)
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d)", text)
    if clock:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])
    if not re.fullmatch(r"(\d+[wdhms])+", text):
        raise ValueError(f"{text!r} is no time such as 25s or 1m33s")
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([wdhms])", text))


def _parts(value: Any) -> list[str]:
    items: Iterable[Any] = value if isinstance(value, (list, tuple, set, frozenset)) else str(value).split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("yes", "true"):
        return True
    if text in ("no", "false", ""):
        return False
    raise ValueError(f"{value!r} is neither yes nor no")


def _networks(value: Any) -> frozenset[str]:
    return frozenset(str(ipaddress.ip_network(part, strict=False)) for part in _parts(value))


def canonical(field: Field, value: Any) -> Canonical:
    """The value in the form that is compared; None is the field's default. ValueError where it is not of the kind."""
    if field.kind == "flag":
        # on the wire a flag that is on is an empty text
        return False if value is None else True if value == "" else _boolean(value)
    if value is None or (value == "" and field.default is not None):
        value = field.default
    if value is None or value == "":
        return EMPTY.get(field.kind, "")
    if field.kind == "bool":
        return _boolean(value)
    if field.kind == "int":
        return int(str(value))
    if field.kind == "duration":
        return seconds(str(value))
    if field.kind == "networks":
        return _networks(value)
    if field.kind == "words":
        return frozenset(_parts(value))
    if field.kind == "network":
        return str(ipaddress.ip_network(str(value), strict=False))
    if field.kind == "address":
        return str(ipaddress.ip_interface(str(value)))
    if field.kind == "host":
        return _host(str(value))
    if field.kind == "rule":
        return _rule(str(value))
    return str(value)


def _rule(text: str) -> str:
    """A rule of a routing filter without what its language does not care for: blanks, the semicolon before a brace."""
    words = re.findall(r"[{}();]|[^\s{}();]+", text)
    kept = [word for word, following in zip(words, [*words[1:], "}"], strict=True) if (word, following) != (";", "}")]
    return " ".join(kept)


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return text.lower()


def wire(field: Field, value: Any) -> str:
    """The text that is written for a value that is not the field's empty one."""
    if field.kind in ("bool", "flag"):
        return "yes" if canonical(field, value) else "no"
    if field.kind in ("networks", "words"):
        if isinstance(value, (set, frozenset)):
            return ",".join(sorted(str(item) for item in value))
        return ",".join(_parts(value))
    if field.kind in ("address", "network", "host"):
        return str(canonical(field, value))
    return str(value)


def empty(field: Field, value: Any) -> bool:
    """Whether the value is what a row has that does not tell the field."""
    return canonical(field, value) == canonical(field, None)
