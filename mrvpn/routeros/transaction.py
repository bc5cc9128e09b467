"""One apply on one router: read, plan, write under a net, prove, keep; or all taken back.

The net is safe mode where the router has it (7.18): a session that is cut off, or a router that cannot be reached any
more, undoes everything by itself. Before 7.18 a script of the inverse commands waits in the scheduler; what no
inverse brings back (keys) is done last, when the rest is proven.

Knows: the order of steps, the commands for them. Must not know: sockets, Salt. The device is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from mrvpn.routeros import normal
from mrvpn.routeros.diff import OWNER, Add, Change, Declared, Move, Plan, Remove, Row, Rows, Set, plan, token_of
from mrvpn.routeros.errors import Away, Failed, Lost, Refusal, RouterError, Trapped
from mrvpn.routeros.facts import OLDEST, PATHS, SAFE_MODE, Version, proplist, version_of
from mrvpn.routeros.feet import Feet, touched
from mrvpn.routeros.undo import inverse, lost, script, staged

CHUNK = 60  # writes under one safe mode: past about 100 actions the router leaves it and keeps the changes
UNDO = "mrvpn-undo"
DONE = "mrvpn-hook-done"


class Device(Protocol):
    """A router's session."""

    def call(self, command: str, words: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        """The rows of an answer; `ret` of !done is a last row `{"ret": ...}`. Raises Away, Lost, Trapped."""
        ...

    def fresh(self) -> AbstractContextManager[Device]:
        """Another login beside this one."""
        ...

    def close(self) -> None:
        """Ends the session; the next call makes a new one."""
        ...

    def feet(self) -> Feet:
        """Both addresses of the session."""
        ...


@dataclass(frozen=True)
class Order:
    """What an apply is asked for."""

    declared: Declared
    owner: str = OWNER
    remove: bool = True
    force: bool = False
    test: bool = False
    pings: tuple[str, ...] = ()  # far ends: those that answered before the changes must answer before they are kept
    hooks: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)  # tunnel -> {cleanup, deploy}
    undo_after: int = 120  # seconds until a router without safe mode undoes an apply that was not confirmed


@dataclass
class Outcome:
    """What was found and done."""

    plan: Plan
    hooks: list[str] = field(default_factory=list)
    writes: int = 0
    notices: list[str] = field(default_factory=list)


def version(device: Device) -> Version:
    """The router's version; Refusal where it is older than the facts go."""
    rows = device.call("/system/resource/print", {".proplist": "version"})
    text = rows[0].get("version", "") if rows else ""
    try:
        found = version_of(text)
    except ValueError as error:
        raise Refusal([str(error)]) from None
    if found < OLDEST:
        raise Refusal(
            [f"RouterOS {text} is too old: {OLDEST[0]}.{OLDEST[1]} is the oldest that MRVPN knows; upgrade it"]
        )
    return found


def read(device: Device, paths: Iterable[str], at: Version) -> dict[str, list[dict[str, str]]]:
    """The rows of each path by one print each, without secrets."""
    wanted = set(paths)
    return {
        path: device.call(f"{path}/print", {".proplist": ",".join(proplist(path, at))})
        for path in PATHS
        if path in wanted
    }


def reconcile(device: Device, order: Order, pause: Callable[[], bool] = lambda: False) -> Outcome:
    """Makes the declared rows so; Refusal (nothing written) or Failed (taken back, or told what is left) otherwise.

    `pause` waits a moment and is False when there has been waiting enough.
    """
    at = version(device)
    unknown = [f"{path}: MRVPN has no facts about this path" for path in order.declared if path not in PATHS]
    if unknown:
        raise Refusal(unknown)
    return _Apply(device, order, pause, at).run()


