"""Nothing stays behind: a tunnel taken out of the description, a host taken out of it, MRVPN taken off a host.

mrvpn-ts<pid> (netns): dockerd; the office's tunnel lives in the host's own namespace, the entrypoint's in the gateway's
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rig
from test_project import PROJECT, Managed

from tests.salt.conftest import DockerHost

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
View = Callable[[str], dict[str, Any]]


@pytest.fixture
def host(tmp_path: Path, view: View, docker_host: DockerHost) -> Callable[[str], Managed]:
    def make(name: str) -> Managed:
        it = view(name)
        it["root"] = str(tmp_path / "opt" / "mrvpn")
        if it["gateway"]:
            it["gateway"]["port_range"] = [55820, 55829]
            it["host_guard"]["reserved_ports"] = [55820, 55829]
            it["frr"], it["recursor"] = [], []
        (tmp_path / "data" / "mrvpn" / "country").mkdir(parents=True)
        (tmp_path / "data" / "mrvpn" / "country" / "country.mmdb").write_bytes(os.urandom(1000))
        return Managed(tmp_path, it, docker_host)

    return make


def inside(it: Managed, *command: str) -> str:
    """What a command prints in the host's network namespace."""
    done = subprocess.run(["ip", "netns", "exec", it.docker.netns, *command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def etc(it: Managed) -> list[str]:
    """What the minion left in its own /etc/sysctl.d and /etc/systemd/system."""
    numbers = [rig.OWN_ETC.index(name) for name in ("/etc/sysctl.d", "/etc/systemd/system")]
    return [path.name for number in numbers for path in (it.folder / f"etc{number}").rglob("*")]


def left(it: Managed) -> set[str]:
    return {str(path.relative_to(it.root)) for path in it.root.rglob("*") if path.is_file()}


def test_a_tunnel_in_the_hosts_namespace_leaves_nothing(host: Callable[[str], Managed]) -> None:
    office = host("office")
    office.good()
    # as mrvpn-wireguard makes it; the container is killed before it can clean up
    inside(office, "nft", "add", "table", "inet", "mrvpn_wg_office")
    assert "wg_office" in inside(office, "ip", "link")
    os.kill(office.docker.pid("wg_office"), 9)
    office.view["tunnels"], office.view["frr"] = {}, []
    assert office.good()[PROJECT]["removed"].keys() == {"wg_office", "mrvpn_frr"}
    assert "wg_office" not in inside(office, "ip", "link")
    assert "mrvpn_wg_office" not in inside(office, "nft", "list", "tables")
    assert office.docker.ids() == {}
    assert not (office.root / "wg_tunnels").exists(), "the private key of a removed tunnel"
    assert "wg_office" not in (office.root / ".mrvpn" / "keys.json").read_text()


def test_a_guard_without_reason_goes_with_its_unit(host: Callable[[str], Managed]) -> None:
    """Docker requires the unit: one that outlives its script would keep Docker from starting at the next boot."""
    uk = host("uk")
    uk.view["host_guard"] = {"bridge": None, "addresses": [], "reserved_ports": None, "published": ["55824"]}
    uk.good()
    assert "mrvpn_host" in inside(uk, "nft", "list", "tables")
    assert etc(uk).count("mrvpn-host-guard.service") == 2
    uk.view["host_guard"], uk.view["tunnels"], uk.view["frr"] = None, {}, []
    name = "mrvpn.no_host_guard no host guard"
    foretold = uk.good("test=true")[name]
    assert uk.good()[name] == foretold and len(foretold["removed"]) == 3
    assert "mrvpn_host" not in inside(uk, "nft", "list", "tables")
    assert "mrvpn-host-guard.service" not in etc(uk)
    assert [path.name for path in (uk.root / "bin").iterdir()] == ["mrvpn-containers"]
    assert uk.good() == {}


def test_mrvpn_off_the_entrypoint_data_kept_then_purged(host: Callable[[str], Managed]) -> None:
    entry = host("entry")
    docker = entry.docker
    entry.good()
    docker.docker("run", "--detach", "--name", "somebody-elses", "mrvpn:0.1.0", "sleep", "600")
    (entry.root / "notes.txt").write_text("the operator's own")
    inside(entry, "iptables", "-I", "DOCKER-USER", "-m", "mark", "--mark", "0x40000/0x40000", "-j", "ACCEPT")
    keys = {path: path.read_text() for path in entry.root.rglob("private.key")}
    assert len(keys) == 3

    name = "mrvpn.absent mrvpn off this host"
    foretold = entry.good("mrvpn.absent", "test=true")[name]["removed"]
    assert len(docker.ids()) > 1
    done = entry.good("mrvpn.absent")[name]["removed"]
    assert foretold == done
    assert docker.ids().keys() == {"somebody-elses"}
    assert "mrvpn" not in docker.docker("network", "ls", "--format", "{{.Name}}").stdout
    assert "mrvpn_firezone_ipt_state" in docker.docker("volume", "ls", "--quiet").stdout
    assert "mrvpn" not in inside(entry, "nft", "list", "tables")
    assert "0x40000" not in inside(entry, "iptables", "-S")
    assert not [path for path in etc(entry) if "mrvpn" in path]
    assert {path: path.read_text() for path in entry.root.rglob("private.key")} == keys
    kept = {str(path.relative_to(entry.root)) for path in keys} | {"notes.txt", "mrvpn/country/country.mmdb"}
    assert left(entry) == kept
    assert entry.good("mrvpn.absent") == {}

    # deployed again with the same keys, then taken off for good
    entry.good()
    assert {path: path.read_text() for path in entry.root.rglob("private.key")} == keys
    purge = 'pillar={"mrvpn_absent": {"purge": true}}'
    done = entry.good("mrvpn.absent", purge)[name]["removed"]
    assert "mrvpn_firezone_ipt_state" in done["volumes"]
    assert left(entry) == {"notes.txt"}
    assert "mrvpn_" not in docker.docker("volume", "ls", "--quiet").stdout


def test_what_the_host_had_before_comes_back(host: Callable[[str], Managed]) -> None:
    """daemon.json, reserved ports and, purged, the image: as they were, where nobody has changed them since."""
    entry = host("entry")
    daemon = entry.folder / "etc0" / "daemon.json"
    daemon.parent.mkdir(exist_ok=True)
    daemon.write_text('{"ip6tables": false, "log-driver": "local", "userland-proxy": false}')
    reserved = ("sysctl", "-n", "net.ipv4.ip_local_reserved_ports")
    inside(entry, "sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=4000-4001")
    entry.docker.docker("tag", "mrvpn:0.1.0", "mrvpn:kept")
    entry.docker.docker("run", "--detach", "--name", "somebody-elses", "mrvpn:0.1.0", "sleep", "600")
    entry.good()
    assert rig.json.loads(daemon.read_text())["ip6tables"] is True
    assert inside(entry, *reserved).strip() == "4000-4001,55820-55829"
    entry.view["host_guard"]["reserved_ports"] = [55820, 55839]
    entry.good()

    changed = rig.json.loads(daemon.read_text())
    daemon.write_text(rig.json.dumps({**changed, "experimental": "by somebody"}))
    name = "mrvpn.absent mrvpn off this host"
    foretold = entry.good("mrvpn.absent", "test=true")[name]
    results = entry.apply("mrvpn.absent")[name]
    assert foretold == results["changes"]
    assert "Docker restarts" in results["comment"]
    assert rig.json.loads(daemon.read_text()) == {
        "ip6tables": False, "log-driver": "local", "userland-proxy": False, "experimental": "by somebody",
    }  # fmt: skip
    assert inside(entry, *reserved).strip() == "4000-4001"
    assert inside(entry, "sysctl", "-n", "net.ipv4.ip_forward").strip() == "1", "Docker forwards for others"
    images = ("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert "mrvpn:0.1.0" in entry.docker.docker(*images).stdout

    # purged while another container runs on the image: it stays; then it goes, but the test's own name of it
    purge = 'pillar={"mrvpn_absent": {"purge": true}}'
    assert "images" not in entry.good("mrvpn.absent", purge)[name]["removed"]
    entry.docker.docker("rm", "--force", "somebody-elses")
    names = sorted(word for word in entry.docker.docker(*images).stdout.split() if word.startswith("mrvpn:"))
    assert {"mrvpn:0.1.0", "mrvpn:kept"} <= set(names)  # other tests of this Docker may have given it more
    try:
        assert entry.good("mrvpn.absent", purge)[name]["removed"]["images"] == names
        assert "mrvpn:" not in entry.docker.docker(*images).stdout
        assert entry.good("mrvpn.absent", purge) == {}
    finally:
        entry.docker.load()


def test_a_host_taken_out_of_the_description_is_left_alone_with_its_keys(host: Callable[[str], Managed]) -> None:
    uk = host("uk")
    uk.good()
    root = uk.view["root"]
    uk.view = {"version": "0", "host": "uk", "member": False, "root": root}
    foretold = uk.good("test=true")
    assert foretold.keys() == {"mrvpn.absent mrvpn off this host"}
    assert uk.good() == foretold
    assert uk.docker.ids() == {}
    assert left(uk) == {"wg_tunnels/wg_uk/private.key"}
    assert uk.good() == {}
