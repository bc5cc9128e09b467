"""Changes that are reviewed: pushed, deployed by webhook, hook and clock, refused, taken back; what goes wrong there.

clone --push--> origin.git    forge --TLS--> webhook --> master, its store on a small disk --> hosts, real traffic
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import reviewed
from reviewed import current, head, listening, post, push, run

from lab import docker, hosts, salt
from lab.checks.destinations import leaves_by
from lab.daemon import generation
from lab.deadline import until
from lab.internet import SITES
from lab.topology import ENTRY, MASTER, RU, UK, Host

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.usefixtures("lab")]
APPLIED, REFUSED = "mrvpn/routing/applied", "mrvpn/routing/refused"
BY_WEBHOOK = 5.0  # seconds from a push to its rules in the kernel: what is aimed at
POLL = 10


@pytest.fixture(scope="module")
def master(lab: None) -> Iterator[None]:
    """The master deploys from a repository, its first commit is in force; at the end all is as it was."""
    reviewed.make()
    reviewed.restart(**reviewed.settings())
    try:
        assert run("mrvpn.deploy")["commit"] == head()
        yield
    finally:
        reviewed.restart()
        salt.orchestrate("orch.keys")
        salt.apply()


@pytest.fixture
def site(master: None) -> Iterator[None]:
    """What a test leaves at the remote that is not in force is taken back there."""
    yield
    if current() != head():
        reviewed.take_back(current())


# --- a description in somebody's work tree


@pytest.fixture
def tree(lab: None) -> Iterator[None]:
    """The folder that ext_pillar reads is a git work tree."""
    folder = salt.DESCRIPTION
    kept = {path.name: path.read_text() for path in folder.glob("*.yaml")}
    reviewed.git("init", "-q", "--initial-branch=main", folder=folder)
    reviewed.git("add", "-A", folder=folder)
    reviewed.git("-c", "user.name=ann", "-c", "user.email=ann@example.net", "commit", "-qm", "first", folder=folder)
    try:
        yield
    finally:
        shutil.rmtree(folder / ".git")
        for name, text in kept.items():
            (folder / name).write_text(text)
        run("mrvpn_reactor.schema_changed")


def test_a_work_tree_that_is_being_edited_is_left_alone(tree: None) -> None:
    routing = salt.DESCRIPTION / "routing.yaml"
    text = routing.read_text()
    routing.write_text(f"{text}# being edited\n")
    refused = run("mrvpn.add_rule", "uk", "net=198.51.100.0/24", code=1)
    assert "not committed" in refused["error"] and "routing.yaml" in refused["problems"][0]
    assert routing.read_text() == f"{text}# being edited\n"


def test_a_problem_made_by_hand_is_told_and_nothing_changes(tree: None) -> None:
    routing, before = salt.DESCRIPTION / "routing.yaml", generation()
    routing.write_text(routing.read_text().replace("country: GB", "country: XX"))
    problem = run("mrvpn.check", code=1)["problems"][0]
    assert "routing.yaml:8" in problem and "XX" in problem
    assert "refused" in run("mrvpn.add_rule", "uk", "net=198.51.100.0/24", "commit=False", code=1)["error"]
    with listening(REFUSED) as bus:
        reviewed.fire([("mrvpn/schema/changed", {})])
        bus.wait("the reload is refused", lambda event: event["commit"] is None)
    assert generation() == before
    leaves(UK, "GB")


def leaves(exit_: Host, country: str) -> None:
    """Waits until a country's server sees the exit."""
    until(f"{country} leaves by {exit_.name}", lambda: leaves_by(exit_, SITES[country]) == [], 60)


# --- what starts a deployment


def test_a_push_is_applied_by_the_webhook(site: None) -> None:
    with listening(APPLIED, "mrvpn/plan") as bus:
        commit = push("country: GB,", "country: [GB, DE],")
        wanted, start = reviewed.version(), time.monotonic()
        assert post() == 202
        bus.wait("the rules are applied", lambda event: event.get("version") == wanted)
        seconds = time.monotonic() - start
        leaves(UK, "DE")
        planned = bus.wait("the plan", lambda event: event["tag"] == "mrvpn/plan")
    print(f"push to applied by webhook: {seconds:.1f} s")
    assert planned["commit"] == commit == current() and any("DE" in line for line in planned["plan"])
    assert seconds < 60, f"aimed at: {BY_WEBHOOK} s, on a machine that does nothing else"


