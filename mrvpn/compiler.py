"""A description's path -> a network, or every problem. What the CLI, ext_pillar and the runners call.

Knows: the order of the stages. Must not know: who asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mrvpn import schema, topology
from mrvpn.errors import Problem


@dataclass(frozen=True)
class Compiled:
    """A network (None where the description has errors) and all problems, warnings among them, in order of place."""

    network: topology.Network | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> list[Problem]:
        """The problems that keep the description from being used."""
        return [problem for problem in self.problems if problem.severity == "error"]


def compile_path(path: Path) -> Compiled:
    """Compiles a description file or folder. Reads files and nothing else; never raises for what is in them."""
    description, source = schema.load(path)
    problems = tuple(sorted(set(source.problems)))
    if description is None or any(problem.severity == "error" for problem in problems):
        return Compiled(None, problems)
    return Compiled(topology.build(description), problems)
