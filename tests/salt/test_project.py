"""States against a real Docker Engine in a network namespace of its own: what is recreated, what is not, and what is
told.

The image's commands are acted (actor.sh): an interface that comes up, a process that ends. What they really do is
tested elsewhere.

    mrvpn-ts<pid> (netns)                     entry: firezone (owner) <- wg_uk, wg_office, firezone_{pdns,ipt,frr}
      dockerd -- br-mrvpn -- firezone         uk:    wg_uk (owner) <- wg_uk_frr
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import rig

from tests.salt.conftest import DockerHost

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
DEPENDENTS = {"wg_uk", "wg_office", "firezone_pdns", "firezone_ipt", "firezone_frr"}
ENTRY = {"firezone", *DEPENDENTS}
PROJECT = "mrvpn_compose.deployed mrvpn project"
View = Callable[[str], dict[str, Any]]


@dataclass
class Managed:
    """A host with a minion: `apply()` is a real state.apply, answers by state."""

    folder: Path
    view: dict[str, Any]
    docker: DockerHost
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = Path(self.view["root"])

    def apply(self, *more: str, call: str = "state.apply") -> dict[str, dict[str, Any]]:
        rig.prepare(self.folder, self.view["host"], self.view)
        answer = rig.sealed(self.folder, self.docker.netns, call, *more, docker=self.docker.socket)
        return rig.by_state(answer)

    def good(self, *more: str) -> dict[str, Any]:
        """A state.apply in which nothing failed; the changes by state."""
        results = self.apply(*more)
        failed = {name: result["comment"] for name, result in results.items() if result["result"] is False}
        assert not failed, failed
        return {name: result["changes"] for name, result in results.items() if result["changes"]}

    def namespace(self, name: str) -> int:
        pid = self.docker.pid(name)
        return Path(f"/proc/{pid}/ns/net").stat().st_ino if pid else 0


@pytest.fixture
def managed(tmp_path: Path, view: View, docker_host: DockerHost) -> Callable[..., Managed]:
    def make(host: str) -> Managed:
        it = view(host)
        it["root"] = str(tmp_path / "opt" / "mrvpn")
        it["version"] = "0123456789abcdef"
        if it["gateway"]:
            it["gateway"]["port_range"] = [55820, 55829]
            it["host_guard"]["reserved_ports"] = [55820, 55829]
        country = tmp_path / "data" / "mrvpn" / "country"
        country.mkdir(parents=True)
        (country / "country.mmdb").write_bytes(os.urandom(10_000))
        return Managed(tmp_path, it, docker_host)

    return make


def until(what: str, probe: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def test_the_entrypoint_from_nothing_to_every_kind_of_change(managed: Callable[..., Managed]) -> None:
    entry = managed("entry")
    docker = entry.docker

    # from nothing: foretold, then done
    foretold = entry.good("test=true")[PROJECT]
    assert not (entry.root / "docker-compose.yml").exists()
    done = entry.good()[PROJECT]
    assert foretold == done
    assert done["created"].keys() == ENTRY
    assert {entry.namespace(name) for name in ENTRY} == {entry.namespace("firezone")}
    guard = ["ip", "netns", "exec", docker.netns, "nft", "list", "table", "inet", "mrvpn_host"]
    assert "172.30.55.2" in subprocess.run(guard, capture_output=True, text=True, check=True).stdout
    before = docker.ids()

    # again: nothing (the daemon was asked once whether it runs with these settings)
    entry.good()
    assert entry.good() == {}
    assert entry.good("test=true") == {}
    assert docker.ids() == before

    # a live change: reloaded in place, foretold, nothing recreated
    entry.view["tunnels"]["wg_uk"]["mtu"] = 1300
    foretold = entry.good("test=true")[PROJECT]
    done = entry.good()[PROJECT]
    assert foretold == done
    assert done["reloaded"] == {"wg_uk": "wireguard"} and done.keys() == {"files", "reloaded"}
    assert "mrvpn-wireguard" in docker.docker("exec", "wg_uk", "cat", "/tmp/reloads").stdout
    assert docker.ids() == before

    # rules: through the daemon's consent
    entry.view["routing"][0]["settings"] = {**entry.view["routing"][0]["settings"], "version": "00000000000000aa"}
    changes = entry.good()
    assert changes.keys() == {"mrvpn_ipt.current firezone_ipt"}
    assert changes["mrvpn_ipt.current firezone_ipt"]["reloaded"]["firezone_ipt"]["version"] == "00000000000000aa"
    assert entry.good() == {}

    # settings that the daemon refuses: told, and the old ones are back for the next start
    settings = entry.root / "mrvpn" / "live" / "settings.yaml"
    good = settings.read_text()
    kept = entry.view["routing"][0]["settings"]
    entry.view["routing"][0]["settings"] = {**kept, "rules": ["REFUSE"], "version": "00000000000000bb"}
    refused = entry.apply()["mrvpn_ipt.current firezone_ipt"]
    assert refused["result"] is False and "rules[0].exit: no such exit" in refused["comment"]
    assert settings.read_text() == good
    entry.view["routing"][0]["settings"] = kept

    # a tunnel more, one less, both inside the reserved range: the gateway and everyone else stay
    entry.view["tunnels"]["wg_new"] = {
        **entry.view["tunnels"]["wg_office"],
        "interface": "wg_new",
        "listen_port": 55826,
    }
    del entry.view["tunnels"]["wg_office"]
    ospf = entry.view["frr"][0]["interfaces"]
    ospf.remove(next(interface for interface in ospf if interface["name"] == "wg_office"))
    foretold = entry.good("test=true")[PROJECT]
    done = entry.good()[PROJECT]
    assert foretold.keys() == done.keys()
    assert foretold["created"] == done["created"] and done["created"].keys() == {"wg_new"}
    assert foretold["removed"] == done["removed"] and done["removed"].keys() == {"wg_office"}
    assert foretold["reloaded"] == done["reloaded"] == {"firezone_frr": "frr"}
    left = docker.docker("exec", "firezone_frr", "cat", "/tmp/vtysh").stdout
    assert "interface wg_office" in left and ": wg_office" in left, "OSPF leaves a tunnel before its link goes"
    assert not (entry.root / "wg_tunnels" / "wg_office").exists()
    after = docker.ids()
    assert {name: after[name] for name in before.keys() - {"wg_office"}} == {
        name: before[name] for name in before.keys() - {"wg_office"}
    }

    # the gateway's process dies: everyone follows into the new namespace by himself, and the state finds nothing to do
    everyone = after.keys()
    old = entry.namespace("firezone"), docker.started("firezone")
    others = {name: docker.started(name) for name in everyone - {"firezone"}}
    os.kill(docker.pid("firezone"), signal.SIGKILL)
    until("a new start of the gateway", lambda: docker.started("firezone") != old[1] and docker.pid("firezone") > 0, 60)
    until(
        "all in the gateway's new namespace",
        lambda: (
            all(docker.started(name) != started for name, started in others.items())
            and {entry.namespace(name) for name in everyone} == {entry.namespace("firezone")}
        ),
        60,
    )
    assert PROJECT not in entry.good()
    assert docker.ids() == after


def test_an_exit_and_what_docker_refuses(managed: Callable[..., Managed]) -> None:
    uk = managed("uk")
    docker = uk.docker
    more = {"interface": "wg_two", "listen_port": 55825, "addresses": ["10.9.29.1/24", "fd6d:7276:29::1/64"]}
    uk.view["tunnels"]["wg_two"] = {**uk.view["tunnels"]["wg_uk"], **more}
    assert uk.good()[PROJECT]["created"].keys() == {"wg_uk", "wg_uk_frr", "wg_two"}
    assert uk.good() == {}
    before = docker.ids()
    tree = {path: path.read_text() for path in uk.root.rglob("*.yml") if ".mrvpn" not in path.parts}

    # another program has the port: the error is Docker's own line, the old configuration is back and runs, the key of
    # a tunnel that was to go with it
    two = uk.root / "wg_tunnels" / "wg_two" / "private.key"
    key = two.read_text()
    docker.docker(
        "run", "--detach", "--name", "squatter", "--publish", "55999:55999/udp", "mrvpn:0.1.0", "sleep", "600"
    )
    uk.view["tunnels"]["wg_uk"]["listen_port"] = 55999
    del uk.view["tunnels"]["wg_two"]
    failed = uk.apply()[PROJECT]
    assert failed["result"] is False
    assert "port is already allocated" in failed["comment"] and "put back" in failed["comment"]
    assert {path: path.read_text() for path in tree} == tree
    assert docker.docker("port", "wg_uk").stdout.count("55824") >= 1
    assert two.read_text() == key and docker.ids().keys() - {"squatter"} == before.keys()
    docker.docker("rm", "--force", "squatter")

    # free again: the same apply goes through, FRR follows its owner
    done = uk.good()[PROJECT]
    assert done["recreated"].keys() == {"wg_uk", "wg_uk_frr"} and done["removed"].keys() == {"wg_two"}
    assert uk.namespace("wg_uk") == uk.namespace("wg_uk_frr")
    assert docker.ids().keys() == before.keys() - {"wg_two"} and not two.parent.exists()
    assert uk.good() == {}

    # a container removed by hand, one stopped by hand
    docker.docker("rm", "--force", "wg_uk_frr")
    assert uk.good()[PROJECT] == {"created": {"wg_uk_frr": "not there yet"}}
    docker.docker("stop", "--time", "1", "wg_uk")
    done = uk.good()[PROJECT]
    assert "wg_uk" in done["started"]
    assert uk.namespace("wg_uk") == uk.namespace("wg_uk_frr") != 0

    # nothing of it is described any more
    uk.view["tunnels"], uk.view["frr"] = {}, []
    assert uk.good("test=true")[PROJECT]["removed"].keys() == {"wg_uk", "wg_uk_frr"}
    assert uk.good()[PROJECT]["removed"].keys() == {"wg_uk", "wg_uk_frr"}
    assert docker.ids() == {}
    left = [path for path in uk.root.rglob("*") if path.is_file() and ".mrvpn" not in path.parts]
    assert left == [uk.root / "bin" / "mrvpn-containers"], "what every host has"


def test_what_a_killed_compose_left_is_mended(managed: Callable[..., Managed]) -> None:
    """Compose makes the new container under a temporary name, removes the old one, renames: killed, it leaves two."""
    uk = managed("uk")
    docker = uk.docker
    uk.good()
    before = docker.ids()

    # killed before the old one went: a second container with the labels of the first
    (label,) = [
        word
        for word in docker.docker("inspect", "-f", "{{json .Config.Labels}}", "wg_uk_frr").stdout.splitlines()
        if word
    ]
    labels = [part for key, value in rig.json.loads(label).items() for part in ("--label", f"{key}={value}")]
    twin = f"{before['wg_uk_frr'][:12]}_wg_uk_frr"
    docker.docker("create", "--name", twin, *labels, "mrvpn:0.1.0", "sleep", "600")
    foretold = uk.good("test=true")[PROJECT]
    assert foretold == {"mended": {twin: "left by an interrupted run: taken away"}}
    assert uk.good()[PROJECT] == foretold
    assert docker.ids() == before

    # killed after it: the new one has the temporary name still
    docker.docker("rename", "wg_uk_frr", twin)
    foretold = uk.good("test=true")[PROJECT]
    assert foretold == {"mended": {twin: "left by an interrupted run: takes its name"}}
    assert uk.good()[PROJECT] == foretold
    assert docker.ids() == before
    assert uk.good() == {}


def test_what_docker_gave_up_is_started_and_what_somebody_stopped_is_not(managed: Callable[..., Managed]) -> None:
    """Docker starts each container once when it starts: one that came before its namespace's owner stays down."""
    uk = managed("uk")
    docker = uk.docker
    uk.good()
    docker.docker("stop", "--time", "1", "wg_uk_frr", "wg_uk")
    assert docker.docker("start", "wg_uk_frr", check=False).returncode, "its owner does not run"
    units = uk.folder / "etc2"
    assert (units / "docker.service.wants" / "mrvpn-containers.service").is_symlink()
    assert f"ExecStart={uk.root}/bin/mrvpn-containers\n" in (units / "mrvpn-containers.service").read_text()
    script = ["env", f"DOCKER_HOST=unix://{docker.socket}", str(uk.root / "bin" / "mrvpn-containers")]
    boot = subprocess.Popen(script, stderr=subprocess.PIPE, text=True)
    time.sleep(2)
    assert boot.poll() is None, "it waits for the owner"
    docker.docker("start", "wg_uk")
    assert boot.wait(30) == 0
    assert uk.namespace("wg_uk_frr") == uk.namespace("wg_uk") != 0
    docker.docker("stop", "--time", "1", "wg_uk_frr")
    subprocess.run(script, check=True, timeout=30)
    assert docker.pid("wg_uk_frr") == 0, "stopped by hand"