class _Apply:
    def __init__(self, device: Device, order: Order, pause: Callable[[], bool], at: Version) -> None:
        self.device, self.order, self.pause, self.at = device, order, pause, at
        self.actual: Rows = {}
        self.ids: dict[tuple[str, str], str] = {}
        self.writes = 0
        self.alive: list[str] = []
        self.silent: set[str] = set()

    def run(self) -> Outcome:
        self.actual = read(self.device, self.order.declared, self.at)
        found = self._plan(self.actual)
        if found.problems:
            raise Refusal(found.problems)
        outcome = Outcome(found, notices=list(found.notices))
        if not found.changes:
            return outcome
        outcome.hooks = self._hooks(found.changes, "cleanup") + self._hooks(found.changes, "deploy")
        feet = touched(found.changes, self.actual, self.device.feet())
        if feet and not self.order.force:
            raise Refusal([f"{line}; it is refused without force" for line in feet])
        if self.order.test:
            return outcome
        try:
            self.alive = [address for address in self.order.pings if self._answers(self.device, address)]
        except Trapped as error:
            raise Refusal([f"/tool/ping: {error}: the router's user needs the policy test"]) from None
        if self.at >= SAFE_MODE:
            self._in_safe_mode(found.changes)
        else:
            self._with_undo(found.changes, outcome)
        outcome.writes = self.writes
        outcome.notices += [f"{address} does not answer a ping from the router yet" for address in sorted(self.silent)]
        return outcome

    def _plan(self, actual: Rows) -> Plan:
        return plan(self.order.declared, actual, self.at, self.order.owner, self.order.remove)

    # -- with safe mode ---------------------------------------------------------------------------------------------

    def _in_safe_mode(self, changes: Sequence[Change]) -> None:
        chunks = [changes[start : start + CHUNK] for start in range(0, len(changes), CHUNK)]
        kept: list[Change] = []
        for number, chunk in enumerate(chunks):
            final = number == len(chunks) - 1
            try:
                self.device.call("/safe-mode/take")
            except Trapped as error:
                reason = f"safe mode cannot be taken ({error}): does someone else hold it? Nothing was changed"
                if not kept:
                    raise Refusal([reason]) from None
                raise Failed(f"{reason}; {self._taken_back(kept)}") from None
            try:
                if number == 0:
                    self._run_hooks(changes, "cleanup")
                self._write(chunk)
                if final:
                    self._run_hooks(changes, "deploy")
                self._prove(self._nothing_left if final else self._reachable)
            except RouterError as error:
                self._unroll()
                raise Failed(f"{error}; {self._taken_back(kept)}") from None
            try:
                self.device.call("/safe-mode/release")
                if any(row.get("current") == "true" for row in self.device.call("/safe-mode/print")):
                    raise Trapped("the router says done, yet this session still holds it")
            except RouterError as error:
                # kept or undone? The router knows, once the session that held safe mode is gone
                self.device.close()
                if not final or self._after_silence() or self._differs(self.order.declared):
                    raise Failed(f"safe mode could not be released: {error}; {self._taken_back(kept)}") from None
            kept += chunk

    def _unroll(self) -> None:
        try:
            self.device.call("/safe-mode/unroll")
        except RouterError:
            self.device.close()  # the end of the session that holds it undoes it, too
            self._after_silence()

    def _after_silence(self) -> str:
        """Waits until the router has undone what a lost session left in safe mode; what is wrong, or nothing."""
        told = "the router does not answer: it undoes the changes by itself when it notices that the session is gone"
        while True:
            try:
                rows = self.device.call("/safe-mode/print")
                if not rows or rows[0].get("enabled") != "true":
                    return ""
                told = "safe mode is still held by the lost session: the router undoes the changes when it notices"
            except RouterError:
                pass
            if not self.pause():
                return told

    # -- without ----------------------------------------------------------------------------------------------------

    def _with_undo(self, changes: Sequence[Change], outcome: Outcome) -> None:
        first, last = staged(changes)
        gone = lost(first)
        if gone and not self.order.force:
            raise Refusal([f"{line}; without safe mode (before 7.18) it is refused without force" for line in gone])
        back = script(inverse(first, self.actual)) + self._cleanups(first)
        armed = self._arm(back, outcome)
        try:
            self._run_hooks(changes, "cleanup")
            self._write(first)
            self._run_hooks(changes, "deploy")
            self._prove(lambda device: self._only_left(device, last))
            if armed:
                self._disarm()
        except RouterError as error:
            raise Failed(f"{error}; {self._undone(back, armed)}") from None
        try:
            self._write(last)
            self._prove(self._nothing_left)
        except RouterError as error:
            raise Failed(f"{error}; what was proven before stays, apply again for the rest") from None

    def _cleanups(self, changes: Sequence[Change]) -> str:
        """The cleanup hooks of tunnels that are new, for what their deploy hooks did."""
        new = {c.token.split(":")[1] for c in changes if isinstance(c, Add) and PATHS[c.path].keep}
        commands = [
            command for tunnel in sorted(new) for command in self.order.hooks.get(tunnel, {}).get("cleanup", ())
        ]
        return "".join(f"\n:do {{ {command} }} on-error={{}}" for command in commands)

    def _arm(self, back: str, outcome: Outcome) -> bool:
        """Puts the undo script into the scheduler; False where that is not allowed and `force` goes without."""
        if self._armed():
            raise Refusal(
                [f"/system/scheduler has `{UNDO}`: an apply is under way, or one ended badly: remove it first"]
            )
        event = f"{back}\n/system/scheduler/remove [find name={UNDO}]"
        words = {"name": UNDO, "interval": f"{self.order.undo_after}s", "on-event": event}
        try:
            self.device.call("/system/scheduler/add", words)
        except Trapped as error:
            if not self.order.force:
                why = f"no undo script can be left on the router ({error}), and RouterOS before 7.18 has no safe mode"
                raise Refusal([f"{why}: it is refused without force"]) from None
            outcome.notices.append(f"changed without a net: no undo script could be left on the router ({error})")
            return False
        except Lost as error:
            raise Failed(f"{error}; {self._undone(back, armed=True)}") from None
        self.writes += 1
        return True

    def _disarm(self) -> None:
        rows = self._armed()
        if not rows:
            raise Lost("the undo script has run already: the apply took too long")
        self.device.call("/system/scheduler/remove", {".id": rows[0][".id"]})
        self.writes += 1
        if self._armed():  # it would take back later what is told as done now
            raise Trapped("/system/scheduler/remove: the router says done, yet the undo script is still there")

    def _armed(self) -> list[dict[str, str]]:
        return self.device.call("/system/scheduler/print", {".proplist": ".id,name", "?name": UNDO})

    def _undone(self, back: str, armed: bool) -> str:
        """Runs the undo script at once; where the router cannot be reached its scheduler does it."""
        while True:
            try:
                self.device.call("/execute", {"script": back, "as-string": ""})
                if armed:
                    for row in self._armed():
                        self.device.call("/system/scheduler/remove", {".id": row[".id"]})
                return self._compared()
            except RouterError as error:
                if not self.pause():
                    when = (
                        f"it undoes the changes by itself within {self.order.undo_after} s" if armed else "look there"
                    )
                    return f"the router could not be reached to undo it ({error}): {when}"

    def _taken_back(self, kept: Sequence[Change]) -> str:
        if kept:
            try:
                self.device.call("/execute", {"script": script(inverse(kept, self.actual)), "as-string": ""})
            except RouterError as error:
                return f"a first part of {len(kept)} changes could not be taken back ({error}): apply again"
        waiting = self._after_silence()
        return waiting or self._compared()

    def _compared(self) -> str:
        """Whether the router is as it was when the apply began."""
        try:
            now = read(self.device, self.order.declared, self.at)
        except RouterError as error:
            return f"what the router is like now could not be read: {error}"
        differing = [path for path, rows in self.actual.items() if _content(path, rows) != _content(path, now[path])]
        return f"NOT as before: {', '.join(differing)}" if differing else "taken back, the router is as before"

    # -- writing ----------------------------------------------------------------------------------------------------

    def _write(self, changes: Sequence[Change]) -> None:
        for change in changes:
            command, words = self._command(change)
            try:
                rows = self.device.call(command, words)
            except RouterError as error:
                kind = type(error) if isinstance(error, (Lost, Away, Trapped)) else Trapped
                raise kind(f"{command} {change.token}: {error}") from None
            self.writes += 1
            if isinstance(change, Add):
                ident = rows[-1].get("ret", "") if rows else ""
                self.ids[change.path, change.token] = ident or self._id_of(change)

    def _id_of(self, change: Add) -> str:
        for row in self.device.call(f"{change.path}/print", {".proplist": ".id,comment"}):
            if token_of(row.get("comment")) == change.token:
                return row[".id"]
        raise Trapped("the router says done, yet the row is not there")

    def _id(self, path: str, reference: str) -> str:
        return self.ids[path, reference[1:]] if reference.startswith("@") else reference

    def _command(self, change: Change) -> tuple[str, dict[str, str]]:
        if isinstance(change, Add):
            place = {} if change.before is None else {"place-before": self._id(change.path, change.before)}
            return f"{change.path}/add", {**change.row, **place}
        if isinstance(change, Set):
            clears = {f"!{name}": "" for name in change.clears}
            return f"{change.path}/set", {".id": change.id, **change.values, **clears}
        if isinstance(change, Move):
            return f"{change.path}/move", {"numbers": change.id, "destination": self._id(change.path, change.before)}
        return f"{change.path}/remove", {".id": change.id}

    def _hooks(self, changes: Sequence[Change], phase: str) -> list[str]:
        tunnels = {change.token.split(":")[1] for change in changes if ":" in change.token}
        return [
            f"{tunnel} {phase}: {command}"
            for tunnel, hooks in sorted(self.order.hooks.items())
            if tunnel in tunnels
            for command in hooks.get(phase, ())
        ]

    def _run_hooks(self, changes: Sequence[Change], phase: str) -> None:
        for line in self._hooks(changes, phase):
            label, _, command = line.partition(": ")
            run_hook(self.device, label, command)
            self.writes += 1

    # -- proving ----------------------------------------------------------------------------------------------------

    def _prove(self, check: Callable[[Device], None]) -> None:
        """The router still lets us in anew, and holds what it should; the far ends answer."""
        with self.device.fresh() as fresh:
            check(fresh)

    def _reachable(self, device: Device) -> None:
        device.call("/system/identity/print")

    def _nothing_left(self, device: Device) -> None:
        now = read(device, self.order.declared, self.at)
        self._healthy(now)
        again = self._plan(now)
        if again.problems or again.changes:
            raise Trapped(f"the router does not hold what was written: {_shown(again)}")
        self._ping(device)

    def _only_left(self, device: Device, last: Sequence[Change]) -> None:
        now = read(device, self.order.declared, self.at)
        self._healthy(now)
        again = self._plan(now)
        expected = {(change.path, change.token) for change in last}
        surplus = [change for change in again.changes if (change.path, change.token) not in expected]
        if again.problems or surplus:
            raise Trapped(f"the router does not hold what was written: {_shown(again)}")
        self._ping(device)

    def _healthy(self, now: Rows) -> None:
        """A row of ours that the router tells trouble about, such as a listen port that is taken."""
        before = {(path, row[".id"]): row.get(".about") for path, rows in self.actual.items() for row in rows}
        for path, rows in now.items():
            for row in rows:
                about = row.get(".about")
                if about and token_of(row.get("comment")) and before.get((path, row[".id"])) != about:
                    raise Trapped(f"{path} {token_of(row['comment'])}: the router says: {about}")

    def _ping(self, device: Device) -> None:
        for address in self.alive:
            while not self._answers(device, address):
                if not self.pause():
                    raise Trapped(f"{address} answered a ping from the router before the changes and does not now")
        rest = [address for address in self.order.pings if address not in self.alive]
        self.silent = {address for address in rest if not self._answers(device, address)}

    def _answers(self, device: Device, address: str) -> bool:
        rows = device.call("/tool/ping", {"address": address, "count": "1"})
        return any(row.get("received", "0") != "0" for row in rows)

    def _differs(self, declared: Declared) -> bool:
        try:
            return bool(self._plan(read(self.device, declared, self.at)).changes)
        except RouterError:
            return True


