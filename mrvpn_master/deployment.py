"""The description as a branch of a repository: fetched, checked in a tree of its own, planned, switched, taken back.

Knows: the store (`repository.git`, `trees/<commit>`, the link `current`, `history.jsonl`, `state.json`). Must not know:
Salt, events. `current/<folder>` is what ext_pillar reads; it changes by one rename, and only to what was found good.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrvpn.topology import Network
from mrvpn_master import Trouble, candidate
from mrvpn_master.repository import Rejected, Repository

KEPT = 20  # trees
TRIES = 4  # of a push that others came before


@dataclass(frozen=True)
class Config:
    """The master's setting `mrvpn`."""

    repository: str
    branch: str = "main"
    folder: str = "network"  # of the description, in the repository, as `mrvpn init` lays it out
    store: Path = Path("/var/lib/mrvpn")
    signed: bool | str = False  # true: by a key of the master's GPG; a path: an allowed_signers file of SSH keys
    share: float = 0.25  # of hosts, tunnels and rules: more than that is removed with force alone

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Config | None:
        """From the master's configuration; None where it deploys from no repository. Trouble for an unknown key."""
        if not settings.get("repository"):
            return None
        known = cls.__dataclass_fields__
        unknown = sorted(set(settings) - set(known) - {"webhook", "apply"})
        if unknown:
            raise Trouble(f"master configuration, mrvpn: {', '.join(unknown)}: known are {', '.join(known)}")
        found = {key: value for key, value in settings.items() if key in known}
        folder = str(found.get("folder", cls.folder)).strip("/")
        if ".." in Path(folder).parts:
            raise Trouble(f"master configuration, mrvpn.folder: {folder} leads out of the repository")
        share = float(found.get("share", cls.share))
        return cls(**{**found, "folder": folder, "store": Path(found.get("store", cls.store)), "share": share})


@dataclass
class Deployed:
    """What a deployment did."""

    result: str  # deployed | unchanged | held
    commit: str
    before: str | None = None
    plan: Any = None  # mrvpn.plan.Plan
    removed: list[str] = field(default_factory=list)


