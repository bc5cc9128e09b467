"""Three hosts in one tunnel, one of which listens: who is whose peer, and OSPF that comes up over real WireGuard.

north (dials) ---- hub (listens) ---- south (dials)      wg_three 10.9.30.0/24, fd6d:7276:30::/64
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrvpn import compiler, views
from mrvpn.render import files
from tests.conftest import IMAGE_ROOT

REPO = Path(__file__).parents[2]
NAMES = ("hub", "north", "south")
# neighbours, each connected by itself: together they are 10.77.0.0/23, which no interface has
LANS = ["10.77.0.0/24", "10.77.1.0/24", "fd77::/64", "fd77:0:0:1::/64"]
DESCRIPTION: dict[str, Any] = {
    "mrvpn": {
        "tunnels": {
            "wg_three": {
                "subnet": ["10.9.30.0/24", "fd6d:7276:30::/64"],
                "hosts": {
                    "hub": {"expose": "192.0.2.1:55830"},
                    "north": {},
                    "south": {"allowed_nets": ["10.78.0.0/24"]},
                },
            }
        },
        "hosts": {"south": {"lan": LANS}},
    }
}


def keypair() -> tuple[str, str]:
    private = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout
    public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout
    return private, public.strip()


@pytest.fixture
def keys() -> dict[str, tuple[str, str]]:
    return {name: keypair() for name in NAMES}


@pytest.fixture
def view_of(tmp_path: Path, keys: dict[str, tuple[str, str]]) -> Callable[..., dict[str, Any]]:
    def make(host: str, description: dict[str, Any] = DESCRIPTION) -> dict[str, Any]:
        (tmp_path / "network").mkdir(exist_ok=True)
        (tmp_path / "network" / "all.yaml").write_text(yaml.safe_dump(description))
        compiled = compiler.compile_path(tmp_path / "network")
        assert compiled.network is not None, compiled.errors
        public = {name: {"wg_three": pair[1]} for name, pair in keys.items()}
        return views.view(compiled.network, host, public, {"psk_root": "x" * 40}.get)

    return make


def test_who_is_whose_peer(view_of: Callable[..., dict[str, Any]]) -> None:
    peers = {name: view_of(name)["tunnels"]["wg_three"]["peers"] for name in NAMES}
    assert [peer["host"] for peer in peers["hub"]] == ["north", "south"]
    assert [peer["host"] for peer in peers["north"]] == [peer["host"] for peer in peers["south"]] == ["hub"]
    # what is the south's goes to the hub, from the north
    (hub,) = peers["north"]
    assert {"10.9.30.3/32", "10.77.0.0/23", "10.78.0.0/24", "fd6d:7276:30::3/128", "fe80::1/128"} <= set(
        hub["allowed_ips"]
    )
    assert not any(prefix.startswith(("224.", "ff")) for prefix in hub["allowed_ips"])
    for host in NAMES:
        prefixes = [prefix for peer in peers[host] for prefix in peer["allowed_ips"]]
        assert len(prefixes) == len(set(prefixes)), "a prefix leads to one peer"


def test_hosts_that_all_listen_are_a_mesh(view_of: Callable[..., dict[str, Any]]) -> None:
    mesh = json.loads(json.dumps(DESCRIPTION))
    hosts = mesh["mrvpn"]["tunnels"]["wg_three"]["hosts"]
    hosts["north"]["expose"], hosts["south"]["expose"] = "192.0.2.2:55830", "192.0.2.3:55830"
    for host in NAMES:
        view = view_of(host, mesh)
        assert {peer["host"] for peer in view["tunnels"]["wg_three"]["peers"]} == set(NAMES) - {host}
        (interface,) = view["frr"][0]["interfaces"]
        assert len(interface["neighbors"]["ipv4"]) == len(interface["neighbors"]["ipv6"]) == 2


def test_two_hosts_stay_point_to_point(view_of: Callable[..., dict[str, Any]]) -> None:
    two = json.loads(json.dumps(DESCRIPTION))
    del two["mrvpn"]["tunnels"]["wg_three"]["hosts"]["south"], two["mrvpn"]["hosts"]
    text = {file.target: file.text for file in files(view_of("hub", two), REPO / "salt")}
    conf = text["wg_tunnels/wg_three/frr/frr.conf"]
    assert "ip ospf network point-to-point\n" in conf and "neighbor" not in conf


# -- the real thing ----------------------------------------------------------------------------------------------------


def conf_of(view: dict[str, Any]) -> str:
    return next(file.text for file in files(view, REPO / "salt") if file.target.endswith("/frr.conf"))


@pytest.mark.root
@pytest.mark.image
@pytest.mark.parametrize("host", NAMES)
def test_frr_takes_it(view_of: Callable[..., dict[str, Any]], host: str) -> None:
    text = conf_of(view_of(host))
    assert "ip ospf network point-to-multipoint non-broadcast" in text
    script = "file=$(mktemp); cat > $file; vtysh --dryrun --inputfile $file; code=$?; rm $file; exit $code"
    assert subprocess.run(["chroot", str(IMAGE_ROOT), "sh", "-c", script], input=text, text=True).returncode == 0


class Node:
    """A host: a network namespace on one wire, WireGuard, and FRR out of the image with its own /run and /etc/frr."""

    def __init__(self, name: str, number: int, folder: Path) -> None:
        self.name, self.number, self.folder = name, number, folder / name
        self.netns = f"mrvpn-hub{os.getpid()}{name[0]}"
        self.pids: list[int] = []
        self.folder.mkdir()

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", "-n", self.netns, *words], check=True)

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", "netns", "exec", self.netns, *words], input=stdin, capture_output=True, text=True)

    def wireguard(self, view: dict[str, Any], private: str) -> None:
        tunnel = view["tunnels"]["wg_three"]
        if self.run("ip", "link", "add", "wg_three", "type", "wireguard").returncode:
            command = ["ip", "netns", "exec", self.netns, "unshare", "--mount", "sh", "-c"]
            script = "mount -t tmpfs t /var/run/wireguard; exec wireguard-go --foreground wg_three"
            Path("/var/run/wireguard").mkdir(exist_ok=True)
            self.go = subprocess.Popen([*command, script], env={**os.environ, "LOG_LEVEL": "error"})
            self.pids.append(self.go.pid)
            until("wireguard-go", lambda: not self.run("ip", "link", "show", "wg_three").returncode)
        lines = [f"[Interface]\nPrivateKey = {private.strip()}"]
        lines += [f"ListenPort = {tunnel['listen_port']}"] if tunnel["listen_port"] else []
        for peer in tunnel["peers"]:
            lines.append(f"[Peer]\nPublicKey = {peer['public_key']}\nPresharedKey = {peer['preshared_key']}")
            lines.append(f"AllowedIPs = {', '.join(peer['allowed_ips'])}\nPersistentKeepalive = 1")
            lines += [f"Endpoint = {peer['endpoint']}"] if peer["endpoint"] else []
        enter = (
            ["nsenter", "--target", str(self.pids[0]), "--mount", "--net"]
            if self.pids
            else ["ip", "netns", "exec", self.netns]
        )
        subprocess.run(
            [*enter, "wg", "setconf", "wg_three", "/dev/stdin"], input="\n".join(lines) + "\n", text=True, check=True
        )
        self.ip("link", "set", "wg_three", "addrgenmode", "none", "mtu", "1280")
        for address in [*tunnel["addresses"], tunnel["link_local"]]:
            self.ip("address", "add", address, "dev", "wg_three", *(["nodad"] if ":" in address else []))
        self.ip("link", "set", "wg_three", "up")

    def frr(self, conf: str) -> None:
        (self.folder / "frr").mkdir()
        (self.folder / "frr" / "frr.conf").write_text(conf)
        (self.folder / "frr" / "vtysh.conf").write_text("service integrated-vtysh-config\n")
        root = self.folder / "root"
        root.mkdir()
        daemons = "; ".join(f"/usr/lib/frr/{name} -d -P 0" for name in ("mgmtd", "zebra", "ospfd", "ospf6d", "bfdd"))
        tmpfs = "for f in run/frr var/tmp var/lib/frr; do mount -t tmpfs t $f; done"
        inside = f"chown -R frr:frr /run/frr /var/tmp /var/lib/frr; {daemons}; vtysh -b; exec sleep infinity"
        script = (
            f"mount --rbind {IMAGE_ROOT} {root}; cd {root}; {tmpfs}; mount --bind {self.folder}/frr etc/frr; "
            f"mount --bind /dev dev; mount -t proc p proc; exec chroot . sh -c '{inside}'"
        )
        command = [
            "ip",
            "netns",
            "exec",
            self.netns,
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-ec",
            script,
        ]
        log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.pids.append(self.process.pid)

    def vtysh(self, show: str) -> Any:
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        if not found:
            return {}
        command = ["nsenter", "--target", found[0], "--mount", "--net", "chroot", str(self.folder / "root")]
        done = subprocess.run([*command, "vtysh", "-c", f"{show} json"], capture_output=True, text=True)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return {}


def until(what: str, probe: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.3)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, Node]]:
    wire = f"mrvpn-hub{os.getpid()}w"
    found = {name: Node(name, number, tmp_path) for number, name in enumerate(NAMES, 1)}
    try:
        subprocess.run(["ip", "netns", "add", wire], check=True)
        subprocess.run(["ip", "-n", wire, "link", "add", "name", "wire0", "type", "bridge"], check=True)
        subprocess.run(["ip", "-n", wire, "link", "set", "wire0", "up"], check=True)
        for node in found.values():
            subprocess.run(["ip", "netns", "add", node.netns], check=True)
            node.ip("link", "set", "lo", "up")
            peer = ("peer", "name", node.name, "netns", wire)
            node.ip("link", "add", "eth0", "type", "veth", *peer)
            subprocess.run(["ip", "-n", wire, "link", "set", node.name, "master", "wire0", "up"], check=True)
            node.ip("address", "add", f"192.0.2.{node.number}/24", "dev", "eth0")
            node.ip("link", "set", "eth0", "up")
            for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                node.run("sysctl", "-qw", f"{key}=1")
        yield found
    finally:
        for node in found.values():
            for pid in node.pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            subprocess.run(["ip", "netns", "del", node.netns], capture_output=True)
        subprocess.run(["ip", "netns", "del", wire], capture_output=True)


@pytest.mark.root
@pytest.mark.image
@pytest.mark.skipif(not shutil.which("wireguard-go"), reason="wireguard-go is missing (lab/setup installs it)")
def test_the_north_reaches_the_souths_lans_by_the_hub(
    nodes: dict[str, Node], view_of: Callable[..., dict[str, Any]], keys: dict[str, tuple[str, str]]
) -> None:
    south = nodes["south"]
    for lan, lan6 in zip(LANS[:2], LANS[2:], strict=True):
        name = f"lan{lan.split('.')[2]}"
        south.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
        south.ip("address", "add", lan.replace(".0/", ".1/"), "dev", name)
        south.ip("address", "add", lan6.replace("::/", "::1/"), "dev", name, "nodad")
        for end in (name, f"{name}-far"):
            south.ip("link", "set", end, "up")
    for name, node in nodes.items():
        view = view_of(name)
        node.wireguard(view, keys[name][0])
        node.frr(conf_of(view))
    full = "Full/"

    def adjacencies() -> bool:
        counts = []
        for node in nodes.values():
            neighbors = node.vtysh("show ip ospf neighbor").get("neighbors", {})
            counts.append(sum(n["nbrState"].startswith(full) for several in neighbors.values() for n in several))
        return counts == [2, 1, 1]

    until("adjacencies: the hub has two, the others one", adjacencies)
    until("the south's LANs in the north", lambda: set(LANS[:2]) <= nodes["north"].vtysh("show ip route ospf").keys())
    for address in ("10.77.0.1", "10.77.1.1"):
        until("an echo", lambda a=address: nodes["north"].run("ping", "-c1", "-W1", a).returncode == 0)  # type: ignore[misc]
    until("an echo by IPv6", lambda: nodes["north"].run("ping", "-c1", "-W1", "fd6d:7276:30::3").returncode == 0)

    def adjacencies6() -> bool:
        found = [node.vtysh("show ipv6 ospf6 neighbor").get("neighbors", []) for node in nodes.values()]
        return [sum(n["state"] == "Full" for n in neighbors) for neighbors in found] == [2, 1, 1]

    until("OSPFv3 adjacencies", adjacencies6, 40)
    until("its IPv6 LANs", lambda: set(LANS[2:]) <= nodes["north"].vtysh("show ipv6 route ospf6").keys())
