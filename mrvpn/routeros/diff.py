"""Rows as they are, rows as they should be -> the changes between them, in the order that a router takes them.

Ownership is told by the comment: `mrvpn:<tunnel>:<role>`, its first word, the token. Only rows with a token of ours
are ever removed. A row of MRVPN2 (its comment is the tunnel's name) that has the identity of a declared one is taken
over in place. Of a row only the declared fields are compared.

Knows: facts, normalisation, ownership. Must not know: how a row is read or written, sessions, undoing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mrvpn.routeros import normal
from mrvpn.routeros.facts import PATHS, PathFacts, Version

Row = Mapping[str, str]
Rows = Mapping[str, Sequence[Row]]
Declared = Mapping[str, Sequence[Mapping[str, Any]]]
MASK = "*****"
OWNER = "mrvpn:"
ADOPT = ("{tunnel}", "Autocreated for {tunnel}")  # the comments MRVPN2 leaves behind


@dataclass(frozen=True)
class Add:
    """A new row; `before` is an id, or `@token` of a row that is added earlier in the same plan."""

    path: str
    token: str
    row: dict[str, str]
    before: str | None = None


@dataclass(frozen=True)
class Set:
    """Fields written and cleared in place; `old` is what they were (None: not there)."""

    path: str
    token: str
    id: str
    values: dict[str, str]
    clears: tuple[str, ...]
    old: dict[str, str | None]


@dataclass(frozen=True)
class Move:
    """A row of an ordered menu goes before another."""

    path: str
    token: str
    id: str
    before: str


@dataclass(frozen=True)
class Remove:
    """A row goes; `row` is what it was. `early`: it stands in the way of what follows."""

    path: str
    token: str
    id: str
    row: dict[str, str]
    early: bool = False


Change = Add | Set | Move | Remove


@dataclass
class Plan:
    """Changes in order, or problems (then nothing may be written); notices are told either way."""

    changes: list[Change] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """{path: {token: what}} for people: field by field, secrets masked."""
        found: dict[str, Any] = {}
        for change in self.changes:
            entry = found.setdefault(change.path, {}).setdefault(change.token, {})
            if isinstance(change, Add):
                entry["new"] = _masked(change.path, change.row)
            elif isinstance(change, Remove):
                entry["old"] = {name: text for name, text in change.row.items() if not name.startswith(".")}
            elif isinstance(change, Move):
                entry["moved"] = f"before {change.before.removeprefix('@')}"
            else:
                new = {**change.values, **dict.fromkeys(change.clears)}
                shown = _masked(change.path, new)
                entry.update({name: {"old": change.old.get(name), "new": shown[name]} for name in new})
        return found


def _masked(path: str, row: Mapping[str, str | None]) -> dict[str, str | None]:
    secret = {f.name for f in PATHS[path].fields.values() if f.kind == "secret"}
    return {name: MASK if name in secret and text else text for name, text in row.items()}


def token_of(comment: str | None) -> str:
    """`mrvpn:<tunnel>:<role>` of a comment, empty where it has none."""
    first = (comment or "").split(" ")[0]
    return first if first.startswith(OWNER) else ""


def fingerprint(token: str, secret: str) -> str:
    """48 bits that tell one preshared key from another: it stands in the row's comment, the key cannot be read back."""
    return hashlib.sha256(f"mrvpn {token} {secret}".encode()).hexdigest()[:12]


def plan(declared: Declared, actual: Rows, version: Version, owner: str = OWNER, remove: bool = True) -> Plan:
    """The changes that make the paths of `declared` hold exactly its rows, among those whose token begins with `owner`.

    Without `remove` other rows of ours stay.
    """
    found = Plan()
    if not owner.startswith(OWNER):
        found.problems.append(f"owner {owner!r}: must begin with {OWNER}")
        return found
    menus: list[_Menu] = []
    for path, facts in PATHS.items():
        if path in declared:
            menu = _Menu(facts, version, found, owner)
            menu.match(declared[path], actual.get(path, ()))
            menus.append(menu)
    found.problems += [f"{path}: MRVPN has no facts about this path" for path in declared if path not in PATHS]
    if found.problems:
        return found
    removed = {menu.facts.path: menu.removals() if remove else [] for menu in menus}
    clashing = [menu.facts.order for menu in menus if any(r.early for r in removed[menu.facts.path])]
    written = [menu.writes(removed[menu.facts.path]) for menu in menus]
    early: list[Change] = []
    late: list[Change] = []
    for menu, (_, again) in zip(reversed(menus), reversed(written), strict=True):
        for removal in removed[menu.facts.path]:
            # what hangs on a row that must go first goes before it
            first = bool(clashing) and menu.facts.order >= min(clashing)
            (early if first else late).append(replace(removal, early=first))
        early += again
    found.changes = [*early, *(change for changes, _ in written for change in changes), *late]
    return found