class Store:
    """Where deployments are kept. One process at a time: callers hold a lock."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._trees = config.store / "trees"
        self._link = config.store / "current"
        self._state = config.store / "state.json"
        self._history = config.store / "history.jsonl"

    @property
    def path(self) -> Path:
        """The description in force."""
        return self._link / self.config.folder

    def repository(self) -> Repository:
        """The master's own copy of the repository."""
        self.config.store.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Repository.mirror(self.config.store / "repository.git", self.config.repository)

    def current(self) -> str | None:
        """The commit in force; None before the first deployment."""
        return self._link.readlink().name if self._link.is_symlink() else None

    def state(self) -> dict[str, Any]:
        """What is to be told of the last attempts: `refused`, `held`, `checked`."""
        try:
            found: dict[str, Any] = json.loads(self._state.read_text())
            return found
        except (FileNotFoundError, ValueError):
            return {}

    def note(self, **what: Any) -> None:
        """Notes what is to be told; None takes a note away. Trouble where the disk takes none."""
        state = {key: value for key, value in {**self.state(), **what}.items() if value is not None}
        following = self._state.with_suffix(".next")
        try:
            self.config.store.mkdir(parents=True, exist_ok=True)
            following.write_text(json.dumps(state) + "\n")
            following.replace(self._state)
        except OSError as error:
            raise Trouble(f"{self._state} cannot be written ({error.strerror}): what runs stays as it is") from None

    def history(self) -> list[dict[str, Any]]:
        """What was in force, newest first: commit, time (Unix seconds), subject, why."""
        if not self._history.exists():
            return []
        return [json.loads(line) for line in reversed(self._history.read_text().splitlines()) if line]

    def deploy(
        self, *, force: bool = False, own: str | None = None, planned: Callable[[str, Any], None] | None = None
    ) -> Deployed:
        """Fetches the branch and puts it in force if it is good; Trouble with the reason where it is not.

        `planned` is told of commit and plan before anything is switched. `own`: a commit that a command has just made;
        what it removes was named to it, so that a large share needs no `force` where it alone is new.
        """
        repo = self.repository()
        commit = repo.fetch(self.config.branch)
        before = self.current()
        self.note(checked={"time": time.time(), "commit": commit})
        if commit == before:
            self.note(refused=None)
            return Deployed("unchanged", commit, before)
        held = self.state().get("held")
        if held == commit and not force:
            return Deployed("held", commit, before)
        try:
            meant = force or (commit == own and repo.parents(commit) == [before])
            found = self._prepare(repo, commit, before, force=meant, planned=planned)
        except Trouble as trouble:
            with contextlib.suppress(Trouble):  # the first one is the one to tell
                self.note(refused={"commit": commit, "time": time.time(), **trouble.as_json()})
            raise
        self._switch(repo, commit, "deploy")
        self.note(refused=None, held=None)
        return found

    def _prepare(
        self,
        repo: Repository,
        commit: str,
        before: str | None,
        *,
        force: bool,
        planned: Callable[[str, Any], None] | None,
    ) -> Deployed:
        if self.config.signed:
            repo.verify(commit, None if self.config.signed is True else str(self.config.signed))
        tree = self._tree(repo, commit)
        network = candidate.network_of(tree / self.config.folder, f"commit {commit[:12]}")
        found = Deployed("deployed", commit, before)
        if before is not None:
            old = _network_or_none(self._trees / before / self.config.folder)
            if old is not None:
                found.plan = plan_of(old, network)
                found.removed, whole = removals(old, network)
                if planned is not None and found.plan is not None:
                    planned(commit, found.plan)
                if len(found.removed) > self.config.share * whole and not force:
                    raise Trouble(
                        f"commit {commit[:12]} removes {len(found.removed)} of {whole} hosts, tunnels and rules, more "
                        f"than the share {self.config.share:g}: `salt-run mrvpn.deploy force=True` if that is meant",
                        found.removed,
                    )
        return found

    def _tree(self, repo: Repository, commit: str) -> Path:
        """The commit's tree as files; whole or not there."""
        tree = self._trees / commit
        if tree.is_dir():
            return tree
        following = self._trees / f".{commit}.next"
        shutil.rmtree(following, ignore_errors=True)
        try:
            following.mkdir(parents=True, mode=0o755)
            repo.export(commit, following)
            following.replace(tree)
        except OSError as error:
            raise Trouble(f"{tree} cannot be written ({error.strerror}): what runs stays as it is") from None
        finally:
            shutil.rmtree(following, ignore_errors=True)
        return tree

    def _switch(self, repo: Repository, commit: str, why: str) -> None:
        following = self._link.with_name(".current.next")
        following.unlink(missing_ok=True)
        subject = repo.subject(commit) if repo.has(commit) else ""
        entry = {"commit": commit, "time": time.time(), "subject": subject, "why": why}
        try:
            following.symlink_to(Path("trees") / commit)
            with self._history.open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
            following.replace(self._link)
        except OSError as error:
            raise Trouble(f"{self._link} cannot be switched ({error.strerror}): what runs stays as it is") from None
        self._forget(commit)

    def _forget(self, current: str) -> None:
        """Takes away trees that nobody goes back to."""
        wanted = [current, *(entry["commit"] for entry in self.history())]
        kept = set(list(dict.fromkeys(wanted))[:KEPT])
        for tree in self._trees.iterdir():
            if tree.name not in kept:
                shutil.rmtree(tree, ignore_errors=True)

    def rollback(self, to: str | None = None) -> Deployed:
        """Puts a former commit in force, without the remote; the one left is held until the branch moves on."""
        before = self.current()
        if before is None:
            raise Trouble("nothing was deployed yet: there is nothing to go back to")
        commits = list(dict.fromkeys(entry["commit"] for entry in self.history()))
        if to is None:
            target = next((commit for commit in commits if commit != before), None)
            if target is None:
                raise Trouble(f"{before[:12]} is the only commit that was ever in force")
        else:
            matching = [commit for commit in commits if commit.startswith(to)]
            if len(matching) != 1 or len(to) < 4:
                raise Trouble(
                    f"to={to}: names {len(matching)} of the commits that were in force: `salt-run mrvpn.history`"
                )
            target = matching[0]
        if target == before:
            return Deployed("unchanged", before, before)
        repo = self.repository()
        tree = self._tree(repo, target)
        network = candidate.network_of(tree / self.config.folder, f"commit {target[:12]}")
        old = _network_or_none(self.path)
        found = Deployed("deployed", target, before, plan=plan_of(old, network) if old else None)
        self._switch(repo, target, f"rollback from {before[:12]}")
        self.note(held=before, refused=None)
        return found

    def change(
        self, edit: candidate.Edit, message: Callable[[], str], branch: str | None = None
    ) -> tuple[str, candidate.Candidate, dict[str, str]]:
        """Commits an edit on the branch (or on a new one of it) at the remote: commit, candidate, texts before.

        When others pushed in between the edit is made again on what they left: there is nothing to merge.
        """
        repo = self.repository()
        for number in range(TRIES):
            base = repo.fetch(self.config.branch)
            before = repo.texts(base, self.config.folder)
            found = candidate.check(edit(dict(before), candidate.check(before).network))
            names = candidate.differing(before, found.texts)
            texts = {name: found.texts.get(name) for name in names}
            commit = repo.commit_on(base, self.config.folder, texts, message())
            try:
                repo.push(commit, branch or self.config.branch)
            except Rejected:
                if branch or number == TRIES - 1:
                    raise
                continue
            return commit, found, before
        raise AssertionError("unreachable")


def plan_of(old: Network, new: Network) -> Any:
    """The plan between two networks; None where this version of the package makes none."""
    try:
        from mrvpn.plan import plan
    except ImportError:
        return None
    states = Path(__file__).parents[1] / "salt"
    return plan(old, new, states=states if (states / "mrvpn" / "files.jsonl.j2").is_file() else None)


def shown(plan: Any) -> dict[str, Any]:
    """A plan as lines and, for programs, as values."""
    if plan is None:
        return {}
    from mrvpn.plan import text

    return {"plan": [line.plain for line in text.lines(plan)], "changes": plan.as_json()}


def touched(plan: Any) -> list[str]:
    """The hosts that a plan has something for."""
    return [] if plan is None else [h.host for h in plan.hosts if h.status != "removed"]


def removals(old: Network, new: Network) -> tuple[list[str], int]:
    """What the new network has no longer, as words; and how much the old one had."""
    had = [f"host {host}" for host in old.hosts] + [f"tunnel {name}" for name in old.description.tunnels]
    has = {f"host {host}" for host in new.hosts} | {f"tunnel {name}" for name in new.description.tunnels}
    had += [f"rule {rule.name}" for rule in old.rules]
    has |= {f"rule {rule.name}" for rule in new.rules}
    return [name for name in had if name not in has], len(had)


def _network_or_none(path: Path) -> Network | None:
    try:
        return candidate.network_of(path)
    except Trouble:
        return None
