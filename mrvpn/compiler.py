"""A description's path -> a network, or every problem. What the CLI, ext_pillar and the runners call.

Knows: the order of the stages. Must not know: who asks.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mrvpn import schema, topology
from mrvpn.errors import Problem
from mrvpn.topology import checks, lock, rules

# with these nothing can be assigned, and what would be found is no finding of its own
UNBUILDABLE = frozenset({"address-outside", "family", "marks", "subnet-family", "subnet-missing", "subnet-small"})


@dataclass(frozen=True)
class Compiled:
    """A network (None where the description has errors) and all problems, warnings among them, in order of place."""

    network: topology.Network | None
    problems: tuple[Problem, ...]
    lock: topology.Lock = field(default_factory=topology.Lock)

    @property
    def errors(self) -> list[Problem]:
        """The problems that keep the description from being used."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def notices(self, host: str) -> list[str]:
        """The warnings that concern a host: of its tunnels and options; the entrypoint's also what is no host's."""
        if self.network is None:
            return []
        mine = (f"hosts.{host}.", *(f"tunnels.{name}." for name in self.network.ends.get(host, ())))
        entry = host == self.network.description.entrypoint
        return [
            str(problem)
            for problem in self.problems
            if f"{problem.path}.".startswith(mine)
            or (entry and not problem.path.startswith(("hosts.", "tunnels.")) and problem.path)
        ]


def compile_path(path: Path) -> Compiled:
    """Compiles a description file or folder. Reads files and nothing else; never raises for what is in them."""
    with _no_collector():
        return _compile(path)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Next to all that is made here stays: at 10,000 hosts the cyclic collector's rounds over it are a third of all."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _compile(path: Path) -> Compiled:
    description, source = schema.load(path)
    held = lock.read(path, source)
    network = None
    told = {problem.code for problem in source.problems if problem.severity == "error"}
    if description is not None and source.complete:
        rules.check(source, rules.flatten(description.routing.routes))
        if not told & UNBUILDABLE:
            network = topology.build(description, held)
            checks.check(source, network, held)
    problems = tuple(sorted(set(source.problems)))
    good = not any(problem.severity == "error" for problem in problems)
    return Compiled(network if good else None, problems, held)
