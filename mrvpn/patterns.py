"""What a domain rule's regex means: look-ups where its shape allows, RE2 for the rest.

The pattern is matched against the WHOLE lower-cased name without its last dot, in linear time (RE2).
Knows: regexes and names. Must not know: rules, answers, exits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import re2

_QUIET = re2.Options()
_QUIET.log_errors = False

_LABELS = r"[a-z0-9_-]+(?:\\\.[a-z0-9_-]+)*"
_SHAPES = (
    # what stands before the labels: does the name itself match, and what is below it?
    (re.compile(rf"\^?\.\*\\\.({_LABELS})\$?"), False, True),
    (re.compile(rf"\^?\.\+\\\.({_LABELS})\$?"), False, True),
    (re.compile(rf"\^?\((?:\?:)?\.[*+]\\\.\)\?({_LABELS})\$?"), True, True),
    (re.compile(rf"\^?\((?:\?:)?\^\|\.\*\\\.\)({_LABELS})\$?"), True, True),
    (re.compile(rf"\^?({_LABELS})\$?"), True, False),
)


@dataclass(frozen=True)
class Shape:
    """What a pattern compiled to: `name` with what it covers, or `regex` for RE2 where no look-up says the same."""

    name: str | None = None
    itself: bool = False
    below: bool = False
    regex: str | None = None


def compile_pattern(pattern: str) -> Shape:
    """The shape of a pattern that `problem` found nothing wrong with."""
    lowered = pattern.strip().lower()
    for shape, itself, below in _SHAPES:
        found = shape.fullmatch(lowered)
        if found:
            return Shape(found[1].replace("\\.", "."), itself, below)
    return Shape(regex=_insensitive(pattern))


def problem(pattern: str) -> str | None:
    """Why the pattern cannot be used and what would be right, or None."""
    if not pattern:
        return "is empty and matches no name: write a regex such as '.*\\.ru'"
    try:
        _compile(_insensitive(pattern))
    except re2.error as error:
        try:
            re.compile(pattern)
        except re.error as wrong:
            return f"{pattern!r} is no regular expression: {wrong}"
        told = error.args[0] if error.args else error
        told = told.decode(errors="replace") if isinstance(told, bytes) else told
        return (
            f"{pattern!r} needs what RE2 has not ({told}): "
            f"write it without look-around and back-references{_proposal(pattern)}"
        )
    return None


def _compile(pattern: str) -> Any:
    return re2.compile(pattern, _QUIET)  # type: ignore[no-untyped-call]


def _insensitive(pattern: str) -> str:
    return f"(?i:{pattern})"


def _proposal(pattern: str) -> str:
    plain = re.sub(r"\(\?(?:=|!|<=|<!)[^)]*\)", "", pattern)
    if plain == pattern or not plain:
        return ""
    try:
        _compile(plain)
    except re2.error:
        return ""
    return f", such as {plain!r}"


_NAME = re.compile(
    r"(?=.{1,253}$)(?:[^\s.\x00-\x1f*\\^$()\[\]|?+/:@#,]{1,63}\.)*[^\s.\x00-\x1f*\\^$()\[\]|?+/:@#,]{1,63}"
)


def is_name(text: str) -> bool:
    """Whether a suffix is a DNS name (IDN in either spelling), without a last dot."""
    return _NAME.fullmatch(text) is not None


def normal(name: str) -> str:
    """A name as rules see it: lower case, without the last dot."""
    return name.rstrip(".").lower()