def test_a_push_is_applied_by_a_post_receive_hook(site: None) -> None:
    hook = reviewed.ORIGIN / "hooks" / "post-receive"
    hook.write_text(reviewed.ON_RECEIVE)
    hook.chmod(0o755)
    try:
        with listening(APPLIED) as bus:
            start = time.monotonic()
            commit = push("country: [GB, DE],", "country: GB,")
            wanted = reviewed.version()
            bus.wait("the rules are applied", lambda event: event["version"] == wanted)
            print(f"push to applied by post-receive hook: {time.monotonic() - start:.1f} s")
    finally:
        hook.unlink()
    assert current() == commit
    leaves(ENTRY, "DE")


@pytest.mark.parametrize(
    ("body", "secret", "tls", "statuses"),
    [
        (b"{}", "another-secret-of-some-length", True, {403}),
        (b"", "", True, {403}),
        (b"x" * 10 * 2**20, reviewed.SECRET, True, {0, 400, 413}),
        (b"x" * (64 * 1024 + 1), reviewed.SECRET, True, {0, 400, 413}),
        (b"{}", reviewed.SECRET, False, {0, 400}),
    ],
    ids=["another secret", "no secret", "10 MB", "64 kB and one byte", "no TLS"],
)
def test_what_is_not_genuine_starts_nothing(
    site: None, body: bytes, secret: str, tls: bool, statuses: set[int]
) -> None:
    with listening("mrvpn/deploy/*") as bus:  # the reload of an earlier push may still be told
        assert post(body, secret, tls=tls) in statuses
        assert post(b"", reviewed.SECRET) == 202  # what is genuine comes after it, and is the only one seen
        bus.wait("the genuine one", lambda event: event["tag"] == "mrvpn/deploy/wanted")
        assert [event["tag"] for event in bus.seen()] == ["mrvpn/deploy/wanted"]


# --- what is refused


def test_a_push_with_problems_is_never_in_force(site: None) -> None:
    before = current()
    with listening(REFUSED) as bus:
        bad = push("interface: wg_uk", "interface: wg_ku", "typo")
        assert post() == 202
        refused = bus.wait("it is refused", lambda event: event["commit"] == bad)
    assert any("routing.yaml" in problem and "wg_ku" in problem for problem in refused["problems"])
    assert current() == before
    leaves(UK, "GB")
    status = run("mrvpn.status", code=1)
    assert any(bad[:12] in problem and "refused" in problem for problem in status["problems"])
    # a change is made on what the branch has: that is to be mended first
    assert "wg_ku" in str(run("mrvpn.add_rule", "uk", "net=198.51.100.0/24", code=1)["problems"])
    push("interface: wg_ku", "interface: wg_uk", "mended")
    assert run("mrvpn.deploy")["result"] == "deployed"


def test_the_marks_of_a_merge_conflict_are_a_problem_like_any_other(site: None) -> None:
    before = current()
    push("    routes:\n", "<<<<<<< HEAD\n    routes:\n=======\n>>>>>>> other\n", "half a merge")
    answer = run("mrvpn.deploy", code=1)
    assert "routing.yaml:8" in str(answer["problems"]) and current() == before
    push("<<<<<<< HEAD\n    routes:\n=======\n>>>>>>> other\n", "    routes:\n", "merged")
    run("mrvpn.deploy")


