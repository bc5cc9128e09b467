"""A description as texts: read, checked beside the one in force, and put in its place or taken back.

Knows: the folder of a description and its lock. Must not know: git, what an edit means.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mrvpn import compiler, topology
from mrvpn.schema.source import LOCK
from mrvpn.topology import lock as locks
from mrvpn_master import Trouble

Edit = Callable[[dict[str, str], topology.Network], dict[str, str]]


@dataclass(frozen=True)
class Candidate:
    """Texts by file name (the lock among them) that were found good, and what they compile to."""

    texts: dict[str, str]
    network: topology.Network
    warnings: list[str]


def read(path: Path) -> dict[str, str]:
    """The texts of a description, file or folder, and of its lock, by file name."""
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path, path.parent / LOCK]
    try:
        return {file.name: file.read_bytes().decode() for file in files if file.is_file()}
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{path} cannot be read: {error}") from None


def network_of(path: Path, what: str = "the description") -> topology.Network:
    """The network at a path; Trouble with every problem where it is refused."""
    compiled = compiler.compile_path(path)
    if compiled.network is None:
        problems = [str(problem) for problem in compiled.errors]
        raise Trouble(f"{what} is refused ({len(problems)} problems)", problems)
    return compiled.network


def check(texts: Mapping[str, str], single: str | None = None) -> Candidate:
    """Compiles texts in a folder of their own; Trouble with every problem.

    `single`: the description is that one file. Where there is a lock, it is written anew to hold everything.
    """
    with tempfile.TemporaryDirectory(prefix="mrvpn-candidate-") as name:
        folder = Path(name)
        for file, text in texts.items():
            (folder / file).write_bytes(text.encode())
        path = folder / single if single else folder
        compiled = compiler.compile_path(path)
        found = dict(texts)
        if compiled.network is not None and LOCK in texts:
            found[LOCK] = locks.dump(topology.lock_of(compiled.network, compiled.lock))
            (folder / LOCK).write_text(found[LOCK], encoding="utf-8")
            compiled = compiler.compile_path(path)
        if compiled.network is None:
            problems = [str(problem) for problem in compiled.errors]
            raise Trouble("the changed description would be refused; nothing was changed", problems)
        return Candidate(found, compiled.network, [str(problem) for problem in compiled.problems])


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The files that are not the same."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def replace(path: Path, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Puts changed files in place, each by rename; what was put is taken back when one cannot be."""
    folder = path if path.is_dir() else path.parent
    changed = differing(before, after)
    if differing(read(path), before):
        raise Trouble(f"{path} was changed by somebody else in between; nothing was changed: try again")
    following: dict[str, Path] = {}
    done: list[str] = []
    try:
        # written whole before the first is switched: a full disk is met here
        for name in changed:
            if name in after:
                following[name] = _written(folder / name, after[name])
        for name in changed:
            done.append(name)
            if name in after:
                following[name].replace(folder / name)
            else:
                (folder / name).unlink()
    except OSError as error:
        take_back(path, before, done)
        raise Trouble(f"{folder} cannot be written ({error.strerror}): the description is as it was") from None
    finally:
        for file in following.values():
            file.unlink(missing_ok=True)


def take_back(path: Path, before: Mapping[str, str], names: list[str]) -> None:
    """Puts the former text of some files back."""
    folder = path if path.is_dir() else path.parent
    for name in names:
        if name not in before:
            (folder / name).unlink(missing_ok=True)
        elif not (folder / name).is_file() or (folder / name).read_bytes().decode() != before[name]:
            _written(folder / name, before[name]).replace(folder / name)


def _written(file: Path, text: str) -> Path:
    """The text on the disk beside its place, with the mode and owner of what stands there."""
    following = file.with_name(f".{file.name}.next")
    try:
        with following.open("wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        if file.exists():
            stat = file.stat()
            following.chmod(stat.st_mode & 0o7777)
            with contextlib.suppress(PermissionError):
                os.chown(following, stat.st_uid, stat.st_gid)
    except OSError:
        following.unlink(missing_ok=True)
        raise
    return following
