"""Secrets in a view: text that carries a mark, so that whatever shows a view hides it, under whatever key it stands.

Knows: the mark, how `{secret: NAME}` becomes text, what is wrong with a secret. Must not know: what a view holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mrvpn.schema.model import Secret, key_problem

Resolve = Callable[[str], str | None]  # name of a secret -> its value, None where there is none

HIDDEN = "***"


class Marked(str):
    """A secret's text. It compares and is written (JSON, msgpack, templates) as the text it is; `repr` hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(HIDDEN)


class Placeholder(Marked):
    """What stands for a secret that may not be read: nothing can be said of its value."""

    __slots__ = ()


class Unfit(ValueError):
    """Secrets that a view needs and that are not there, or cannot be used: `problems`, none with a value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Secrets:
    """The master's secrets as one view needs them: every text marked, everything that is wrong noted."""

    def __init__(self, look_up: Resolve) -> None:
        self._look_up = look_up
        self._problems: dict[str, None] = {}

    def text(self, path: str, value: str | Secret | None) -> Marked | None:
        """A secret of the description as text; None, noted, where the master does not have it."""
        if not isinstance(value, Secret):
            return None if value is None else Marked(value)
        found = self._look_up(value.secret)
        if found is None:
            self.refuse(path, f"there is no secret `{value.secret}`: add it to the master's secrets")
            return None
        return found if isinstance(found, Marked) else Marked(found)

    def optional(self, name: str) -> Marked | None:
        """A secret that need not be there."""
        found = self._look_up(name)
        return None if found is None else Marked(found)

    def key(self, path: str, value: str | Secret | None) -> Marked | None:
        """As `text`, for one that must be a WireGuard key."""
        found = self.text(path, value)
        told = None if found is None or isinstance(found, Placeholder) else key_problem(found)
        if told:
            self.refuse(path, told)
        return found

    def filled(self, path: str, value: Any) -> Any:
        """Maps and lists with every secret in them as text."""
        if isinstance(value, Secret):
            return self.text(path, value)
        if isinstance(value, Mapping):
            return {key: self.filled(f"{path}.{key}", item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.filled(f"{path}.{number}", item) for number, item in enumerate(value)]
        return value

    def refuse(self, path: str, why: str) -> None:
        """Notes what is wrong with the secret at a place of the description."""
        self._problems[f"{path}: {why}"] = None

    def settle(self) -> None:
        """Raises Unfit where anything was wrong."""
        if self._problems:
            raise Unfit(list(self._problems))


def holds_secret(value: Any) -> bool:
    """Whether a secret stands anywhere in a value."""
    if isinstance(value, Mapping):
        return any(map(holds_secret, value.values()))
    return isinstance(value, Marked) or (isinstance(value, list) and any(map(holds_secret, value)))


def masked(value: Any) -> Any:
    """A view (or a part of one) fit to be shown: stars in place of every secret."""
    if isinstance(value, Mapping):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return HIDDEN if isinstance(value, Marked) else value


def unresolved(name: str) -> str | None:
    """What stands for a secret where none may be read: its name. No preshared key is made of it."""
    return None if name == "psk_root" else Placeholder(f"the secret {name!r}")
