"""Internationalised names: what people write, as the DNS carries it.

Knows: IDNA 2008 with the mapping of UTS 46. Must not know: rules.
"""

from __future__ import annotations

import contextlib

import idna


def to_ascii(name: str) -> str:
    """A name as the DNS carries it: lower case, no dots at its ends, labels that are not ASCII as xn--.

    Raises ValueError where a label cannot be carried.
    """
    name = name.strip().strip(".").lower()
    if name.isascii():
        return name
    try:
        return ".".join(_label(label) for label in name.replace("。", ".").split("."))
    except idna.IDNAError as error:
        raise ValueError(f"{name!r} is no name: {error}") from None


def _label(label: str) -> str:
    return label if label.isascii() else idna.encode(label, uts46=True, transitional=False).decode("ascii")


def to_unicode(name: str) -> str:
    """The name as people read it; a label that does not decode stays as it is."""
    if "xn--" not in name:
        return name
    labels = name.split(".")
    for number, label in enumerate(labels):
        if label.startswith("xn--"):
            with contextlib.suppress(idna.IDNAError, UnicodeError):
                labels[number] = idna.decode(label)
    return ".".join(labels)
