"""Deployments and changes against a real remote: what is good is switched, what is bad never."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mrvpn_master import Trouble, candidate
from mrvpn_master.deployment import Config, Store
from mrvpn_master.repository import Rejected, Repository
from tests.disk import fill, small_disk
from tests.unit.mrvpn_master.conftest import Remote, git


@pytest.fixture
def store(remote: Remote, tmp_path: Path) -> Store:
    return Store(Config(str(remote.url), folder="pillar/network", store=tmp_path / "store"))


def rules(store: Store) -> list[str]:
    return [str(rule.name) for rule in candidate.network_of(store.path).rules]


def test_a_push_is_deployed_once(remote: Remote, store: Store) -> None:
    assert store.deploy().result == "deployed"
    assert store.current() == remote.head()
    assert store.deploy().result == "unchanged"
    remote.edit("country: GB,", "country: [GB, DE],")
    commit = remote.push("Germany too")
    planned = []
    found = store.deploy(planned=lambda *what: planned.append(what))
    assert (found.result, store.current()) == ("deployed", commit)
    assert [entry["subject"] for entry in store.history()] == ["Germany too", "first"]
    if found.plan is not None:
        assert planned and planned[0][0] == commit


def test_a_candidate_with_problems_is_never_deployed_and_state_says_why(remote: Remote, store: Store) -> None:
    store.deploy()
    before = store.current()
    remote.edit("interface: wg_ru", "interface: wg_rx")
    bad = remote.push("typo")
    with pytest.raises(Trouble, match="refused") as caught:
        store.deploy()
    assert any("wg_rx" in problem for problem in caught.value.problems)
    assert store.current() == before
    refused = store.state()["refused"]
    assert refused["commit"] == bad and refused["problems"] == caught.value.problems
    remote.edit("interface: wg_rx", "interface: wg_ru")
    remote.push("mended")
    assert store.deploy().result == "deployed" and "refused" not in store.state()


def test_a_remote_that_is_away_changes_nothing(remote: Remote, store: Store) -> None:
    store.deploy()
    before = store.current()
    remote.url.rename(remote.url.with_name("away.git"))
    with pytest.raises(Trouble, match="cannot be fetched; what runs stays"):
        store.deploy()
    assert store.current() == before and rules(store)


def nearly_all_gone(remote: Remote) -> str:
    """The commit of a description that lost most of its tunnels and rules."""
    text = (remote.clone / "pillar/network/routing.yaml").read_text()
    kept = [line for line in text.splitlines() if "interface: wg_" not in line or "wg_uk" in line]
    (remote.clone / "pillar/network/routing.yaml").write_text("\n".join(kept) + "\n")
    tunnels = (remote.clone / "pillar/network/tunnels.yaml").read_text()
    (remote.clone / "pillar/network/tunnels.yaml").write_text(tunnels[: tunnels.index("    wg_ru:")])
    (remote.clone / "pillar/network/hosts.yaml").write_text(
        "mrvpn: {entrypoint: entry, hosts: {uk: {endpoint: 203.0.113.20}}}\n"
    )
    remote.edit("wg-firezone, wg_office, wg_router", "wg-firezone", "pillar/network/gateway.yaml")
    return remote.push("nearly all gone")


def test_large_removals_ask_for_force(remote: Remote, store: Store) -> None:
    store.deploy()
    nearly_all_gone(remote)
    with pytest.raises(Trouble, match="more than the share") as caught:
        store.deploy()
    assert "tunnel wg_us" in caught.value.problems
    assert store.deploy(force=True).result == "deployed"


def test_what_a_command_was_told_to_remove_asks_for_none(remote: Remote, store: Store) -> None:
    store.deploy()
    assert store.deploy(own=nearly_all_gone(remote)).result == "deployed"


def test_what_others_pushed_before_a_commands_commit_does(remote: Remote, store: Store) -> None:
    store.deploy()
    nearly_all_gone(remote)
    with pytest.raises(Trouble, match="more than the share"):
        store.deploy(own=remote.push("a command's own"))


def test_a_rollback_holds_until_the_branch_moves_on(remote: Remote, store: Store) -> None:
    store.deploy()
    first = store.current()
    remote.edit("country: GB,", "country: [GB, DE],")
    second = remote.push("Germany too")
    store.deploy()
    remote.url.rename(remote.url.with_name("away.git"))  # a rollback needs no remote
    assert store.rollback().commit == first
    assert store.current() == first and store.state()["held"] == second
    remote.url.with_name("away.git").rename(remote.url)
    assert store.deploy().result == "held"
    assert store.current() == first
    third = remote.push("the branch moves on")
    assert store.deploy().result == "deployed"
    assert store.current() == third and "held" not in store.state()
    assert store.rollback(second[:8]).commit == second
    with pytest.raises(Trouble, match="names 0 of the commits"):
        store.rollback("f00dfeed")


def test_a_link_out_of_the_tree_is_refused(remote: Remote, store: Store, tmp_path: Path) -> None:
    store.deploy()
    (tmp_path / "secrets.yaml").write_text("psk_root: never to be shown\n")
    (remote.clone / "pillar/network/z.yaml").symlink_to(tmp_path / "secrets.yaml")
    remote.push("a link")
    with pytest.raises(Trouble, match="cannot be laid out"):
        store.deploy()
    assert "never to be shown" not in str(store.state())


@pytest.mark.root
def test_a_full_disk_keeps_what_runs(remote: Remote, tmp_path: Path) -> None:
    small = tmp_path / "small"
    with small_disk(small, "2m"):
        store = Store(Config(str(remote.url), folder="pillar/network", store=small / "store"))
        store.deploy()
        before = store.current()
        filler = fill(small)
        remote.edit("country: GB,", "country: [GB, DE],")
        remote.push("Germany too")
        with pytest.raises((Trouble, OSError)):
            store.deploy()
        assert store.current() == before and rules(store)
        filler.unlink()
        assert store.deploy().result == "deployed"


def test_unsigned_commits_are_refused_where_signatures_are_required(remote: Remote, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"ann@example.net {key.with_suffix('.pub').read_text()}")
    store = Store(Config(str(remote.url), folder="pillar/network", store=tmp_path / "store", signed=str(signers)))
    with pytest.raises(Trouble, match="carries no signature that is trusted"):
        store.deploy()
    signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}", "-c", "commit.gpgsign=true")
    commit = remote.push("signed", *signing)
    assert store.deploy().commit == commit
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    remote.push("by a stranger", *signing[:2], "-c", f"user.signingkey={stranger}", *signing[4:])
    with pytest.raises(Trouble, match="no signature"):
        store.deploy()
    assert store.current() == commit


# --- changes


def test_a_change_is_pushed_and_an_edit_is_made_again_when_others_were_quicker(
    remote: Remote, store: Store, add_rule
) -> None:
    store.deploy()
    raced = []

    def edit(texts, network):
        if not raced:  # somebody pushes between our fetch and our push, to the same lines
            raced.append(True)
            remote.edit(
                "      - {interface: _DEFAULT",
                "      - {interface: wg_us, net: 192.0.2.0/24}\n      - {interface: _DEFAULT",
            )
            remote.push("somebody else")
        return add_rule("198.51.100.0/24")(texts, network)

    commit, _, _ = store.change(edit, lambda: "add a rule")
    assert commit == remote.head()
    assert git(remote.url, "log", "--format=%s", "main").splitlines() == ["add a rule", "somebody else", "first"]
    store.deploy()
    text = (store.path / "routing.yaml").read_text()
    assert "192.0.2.0/24" in text and "198.51.100.0/24" in text
    assert git(remote.url, "show", "--format=", "--numstat", "main") == "1\t0\tpillar/network/routing.yaml"


def test_a_change_can_go_to_a_branch_for_review(remote: Remote, store: Store, add_rule) -> None:
    before = remote.head()
    commit, _, _ = store.change(add_rule("198.51.100.0/24"), lambda: "add a rule", branch="more-rules")
    assert remote.head("more-rules") == commit and remote.head() == before
    with pytest.raises(Rejected):
        store.change(add_rule("203.0.113.0/24"), lambda: "another", branch="more-rules")


def test_a_push_that_the_remote_refuses_is_told(remote: Remote, store: Store, add_rule) -> None:
    hook = remote.url / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'main is protected: open a pull request' >&2\nexit 1\n")
    hook.chmod(0o755)
    before = remote.head()
    with pytest.raises(Trouble, match="main is protected: open a pull request"):
        store.change(add_rule("198.51.100.0/24"), lambda: "add a rule")
    assert remote.head() == before


def test_a_commit_in_a_work_tree_takes_only_its_own_files(remote: Remote) -> None:
    repo = Repository.around(remote.clone / "pillar" / "network")
    assert repo is not None
    (remote.clone / "other").write_text("staged by somebody\n")
    git(remote.clone, "add", "other")
    remote.edit("country: GB,", "country: [GB, DE],")
    assert repo.dirty(remote.clone / "pillar" / "network") == [" M pillar/network/routing.yaml"]
    commit = repo.commit([remote.clone / "pillar/network/routing.yaml"], "Germany too")
    assert git(remote.clone, "show", "--format=", "--name-only", commit) == "pillar/network/routing.yaml"
    assert git(remote.clone, "status", "--porcelain") == "A  other"


def test_a_refused_commit_leaves_nothing_staged(remote: Remote) -> None:
    hook = remote.clone / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
    hook.chmod(0o755)
    repo = Repository.around(remote.clone)
    assert repo is not None
    remote.edit("country: GB,", "country: [GB, DE],")
    with pytest.raises(Trouble, match="not today"):
        repo.commit([remote.clone / "pillar/network/routing.yaml"], "Germany too")
    assert git(remote.clone, "diff", "--cached", "--name-only") == ""


def test_git_without_an_identity_commits_in_the_name_of_who_asks(
    remote: Remote, store: Store, add_rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("SUDO_USER", "boris")
    store.change(add_rule("198.51.100.0/24"), lambda: "add a rule")
    assert git(remote.url, "log", "-1", "--format=%an", "main") == "boris"


def test_outside_git_there_is_no_repository(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[3] / "pillar" / "network", tmp_path / "network")
    assert Repository.around(tmp_path / "network") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repository": "x", "brunch": "main"}, "brunch: known are"),
        ({"repository": "x", "folder": "../x"}, "leads out"),
    ],
)
def test_a_wrong_setting_is_told(settings: dict[str, str], message: str) -> None:
    with pytest.raises(Trouble, match=message):
        Config.of(settings)


def test_others_whom_the_remote_took_at_the_same_moment_are_no_refusal(remote: Remote, store: Store, add_rule) -> None:
    """Ours stood on what was there when the remote began to take it; it fails at the lock of the branch."""
    other = git(remote.url, "commit-tree", "-p", remote.head(), "-m", "theirs", f"{remote.head()}^{{tree}}")
    hook = remote.url / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\nrm $0\nenv -u GIT_QUARANTINE_PATH git update-ref refs/heads/main {other}\n")
    hook.chmod(0o755)
    commit, _, _ = store.change(add_rule("198.51.100.0/24"), lambda: "add a rule")
    assert not hook.exists() and commit == remote.head()
    assert git(remote.url, "log", "--format=%s", "main").splitlines() == ["add a rule", "theirs", "first"]
