"""Values as RouterOS stores and prints them. Knows: types of fields. Must not know: menus, rows, sessions."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Any

UNITS = (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
FLAGS_ORDER = (
    "urg",
    "syn",
    "rst",
    "psh",
    "fin",
    "ece",
    "cwr",
    "ack",
)  # the router prints TCP flags in an order of its own


class Trap(Exception):
    """An error that the router answers with; `category` as the manual numbers them."""

    def __init__(self, message: str | None, category: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.category = category


def boolean(text: str) -> str | None:
    """`true` or `false`, or None for another word."""
    return {"yes": "true", "true": "true", "no": "false", "false": "false"}.get(text)


def seconds(text: str) -> int | None:
    """Seconds of `25`, `25s`, `1m33s`, `00:01:33`; None where it is no time."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d)", text)
    if clock:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])
    if not re.fullmatch(r"(\d+[wdhms])+", text):
        return None
    factor = dict(UNITS)
    return sum(int(number) * factor[unit] for number, unit in re.findall(r"(\d+)([wdhms])", text))


def duration(total: int) -> str:
    """The compact form, largest unit first: 93 is `1m33s`, 0 is `0s`."""
    text = ""
    for unit, size in UNITS:
        count, total = divmod(total, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _invalid(name: str) -> Trap:
    return Trap(f"invalid value for argument {name}", 1)


def _network(name: str, text: str, mask_host_bits: bool, version: int | None = None) -> str:
    try:
        interface = ipaddress.ip_interface(text.strip())
    except ValueError:
        raise _invalid(name) from None
    if version is not None and interface.version != version:
        raise _invalid(name)
    return str(interface.network if mask_host_bits else interface)


def store(name: str, field: dict[str, Any], text: str, mask_host_bits: bool, family: int) -> str:
    """What the router keeps of a written value; Trap where it takes it for no value of the field."""
    kind = field.get("type") or "string"
    if field.get("flag"):
        return ""
    if "enum" in field and text not in field["enum"]:
        ambiguous = f"ambiguous value of {name}, more than one possible value matches input"
        raise Trap(ambiguous if text == "" else f"input does not match any value of {name}", 1)
    if kind == "bool":
        value = boolean(text)
        if value is None:
            raise _invalid(name)
        return value
    if kind == "duration":
        number = seconds(text)
        if number is None:
            raise _invalid(name)
        return duration(number)
    if kind == "int" or kind.startswith("int|"):
        if text in kind.split("|")[1:]:
            return text
        if not re.fullmatch(r"\d+", text):
            raise _invalid(name)
        return text
    if kind.startswith("list of cidr"):
        return ",".join(_network(name, part, mask_host_bits) for part in text.split(",") if part.strip())
    if kind == "cidr6" or (kind == "cidr" and family == 6):
        return _network(name, text, name == "dst-address", 6)
    if kind == "cidr":
        return _network(name, text, name == "dst-address", 4)
    if kind.startswith("wgkey"):
        if text in kind.split("|")[1:] or text == "":
            return text
        try:
            good = len(base64.b64decode(text, validate=True)) == 32
        except binascii.Error:
            good = False
        if not good:
            raise _invalid(name)
        return text
    if name == "tcp-flags":
        flags = [flag.strip() for flag in text.split(",")]
        if not set(flags) <= set(FLAGS_ORDER):
            raise Trap(f"input does not match any value of {name}", 1)
        return ",".join(sorted(flags, key=FLAGS_ORDER.index))
    if kind == "list":
        return ",".join(part.strip() for part in text.split(","))
    return text
