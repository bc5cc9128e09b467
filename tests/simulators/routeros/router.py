"""A router's configuration and what its commands do to it.

Knows: menus of each version, rows, references between them, users' policies, safe mode, the scheduler. Must not know:
sockets, TLS, sentences (server.py), MRVPN.
"""

from __future__ import annotations

import base64
import copy
import ipaddress
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.simulators.routeros import query, values
from tests.simulators.routeros.faults import Fault
from tests.simulators.routeros.script import Script
from tests.simulators.routeros.values import Trap

MENUS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "menus.json").read_text())
ALL_POLICIES = frozenset(
    {
        *("local", "telnet", "ssh", "ftp", "reboot", "read", "write", "policy", "test", "winbox", "password", "web"),
        *("sniff", "sensitive", "api", "romon", "rest-api"),
    }
)
WRITES = ("add", "set", "unset", "remove", "move", "enable", "disable", "run")
NOT_PERMITTED = "not enough permissions (9)"
Row = dict[str, str]


@dataclass(frozen=True)
class Unverified:
    """Behaviour that no public source settles: what we build must work under each setting."""

    mask_host_bits: bool = False  # allowed-address 10.9.20.1/24 is kept as 10.9.20.0/24
    bare_host_routes: bool = False  # dst-address 10.1.1.1/32 is printed without /32
    print_defaults: bool = True  # fields nobody wrote are printed with their defaults
    overlap: Literal["trap", "steal"] = "trap"  # an allowed address that another peer of the interface has
    orphans: Literal["keep", "cascade", "trap"] = "keep"  # what points at a removed interface, instance, area
    duplicate_routes: bool = True  # an equal route may be added again
    rollback_delay: float = 0.0  # seconds until a closed session's safe mode is undone
    unroll_elsewhere: bool = True  # a session that does not hold safe mode may undo it
    spaced_rules: bool = False  # a routing filter's rule is printed as `if (..) { accept; }`, however it was written
    safe_mode_held: str = "safe mode is taken by another session"


@dataclass(frozen=True)
class User:
    """A login and the policies of its group."""

    name: str = "salt"
    password: str = "s3cret"
    policies: frozenset[str] = frozenset({"read", "write", "api", "test"})


@dataclass(eq=False)
class Session:
    """One API connection that is logged in."""

    user: User
    local: str = "127.0.0.1"
    remote: str = "127.0.0.1:0"


@dataclass
class SafeMode:
    """Who holds it, what is restored when it is not released, how many actions it holds."""

    session: Session
    snapshot: dict[str, list[Row]]
    actions: int = 0


def version_of(text: str) -> tuple[int, int]:
    """(7, 18) of `7.18`, `7.18.2`, `7.24.4 (stable)`."""
    major, minor = text.split()[0].split(".")[:2]
    return int(major), int(minor)


