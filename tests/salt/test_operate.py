"""A real master that deploys from a real repository, with three minions: pushes, webhooks, changes, hosts that go away.

origin.git -- master (webhook, reactor) -- entry (entrypoint), uk, de        no Docker: an apply makes keys, no more
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import salt.runner
import salt.utils.event
from saltfactories.manager import FactoriesManager
from saltfactories.plugins.event_listener import EventListener

REPO = Path(__file__).parents[2]
SECRET = b"a-secret-of-some-length"
pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

NETWORK = """\
mrvpn:
  entrypoint: entry
  mrvpn_root: {root}
  gateway: wireguard
  tunnels:
    # to London
    wg_uk:
      subnet: 10.9.20.0/24
      hosts:
        uk: {{expose: "203.0.113.20:55824", allowed_nets: [0.0.0.0/0], masquerade: true}}
        entry: {{allowed_nets: [0.0.0.0/0], compose_service: firezone}}
  routing:
    interfaces: [wg-firezone]
    routes:
      - {{interface: wg_uk, country: GB}}
  services: {{firezone: [wg-firezone]}}
"""
# what an apply does on this machine: no Docker here
TOP = "base: {'*': [mrvpn.guard, mrvpn.keys, mrvpn.recorded]}\n"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Site:
    master: Any
    minions: dict[str, Any]
    folder: Path
    clone: Path
    port: int

    def run(self, function: str, *args: Any, code: int = 0, **kwargs: Any) -> Any:
        """A runner's answer and exit code, without the seconds that a new `salt-run` takes."""
        client = salt.runner.RunnerClient(dict(self.master.config))
        told = client.cmd(function, arg=list(args), kwarg=kwargs, print_event=False, full_return=True)
        answer = told["return"]
        found = told.get("retcode", answer.get("retcode", 0) if isinstance(answer, dict) else 0)
        assert found == code, f"{function}: exit code {found}: {answer}"
        return answer

    def cli(self, *arguments: str, code: int = 0) -> Any:
        """`salt-run ... --out json`: the answer, which must be all of stdout; and the exit code."""
        done = self.master.salt_run_cli(timeout=180).run("--out=json", *arguments)
        assert done.returncode == code, (
            f"{arguments}: exit code {done.returncode}: {done.stdout[-3000:]} {done.stderr[-500:]}"
        )
        return done.data

    def push(self, old: str, new: str, subject: str = "change") -> str:
        """Somebody's push to main; its commit."""
        git(self.clone, "pull", "-q", "--rebase", "origin", "main")
        file = self.clone / "network" / "network.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        git(self.clone, "commit", "-q", "--allow-empty", "-am", subject)
        git(self.clone, "push", "-q", "origin", "main")
        return git(self.clone, "rev-parse", "HEAD")

    def current(self) -> str:
        return (self.folder / "store" / "current").readlink().name

    def head(self) -> str:
        return git(self.folder / "origin.git", "rev-parse", "main")

    def fire(self, tag: str, data: dict[str, Any]) -> None:
        with salt.utils.event.get_event("master", opts=self.master.config, listen=False) as bus:
            bus.fire_event(data, tag)

    def post(self, body: bytes, secret: bytes = SECRET) -> int:
        """A forge's request; its status, 0 where the connection was closed on it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        signature = hmac.new(secret, body, hashlib.sha256).hexdigest()
        try:
            connection.request("POST", "/mrvpn", body, {"X-Hub-Signature-256": f"sha256={signature}"})
            return connection.getresponse().status
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            return 0
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site(
    salt_factories: FactoriesManager, tmp_path_factory: pytest.TempPathFactory, minion_with_root: Callable[..., Any]
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    clone, states = folder / "clone", folder / "states"
    git(folder, "init", "-q", "--bare", "--initial-branch=main", str(folder / "origin.git"))
    git(folder, "clone", "-q", str(folder / "origin.git"), str(clone))
    git(clone, "config", "user.name", "ann")
    git(clone, "config", "user.email", "ann@example.net")
    git(clone, "checkout", "-q", "-b", "main")
    (clone / "network").mkdir()
    (clone / "network" / "network.yaml").write_text(NETWORK.format(root=folder / "opt"))
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "first")
    git(clone, "push", "-q", "origin", "main")
    states.mkdir()
    (states / "top.sls").write_text(TOP)
    for name, text in (("secrets.yaml", "psk_root: long-enough-to-be-one-for-this-test\n"), ("hook", SECRET.decode())):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = f"unix://{folder}/no-docker.sock"
    master = salt_factories.salt_master_daemon("mrvpn-operate-master", overrides=_master(folder, states, port))
    try:
        with master.started():
            names = ("entry", "uk", "de")
            minions = {name: minion_with_root(master, name, folder, folder / "opt") for name in names}
            with minions["entry"].started(), minions["uk"].started(), minions["de"].started():
                yield Site(master, minions, folder, clone, port)
    finally:
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before


def _master(folder: Path, states: Path, port: int) -> dict[str, Any]:
    reactor = {
        "mrvpn/schema/changed": "schema_changed",
        "mrvpn/deploy/wanted": "deploy_wanted",
        "mrvpn/host/keys": "keys_changed",
        "mrvpn/host/exits": "exits_changed",
        "salt/minion/*/start": "host_started",
    }
    return {
        "interface": "127.0.0.1",
        "open_mode": True,
        "worker_threads": 3,
        "timeout": 10,
        "gather_job_timeout": 3,
        "file_roots": {"base": [str(states), str(REPO / "salt"), str(REPO / "ext")]},
        "pillar_dirs": [str(REPO / "_pillar")],
        "runner_dirs": [str(REPO / "_runners")],
        "engines_dirs": [str(REPO / "_engines")],
        "engines": [{"mrvpn_webhook": {"port": port, "secret": str(folder / "hook")}}],
        "mrvpn": {"repository": str(folder / "origin.git"), "store": str(folder / "store"), "share": 0.4},
        "ext_pillar": [
            {"mrvpn": {"path": str(folder / "store/current/network"), "secrets": str(folder / "secrets.yaml")}}
        ],
        "reactor": [{tag: [str(REPO / "reactor" / f"{name}.sls")]} for tag, name in reactor.items()],
    }


@pytest.fixture
def seen(site: Site, event_listener: EventListener) -> Callable[..., Any]:
    """`seen(tag, wanted)`: waits for an event since the test began whose data is what is wanted; the data."""
    start = time.time()

    def wait(tag: str, wanted: Callable[[dict[str, Any]], bool] = lambda data: True, seconds: float = 120) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            events = event_listener.get_events([(site.master.id, tag)], after_time=start)
            for event in events:
                if wanted(event.data):
                    return event.data
            assert time.monotonic() < deadline, f"no {tag} as wanted; seen: {[event.data for event in events]}"
            time.sleep(0.1)

    return wait


def test_the_first_deployment(site: Site, seen: Callable[..., Any]) -> None:
    assert site.run("mrvpn.deploy")["result"] == "deployed"
    assert site.current() == site.head()
    seen("mrvpn/schema/changed", lambda data: data["commit"] == site.head())
    assert site.run("mrvpn.deploy")["result"] == "unchanged"
    assert site.run("mrvpn.hosts") == ["entry", "uk"]
    assert site.run("mrvpn.history")[0]["subject"] == "first"


def test_an_apply_makes_keys_and_is_recorded(site: Site) -> None:
    answer = site.run("mrvpn.apply")
    assert {host: told["result"] for host, told in answer["hosts"].items()} == {"entry": "applied", "uk": "applied"}
    assert "not in the description" in site.cli("mrvpn.apply", "hosts=nobody", code=1)["error"]


def test_a_webhook_deploys_what_is_genuine_alone(site: Site, seen: Callable[..., Any]) -> None:
    commit = site.push("country: GB", "country: [GB, IE]")
    assert site.post(b"{}", b"another-secret-of-some-length") == 403
    assert site.post(b"x" * 10 * 2**20) in (0, 400, 413)
    assert site.post(b'{"ref": "refs/heads/evil"}') == 202
    plan = seen("mrvpn/plan", lambda data: data["commit"] == commit)
    assert any("IE" in line for line in plan["plan"])
    seen("mrvpn/schema/changed", lambda data: data["commit"] == commit)
    assert site.current() == commit
    # no daemon runs here: what the entrypoint could not do is told
    refused = seen("mrvpn/routing/refused")
    assert refused["problems"]


def test_a_push_with_problems_is_never_deployed(site: Site, seen: Callable[..., Any]) -> None:
    before = site.current()
    bad = site.push("interface: wg_uk", "interface: wg_ku", "typo")
    assert site.post(b"{}") == 202
    refused = seen("mrvpn/routing/refused", lambda data: data["commit"] == bad)
    assert any("wg_ku" in problem for problem in refused["problems"])
    assert site.current() == before
    answer = site.cli("mrvpn.status", code=2)
    assert any(bad[:12] in problem for problem in answer["problems"])
    assert site.run("mrvpn.check") == []  # what is in force is good
    site.push("interface: wg_ku", "interface: wg_uk", "mended")
    assert site.run("mrvpn.deploy")["result"] == "deployed"


def test_a_rollback_is_held(site: Site) -> None:
    before = site.current()
    later = site.push("country: [GB, IE]", "country: [GB, IE, IM]")
    site.run("mrvpn.deploy")
    answer = site.run("mrvpn.rollback")
    assert answer["commit"] == before == site.current()
    assert site.run("mrvpn.deploy")["result"] == "held"
    assert site.run("mrvpn.deploy", force=True)["commit"] == later == site.current()


def test_two_changes_at_once_both_go_in(site: Site) -> None:
    answers: list[Any] = []
    nets = ("198.51.100.0/24", "192.0.2.0/24")
    threads = [
        threading.Thread(
            target=lambda net=net: answers.append(site.cli("mrvpn.add_rule", "uk", f"net={net}", "apply=False"))
        )
        for net in nets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 2
    text = git(site.folder / "origin.git", "show", "main:network/network.yaml")
    assert all(net in text for net in nets) and "# to London" in text
    site.run("mrvpn.deploy")


def test_an_exit_is_one_transaction_that_says_where_it_stands(site: Site) -> None:
    """No Docker here, so that traffic cannot flow in the end: all before that is done, and told."""
    assert "accepted no minion key" in site.run("mrvpn.add_exit", "fr", host="fr", country="FR", code=1)["error"]
    assert "already" in site.run("mrvpn.add_exit", "uk", host="uk", country="GB", code=1)["error"]
    answer = site.cli("mrvpn.add_exit", "de", "host=de", "endpoint=203.0.113.50", "country=DE", "wait=1", code=1)
    assert "traffic cannot flow yet" in answer["error"] and "wg_de" in answer["error"]
    stands = answer["stands"]
    assert {host: told["result"] for host, told in stands["hosts"].items()} == {"de": "applied", "entry": "applied"}
    assert stands["commit"] == site.head() == site.current()
    assert all((site.folder / "own" / host / "wg_tunnels/wg_de/private.key").exists() for host in ("de", "entry"))
    gone = site.run("mrvpn.remove_exit", "de", apply=False, code=1)
    assert "needed by route rules" in gone["error"]
    assert site.run("mrvpn.remove_exit", "de", to="uk", apply=False)["files"] == ["network.yaml"]
    site.run("mrvpn.deploy", force=True)


def test_a_host_that_is_away_keeps_none_back_and_catches_up(site: Site, seen: Callable[..., Any]) -> None:
    site.push("subnet: 10.9.20.0/24", "subnet: 10.9.20.0/25")
    site.run("mrvpn.deploy")
    site.minions["uk"].terminate()
    answer = site.run("mrvpn.apply", code=1)
    assert {host: told["result"] for host, told in answer["hosts"].items()} == {"entry": "applied", "uk": "unreachable"}
    assert "critical: uk: does not answer" in site.cli("mrvpn.status", code=2)["problems"]
    site.minions["uk"].start()
    done = seen(
        "salt/run/*/ret",
        lambda data: data.get("fun") == "runner.mrvpn_reactor.host_started" and data["return"].get("runs"),
    )
    assert done["return"]["runs"][0]["uk"]["result"] == "applied", done
    version = json.loads((site.folder / "own" / "uk" / ".mrvpn" / "view.json").read_text())["version"]
    assert version == site.cli("pillar.show_pillar", "minion=uk")["mrvpn"]["version"]


def test_a_rule_that_the_entrypoint_cannot_take_says_where_it_stands(site: Site) -> None:
    """No daemon here: the orchestration fails, the description stays changed, and what to do is told."""
    answer = site.run("mrvpn.add_rule", "uk", net="203.0.113.128/25", code=1)
    assert "does not run with it" in answer["error"] and answer["problems"]
    assert answer["stands"]["commit"] == site.head() == site.current()


def test_events_without_data_or_of_strangers_start_nothing(site: Site, seen: Callable[..., Any]) -> None:
    for tag, data in (
        ("salt/minion/x/start", {}),
        ("salt/minion/stranger/start", {"id": "stranger"}),
        ("salt/minion/evil/start", {"id": "../../etc\n{{ 1 }}"}),
        ("mrvpn/host/keys", {"id": "stranger", "data": {"wg_uk": "a key that is none"}}),
    ):
        site.fire(tag, data)
        function = "keys_changed" if "keys" in tag else "host_started"
        wanted = data.get("id", "")
        done = seen(
            "salt/run/*/ret",
            lambda d, f=function, w=wanted: (
                d.get("fun") == f"runner.mrvpn_reactor.{f}" and {"host": w} in d.get("fun_args", [])
            ),
        )
        assert done["return"]["runs"] == [] and "not in the description" in done["return"]["comment"]


def test_a_new_key_is_told_to_the_far_ends(site: Site, seen: Callable[..., Any]) -> None:
    site.run("mrvpn_reactor.keys_changed", "uk")  # what it has now is known
    key = site.folder / "own" / "uk" / "wg_tunnels" / "wg_uk" / "private.key"
    key.unlink()
    done = site.master.salt_cli(timeout=120).run("state.apply", "mrvpn.publish", minion_tgt="uk")
    assert done.returncode == 0, done.stdout
    told = seen(
        "salt/run/*/ret",
        lambda data: data.get("fun") == "runner.mrvpn_reactor.keys_changed" and any(data["return"].get("runs") or []),
    )
    assert told["return"]["runs"][0]["entry"]["result"] == "applied"
    view = site.cli("pillar.show_pillar", "minion=entry")["mrvpn"]
    published = site.master.salt_cli(timeout=60).run(
        "mrvpn.public_keys", f"root={site.folder / 'opt'}", minion_tgt="uk"
    )
    assert view["tunnels"]["wg_uk"]["peers"][0]["public_key"] == published.data["wg_uk"]


def test_fifty_wishes_are_two_deployments_at_most(site: Site, event_listener: EventListener) -> None:
    start = time.time()
    commit = site.push("entrypoint: entry", "entrypoint: entry  # again")
    for _ in range(50):
        site.fire("mrvpn/deploy/wanted", {})

    def ended() -> list[Any]:
        found = event_listener.get_events([(site.master.id, "salt/run/*/ret")], after_time=start)
        return [
            event.data["return"] for event in found if event.data.get("fun") == "runner.mrvpn_reactor.deploy_wanted"
        ]

    deadline = time.monotonic() + 200
    while len(ended()) < 50:
        assert time.monotonic() < deadline, f"{len(ended())} of 50 events were taken up"
        time.sleep(0.2)
    runs = [run for answer in ended() for run in answer["runs"]]
    assert 1 <= sum(1 for run in runs if run["result"] == "deployed") <= 2
    assert site.current() == commit