@dataclass
class _Pair:
    want: dict[str, Any]
    token: str
    have: Row | None = None


class _Menu:
    """One path: what is declared beside what is there."""

    def __init__(self, facts: PathFacts, version: Version, found: Plan, owner: str) -> None:
        self.facts, self.version, self.found, self.owner = facts, version, found, owner
        self.pairs: list[_Pair] = []
        self.rows: list[Row] = []

    def _problem(self, text: str) -> None:
        self.found.problems.append(f"{self.facts.path}: {text}")

    # -- which row is which -----------------------------------------------------------------------------------------

    def match(self, declared: Sequence[Mapping[str, Any]], actual: Sequence[Row]) -> None:
        self.rows = [row for row in actual if row.get("dynamic") != "true" and row.get("builtin") != "true"]
        for want in declared:
            pair = self._checked(want)
            if pair is not None:
                self.pairs.append(pair)
        tokens = [pair.token for pair in self.pairs]
        for token in sorted({token for token in tokens if tokens.count(token) > 1}):
            self._problem(f"two declared rows have the comment {token}")
        names = [self._identity(pair.want) for pair in self.pairs] if self.facts.exclusive else []
        for name in {name for name in names if names.count(name) > 1}:
            self._problem(f"two declared rows have the same {self._shown(name)}")
        if self.found.problems:
            return
        for pair in self.pairs:
            self._find(pair, set(tokens))
        claimed = [pair.have[".id"] for pair in self.pairs if pair.have is not None]
        for ident in sorted({ident for ident in claimed if claimed.count(ident) > 1}):
            self._problem(f"row {ident} fits two declared rows")
        adoptable = {comment for pair in self.pairs for comment in self._adoptable(pair.token)}
        for row in self.rows:
            if row[".id"] not in claimed and row.get("comment", "") in adoptable:
                self.found.notices.append(
                    f"{self.facts.path}: row {row['.id']} (comment {row['comment']!r}) is MRVPN2's and fits no "
                    "declared row: it stays, remove it by hand"
                )

    def _checked(self, want: Mapping[str, Any]) -> _Pair | None:
        token = token_of(str(want.get("comment") or ""))
        if not token.startswith(self.owner):
            self._problem(
                f"a declared row must have a comment that begins with {self.owner}<tunnel>:<role>, not "
                f"{want.get('comment')!r}"
            )
            return None
        before = len(self.found.problems)
        for name, value in want.items():
            wrong = self.facts.unknown(name, self.version)
            if wrong is not None:
                self.found.problems.append(f"{token}: {wrong}")
                continue
            try:
                normal.canonical(self.facts.fields[name], value)
            except ValueError as error:
                self._problem(f"{token}: {name}: {error}")
        if len(self.found.problems) > before:
            return None
        filled = dict(want)
        if "disabled" in self.facts.fields:
            filled.setdefault("disabled", False)  # what is declared works: a row that somebody disabled is put back
        secret = next((f.name for f in self.facts.fields.values() if f.kind == "secret" and f.name in want), None)
        if secret is not None and want[secret]:
            filled["comment"] = f"{want['comment']} psk:{fingerprint(token, str(want[secret]))}"
        return _Pair(filled, token)

    def _adoptable(self, token: str) -> set[str]:
        tunnel = token.removeprefix(OWNER).split(":")[0]
        return {form.format(tunnel=tunnel) for form in ADOPT}

    def _identity(self, row: Mapping[str, Any], names: Iterable[str] | None = None) -> tuple[Any, ...]:
        values = []
        for name in names or self.facts.identity:
            try:
                values.append(normal.canonical(self.facts.fields[name], row.get(name)))
            except ValueError:  # a stranger's row may hold what our kinds do not read
                values.append(row.get(name, ""))
        return tuple(values)

    def _shown(self, identity: tuple[Any, ...]) -> str:
        return ", ".join(f"{name} {value}" for name, value in zip(self.facts.identity, identity, strict=True))

    def _find(self, pair: _Pair, tokens: set[str]) -> None:
        by_token = [row for row in self.rows if token_of(row.get("comment")) == pair.token]
        same = [row for row in self.rows if self._identity(row) == self._identity(pair.want) and row not in by_token]
        ours = [
            row
            for row in same
            if (other := token_of(row.get("comment"))).startswith(self.owner) and other not in tokens
        ]
        adoptable = [row for row in same if row.get("comment", "") in self._adoptable(pair.token)]
        strangers = [
            row for row in same if row not in adoptable and not token_of(row.get("comment")).startswith(self.owner)
        ]
        hits = by_token or [*(ours if self.facts.exclusive else ()), *adoptable]
        twice = [*by_token, *adoptable] if by_token and self.facts.exclusive else hits
        if len(twice) > 1:
            ids = ", ".join(row[".id"] for row in twice)
            self._problem(f"{pair.token}: rows {ids} both answer to it: remove all but one by hand")
        elif strangers and self.facts.exclusive:
            row = strangers[0]
            self._problem(
                f"{pair.token}: {self._shown(self._identity(row))} exists and is not ours (row {row['.id']}, comment "
                f"{row.get('comment', '')!r}): rename or remove it, or give it the comment {pair.token}"
            )
        elif hits:
            pair.have = hits[0]
            if not by_token:
                self.found.adopted.append(f"{self.facts.path} {pair.have['.id']} as {pair.token}")
        self._strangers_values(pair)

    def _strangers_values(self, pair: _Pair) -> None:
        """A stranger's row that holds a value which must be ours alone (a listen port)."""
        for names in self.facts.unique:
            if set(names) == set(self.facts.identity) or not all(name in pair.want for name in names):
                continue
            for row in self.rows:
                stranger = not token_of(row.get("comment")).startswith(self.owner) and row is not pair.have
                if (
                    stranger
                    and row.get("disabled") != "true"
                    and self._identity(row, names) == self._identity(pair.want, names)
                ):
                    told = ", ".join(f"{name} {pair.want[name]}" for name in names)
                    label = row.get("name", row[".id"])
                    self._problem(f"{pair.token}: {told} is taken by `{label}`, which is not ours")

    # -- what to do -------------------------------------------------------------------------------------------------

    def removals(self) -> list[Remove]:
        """Rows of ours that nobody declares; early where a declared row takes what they hold."""
        kept = {pair.have[".id"] for pair in self.pairs if pair.have is not None}
        wanted = [pair.want for pair in self.pairs]
        return [
            Remove(
                self.facts.path,
                token_of(row.get("comment")),
                row[".id"],
                dict(row),
                any(self._clash(row, w) for w in wanted),
            )
            for row in self.rows
            if token_of(row.get("comment")).startswith(self.owner) and row[".id"] not in kept
        ]

    def writes(self, removals: list[Remove]) -> tuple[list[Change], list[Change]]:
        """Sets, adds and moves; and the removals of rows that have to be made anew for others to get their values."""
        gone = {removal.id for removal in removals}
        state = {row[".id"]: dict(row) for row in self.rows if row[".id"] not in gone}
        pending = [(pair, change) for pair in self.pairs if (change := self._set(pair)) is not None]
        done: list[Change] = []
        again: list[Change] = []
        anew: set[str] = set()
        while pending:
            free = next((item for item in pending if not self._blocked(item[1], state)), None)
            if free is not None:
                pair, change = free
                state[change.id] = _after(change, state[change.id])
                done.append(change)
            else:
                pair, change = pending[0]
                assert pair.have is not None
                if self.facts.keep:
                    self._problem(f"{pair.token}: exchanges a name or port with another row: change one of them first")
                    return [], []
                again.append(Remove(self.facts.path, pair.token, change.id, dict(pair.have), True))
                anew.add(change.id)
                del state[change.id]
            pending.remove((pair, change))
        return [*done, *self._placed(list(state.values()), anew)], again

    def _set(self, pair: _Pair) -> Set | None:
        if pair.have is None:
            return None
        values: dict[str, str] = {}
        clears: list[str] = []
        old: dict[str, str | None] = {}
        for name, value in pair.want.items():
            facts = self.facts.fields[name]
            if facts.kind == "secret":
                if pair.want["comment"] == pair.have.get("comment", "") or (
                    not value and " psk:" not in pair.have.get("comment", "") and token_of(pair.have.get("comment"))
                ):
                    continue
                values[name] = str(value) if value else facts.clear or ""
                old[name] = MASK
                continue
            if self._same(name, value, pair.have.get(name)):
                continue
            old[name] = pair.have.get(name)
            if not normal.empty(facts, value) or (
                facts.clear is None and facts.default is None and facts.kind != "bool"
            ):
                values[name] = normal.wire(facts, value)
            elif facts.clear == "!":
                clears.append(name)
            else:
                values[name] = facts.clear if facts.clear is not None else normal.wire(facts, facts.default or False)
        if not values and not clears:
            return None
        return Set(self.facts.path, pair.token, pair.have[".id"], values, tuple(clears), old)

    def _same(self, name: str, value: Any, text: str | None) -> bool:
        facts = self.facts.fields[name]
        try:
            return normal.canonical(facts, value) == normal.canonical(facts, text)
        except ValueError:
            return False

    def _add(self, pair: _Pair) -> dict[str, str]:
        row = {}
        for name, value in pair.want.items():
            facts = self.facts.fields[name]
            if facts.kind == "secret" and not value:
                continue
            if value is None or (
                normal.empty(facts, value) and (facts.clear is not None or facts.kind in ("bool", "flag"))
            ):
                continue
            row[name] = normal.wire(facts, value)
        return row

    def _clash(self, row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        for names in self.facts.unique:
            if all(row.get(n) for n in names) and self._identity(row, names) == self._identity(other, names):
                return True
        if self.facts.apart is None:
            return False
        within, name = self.facts.apart
        shared = [normal.canonical(self.facts.fields[name], side.get(name)) for side in (row, other)]
        return row.get(within) == other.get(within) and bool(frozenset(shared[0]) & frozenset(shared[1]))  # type: ignore[arg-type]

    def _blocked(self, change: Set, state: Mapping[str, Row]) -> bool:
        new = _after(change, state[change.id])
        return any(ident != change.id and self._clash(new, row) for ident, row in state.items())

    def _placed(self, rows: list[dict[str, str]], anew: set[str]) -> list[Change]:
        """Adds and moves: each declared row before the next, and at the top where the facts say so."""
        within = self.facts.within
        fresh = [pair for pair in self.pairs if pair.have is None or pair.have[".id"] in anew]
        if within is None:
            return [Add(self.facts.path, pair.token, self._add(pair)) for pair in fresh]
        changes: list[Change] = []
        order: list[tuple[str, Mapping[str, Any], bool]] = []
        kept = {pair.have[".id"]: pair for pair in self.pairs if pair.have is not None}
        for row in rows:
            order.append((row[".id"], row, row[".id"] in kept))
        following: dict[Any, str | None] = {}
        for pair in reversed(self.pairs):
            key = pair.want.get(within) if within else ""
            if key not in following:
                strangers = [i for i, row, ours in order if not ours and (not within or row.get(within) == key)]
                following[key] = strangers[0] if self.facts.top and strangers else None
            after = following[key]
            names = [name for name, _, _ in order]
            if pair in fresh:
                me = f"@{pair.token}"
                changes.append(Add(self.facts.path, pair.token, self._add(pair), after))
                order.insert(names.index(after) if after is not None else len(order), (me, pair.want, True))
            else:
                assert pair.have is not None
                me = pair.have[".id"]
                if after is not None and names.index(me) > names.index(after):
                    changes.append(Move(self.facts.path, pair.token, me, after))
                    entry = order.pop(names.index(me))
                    order.insert([name for name, _, _ in order].index(after), entry)
            following[key] = me
        return changes


def _after(change: Set, row: Row) -> dict[str, str]:
    facts = PATHS[change.path]
    new = dict(row)
    for name, text in change.values.items():
        if facts.fields[name].kind == "secret":
            continue
        new[name] = "" if facts.fields[name].kind == "flag" else text
    for name in change.clears:
        new.pop(name, None)
    return new


def applied(changes: Iterable[Change], actual: Rows) -> dict[str, list[dict[str, str]]]:
    """What a router holds after the changes; an added row's id is `@token`. KeyError where a row is not there."""
    state = {path: [dict(row) for row in rows] for path, rows in actual.items()}
    for change in changes:
        rows = state.setdefault(change.path, [])
        where = {row[".id"]: number for number, row in enumerate(rows)}
        if isinstance(change, Set):
            rows[where[change.id]] = _after(change, rows[where[change.id]])
        elif isinstance(change, Remove):
            del rows[where[change.id]]
        elif isinstance(change, Move):
            row = rows.pop(where[change.id])
            rows.insert([r[".id"] for r in rows].index(change.before), row)
        else:
            facts = PATHS[change.path].fields
            new = {
                n: "" if facts[n].kind == "flag" else text
                for n, text in change.row.items()
                if facts[n].kind != "secret"
            }
            new[".id"] = f"@{change.token}"
            rows.insert(where[change.before] if change.before is not None else len(rows), new)
    return state
