"""States by gitfs as the documentation has it, and git_pillar beside the views: a real master, bare repositories.

mrvpn.git (this checkout's folders) --gitfs--> master <--git_pillar-- pillar.git        one minion, entry
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltfactories.manager import FactoriesManager

REPO = Path(__file__).parents[2]
SHOWN_URL = "https://git.example.net/mrvpn.git"
FOLDERS = ("salt", "_modules", "_states", "_grains", "_engines", "_proxy", "image", "mrvpn", "ipt_server")
pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=ann", "-c", "user.email=ann@example.net"]
    done = subprocess.run(["git", *who, "-C", str(folder), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def documented(url: str) -> dict[str, Any]:
    """The lines of docs/operations.md, for a repository that is here."""
    page = (REPO / "docs" / "operations.md").read_text()
    block = next(text for text in re.findall(r"```yaml\n(.*?)```", page, re.S) if "gitfs_remotes" in text)
    found: dict[str, Any] = yaml.safe_load(block.replace(SHOWN_URL, url))
    return found


@dataclass
class Site:
    master: Any
    states: Path  # a clone of mrvpn.git
    pillar: Path  # a clone of pillar.git

    def run(self, *arguments: str) -> Any:
        done = self.master.salt_run_cli(timeout=180).run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.data

    def salt(self, *arguments: str) -> Any:
        return self.master.salt_cli(timeout=180).run(*arguments, minion_tgt="entry").data

    def push(self, clone: Path, path: str, text: str) -> None:
        file = clone / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        git(clone, "add", "-A")
        git(clone, "commit", "-q", "-m", "change")
        git(clone, "push", "-q", "origin", "HEAD:main")


@pytest.fixture(scope="module")
def site(salt_factories: FactoriesManager, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("git")
    for name in ("mrvpn", "pillar"):
        git(folder, "init", "-q", "--bare", "--initial-branch=main", str(folder / f"{name}.git"))
        git(folder, "clone", "-q", str(folder / f"{name}.git"), str(folder / name))
    states, pillar = folder / "mrvpn", folder / "pillar"
    for name in FOLDERS:
        shutil.copytree(REPO / name, states / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(states, "add", "-A")
    git(states, "commit", "-q", "-m", "first")
    git(states, "push", "-q", "origin", "HEAD:main")
    (pillar / "top.sls").write_text("base: {'*': [site]}\n")
    (pillar / "site.sls").write_text("site: london\n")
    git(pillar, "add", "-A")
    git(pillar, "commit", "-q", "-m", "first")
    git(pillar, "push", "-q", "origin", "HEAD:main")
    (folder / "secrets.yaml").write_text("psk_root: long-enough-to-be-one-for-this-test\n")
    (folder / "secrets.yaml").chmod(0o600)
    options = {
        **documented(f"file://{folder}/mrvpn.git"),
        "interface": "127.0.0.1",
        "open_mode": True,
        "worker_threads": 3,
        "pillar_dirs": [str(REPO / "_pillar")],
        "runner_dirs": [str(REPO / "_runners")],
        "git_pillar_provider": "gitpython",
        "git_pillar_base": "main",
        "ext_pillar": [
            {"git": [f"main file://{folder}/pillar.git"]},
            {"mrvpn": {"path": str(REPO / "pillar" / "network"), "secrets": str(folder / "secrets.yaml")}},
        ],
    }
    master = salt_factories.salt_master_daemon("mrvpn-gitfs-master", overrides=options)
    with master.started(), master.salt_minion_daemon("entry").started():
        found = Site(master, states, pillar)
        found.run("fileserver.update")
        yield found


def test_every_file_of_the_states_and_of_the_build_is_served(site: Site) -> None:
    served = set(site.run("fileserver.file_list"))
    for name in FOLDERS:
        place = {"salt": ""}.get(name, f"{name}/" if name.startswith("_") else f"mrvpn/build/{name}/")
        files = [f for f in (REPO / name).rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        assert files and {f"{place}{f.relative_to(REPO / name)}" for f in files} <= served, name
    assert not [file for file in served if "pillar" in file.split("/")[0]], "the description is nobody's to fetch"


def test_a_minion_gets_modules_by_it_and_renders_its_states(site: Site) -> None:
    synced = site.salt("saltutil.sync_all")
    assert "modules.mrvpn_compose" in synced["modules"] and "states.mrvpn_compose" in synced["states"]
    guard = site.salt("state.apply", "mrvpn.guard")
    assert [state["result"] for state in guard.values()] == [True]
    low = site.salt("state.show_low_sls", "mrvpn.compose")
    assert any(chunk["state"] == "mrvpn_compose" for chunk in low), low


def test_a_push_of_states_is_there_after_an_update(site: Site) -> None:
    site.push(site.states, "salt/mrvpn/extra.sls", "extra:\n  test.nop: []\n")
    site.run("fileserver.update")
    site.salt("saltutil.clear_cache")
    done = site.salt("state.apply", "mrvpn.extra")
    assert [state["__id__"] for state in done.values()] == ["extra"]


def test_git_pillar_stands_beside_the_views_and_may_not_bring_one(site: Site) -> None:
    site.salt("saltutil.refresh_pillar", "wait=True")
    shown = site.run("pillar.show_pillar", "minion=entry")
    assert shown["site"] == "london" and shown["mrvpn"]["host"] == "entry"
    site.push(site.pillar, "site.sls", "site: leeds\nmrvpn: {entrypoint: evil}\n")
    site.run("git_pillar.update")
    refused = site.run("pillar.show_pillar", "minion=entry")
    assert refused["site"] == "leeds" and "mrvpn" in json.dumps(refused["_errors"])
    site.salt("saltutil.refresh_pillar", "wait=True")
    answer = site.salt("state.apply", "mrvpn.guard")
    assert isinstance(answer, list) and any("mrvpn" in line for line in answer), answer
    site.push(site.pillar, "site.sls", "site: london\n")
    site.run("git_pillar.update")
    assert "_errors" not in site.run("pillar.show_pillar", "minion=entry")
