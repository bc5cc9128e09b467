"""A change of the description as one transaction: edited, checked, planned, put in place and committed, or taken back.

Knows: a folder in a work tree, a branch of a repository. Must not know: what a change edits, hosts, Salt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mrvpn import compiler
from mrvpn.changes import Change
from mrvpn.schema.source import LOCK
from mrvpn.topology import Network
from mrvpn_master import Trouble, candidate, deployment, repository, wishes
from mrvpn_master.place import Place

WAIT = 120  # seconds for which a change waits for another one to end
Make = Callable[[Mapping[str, str], Network], Change]  # the change of these texts, which make up this network


def change(place: Place, make: Make, *, commit: bool, branch: str | None, test: bool) -> tuple[dict[str, Any], Change]:
    """What was done, as an answer, and the change. Trouble where it was not; then nothing is changed."""
    store = place.store()
    with wishes.alone(place.own("change.lock"), WAIT, "another change"):
        if store is not None:
            return _in_repository(store, make, commit, branch, test)
        return _in_folder(place, make, commit, branch, test)


def _in_folder(place: Place, make: Make, commit: bool, branch: str | None, test: bool) -> tuple[dict[str, Any], Change]:
    path, folder = place.path, place.folder
    repo = repository.Repository.around(folder) if commit or branch else None
    if branch and repo is None:
        raise Trouble(f"branch={branch}: {folder} is in no git work tree")
    before = candidate.read(path)
    if repo is not None and not test:
        _clean(repo, place, ", or commit=False")
    network = place.network()
    made = make(_without_lock(before), network)
    checked = candidate.check({**before, **made.texts}, place.single)
    found = _told(made, network, checked, before)
    names = found["files"]
    if test:
        return {**found, "done": f"nothing: {made.subject} would be done"}, made
    message = f"network: {made.subject}"
    if branch and repo is not None:
        texts = {name: checked.texts[name] for name in names}
        commit_ = repo.commit_on(repo.head(), repo.prefix(folder), texts, message)
        repo.branch(branch, commit_)
        if repo.has_origin:
            repo.push(commit_, branch)
        return {**found, "commit": commit_, "branch": branch, "pushed": repo.has_origin}, made
    candidate.replace(path, before, checked.texts)
    if repo is not None:
        try:
            found["commit"] = repo.commit([folder / name for name in names], message)
        except BaseException:
            candidate.take_back(path, before, names)
            raise
    return found, made


def _in_repository(
    store: deployment.Store, make: Make, commit: bool, branch: str | None, test: bool
) -> tuple[dict[str, Any], Change]:
    if not commit:
        raise Trouble("the description comes from a repository: commit=False has no place; look with test=True")
    last: dict[str, Any] = {}

    def edited(texts: dict[str, str], network: Network) -> dict[str, str]:
        last["change"], last["network"] = make(_without_lock(texts), network), network
        return {**texts, **last["change"].texts}

    if test:
        repo = store.repository()
        before = repo.texts(repo.fetch(store.config.branch), store.config.folder)
        checked = candidate.check(edited(dict(before), candidate.check(before).network))
        found = _told(last["change"], last["network"], checked, before)
        return {**found, "done": f"nothing: {last['change'].subject} would be done"}, last["change"]
    made, checked, before = store.change(edited, lambda: f"network: {last['change'].subject}", branch)
    found = _told(last["change"], last["network"], checked, before)
    return {**found, "commit": made, **({"branch": branch, "pushed": True} if branch else {})}, last["change"]


def back(place: Place, to: str | None) -> dict[str, Any]:
    """Goes back to the texts of a commit, by default of the one before the last, by a commit on top.

    The answer has `touched`, the hosts that are to be applied to.
    """
    path, folder = place.path, place.folder
    repo = repository.Repository.around(folder)
    if repo is None:
        raise Trouble(f"{folder} is in no git work tree: there is nothing to go back to")
    with wishes.alone(place.own("change.lock"), WAIT, "another change"):
        _clean(repo, place)
        commits = [entry["commit"] for entry in repo.log(str(folder), 2)]
        if to is None and len(commits) < 2:
            raise Trouble("there is one commit alone: nothing to go back to")
        target = repo.head(to or commits[1])
        before = candidate.read(path)
        texts = repo.texts(target, repo.prefix(folder))
        if place.single is not None:
            texts = {name: text for name, text in texts.items() if name in (place.single, LOCK)}
        checked = candidate.check(texts, place.single)
        names = candidate.differing(before, checked.texts)
        if not names:
            return {"result": "unchanged", "commit": target, "touched": []}
        old = compiler.compile_path(path).network
        plan = deployment.plan_of(old, checked.network) if old else None
        candidate.replace(path, before, checked.texts)
        try:
            commit = repo.commit([folder / name for name in names], f"network: back to {target[:12]}")
        except BaseException:
            candidate.take_back(path, before, names)
            raise
    told = {"result": "deployed", "commit": commit, "to": target, "files": names}
    return {**told, **deployment.shown(plan), "touched": deployment.touched(plan)}


def _clean(repo: repository.Repository, place: Place, otherwise: str = "") -> None:
    dirty = repo.dirty(place.folder)
    if dirty:
        raise Trouble(f"{place.folder} has changes that are not committed: commit or stash them{otherwise}", dirty)


def _told(made: Change, network: Network, checked: candidate.Candidate, before: Mapping[str, str]) -> dict[str, Any]:
    plan = deployment.plan_of(network, checked.network)
    return {
        "done": made.subject,
        "files": candidate.differing(before, checked.texts),
        "notes": made.notes,
        "warnings": checked.warnings,
        **deployment.shown(plan),
    }


def _without_lock(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if name != LOCK}
