"""The settings of ipt_server: docs/contracts.md, 2, as typed, frozen values.

Knows: the form of the file. Must not know: what is done with it.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mrvpn import marks, patterns
from mrvpn.precedence import Kind

DEFAULT_EXIT = "_DEFAULT"


class Refused(Exception):
    """Settings that cannot be used; `problems` holds all that is wrong, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _prefix(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}: a prefix such as 10.0.0.0/24 or 2001:db8::/32 is wanted") from None
    return text


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError(f"{error}: an address is wanted") from None
    return text


def _pattern(text: str) -> str:
    if told := patterns.problem(text):
        raise ValueError(told)
    return text


Prefix = Annotated[str, AfterValidator(_prefix)]
AddressText = Annotated[str, AfterValidator(_address)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Interface = Annotated[str, Field(pattern=r"^[^\s/\"]{1,15}$")]  # what the kernel takes, and nft can quote
Port = Annotated[int, Field(ge=1, le=65535)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TunnelInterface(_Model):
    """A tunnel interface of the namespace and the prefixes declared behind it."""

    interface: Interface
    sources: tuple[Prefix, ...] = ()


class Mesh(_Model):
    """Declared mesh prefixes by family."""

    ipv4: tuple[Prefix, ...] = ()
    ipv6: tuple[Prefix, ...] = ()


class Health(_Model):
    """How an exit is judged. Without any of it only its interface counts.

    `route`: a prefix that OSPF keeps by the exit's interface while the far end lives. Of `icmp`, `http`
    (http://ADDRESS/...) and `dns` one of each kind must answer in every round; `handshake`: seconds that WireGuard's
    newest may be old. `grace`: seconds that an interface may be away, as while its container restarts.
    """

    route: Prefix | None = None
    icmp: tuple[AddressText, ...] = ()
    http: tuple[Annotated[str, Field(pattern=r"^http://")], ...] = ()
    dns: tuple[AddressText, ...] = ()
    handshake: Annotated[int, Field(ge=1)] | None = None
    interval: Annotated[float, Field(gt=0)] = 2.0
    timeout: Annotated[float, Field(gt=0)] = 1.5
    down_after: Annotated[int, Field(ge=1)] = 3
    up_after: Annotated[int, Field(ge=1)] = 5
    grace: Annotated[float, Field(ge=0)] = 3.0


class Exit(_Model):
    """A way out; `interface` None is the interface of the main table's default route."""

    name: str
    interface: Interface | None = None
    mark: Annotated[int, Field(ge=1, le=marks.MAX_EXIT_MARK)]
    table: Annotated[int, Field(ge=1, lt=1 << 32)]
    ipv4: bool = True
    ipv6: bool = True
    fallback: tuple[str, ...] = ()
    on_down: Literal["block", "default"] = "block"
    health: Health = Health()


class RuleSetting(_Model):
    """One route rule with one kind of match; `exit` None only sets a TTL."""

    id: str
    # half of the rule marks there are: two generations stand side by side for a moment
    mark: Annotated[int, Field(ge=marks.RULE_BASE, lt=marks.RULE_BASE + 0x7FFF)]
    exit: str | None
    kind: Kind
    weight: int = 0
    metric: int = 200
    ttl: int | None = None
    live: Literal["keep", "cut"] = "keep"
    countries: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    suffixes: tuple[str, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    lists: tuple[str, ...] = ()


EVERY = 86400.0  # seconds between two fetches, where nothing says how often
SOONEST = 60.0
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str | int | None) -> float:
    """A `refresh` in seconds: 3600, "6h", "1d"; EVERY for None. Raises ValueError."""
    if text is None:
        return EVERY
    found = re.fullmatch(r"\s*([0-9]{1,9})\s*([smhdw]?)\s*", str(text))
    if not found or not int(found[1]):
        raise ValueError(f"{text!r} is no time: write seconds, or such as 30m, 6h, 1d")
    return max(SOONEST, int(found[1]) * _UNITS[found[2]])


def _refresh(value: Any) -> Any:
    seconds(value)
    return value


class NameList(_Model):
    """A list of names kept elsewhere: a file on this host, or a URL that is fetched every `refresh`.

    `checksum`: a URL that holds the SHA-256; `exit`: the exit that the fetch goes through; `attributes`: of geosite.
    """

    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    path: str | None = None
    format: Literal["auto", "plain", "hosts", "dnsmasq", "clash", "geosite"] = "auto"
    refresh: Annotated[str | int | None, AfterValidator(_refresh)] = None
    checksum: str | None = None
    exit: str | None = None
    attributes: tuple[str, ...] = ()


class Recursor(_Model):
    """Where port 53 is redirected to, by which interfaces, and the recursor's control socket folder.

    `exempt`: clients that keep their own resolver: not redirected, not refused another one.
    """

    port: Port = 5301
    interfaces: tuple[Interface, ...] = ()
    uid: int = 953
    control: str = "/run/mrvpn-recursor"
    exempt: tuple[Prefix, ...] = ()


class Hook(_Model):
    """The hook's sockets and patience; `timeout_ms` of each of `tries`."""

    address: AddressText = "127.0.0.1"
    port: Port = 5310
    ports: Annotated[int, Field(ge=1, le=256)] = 16
    tries: Annotated[int, Field(ge=1)] = 2
    timeout_ms: Annotated[int, Field(ge=1)] = 300
    fail: Literal["closed", "open"] = "closed"


class CountrySource(_Model):
    """Where the country database is brought up to date from: a URL or a file, every `refresh` seconds.

    `exit`: the exit that the fetch goes through; `checksum`: a URL or file that holds its SHA-256.
    """

    url: str
    refresh: Annotated[int, Field(ge=60)] = 86_400
    exit: str | None = None
    checksum: str | None = None


class Bypass(_Model):
    """Whether clients are kept from taking DNS elsewhere; `lists`: of more resolvers, their addresses and names."""

    enabled: bool = True
    lists: tuple[str, ...] = ()


class Settings(_Model):
    """Everything ipt_server is told.

    `clients`: the addresses of each client, for `learn_scope: client`; others are read from WireGuard where it tells.
    """

    version: str
    service: str = "firezone"
    ingress: tuple[Interface, ...]
    tunnels: tuple[TunnelInterface, ...] = ()
    mesh: Mesh = Mesh()
    exits: tuple[Exit, ...]
    rules: tuple[RuleSetting, ...] = ()
    domain_route_ttl: Annotated[int, Field(ge=0)] = 300
    country_database: str | None = None
    country_source: CountrySource | None = None
    own: tuple[AddressText, ...] = ()
    recursor: Recursor = Recursor()
    hook: Hook = Hook()
    hints: Literal["learn", "strip"] = "learn"
    learn_scope: Literal["all", "client"] = "all"
    clients: tuple[tuple[AddressText, ...], ...] = ()
    lists: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")], NameList] = {}
    bypass: Bypass = Bypass()
    learned_max: Annotated[int, Field(ge=1)] = 200_000

    def exit(self, name: str) -> Exit:
        """The exit of this name."""
        return next(e for e in self.exits if e.name == name)


def handed(before: Settings, after: Settings) -> frozenset[int]:
    """Exit marks that mean another exit after than before, or none: what carries one must not go on by it."""
    names = {e.mark: e.name for e in after.exits}
    return frozenset(e.mark for e in before.exits if names.get(e.mark) != e.name)


def parse(value: Any) -> Settings:
    """The settings in a mapping; raises Refused with every problem: of the form and of what belongs together."""
    problems: list[str] = []
    found: Settings | None = None
    try:
        found = Settings.model_validate(value)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            place = ".".join(str(part) for part in item["loc"])
            for line in str(item["msg"]).removeprefix("Value error, ").splitlines():
                problems.append(f"{place}: {line}" if place else line)
    problems += _inconsistencies(value)
    if problems or found is None:
        raise Refused(problems)
    return found


def _inconsistencies(value: Any) -> list[str]:
    """What does not belong together. It reads the raw mapping, so that a mistake of form elsewhere hides nothing."""
    if not isinstance(value, dict):
        return []
    exits, rules = _mappings(value.get("exits")), _mappings(value.get("rules"))
    names = [e.get("name") for e in exits]
    wrong = []
    if not names or names[0] != DEFAULT_EXIT:
        wrong.append("exits: the first must be _DEFAULT")
    wrong += _twice("exits", "name", exits) + _twice("exits", "mark", exits) + _twice("rules", "mark", rules)
    tables = [e for e in exits if e.get("interface") is not None]
    wrong += _twice("exits", "table", tables)
    for e in tables:
        if isinstance(e.get("table"), int) and e["table"] in marks.RESERVED_TABLES:
            wrong.append(f"exits.{e.get('name')}.table: {e['table']} is the kernel's own; use any but 253-255")
    known = ", ".join(map(str, names))
    for e in exits:
        fallback = e.get("fallback")
        for name in fallback if isinstance(fallback, list | tuple) else ():
            if name not in names or name == e.get("name"):
                wrong.append(f"exits.{e.get('name')}.fallback: {name} is no other exit; there are: {known}")
    source = value.get("country_source")
    if isinstance(source, dict) and source.get("exit") is not None and source["exit"] not in names:
        wrong.append(f"country_source.exit: there is no exit {source['exit']}; there are: {known}")
    for r in rules:
        if r.get("exit") is not None and r.get("exit") not in names:
            wrong.append(f"{r.get('id')}: there is no exit {r['exit']}; there are: {known}")
        if r.get("countries") and not value.get("country_database"):
            wrong.append(f"{r.get('id')}: needs country_database")
    lists = value.get("lists")
    lists = lists if isinstance(lists, dict) else {}
    guard = value.get("bypass")
    for place, named in (
        *((r.get("id"), r.get("lists")) for r in rules),
        ("bypass.lists", guard.get("lists") if isinstance(guard, dict) else ()),
    ):
        for name in named if isinstance(named, list | tuple) else ():
            if name not in lists:
                wrong.append(f"{place}: there is no list {name}; there are: {', '.join(map(str, lists)) or 'none'}")
    for name, of in lists.items():
        if isinstance(of, dict) and (of.get("url") is None) == (of.get("path") is None):
            wrong.append(f"lists.{name}: needs either `url` or `path`")
        if isinstance(of, dict) and of.get("exit") is not None and of["exit"] not in names:
            wrong.append(f"lists.{name}: there is no exit {of['exit']}; there are: {known}")
    return wrong


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []


def _twice(place: str, field: str, items: Iterable[dict[str, Any]]) -> list[str]:
    seen = Counter(str(item[field]) for item in items if item.get(field) is not None)
    return [f"{place}: {field} {text} is taken {count} times" for text, count in seen.items() if count > 1]


def load(path: Path) -> Settings:
    """The settings in a YAML file; raises Refused."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused([f"{path}: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused([f"{path}: is not YAML: {error}"]) from None
    return parse(value)
