"""Real git repositories with the example network in them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "pillar" / "network"
ROUTING = "pillar/network/routing.yaml"


class Remote:
    """A bare repository and somebody's clone of it."""

    def __init__(self, folder: Path) -> None:
        self.url = folder / "origin.git"
        self.clone = folder / "clone"
        git(folder, "init", "-q", "--bare", "--initial-branch=main", str(self.url))
        git(folder, "clone", "-q", str(self.url), str(self.clone))
        git(self.clone, "config", "user.name", "ann")
        git(self.clone, "config", "user.email", "ann@example.net")
        git(self.clone, "checkout", "-q", "-b", "main")
        shutil.copytree(EXAMPLE, self.clone / "pillar" / "network")
        self.push("first")

    def push(self, subject: str = "change", *options: str) -> str:
        """Commits all and pushes it; the commit."""
        git(self.clone, "add", "-A")
        git(self.clone, *options, "commit", "-q", "--allow-empty", "-m", subject)
        git(self.clone, "push", "-q", "--force", "origin", "main")
        return git(self.clone, "rev-parse", "HEAD")

    def edit(self, old: str, new: str, file: str = ROUTING) -> None:
        """Replaces a text in a file of the clone."""
        text = (self.clone / file).read_text()
        assert old in text
        (self.clone / file).write_text(text.replace(old, new))

    def head(self, branch: str = "main") -> str:
        """The remote's commit of a branch."""
        return git(self.url, "rev-parse", f"refs/heads/{branch}")


def git(folder: Path, *arguments: str) -> str:
    """Runs git; its output."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    """The remote of a deployment."""
    return Remote(tmp_path)


@pytest.fixture
def add_rule() -> Callable[..., Callable[..., dict[str, str]]]:
    """`add_rule(prefix)`: an edit that adds a rule."""
    from mrvpn import changes

    return lambda prefix: lambda texts, network: changes.add_rule(texts, network, "uk", {"net": prefix}).texts