def test_a_spoiled_file_is_replaced_only_by_a_tree_that_docker_accepts(managed: Callable[..., Managed]) -> None:
    uk = managed("uk")
    uk.good()
    before = uk.docker.ids()
    file = uk.root / "wg_tunnels" / "wg_uk" / "docker-compose.yml"
    file.write_text("services: [no compose file")
    port = uk.view["tunnels"]["wg_uk"]["listen_port"]
    uk.view["tunnels"]["wg_uk"]["listen_port"] = "no port"
    failed = uk.apply()[PROJECT]
    assert failed["result"] is False and "docker compose config" in failed["comment"] and "no port" in failed["comment"]
    assert file.read_text() == "services: [no compose file"
    uk.view["tunnels"]["wg_uk"]["listen_port"] = port
    assert (
        "-services: [no compose file" in uk.good("test=true")[PROJECT]["files"]["wg_tunnels/wg_uk/docker-compose.yml"]
    )
    assert uk.good()[PROJECT].keys() == {"files"}
    assert uk.docker.ids() == before and "no compose file" not in file.read_text()


def test_a_missing_image_stops_before_anything_is_written(managed: Callable[..., Managed]) -> None:
    uk = managed("uk")
    uk.view["image"]["name"] = "mrvpn:9.9.9"
    results = uk.apply()
    failed = results["mrvpn_docker.image mrvpn:9.9.9"]
    assert failed["result"] is False and "docker load" in failed["comment"]
    assert PROJECT not in results
    assert not uk.root.exists()


def test_no_docker_is_one_clear_sentence(managed: Callable[..., Managed], tmp_path: Path) -> None:
    uk = managed("uk")
    rig.prepare(uk.folder, "uk", uk.view)
    results = rig.by_state(rig.sealed(uk.folder, uk.docker.netns, "state.apply", docker=tmp_path / "no.sock"))
    engine = results["mrvpn_docker.engine docker engine"]
    assert engine["result"] is False and "Docker does not answer" in engine["comment"]
    assert PROJECT not in results
    assert not uk.root.exists()


def test_a_container_that_never_gets_healthy_is_told_with_its_last_lines(managed: Callable[..., Managed]) -> None:
    uk = managed("uk")
    uk.view["tunnels"]["wg_uk"]["interface"] = "no/interface"  # nothing of that name can come up
    failed = uk.apply()[PROJECT]
    assert failed["result"] is False
    assert "wg_uk" in failed["comment"]
