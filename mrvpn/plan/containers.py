"""What becomes of a host's containers: from the compose files that the states would render, merged as Compose does.

Knows: the rendered files and how Compose decides. Must not know: Docker. A container is recreated when its service's
definition changes, or that of the service whose network namespace it joins.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mrvpn.render import File, files

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML without libyaml: slower, the same result
    from yaml import SafeLoader as Loader  # type: ignore[assignment]


@dataclass(frozen=True)
class Containers:
    """Compose services by what happens to them; `reconfigured` ones read changed files without being recreated."""

    created: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    recreated: tuple[str, ...] = ()
    reconfigured: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.created, self.removed, self.recreated, self.reconfigured))

    def as_json(self) -> dict[str, Any]:
        """Plain lists."""
        return {key: list(value) for key, value in asdict(self).items()}


def compare_containers(old: dict[str, Any], new: dict[str, Any], states: Path) -> Containers | None:
    """What happens to the containers between two views; None for hosts without any, such as routers."""
    if "routeros" in (old.get("os"), new.get("os")):
        return None
    before, after = (list(files(view, states)) for view in (old, new))
    parts = [{file.target: file.text for file in found if file.kind == "compose"} for found in (before, after)]
    if parts[0] == parts[1]:  # as on most hosts of a large network
        return Containers(reconfigured=tuple(sorted(name for name in _touched(before, after) if name)))
    had, has = _services(before), _services(after)
    recreated = {name for name in had.keys() & has.keys() if had[name] != has[name]}
    while True:
        joined = {name for name in had.keys() & has.keys() if _owner(has[name]) in recreated} - recreated
        if not joined:
            break
        recreated |= joined
    return Containers(
        created=tuple(sorted(has.keys() - had.keys())),
        removed=tuple(sorted(had.keys() - has.keys())),
        recreated=tuple(sorted(recreated)),
        reconfigured=tuple(
            sorted(name for name in _touched(before, after) if name in had and name in has and name not in recreated)
        ),
    )


def _touched(before: list[File], after: list[File]) -> set[str | None]:
    """The services of the files, but those of compose, that differ."""
    texts = [{f.target: (f.text, f.service) for f in found if f.kind != "compose"} for found in (before, after)]
    return {
        (texts[1].get(target) or texts[0][target])[1]
        for target in texts[0].keys() | texts[1].keys()
        if texts[0].get(target) != texts[1].get(target)
    }


def _owner(service: dict[str, Any]) -> str:
    return str(service.get("network_mode", "")).removeprefix("service:")


def _services(found: list[File]) -> dict[str, dict[str, Any]]:
    """The services of all compose files of a host, each merged of its parts."""
    services: dict[str, dict[str, Any]] = {}
    for file in found:
        if file.kind != "compose":
            continue
        for name, part in ((yaml.load(file.text, Loader=Loader) or {}).get("services") or {}).items():
            _merge(services.setdefault(name, {}), part)
    for service in services.values():
        service["ports"] = _published(service.get("ports", []))
    return services


def _merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] = into[key] + [item for item in value if item not in into[key]]
        else:
            into[key] = value


def _published(ports: list[Any]) -> list[str]:
    """Ports one by one: a port inside a published range changes nothing."""
    found: set[str] = set()
    for port in map(str, ports):
        numbers, _, protocol = port.rpartition(":")[2].partition("/")
        first, _, last = numbers.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found |= {f"{n}/{protocol or 'tcp'}" for n in range(int(first), int(last or first) + 1)}
        else:
            found.add(port)
    return sorted(found)