def run_hook(device: Device, label: str, command: str) -> str:
    """What a user's command prints; Trapped where it does not come to its end."""
    # /execute tells errors as text of the output: only the mark behind the command says that it went through
    rows = device.call("/execute", {"script": f':do {{ {command} }}; :put "{DONE}"', "as-string": ""})
    output = rows[-1].get("ret", "") if rows else ""
    if not output.rstrip().endswith(DONE):
        said = " ".join(output.split())[-300:] or "no word about why"
        raise Trapped(f"hook {label} failed: {command!r}: {said}")
    return output.rstrip().removesuffix(DONE).strip()


def _content(path: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows for comparison: without ids, in the menu's order where that matters."""
    facts = PATHS[path].fields

    def value(name: str, row: Row) -> Any:
        try:
            found = normal.canonical(facts[name], row.get(name))
        except ValueError:
            found = row.get(name, "")
        return sorted(found) if isinstance(found, frozenset) else found

    content = [
        {name: value(name, row) for name, field in facts.items() if field.kind != "secret"}
        for row in rows
        if row.get("dynamic") != "true"
    ]
    return content if PATHS[path].within is not None else sorted(content, key=repr)


def _shown(again: Plan) -> str:
    if again.problems:
        return "; ".join(again.problems)
    lines = []
    for change in again.changes:
        if isinstance(change, Set):
            fields = [*change.values, *change.clears]
            told = ", ".join(f"{name} is {change.old.get(name)!r}" for name in fields)
        else:
            told = {Add: "is not there", Remove: "is still there", Move: "is at another place"}[type(change)]
        lines.append(f"{change.path} {change.token}: {told}")
    return "; ".join(lines)
