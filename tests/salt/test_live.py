"""What a host says of itself, against the real `wg`, a real country database and the real control socket."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rig
import salt.config
import salt.loader
import yaml

REPO = Path(__file__).parents[2]
MakeCaller = Callable[..., Any]
View = Callable[[str], dict[str, Any]]


@pytest.fixture
def netns() -> Iterator[str]:
    """A namespace with a WireGuard interface of the kernel or of wireguard-go."""
    name = f"mrvpn-op{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
            subprocess.run(["kill", pid])
        subprocess.run(["ip", "netns", "del", name])


def _inside(netns: str, *command: str, check: bool = True, **kwargs: Any) -> str:
    done = subprocess.run(["ip", "netns", "exec", netns, *command], capture_output=True, text=True, **kwargs)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.mark.root
def test_the_dump_of_wg_is_read_without_its_private_key(netns: str, make_caller: MakeCaller, view: View) -> None:
    if subprocess.run(["ip", "-n", netns, "link", "add", "wgop", "type", "wireguard"], capture_output=True).returncode:
        Path("/var/run/wireguard").mkdir(exist_ok=True)  # one that ends elsewhere may take it away in between
        process = subprocess.Popen(["ip", "netns", "exec", netns, "wireguard-go", "--foreground", "wgop"])
        deadline = time.monotonic() + 20
        while not _inside(netns, "wg", "show", "wgop", check=False):
            assert process.poll() is None and time.monotonic() < deadline, "wireguard-go made no interface"
            time.sleep(0.05)
    private, other = (_inside(netns, "wg", "genkey").strip() for _ in range(2))
    public = _inside(netns, "wg", "pubkey", input=other).strip()
    peer = f"[Interface]\nPrivateKey={private}\n[Peer]\nPublicKey={public}\nEndpoint=192.0.2.1:55824\n"
    _inside(netns, "wg", "setconf", "wgop", "/dev/stdin", input=peer)
    text = _inside(netns, "wg", "show", "wgop", "dump")
    found = make_caller("uk", view("uk")).cmd("mrvpn_live.dump", text, time.time())
    assert found == [{"public_key": public, "endpoint": "192.0.2.1:55824", "handshake": None, "rx": 0, "tx": 0}]
    assert private in text and private not in str(found)


def test_pings_are_counted_whatever_comes_back(make_caller: MakeCaller, view: View, netns: str) -> None:
    _inside(netns, "ip", "link", "set", "lo", "up")
    caller = make_caller("uk", view("uk"))
    near = _inside(netns, "ping", "-n", "-q", "-c", "3", "-i", "0.05", "127.0.0.1")
    found = caller.cmd("mrvpn_live.pinged", near)
    assert found["loss"] == 0 and 0 < found["latency"] < 1000
    far = _inside(netns, "ping", "-n", "-q", "-c", "2", "-i", "0.05", "-W", "1", "192.0.2.1", check=False)
    assert caller.cmd("mrvpn_live.pinged", far) == {"loss": 1, "latency": None}
    lossy = near.replace("3 packets transmitted, 3 received", "8 packets transmitted, 6 received")
    assert caller.cmd("mrvpn_live.pinged", lossy)["loss"] == 0.25


@pytest.mark.parametrize("late", [True, False])
def test_a_burst_that_lost_some_is_asked_again_steadily(netns: str, late: bool) -> None:
    """Answers that ping no longer waits for are none lost; answers that never come are, at the second time too."""
    _inside(netns, "ip", "link", "set", "lo", "up")
    live = rig.module("mrvpn_live")
    rounds = []

    def run(*command: str) -> str:
        rounds.append(command)
        answered = _inside(netns, *command, check=False)
        if late and len(rounds) > 1:
            return answered
        return answered.replace("10 received", "7 received")

    assert live._reached(run, "127.0.0.1")["loss"] == (0 if late else 0.3)
    assert [command[-2] for command in rounds] == [live.BURST, live.STEADY]


def test_traffic_flows_by_an_exit_once_the_rules_send_it_there(tmp_path: Path) -> None:
    """A tunnel that is up, with its neighbour, while ipt_server still has its fallback stand in."""
    live = rig.module("mrvpn_live")
    (tmp_path / ".mrvpn").mkdir()
    (tmp_path / live.REGISTRY).write_text(json.dumps({"wg_de": "wg_tunnels/wg_de/private.key"}))
    peer = f"\t(none)\t192.0.2.1:1\t\t{int(time.time())}\t1\t1\toff"
    told = f"its own line\nKEY{peer}\n"
    exits = [{"name": "wg_de", "up": False, "health": {"reason": "its host route was gone"}}]
    running = {"running": True, "health": "healthy"}
    live.__salt__ = {
        "mrvpn_docker.containers": lambda: dict.fromkeys(("wg_de", "firezone_frr", "firezone_ipt"), running),
        "mrvpn_docker.exec_in": lambda *_, timeout: {"code": 0, "out": told, "err": ""},
        "mrvpn_ipt.status": lambda _: {"exits": exits},
    }
    live.__opts__ = {"id": "entry"}
    live.neighbors = lambda _: {"wg_de": {"10.0.0.1": "Full/-"}}
    waited = live.flows("wg_de", str(tmp_path), seconds=0)
    assert (waited["up"], waited["why"]) == (False, "wg_de: as an exit it is still down: its host route was gone")
    exits[0]["up"] = True
    assert live.flows("wg_de", str(tmp_path), seconds=0)["up"] is True


def test_the_version_is_recorded_only_where_nothing_failed(make_caller: MakeCaller, view: View, tmp_path: Path) -> None:
    its = view("uk")
    its["root"] = str(tmp_path / "opt")
    caller = make_caller("uk", its)
    done = rig.by_state(caller.cmd("state.apply", "mrvpn.recorded"))
    noted = next(state for name, state in done.items() if "recorded" in name)
    # a note is no change of the host
    assert noted["changes"] == {} and noted["comment"] == "this version is here; before it was None"
    assert caller.cmd("mrvpn_live.applied", its["root"])["version"] == its["version"]
    again = rig.by_state(caller.cmd("state.apply", "mrvpn.recorded"))
    assert [state["changes"] for state in again.values() if state["changes"]] == []
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "bad.sls").write_text("include: [mrvpn.recorded]\nbad:\n  test.fail_without_changes: []\n")
    (tmp_path / "opt" / ".mrvpn" / "view.json").write_text('{"version": "before"}')
    caller.cmd("state.apply", "bad")
    assert caller.cmd("mrvpn_live.applied", its["root"])["version"] == "before"


def test_without_docker_the_rest_is_told(make_caller: MakeCaller, view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    answer = make_caller("uk", view("uk")).cmd("mrvpn_live.status", "/nonexistent")
    assert "Docker does not answer" in answer["error"] and answer["applied"] == {}


def test_news_of_exits_reach_the_master_without_data(tmp_path: Path) -> None:
    """The engine asks a real control socket by the real command line; behind it is a list of events alone."""
    from ipt_server.control.server import Control
    from ipt_server.happenings import Events

    socket = tmp_path / "c" / "control.sock"
    ready, told, loop = threading.Event(), threading.Event(), asyncio.new_event_loop()

    class Subject:
        generation = 1
        events = Events()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(Control(Subject(), socket).start())  # type: ignore[arg-type]
        ready.set()
        loop.run_forever()

    threading.Thread(target=serve, daemon=True).start()
    assert ready.wait(20)
    engines = salt.loader.LazyLoader([str(REPO / "_engines")], {"optimization_order": [0]}, tag="engines")
    sent: list[Any] = []

    def send(tag: str, data: Any) -> None:
        sent.append((tag, data))
        told.set()

    engines.pack["__salt__"] = {"event.send": send}
    script = f'verb=$1; shift; exec {sys.executable} -m ipt_server.cli "$verb" --control {socket} "$@"'
    command = ["sh", "-c", script, "sh"]
    threading.Thread(target=engines["mrvpn_exits.start"], kwargs={"command": command}, daemon=True).start()
    loop.call_soon_threadsafe(lambda: Subject.events.add("generation", generation=1))
    loop.call_soon_threadsafe(lambda: Subject.events.add("exit", exit="wg_uk", up=False, reason="no handshake"))
    assert told.wait(60)
    assert sent == [("mrvpn/host/exits", {})]
    told.clear()
    loop.call_soon_threadsafe(lambda: Subject.events.add("recursor"))
    assert told.wait(60) and sent[1:] == [("mrvpn/host/restarted", {})]
    loop.call_soon_threadsafe(loop.stop)


MASTER = {"checkout": "/srv/mrvpn", "repository": "git@git.example.net:ops/network.git", "poll": 60}


def test_the_masters_settings_keep_minions_out(make_caller: MakeCaller, tmp_path: Path) -> None:
    """Rendered only: it writes to /etc/salt."""
    caller = make_caller("master", None)
    low = caller.cmd("state.show_low_sls", "mrvpn.master", pillar={"mrvpn_master": MASTER})
    (managed,) = [chunk for chunk in low if chunk["name"] == "/etc/salt/master.d/mrvpn.conf"]
    assert managed["mode"] == "0640" and managed["context"]["description"] == "/var/lib/mrvpn/current/network"
    assert managed["context"]["deploy"]["share"] == 0.25
    without = caller.cmd("state.show_low_sls", "mrvpn.master")
    (managed,) = [chunk for chunk in without if chunk["name"] == "/etc/salt/master.d/mrvpn.conf"]
    assert managed["context"]["deploy"] is None


def test_the_minions_settings_are_its_views(make_caller: MakeCaller, view: View) -> None:
    for host, services in (("entry", ["firezone_ipt"]), ("uk", [])):
        low = make_caller(host, view(host)).cmd("state.show_low_sls", "mrvpn.minion")
        assert isinstance(low[0], dict), low
        (managed,) = [chunk for chunk in low if chunk["name"] == "/etc/salt/minion.d/mrvpn.conf"]
        assert managed["context"]["routing"] == services


@pytest.mark.root
def test_the_masters_settings_are_written_once_and_its_secret_stays(tmp_path: Path) -> None:
    """A real masterless apply that sees an /etc/salt of its own; Salt then reads what was written."""
    own, config = tmp_path / "salt", tmp_path / "config"
    own.mkdir()
    config.mkdir()
    (config / "minion").write_text(f"id: master\nroot_dir: {tmp_path}\nlog_level_logfile: quiet\n")
    Path("/etc/salt").mkdir(exist_ok=True)
    settings = {**MASTER, "store": str(tmp_path / "store"), "user": "root", "share": 0.1}
    words = [sys.executable, str(Path(sys.executable).with_name("salt-call")), f"--config-dir={config}", "--local"]
    words += [f"--file-root={REPO / 'salt'}", "--out=json", "state.apply", "mrvpn.master"]
    words += [f"pillar={json.dumps({'mrvpn_master': settings})}"]
    script = f'mount --bind {own} /etc/salt && exec "$@"'

    def applied() -> dict[str, Any]:
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        states = json.loads(done.stdout)["local"].values()
        return {state["__id__"]: state["changes"] for state in states if state["changes"]}

    first = applied()
    assert "/etc/salt/master.d/mrvpn.conf" in first
    secrets = (own / "mrvpn" / "secrets.yaml").read_text()
    assert len(yaml.safe_load(secrets)["psk_root"]) == 48 and yaml.safe_load(secrets)["psk_root"] not in str(first)
    assert (own / "mrvpn" / "secrets.yaml").stat().st_mode & 0o777 == 0o600
    assert (own / "mrvpn").stat().st_mode & 0o777 == 0o700
    assert applied() == {}
    assert (own / "mrvpn" / "secrets.yaml").read_text() == secrets
    read = salt.config.master_config(str(own / "master.d" / "mrvpn.conf"))
    assert (read["peer"], read["peer_run"], read["file_recv"], read["auto_accept"], read["open_mode"]) == (
        {}, {}, False, False, False,
    )  # fmt: skip
    assert read["mrvpn"]["share"] == 0.1 and "/srv/mrvpn" not in read["file_roots"]["base"]
