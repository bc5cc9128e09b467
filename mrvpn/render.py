"""Every file that a host gets, rendered from its view without Salt.

Knows: Jinja2 and the list `salt/mrvpn/files.jsonl.j2`, which the states read too. Must not know: what is in the files,
Salt, hosts, Docker. Templates are plain Jinja and see only the variables that the list gives them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FILES = "mrvpn/files.jsonl.j2"


@dataclass(frozen=True)
class File:
    """One file of a host: path below the host's root, text, octal mode as text (None: set by its container)."""

    target: str
    text: str
    mode: str | None
    kind: str  # compose | mounted | live | host
    service: str | None  # the compose service that reads it


@functools.lru_cache(maxsize=4)  # a template is compiled once, not once per host
def environment(states: Path) -> Environment:
    """The Jinja environment of the states' templates; `_modules/mrvpn_tree.py` makes the same one on minions."""
    jinja = Environment(
        loader=FileSystemLoader(states),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # what is undefined says its name, in JSON too
    jinja.policies["json.dumps_kwargs"] = {"sort_keys": True, "default": str}
    return jinja


def files(view: Mapping[str, Any], states: Path) -> Iterator[File]:
    """Yields the files of the host whose view this is, in the order of the list; `states` is the folder `salt/`."""
    jinja = environment(states)
    for line in jinja.get_template(FILES).render(view=view).splitlines():
        if not line.strip():
            continue
        entry = json.loads(line)
        text = jinja.get_template(entry["source"]).render(entry["with"])
        yield File(entry["target"], text, entry["mode"], entry["kind"], entry["service"])