def test_others_who_pushed_in_between_are_no_conflict(site: None) -> None:
    """The remote takes somebody's commit just before ours: the edit is made again on top of it."""
    hook = reviewed.ORIGIN / "hooks" / "pre-receive"
    other = reviewed.git("commit-tree", "-p", head(), "-m", "theirs", f"{head()}^{{tree}}")
    reviewed.git("push", "-q", "origin", f"{other}:refs/heads/theirs")
    hook.write_text(f"#!/bin/sh\nrm -f $0\nenv -u GIT_QUARANTINE_PATH git update-ref refs/heads/main {other}\n")
    hook.chmod(0o755)
    answer = run("mrvpn.add_rule", "uk", "net=198.51.100.0/24", timeout=120)
    subjects = reviewed.git("log", "-2", "--format=%s", "main", folder=reviewed.ORIGIN).splitlines()
    assert not hook.exists() and subjects == ["network: add rule net 198.51.100.0/24 -> wg_uk", "theirs"]
    assert answer["commit"] == head() == current() and answer["applied"]


def test_a_push_that_the_remote_rejects_changes_nothing(site: None) -> None:
    before, commit = current(), head()
    hook = reviewed.ORIGIN / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'main is protected' >&2\nexit 1\n")
    hook.chmod(0o755)
    try:
        answer = run("mrvpn.add_rule", "uk", "net=203.0.113.128/25", code=1)
    finally:
        hook.unlink()
    assert "main is protected" in answer["error"] and "stands" not in answer
    assert (current(), head()) == (before, commit)


def test_a_remote_that_is_away_keeps_nothing_back_but_what_is_new(site: None) -> None:
    away = reviewed.ORIGIN.with_name("away.git")
    before = current()
    reviewed.ORIGIN.rename(away)
    try:
        assert "cannot be fetched; what runs stays" in run("mrvpn.deploy", code=1)["error"]
        assert "cannot be fetched" in run("mrvpn.add_rule", "uk", "net=203.0.113.128/25", code=1)["error"]
        assert run("mrvpn.rollback")["before"] == before
    finally:
        away.rename(reviewed.ORIGIN)
    assert run("mrvpn.deploy")["result"] == "held"
    assert run("mrvpn.deploy", "force=True")["commit"] == before == current()


def test_a_full_disk_is_told_and_what_runs_stays(site: None) -> None:
    before = current()
    after = push("country: RU,", "country: [RU, BY],", "Belarus")
    with filled():
        answer = run("mrvpn.deploy", code=1)
        assert "No space left" in answer["error"], answer
        assert current() == before and run("mrvpn.check") == []
    assert run("mrvpn.deploy")["commit"] == after == current()


@contextlib.contextmanager
def filled() -> Iterator[None]:
    """The disk of the store has no byte left while the body runs."""
    file = f"{reviewed.STORE}/filler"
    hosts.run(MASTER, "sh", "-c", f"cat /dev/zero > {file}", check=False)
    try:
        yield
    finally:
        hosts.run(MASTER, "rm", file)


# --- many at once


