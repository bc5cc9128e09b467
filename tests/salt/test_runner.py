"""The runner on a description in somebody's git work tree, in-process: edited, checked, committed, or taken back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.loader

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "pillar" / "network"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree whose folder `network` the master reads."""
    tree = tmp_path / "tree"
    shutil.copytree(EXAMPLE, tree / "network")
    git(tmp_path, "init", "-q", "--initial-branch=main", str(tree))
    git(tree, "config", "user.name", "ann")
    git(tree, "config", "user.email", "ann@example.net")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "first")
    return tree


@pytest.fixture
def run(tree: Path, tmp_path: Path) -> Callable[..., Any]:
    """`run("add_rule", "uk", net=...)`: the runner's function; what needs no bus."""
    opts = salt.config.master_config("/nonexistent")
    opts.update(
        cachedir=str(tmp_path / "cache"),
        pki_dir=str(tmp_path / "pki"),
        runner_dirs=[str(REPO / "_runners")],
        ext_pillar=[{"mrvpn": {"path": str(tree / "network")}}],
    )
    (tmp_path / "pki" / "minions").mkdir(parents=True)
    (tmp_path / "pki" / "minions" / "de").write_text("a key")
    runners = salt.loader.runner(opts, context={})
    return lambda function, *args, **kwargs: runners[f"mrvpn.{function}"](*args, **kwargs)


def test_every_function_has_an_example(run, tree: Path) -> None:
    opts = salt.config.master_config("/nonexistent")
    opts["runner_dirs"] = [str(REPO / "_runners")]
    runners = salt.loader.runner(opts, context={})
    ours = {name: function for name, function in runners.items() if name.startswith("mrvpn")}
    wanted = """hosts check list plan explain graph client status add_exit remove_exit add_host add_rule remove_rule
        apply deploy history rollback"""
    reactor = "schema_changed applied deploy_wanted host_started keys_changed exits_changed"
    assert set(ours) == {f"mrvpn.{name}" for name in wanted.split()} | {f"mrvpn_reactor.{n}" for n in reactor.split()}
    assert [name for name, function in ours.items() if f"salt-run {name}" not in (function.__doc__ or "")] == []


def test_an_exit_is_added_in_one_commit(run, tree: Path) -> None:
    done = run("add_exit", "de", host="de", endpoint="203.0.113.50", country="DE,AT", apply=False)
    assert "error" not in done, done
    assert done["files"] == ["hosts.yaml", "routing.yaml", "tunnels.yaml"], "a new exit is no interface that is served"
    assert git(tree, "log", "--format=%s").splitlines() == ["network: add exit de (de)", "first"]
    assert git(tree, "status", "--porcelain") == "" and done["commit"] == git(tree, "rev-parse", "HEAD")
    assert any("wg_de" in line for line in done["plan"])
    assert "de" in run("list")["hosts"] and run("check") == []
    assert run("history")[0]["subject"] == "network: add exit de (de)"
    back = run("remove_exit", "de", to="uk", apply=False)
    assert "error" not in back, back
    assert run("list")["rules"][3] == "country DE, AT -> wg_uk"


def test_looking_changes_nothing(run, tree: Path) -> None:
    done = run("add_exit", "de", host="de", endpoint="203.0.113.50", country="DE", test=True)
    assert done["done"].startswith("nothing: ") and done["plan"]
    assert git(tree, "status", "--porcelain") == "" and git(tree, "log", "--format=%s") == "first"


def test_a_branch_for_a_pull_request_leaves_the_tree_alone(run, tree: Path) -> None:
    (tree / "network" / "hosts.yaml").open("a").write("# being edited by somebody\n")
    done = run("add_rule", "uk", net="198.51.100.0/24", branch="more", apply=False)
    assert "not committed" in done["error"], "a tree that is being edited is told even for a branch"
    git(tree, "checkout", "-q", "--", ".")
    done = run("add_rule", "uk", net="198.51.100.0/24", branch="more")
    assert (done["branch"], done["pushed"]) == ("more", False)
    assert git(tree, "branch", "--show-current") == "main" and git(tree, "status", "--porcelain") == ""
    assert git(tree, "diff", "--numstat", "main", "more") == "1\t0\tnetwork/routing.yaml"
    assert "is there already" in run("add_rule", "uk", net="192.0.2.0/24", branch="more")["error"]


def test_without_a_commit(run, tree: Path) -> None:
    done = run("add_rule", "uk", net="198.51.100.0/24", commit=False, apply=False)
    assert "commit" not in done and git(tree, "status", "--porcelain") == "M network/routing.yaml"
    refused = run("add_rule", "uk", net="192.0.2.0/24", apply=False)
    assert refused["retcode"] == 1 and "not committed" in refused["error"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("add_exit", "uk", "uk"), "tunnel wg_uk is there already"),
        (("add_exit", "fr", "fr"), "accepted no minion key"),
        (("remove_exit", "uk"), "needed by route rules"),
        (("remove_rule", 77), "no rule 77"),
        (("add_rule", "xx"), "there is no tunnel xx"),
        (("rollback",), "nothing to go back to"),
        (("deploy",), "nothing to deploy from"),
        (("plan",), "repository is not configured"),
    ],
)
def test_what_is_refused_says_why_and_changes_nothing(run, tree: Path, call: tuple[Any, ...], message: str) -> None:
    answer = run(*call)
    assert answer["retcode"] == 1 and message in answer["error"]
    assert git(tree, "status", "--porcelain") == "" and git(tree, "log", "--format=%s") == "first"


def test_a_change_into_a_problem_is_refused_with_all_of_them(run, tree: Path) -> None:
    answer = run("add_rule", "uk", country="ZZ", net="10.11.0.0/33", apply=False)
    assert answer["retcode"] == 1 and len(answer["problems"]) >= 1 and "nothing was changed" in answer["error"]
    assert git(tree, "status", "--porcelain") == ""


def test_a_problem_by_hand_is_told_before_anything_is_edited(run, tree: Path) -> None:
    file = tree / "network" / "routing.yaml"
    file.write_text(file.read_text().replace("country: GB", "country: XX"))
    git(tree, "commit", "-qam", "typo")
    answer = run("add_rule", "uk", net="198.51.100.0/24", apply=False)
    assert answer["retcode"] == 1 and "routing.yaml:8" in answer["problems"][0]
    assert run("check")["retcode"] == 1


def test_a_commit_that_is_refused_takes_the_texts_back(run, tree: Path) -> None:
    hook = tree / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
    hook.chmod(0o755)
    answer = run("add_rule", "uk", net="198.51.100.0/24", apply=False)
    assert "not today" in answer["error"]
    assert git(tree, "status", "--porcelain") == ""


def test_two_at_once_both_go_in(run, tree: Path) -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=run, args=("add_rule", "uk"), kwargs={"net": net, "apply": False})
        for net in ("198.51.100.0/24", "192.0.2.0/24")
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    rules = "\n".join(run("list")["rules"].values())
    assert "198.51.100.0/24" in rules and "192.0.2.0/24" in rules
    assert len(git(tree, "log", "--format=%s").splitlines()) == 3


def test_a_plan_of_a_folder_has_the_exit_code_of_a_plan(run, tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tree / "network", other)
    assert "retcode" not in run("plan", to=str(other))
    text = (other / "routing.yaml").read_text()
    (other / "routing.yaml").write_text(text.replace("country: GB", "country: [GB, IE]"))
    answer = run("plan", to=str(other))
    assert answer["retcode"] == 2 and any("IE" in line for line in answer["plan"])


def test_a_graph(run) -> None:
    assert run("graph").startswith(("graph", "flowchart"))
