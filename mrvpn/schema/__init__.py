"""The description: YAML in, a typed and checked value out, or every problem at once."""

from __future__ import annotations

from pathlib import Path

from mrvpn.schema.checks import check
from mrvpn.schema.model import Description
from mrvpn.schema.parse import parse
from mrvpn.schema.source import Source, read


def load(path: Path) -> tuple[Description | None, Source]:
    """The checked description at a file or folder, or None; the source holds all problems, warnings among them."""
    source = read(path)
    description = parse(source)
    if description is not None:
        check(source, description)
    if any(problem.severity == "error" for problem in source.problems):
        return None, source
    return description, source
