"""What must be true between the keys of a description.

Knows: the typed description and how its parts refer to each other. Must not know: YAML, what is assigned (topology).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mrvpn.schema.checks import gateway, hosts, names, routes, tunnels
from mrvpn.schema.checks.near import GATEWAY_INTERFACE, GATEWAY_SERVICE
from mrvpn.schema.model import Description, Model, Secret
from mrvpn.schema.source import Source


def check(source: Source, description: Description) -> None:
    """Adds every problem between keys to the source."""
    for subject in (names, hosts, tunnels, gateway, routes):
        subject.check(source, description)


def secrets_named(value: Any) -> list[str]:
    """The names of all `{secret: NAME}` in a description or a part of one, sorted."""
    return sorted({secret.secret for secret in _secrets(value)})


def _secrets(value: Any) -> Iterator[Secret]:
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _secrets(item)
    elif isinstance(value, Model):
        for field in type(value).model_fields:
            yield from _secrets(getattr(value, field))


__all__ = ["GATEWAY_INTERFACE", "GATEWAY_SERVICE", "check", "secrets_named"]