def test_two_exits_at_once_both_come(site: None) -> None:
    assert "is there already" in run("mrvpn.add_exit", "uk", "host=uk", "country=IE", code=1)["error"]
    answers: dict[str, Any] = {}

    def add(name: str, host: str, net: str) -> None:
        answers[name] = run("mrvpn.add_exit", name, f"host={host}", f"net={net}", timeout=300)

    germany = SITES["DE"]
    start = time.monotonic()
    threads = [
        threading.Thread(target=add, args=("two", "uk", f"{germany.ipv4}/32,{germany.ipv6}/128")),
        threading.Thread(target=add, args=("three", "ru", "198.18.0.0/16")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) == {"two", "three"} and all(answer["flows"]["up"] for answer in answers.values())
    leaves(UK, "DE")
    print(f"two add_exit at once to the first packet: {time.monotonic() - start:.0f} s")
    assert current() == head() and {"wg_two", "wg_three"} <= run("mrvpn.list")["tunnels"].keys()
    for name in ("two", "three"):
        gone = run("mrvpn.remove_exit", name, "to=_DEFAULT", timeout=300)
        assert {told["result"] for told in gone["hosts"].values()} == {"applied"}


def test_fifty_events_in_a_second_are_two_runs_at_most_and_the_last_state_wins(site: None) -> None:
    rules = ["country: [RU, BY],", "country: [RU, BY, KZ],", "country: [RU, BY, KZ, AM],"]
    with listening(APPLIED, "mrvpn/schema/changed") as bus:
        for old, new in itertools.pairwise(rules):
            last = push(old, new)
            start = time.monotonic()
            reviewed.fire([("mrvpn/deploy/wanted", {})] * 25)
            assert time.monotonic() - start < 10
        bus.wait("the last commit is in force", lambda e: e["tag"] != APPLIED and e["commit"] == last)
        time.sleep(10)  # what else there is to come, comes
        runs = [event for event in bus.seen() if event["tag"] == APPLIED]
    assert 1 <= len(runs) <= 2 and current() == last
    with listening(APPLIED) as bus:
        reviewed.fire([("mrvpn/schema/changed", {})] * 50)
        time.sleep(25)
        assert 1 <= len(bus.seen()) <= 2


def test_events_with_missing_or_strange_data_start_nothing(site: None) -> None:
    before = generation()
    strange: list[dict[str, Any]] = [{}, {"id": None}, {"id": ["uk"]}, {"id": "../../etc"}, {"data": {"{{ 1 }}": 1}}]
    tags = ["salt/minion/x/start", "mrvpn/host/keys", "mrvpn/host/exits", "mrvpn/schema/changed", "mrvpn/exit//down"]
    with listening("salt/run/*/ret") as bus:
        reviewed.fire([(tag, data) for tag in tags for data in strange])
        reviewed.fire([("mrvpn/deploy/wanted", {})])
        deployed = "runner.mrvpn_reactor.deploy_wanted"
        bus.wait("the reactor goes on", lambda event: event.get("fun") == deployed, 120)
        applies = [event for event in bus.seen() if event.get("fun") in ("runner.mrvpn.apply", "runner.state.apply")]
    assert applies == [] and generation() == before


# --- a host that is away


def test_a_host_that_dies_in_the_middle_of_a_deployment_catches_up(site: None) -> None:
    commit = push("subnet: [10.9.23.0/24", "subnet: [10.9.33.0/24", "office renumbered", file="tunnels.yaml")
    answer: dict[str, Any] = {}
    deploying = threading.Thread(target=lambda: answer.update(run("mrvpn.deploy", "apply=True", code=1, timeout=400)))
    with docker.hung(RU), listening("salt/job/*/new") as bus:  # its apply stays in the middle until it dies
        deploying.start()
        bus.wait("the hosts are being applied to", lambda event: event.get("fun") == "state.apply", 90)
        salt.stop_minion(RU)
    deploying.join()
    try:
        results = {host: told["result"] for host, told in answer["hosts"].items()}
        assert results.pop("ru") != "applied" and set(results.values()) == {"applied"}, answer
        assert current() == commit
        leaves(UK, "GB")
        assert any("ru: does not answer" in problem for problem in run("mrvpn.status", code=2)["problems"])
    finally:
        with listening("salt/run/*/ret") as bus:
            salt.start_minion(RU)
            bus.wait(
                "it is brought up to date",
                lambda e: (
                    e.get("fun") == "runner.mrvpn_reactor.host_started" and any("ru" in r for r in e["return"]["runs"])
                ),
                120,
            )
    until("all is well", lambda: run("mrvpn.status")["retcode"] == 0, 60)


# --- by the clock


def test_a_push_is_applied_by_polling(site: None) -> None:
    reviewed.restart(**reviewed.settings(webhook=False, poll=POLL))
    changes = (("country: GB,", "country: [GB, IE],"), ("country: [GB, IE],", "country: GB,"))
    with listening("mrvpn/schema/changed") as bus:
        for old, new in changes:
            commit, start = push(old, new), time.monotonic()
            # Salt looks at its schedule as often as the shortest interval in it says, from its first look on
            bus.wait("the clock deploys it", lambda event, wanted=commit: event["commit"] == wanted, 120)
            print(f"push to deployed by polling every {POLL} s: {time.monotonic() - start:.0f} s")
    assert current() == commit