@dataclass
class Router:
    """One router; the server hands it commands, tests read its rows and counters."""

    version: str = "7.24.4"
    identity: str = "MikroTik"
    users: tuple[User, ...] = (User(),)
    unverified: Unverified = Unverified()
    device_mode_home: bool = False
    faults: list[Fault] = field(default_factory=list)
    reachable: set[str] = field(default_factory=set)  # far ends that answer a ping when the way there is configured
    pinger: Callable[[str], bool] | None = None  # asks a real network instead
    seen: Callable[[Row], Row] | None = None  # what a real network tells of a peer: endpoint, handshake, bytes
    neighbors: Callable[[], list[Row]] | None = None  # OSPF's, of a real network
    rows: dict[str, list[Row]] = field(default_factory=dict)
    writes: int = 0
    prints: Counter[str] = field(default_factory=Counter)
    history: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    observers: list[Callable[[], None]] = field(default_factory=list)
    safe: SafeMode | None = None
    sessions: list[Session] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._runs: dict[str, float] = {}
        for path, menu in MENUS.items():
            if menu["kind"] in ("list", "fixed-list"):
                self.rows.setdefault(path, [])
        if self.rows["/routing/table"]:
            return
        self._numbers.update({"/routing/table": 0x400, "/ip/route": 0x80000060, "/ipv6/route": 0x80000060})
        self.rows["/routing/table"].append({".id": "*0", "name": "main", "fib": "", "dynamic": "true"})
        for number, (name, kind) in enumerate((("ether1", "ether"), ("bridge", "bridge")), 1):
            self.rows["/interface"].append({".id": f"*{number}", "name": name, "type": kind})
        self._numbers["/interface"] = 3
        for number, name in enumerate(("all", "none", "dynamic", "static", "LAN", "WAN")):
            row = {".id": f"*200000{number}", "name": name}
            self.rows["/interface/list"].append(row | ({"builtin": "true"} if number < 4 else {}))
        ports = {
            "ftp": 21,
            "ssh": 22,
            "telnet": 23,
            "www": 80,
            "www-ssl": 443,
            "winbox": 8291,
            "api": 8728,
            "api-ssl": 8729,
        }
        for number, (name, port) in enumerate(ports.items()):
            row = {".id": f"*{number}", "name": name, "port": str(port), "proto": "tcp", "vrf": "main"}
            self.rows["/ip/service"].append(row)
        self.seed("/ip/address", address="192.168.88.1/24", interface="bridge", comment="defconf")
        self.rows["/ip/firewall/filter"].append(
            {".id": "*FF", "chain": "forward", "action": "passthrough", "dynamic": "true",
             "comment": "special dummy rule to show fasttrack counters"}
        )  # fmt: skip
        self.seed(
            "/ip/firewall/filter",
            chain="input",
            action="accept",
            **{"connection-state": "established,related,untracked"},
        )
        self.seed("/ip/firewall/filter", chain="input", action="accept", protocol="icmp")
        self.seed(
            "/ip/firewall/filter", chain="input", action="drop", comment='defconf: drop all not coming from "LAN" – так'
        )
        self.seed("/ipv6/firewall/filter", chain="input", action="drop", comment="defconf: drop everything else")

    # -- for tests ------------------------------------------------------------------------------------------------

    def seed(self, path: str, **fields: str) -> str:
        """Adds a row as a person would, uncounted; returns its id."""
        before = self.writes, len(self.history)
        found = self._add(path, {name.replace("_", "-"): value for name, value in fields.items()})
        self.writes = before[0]
        del self.history[before[1] :]
        return found

    def find(self, path: str, **conditions: str) -> list[Row]:
        """Rows as a full print shows them to a user with every policy."""
        every = Session(User(policies=ALL_POLICIES))
        rows = [self._render(path, row, every) for row in self.rows[path]]
        return [row for row in rows if all(row.get(k.replace("_", "-")) == v for k, v in conditions.items())]

    def snapshot(self) -> dict[str, list[Row]]:
        """All configuration, for comparison."""
        return copy.deepcopy(self.rows)

    # -- commands -------------------------------------------------------------------------------------------------

    def login(self, arguments: dict[str, str]) -> User | None:
        """The user whose password is right and whose group may use the API."""
        for user in self.users:
            if (
                user.name == arguments.get("name")
                and user.password == arguments.get("password")
                and "api" in user.policies
            ):
                return user
        return None

    def is_write(self, command: str) -> bool:
        """Whether a command changes configuration."""
        path, _, verb = command.rpartition("/")
        return command == "/execute" or (verb in WRITES and path in MENUS)

    def command(
        self, session: Session, command: str, arguments: dict[str, str], queries: list[str]
    ) -> tuple[list[Row], str | None]:
        """Runs one command: its rows and `ret`; raises Trap."""
        path, _, verb = command.rpartition("/")
        if command == "/execute":
            return [], self._execute(session, arguments)
        if command in ("/tool/ping", "/ping") and not (command == "/ping" and self._at_least("7.23")):
            return self._ping(session, arguments), None
        if command == "/export":
            return [], None
        menu = MENUS.get(path)
        if path == "/safe-mode" and self._at_least("7.18"):
            return self._safe_mode(session, verb), None
        if menu is None or verb not in menu["verbs"] or not self._has(menu["verbs"][verb]) or path == "/safe-mode":
            raise Trap("no such command", 0)
        if verb == "print":
            return self._print(session, path, arguments, queries)
        if verb == "monitor-traffic":
            return [
                {"name": arguments.get("interface", ""), "rx-bits-per-second": "0", "tx-bits-per-second": "0"}
            ], None
        if "write" not in session.user.policies:
            raise Trap(NOT_PERMITTED)
        self.history.append((command, dict(arguments)))
        return self._write(session, path, verb, arguments)

    def _write(self, session: Session, path: str, verb: str, arguments: dict[str, str]) -> tuple[list[Row], str | None]:
        if path == "/system/scheduler" and verb == "add" and self.device_mode_home:
            raise Trap("failure: not allowed by device-mode")
        if path.startswith("/user") and "policy" not in session.user.policies:
            raise Trap(NOT_PERMITTED)
        ret = None
        if verb == "add":
            ret = self._add(path, arguments)
            if path == "/system/scheduler":
                self._row(path, ret)["_owner"] = session.user.name
        elif verb == "set":
            self._set(path, arguments)
        elif verb == "unset":
            names = self._ids(path, arguments)
            self._set(path, {"numbers": ",".join(names), f"!{arguments.get('value-name', '')}": ""})
        elif verb in ("enable", "disable"):
            self._set(path, {**arguments, "disabled": "no" if verb == "enable" else "yes"})
        elif verb == "remove":
            self._remove(path, arguments)
        elif verb == "move":
            self._move(path, arguments)
        elif verb == "run":
            for ident in self._ids(path, arguments):
                self._script(session, self._row(path, ident).get("source", ""))
        self.writes += 1
        if self.safe is not None:
            self.safe.actions += 1
            if self.safe.actions > 100:
                self.safe = None  # the history overflows: safe mode ends and keeps the changes
        for observer in self.observers:
            observer()
        return [], ret

    def closed(self, session: Session) -> bool:
        """The session is gone; True when its safe mode must be undone (after `unverified.rollback_delay`)."""
        if session in self.sessions:
            self.sessions.remove(session)
        return self.safe is not None and self.safe.session is session

    def undo_safe_mode(self) -> None:
        """Restores what was before safe mode was taken."""
        if self.safe is not None:
            self.rows = self.safe.snapshot
            self.safe = None
            for observer in self.observers:
                observer()

    def tick(self, now: float | None = None) -> None:
        """Runs what the scheduler has due."""
        now = time.monotonic() if now is None else now
        for row in list(self.rows["/system/scheduler"]):
            every = values.seconds(row.get("interval", "0s")) or 0
            if row.get("disabled") == "true" or not every:
                continue
            due = self._runs.setdefault(row[".id"], now + every)
            if now >= due:
                self._runs[row[".id"]] = now + every
                owner = next((u for u in self.users if u.name == row.get("_owner")), User())
                try:
                    self._script(Session(owner), row.get("on-event", ""))
                except Trap as trap:
                    row[".about"] = str(trap.message)

    # -- the parts of a command ------------------------------------------------------------------------------------

    def _at_least(self, version: str) -> bool:
        return version_of(self.version) >= version_of(version)

    def _has(self, facts: dict[str, Any]) -> bool:
        since, until = facts.get("since"), facts.get("until")
        return (since is None or self._at_least(since)) and (
            until is None or version_of(self.version) <= version_of(until)
        )

    def _fields(self, path: str) -> dict[str, dict[str, Any]]:
        return {name: facts for name, facts in MENUS[path]["fields"].items() if self._has(facts)}

    def _print(
        self, session: Session, path: str, arguments: dict[str, str], queries: list[str]
    ) -> tuple[list[Row], str | None]:
        if "read" not in session.user.policies:
            raise Trap(NOT_PERMITTED)
        for name in arguments:
            if name not in (".proplist", "count-only", "detail", "stats", "without-paging", "terse"):
                raise Trap(f"unknown parameter {name}")
        self.prints[path] += 1
        rows = self._singleton(path) if MENUS[path]["kind"] in ("singleton", "read-only") else None
        if rows is None:
            ordered = self.rows[path]
            rows = [self._render(path, row, session) for row in ordered]
            if MENUS[path].get("ordered"):
                for row, following in itertools.pairwise(rows):
                    row[".nextid"] = following[".id"]
            if path == "/ip/service" and self._at_least("7.19"):
                rows += self._connections()
        rows = [row for row in rows if query.passes(row, queries)]
        if "count-only" in arguments:
            return [], str(len(rows))
        if ".proplist" in arguments:
            wanted = arguments[".proplist"].split(",")
            rows = [{name: row[name] for name in wanted if name in row} for row in rows]
        return rows, None

    def _singleton(self, path: str) -> list[Row]:
        if path == "/system/identity":
            return [{"name": self.identity}]
        if path == "/system/resource":
            board = {"board-name": "CHR", "platform": "MikroTik", "architecture-name": "x86_64", "cpu-load": "2"}
            return [{"uptime": "1w4d23h26m9s", "version": f"{self.version} (stable)", **board}]
        if path == "/user/active":
            return [
                {".id": f"*{n}", "name": s.user.name, "address": s.remote.rpartition(":")[0], "via": "api"}
                for n, s in enumerate(self.sessions, 1)
            ]
        if path == "/routing/ospf/neighbor" and self.neighbors:
            return [{".id": f"*{n:X}", "dynamic": "true", **row} for n, row in enumerate(self.neighbors(), 1)]
        return []

    def _connections(self) -> list[Row]:
        return [
            {".id": f"*{0x100 + number:X}", "connection": "true", "disabled": "false", "dynamic": "true",
             "invalid": "false", "name": "api-ssl", "port": "8729", "proto": "tcp", "local": session.local,
             "remote": session.remote}
            for number, session in enumerate(self.sessions)
        ]  # fmt: skip

    def _render(self, path: str, row: Row, session: Session) -> Row:
        menu, shown = MENUS[path], {".id": row[".id"]}
        for name, facts in self._fields(path).items():
            value = row.get(name)
            if name == "disabled":
                value = value or "false"
                if value == "false" and menu["disabled"] == "when-true":
                    continue
            elif name == "passthrough":
                value = value or ("true" if self._at_least("7.19") else None)
                value = None if value == "true" and not self._at_least("7.19") else value
            elif value is None and facts.get("default") is not None and self.unverified.print_defaults:
                default = facts["default"]
                value = str(default).lower() if isinstance(default, bool) else str(default)
                value = None if value == "false" or (facts.get("type") == "duration" and value == "0s") else value
            if value is None or (value == "" and name in ("comment", "preshared-key", "private-key")):
                continue
            if (value == "0s" and name == "persistent-keepalive") or (
                value == "main" and name == "vrf" and "wire" in path
            ):
                continue
            if facts.get("sensitive") and "sensitive" not in session.user.policies:
                value = "*****"
            if name == "dst-address" and self.unverified.bare_host_routes:
                value = value.removesuffix("/32")
            if name == "rule" and self.unverified.spaced_rules:
                value = re.sub(r"\s*{\s*(.*?);?\s*}\s*", r" { \1; }", value)
            shown[name] = value
        shown.update(
            {name: row[name] for name in ("dynamic", ".about", "builtin", "type", "port", "proto") if name in row}
        )
        shown.update(self._computed(path, row))
        return shown

    def _computed(self, path: str, row: Row) -> Row:
        on = row.get("disabled") != "true"
        if path == "/interface/wireguard":
            private = X25519PrivateKey.from_private_bytes(base64.b64decode(row["private-key"]))
            public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
            return {"public-key": public, "running": "true" if on else "false"}
        if path == "/interface/wireguard/peers":
            base = {
                "rx": "0",
                "tx": "0",
                "dynamic": row.get("dynamic", "false"),
                "current-endpoint-address": "",
                "current-endpoint-port": "0",
            }
            base["endpoint-address"] = row.get("endpoint-address", "")
            base["endpoint-port"] = row.get("endpoint-port", "0")
            return base | (self.seen(row) if self.seen else {})
        if path in ("/ip/address", "/ipv6/address"):
            network = ipaddress.ip_interface(row["address"]).network.network_address
            there = row["interface"] in self._interfaces()
            shown = {"dynamic": "false", "invalid": "false" if there else "true", "actual-interface": row["interface"]}
            return shown | ({"network": str(network)} if path == "/ip/address" else {})
        if path.endswith("/route"):
            return {
                "dynamic": "false",
                "static": "true",
                "active": "true" if on else "false",
                "inactive": "false" if on else "true",
            }
        if "/firewall/" in path:
            names = [row.get(n, "").removeprefix("!") for n in ("in-interface", "out-interface") if row.get(n)]
            good = all(name in self._interfaces() for name in names)
            return {
                "dynamic": row.get("dynamic", "false"),
                "invalid": "false" if good else "true",
                "bytes": "0",
                "packets": "0",
            }
        if path.startswith("/routing/ospf/"):
            return {"inactive": "false" if on else "true"}
        if path == "/routing/table":
            return {"invalid": "false" if on else "true"}
        return {}

    def _interfaces(self) -> set[str]:
        return {row["name"] for path in ("/interface", "/interface/wireguard") for row in self.rows[path]}

    def _row(self, path: str, ident: str) -> Row:
        for row in self.rows[path]:
            if row[".id"] == ident or row.get("name") == ident:
                return row
        raise Trap("no such item", 0)

    def _ids(self, path: str, arguments: dict[str, str]) -> list[str]:
        text = arguments.get(".id", arguments.get("numbers"))
        if not text:
            raise Trap("missing value(s) of argument(s) numbers")
        return [self._row(path, part)[".id"] for part in text.split(",")]

    def _stored(self, path: str, arguments: dict[str, str]) -> tuple[Row, list[str]]:
        """What a write sets (stored form) and what it clears."""
        fields, row, cleared = self._fields(path), {}, []
        for word, text in arguments.items():
            name = word.removeprefix("!")
            facts = fields.get(name)
            if facts is None or facts.get("read_only"):
                raise Trap(f"unknown parameter {name}")
            if word != name:
                if not facts.get("unset"):
                    raise Trap(f"unknown parameter {word}")
                cleared.append(name)
            elif facts.get("flag") and text == "no":
                continue  # neither sets nor clears it
            elif name in ("private-key", "preshared-key") and text == "":
                cleared.append(name)
            else:
                row[name] = values.store(
                    name, facts, text, self.unverified.mask_host_bits, 6 if path.startswith("/ipv6") else 4
                )
        return row, cleared

    def _add(self, path: str, arguments: dict[str, str]) -> str:
        menu, arguments = MENUS[path], dict(arguments)
        before = arguments.pop("place-before", None)
        if before is not None and not menu.get("ordered"):
            raise Trap("unknown parameter place-before")
        missing = [name for name in menu.get("required", ()) if name not in arguments]
        if missing:
            raise Trap(f"missing value(s) of argument(s) {' '.join(missing)}")
        row, _ = self._stored(path, arguments)
        number = self._numbers[path] = self._numbers[path] + 1
        row[".id"] = f"*{number:X}"
        if path == "/interface/wireguard":
            key = X25519PrivateKey.generate().private_bytes_raw()
            row.setdefault("private-key", base64.b64encode(key).decode())
            row.setdefault("name", f"wireguard{number}")
            row.setdefault("listen-port", str(13230 + number))
            if row["name"] in self._interfaces():
                raise Trap("failure: already have interface with such name")
        if path == "/interface/wireguard/peers" and self._at_least("7.15"):
            row.setdefault("name", f"peer{number}")
        self._check(path, row)
        rows = self.rows[path]
        position = rows.index(self._row(path, before)) if before is not None else len(rows)
        rows.insert(position, row)
        self._port_clash(path, row)
        return row[".id"]

    def _set(self, path: str, arguments: dict[str, str]) -> None:
        if MENUS[path]["kind"] == "singleton":
            if path == "/system/identity":
                self.identity = arguments.get("name", self.identity)
            return
        ids = self._ids(path, arguments)
        changes, cleared = self._stored(path, {k: v for k, v in arguments.items() if k not in (".id", "numbers")})
        for ident in ids:
            row = self._row(path, ident)
            if row.get("dynamic") == "true" or row.get("builtin") == "true":
                raise Trap("failure: can not change dynamic object")
            new = {name: value for name, value in (row | changes).items() if name not in cleared}
            self._check(path, new, row)
            renamed = (row["name"], new["name"]) if "name" in row and row["name"] != new.get("name") else None
            row.clear()
            row.update(new)
            if renamed:
                self._follow(path, *renamed)
            if row.get("disabled") == "false":
                row.pop(".about", None)
            self._port_clash(path, row)

    def _remove(self, path: str, arguments: dict[str, str]) -> None:
        for ident in self._ids(path, arguments):
            row = self._row(path, ident)
            if row.get("dynamic") == "true" or row.get("builtin") == "true" or MENUS[path]["kind"] != "list":
                raise Trap("failure: can not remove dynamic object")
            followers = [(p, r) for p, r in self._pointing(path, row.get("name", ""))]
            if followers and self.unverified.orphans == "trap":
                raise Trap(f"failure: in use by {followers[0][0]}")
            if self.unverified.orphans == "cascade":
                for other, follower in followers:
                    self.rows[other].remove(follower)
            self.rows[path].remove(row)

    def _move(self, path: str, arguments: dict[str, str]) -> None:
        if not MENUS[path].get("ordered"):
            raise Trap("no such command", 0)
        rows = self.rows[path]
        for ident in self._ids(path, {"numbers": arguments.get("numbers", "")}):
            row = self._row(path, ident)
            target = self._row(path, arguments["destination"]) if arguments.get("destination") else None
            rows.remove(row)
            rows.insert(rows.index(target) if target is not None else len(rows), row)

    REFERENCES = (
        ("/interface/wireguard/peers", "interface", "/interface/wireguard"),
        ("/ip/address", "interface", "/interface/wireguard"),
        ("/ipv6/address", "interface", "/interface/wireguard"),
        ("/interface/list/member", "interface", "/interface/wireguard"),
        ("/routing/ospf/interface-template", "interfaces", "/interface/wireguard"),
        ("/routing/bfd/configuration", "interfaces", "/interface/wireguard"),
        ("/routing/ospf/area", "instance", "/routing/ospf/instance"),
        ("/routing/ospf/interface-template", "area", "/routing/ospf/area"),
        ("/ip/route", "routing-table", "/routing/table"),
        ("/ipv6/route", "routing-table", "/routing/table"),
    )

    def _pointing(self, path: str, name: str) -> list[tuple[str, Row]]:
        return [
            (source, row)
            for source, column, target in self.REFERENCES
            if target == path and name
            for row in self.rows[source]
            if name in row.get(column, "").split(",")
        ]

    def _follow(self, path: str, old: str, new: str) -> None:
        for source, column, target in self.REFERENCES:
            for row in self.rows[source] if target == path else ():
                row[column] = ",".join(new if part == old else part for part in row.get(column, "").split(","))

    def _check(self, path: str, row: Row, old: Row | None = None) -> None:
        """Trap for a duplicate, or for a name that stands for nothing."""
        for names in MENUS[path].get("unique", ()):
            for other in self.rows[path]:
                if other is not old and all(other.get(n) == row.get(n) and row.get(n) for n in names):
                    raise Trap("failure: already have such " + ("address" if path.endswith("/address") else "entry"))
        if path.endswith("/route") and not self.unverified.duplicate_routes:
            keys = ("dst-address", "gateway", "routing-table")
            if any(o is not old and all(o.get(k) == row.get(k) for k in keys) for o in self.rows[path]):
                raise Trap("failure: already have such route")
        for source, column, target in self.REFERENCES:
            if source != path or column not in row or (old is not None and old.get(column) == row[column]):
                continue
            known = self._interfaces() if target == "/interface/wireguard" else {r["name"] for r in self.rows[target]}
            if path == "/interface/wireguard/peers":
                known = {r["name"] for r in self.rows[target]}
            known |= {r["name"] for r in self.rows["/interface/list"]} if column == "interfaces" else set()
            if not set(row[column].split(",")) <= known:
                raise Trap(f"input does not match any value of {column}", 1)
        for column in ("in-interface", "out-interface"):
            if (
                row.get(column)
                and row[column].removeprefix("!") not in self._interfaces()
                and (old or {}).get(column) != row[column]
            ):
                raise Trap(f"input does not match any value of {column}", 1)
        if path == "/interface/wireguard/peers" and self.unverified.overlap == "trap":
            self._check_overlap(row, old)

    def _check_overlap(self, row: Row, old: Row | None) -> None:
        mine = set(row.get("allowed-address", "").split(","))
        for other in self.rows["/interface/wireguard/peers"]:
            if (
                other is not old
                and other["interface"] == row["interface"]
                and mine & set(other["allowed-address"].split(","))
            ):
                raise Trap("failure: allowed-address overlaps with another peer")

    def _port_clash(self, path: str, row: Row) -> None:
        if path != "/interface/wireguard" or row.get("disabled") == "true":
            return
        for other in self.rows[path]:
            if (
                other is not row
                and other.get("disabled") != "true"
                and other.get("listen-port") == row.get("listen-port")
            ):
                row.update({"disabled": "true", ".about": "Listen port already used"})

    def _ping(self, session: Session, arguments: dict[str, str]) -> list[Row]:
        if "test" not in session.user.policies:
            raise Trap(NOT_PERMITTED)
        unknown = set(arguments) - {"address", "count", "interface", "interval", "size", "src-address", "ttl", "vrf"}
        if unknown:
            raise Trap(f"unknown parameter {min(unknown)}")
        address, count = arguments["address"], int(arguments.get("count", "1"))
        good = self.pinger(address) if self.pinger else address in self.reachable and self._way_to(address)
        rows = []
        for number in range(count):
            sent = {"seq": str(number), "host": address, "sent": str(number + 1)}
            answer = {"size": "56", "ttl": "64", "time": "114us", "received": str(number + 1), "packet-loss": "0"}
            rows.append(sent | (answer if good else {"status": "timeout", "received": "0", "packet-loss": "100"}))
        return rows

    def _way_to(self, address: str) -> bool:
        """Whether a live address, interface and peer lead there."""
        target = ipaddress.ip_address(address)
        for path in ("/ip/address", "/ipv6/address"):
            for row in self.rows[path]:
                if row.get("disabled") == "true" or target not in ipaddress.ip_interface(row["address"]).network:
                    continue
                for interface in self.rows["/interface/wireguard"]:
                    if interface["name"] == row["interface"] and interface.get("disabled") != "true":
                        return any(
                            peer["interface"] == row["interface"] and peer.get("disabled") != "true"
                            and any(target in ipaddress.ip_network(allowed, strict=False)
                                    for allowed in peer["allowed-address"].split(","))
                            for peer in self.rows["/interface/wireguard/peers"]
                        )  # fmt: skip
        return False

    def _safe_mode(self, session: Session, verb: str) -> list[Row]:
        if verb == "print":
            if self.safe is None:
                return [{"enabled": "false"}]
            current = "true" if self.safe.session is session else "false"
            return [{"enabled": "true", "user": self.safe.session.user.name, "current": current, "owner": "api"}]
        if "write" not in session.user.policies:
            raise Trap(NOT_PERMITTED)
        if verb == "take":
            if self.safe is not None and self.safe.session is not session:
                raise Trap(self.unverified.safe_mode_held)
            self.safe = SafeMode(session, self.snapshot())
        elif verb == "release":
            self.safe = None
        elif verb == "unroll":
            if self.safe is not None and self.safe.session is not session and not self.unverified.unroll_elsewhere:
                raise Trap(self.unverified.safe_mode_held)
            self.undo_safe_mode()
        else:
            raise Trap("no such command", 0)
        return []

    def _execute(self, session: Session, arguments: dict[str, str]) -> str:
        if "write" not in session.user.policies:
            raise Trap(NOT_PERMITTED)
        self.history.append(("/execute", dict(arguments)))
        self.writes += 1
        output = self._script(session, arguments.get("script", ""), as_text=True)
        return output if "as-string" in arguments else "*2205"

    def _script(self, session: Session, text: str, as_text: bool = False) -> str:
        """Runs a script with a session's rights; an error is text of the output where `as_text`, a Trap else."""

        def run(path: str, verb: str, arguments: dict[str, str]) -> None:
            menu = MENUS.get(path)
            if menu is None or verb not in menu["verbs"] or not self._has(menu["verbs"][verb]):
                raise Trap(f"bad command name {verb} (line 1 column 1)")
            if "write" not in session.user.policies:
                raise Trap(NOT_PERMITTED)
            self._write(session, path, verb, arguments)

        def find(path: str, conditions: dict[str, str]) -> list[str]:
            return [row[".id"] for row in self.find(path) if all(row.get(k) == v for k, v in conditions.items())]

        script = Script({path for path, menu in MENUS.items() if menu["kind"] != "command"}, run, find)
        try:
            script.run(text)
        except Trap as trap:
            if not as_text:
                raise
            script.output.append(str(trap.message))
        return "\n".join(script.output)
