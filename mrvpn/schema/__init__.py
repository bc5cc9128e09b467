"""The description: YAML in, a typed and checked value out, or every problem at once."""

from __future__ import annotations

from pathlib import Path

from mrvpn.schema.checks import check
from mrvpn.schema.model import Description
from mrvpn.schema.parse import parse
from mrvpn.schema.source import Source, read


def load(path: Path) -> tuple[Description | None, Source]:
    """What could be typed of the description at a file or folder; the source holds all problems, warnings among them.

    It is good only where none of them is an error.
    """
    source = read(path)
    description = parse(source)
    # where a file could not be read, what seems to be missing may stand there
    if description is not None and source.complete:
        check(source, description)
    return description, source
