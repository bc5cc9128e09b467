"""The settings of ipt_server: docs/contracts.md, 2, as typed, frozen values.

Knows: the form of the file. Must not know: what is done with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mrvpn import patterns
from mrvpn.precedence import Kind

DEFAULT_EXIT = "_DEFAULT"


class Refused(Exception):
    """Settings that cannot be used; `problems` holds all that is wrong, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TunnelInterface(_Model):
    """A tunnel interface of the namespace and the prefixes declared behind it."""

    interface: str
    sources: tuple[str, ...] = ()


class Mesh(_Model):
    """Declared mesh prefixes by family."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


class Exit(_Model):
    """A way out; `interface` None is the interface of the main table's default route."""

    name: str
    interface: str | None = None
    mark: int
    table: int
    ipv4: bool = True
    ipv6: bool = True
    fallback: tuple[str, ...] = ()
    on_down: Literal["block", "default"] = "block"


class RuleSetting(_Model):
    """One route rule with one kind of match; `exit` None only sets a TTL."""

    id: str
    mark: int
    exit: str | None
    kind: Kind
    weight: int = 0
    metric: int = 200
    ttl: int | None = None
    live: Literal["keep", "cut"] = "keep"
    countries: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


class Recursor(_Model):
    """Where port 53 is redirected to, by which interfaces, and the recursor's control socket folder."""

    port: int = 5301
    interfaces: tuple[str, ...] = ()
    uid: int = 953
    control: str = "/run/mrvpn-recursor"


class Hook(_Model):
    """The hook's sockets and patience; `timeout_ms` of each of `tries`."""

    address: str = "127.0.0.1"
    port: int = 5310
    ports: int = 16
    tries: int = 2
    timeout_ms: int = 300
    fail: Literal["closed", "open"] = "closed"


class Settings(_Model):
    """Everything ipt_server is told."""

    version: str
    service: str = "firezone"
    ingress: tuple[str, ...]
    tunnels: tuple[TunnelInterface, ...] = ()
    mesh: Mesh = Mesh()
    exits: tuple[Exit, ...]
    rules: tuple[RuleSetting, ...] = ()
    domain_route_ttl: int = 300
    country_database: str | None = None
    own: tuple[str, ...] = ()
    recursor: Recursor = Recursor()
    hook: Hook = Hook()
    hints: Literal["learn", "strip"] = "learn"
    learned_max: int = 200_000

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        wrong = []
        names = [e.name for e in self.exits]
        if not names or names[0] != DEFAULT_EXIT:
            wrong.append("exits: the first must be _DEFAULT")
        for rule in self.rules:
            if rule.exit is not None and rule.exit not in names:
                wrong.append(f"{rule.id}: there is no exit {rule.exit}; there are: {', '.join(names)}")
            wrong += [f"{rule.id}: {told}" for pattern in rule.patterns if (told := patterns.problem(pattern))]
            if rule.countries and not self.country_database:
                wrong.append(f"{rule.id}: needs country_database")
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def exit(self, name: str) -> Exit:
        """The exit of this name."""
        return next(e for e in self.exits if e.name == name)


def parse(value: Any) -> Settings:
    """The settings in a mapping; raises Refused with every problem."""
    try:
        return Settings.model_validate(value)
    except ValidationError as error:
        problems: list[str] = []
        for item in error.errors(include_url=False):
            place = ".".join(str(part) for part in item["loc"])
            for line in str(item["msg"]).removeprefix("Value error, ").splitlines():
                problems.append(f"{place}: {line}" if place else line)
        raise Refused(problems) from None


def load(path: Path) -> Settings:
    """The settings in a YAML file; raises Refused."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused([f"{path}: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused([f"{path}: is not YAML: {error}"]) from None
    return parse(value)
