"""What passes the description's check and cannot work on this host: one sentence each, nothing changed. Real sockets,
addresses and chains in a network namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rig

pytestmark = pytest.mark.root
View = Callable[[str], dict[str, Any]]
FITS = "mrvpn.fits this host"


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"mrvpn-pf{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name])


def fits(folder: Path, netns: str, view: dict[str, Any]) -> dict[str, Any]:
    view["root"] = str(folder / "opt" / "mrvpn")
    rig.prepare(folder, view["host"], view)
    results = rig.by_state(rig.sealed(folder, netns, "state.apply"))
    if not results[FITS]["result"]:
        assert list(results) == ["mrvpn.guard mrvpn guard", FITS], "something ran after it"
        assert not Path(view["root"]).exists()
    return results[FITS]


def test_everything_in_the_way_is_told_at_once(tmp_path: Path, netns: str, view: View) -> None:
    script = (
        "import socket, time; u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('0.0.0.0', 51620)); "
        "print('bound', flush=True); time.sleep(600)"
    )
    squatter = subprocess.Popen(
        ["ip", "netns", "exec", netns, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    try:
        assert squatter.stdout and squatter.stdout.readline() == "bound\n"
        for address, name in (("10.9.0.9/16", "lan0"), ("172.30.55.1/24", "br-mrvpn")):
            command = ["ip", "-n", netns, "link", "add", name, "type", "veth", "peer", "name", f"p{name[:8]}"]
            subprocess.run(command, check=True)
            subprocess.run(["ip", "-n", netns, "address", "add", address, "dev", name], check=True)
        result = fits(tmp_path, netns, view("entry"))
    finally:
        squatter.kill()
        squatter.wait()
    assert result["result"] is False
    lines = result["comment"].splitlines()
    assert len(lines) == 3, lines
    assert lines[0].startswith("port 51620/udp is taken by python") and "firezone.fz_wireguard_port" in lines[0]
    overlap = (
        "10.9.20.0/24 overlaps 10.9.0.0/16, this host's own network on lan0: choose another prefix for tunnels.wg_uk"
    )
    assert any(line.startswith(overlap) for line in lines)


def test_whose_a_socket_is_among_processes_that_end(tmp_path: Path) -> None:
    """A process that has ended since /proc was listed has no folder `fd` any more, one that is ending no `comm`."""
    preflight = rig.module("mrvpn_preflight")
    for pid, name in ((1, None), (2, None), (3, "nginx")):
        (tmp_path / str(pid)).mkdir()
        if pid > 1:
            (tmp_path / str(pid) / "fd").mkdir()
            (tmp_path / str(pid) / "fd" / "7").symlink_to("socket:[4711]")
        if name:
            (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
    (tmp_path / "net").mkdir()
    assert preflight._owners({"4711", "4712"}, tmp_path) == {"4711": ("nginx", "3")}


def test_a_port_is_found_taken_without_iproute2(tmp_path: Path, netns: str, view: View) -> None:
    script = "import socket, time; s = socket.create_server(('', 80)); print('bound', flush=True); time.sleep(600)"
    enter = ["ip", "netns", "exec", netns, sys.executable, "-c", script]
    squatter = subprocess.Popen(enter, stdout=subprocess.PIPE, text=True)
    try:
        assert squatter.stdout and squatter.stdout.readline() == "bound\n"
        it = view("entry")
        it["gateway"]["kind"], it["gateway"]["firezone"] = "firezone", {"https": False}
        rig.prepare(tmp_path, "entry", it)
        call = ("mrvpn_preflight.problems", f"view={rig.json.dumps(it)}")
        tools = tmp_path / "tools"
        tools.mkdir()
        for tool in (t for folder in ("/usr/sbin", "/usr/bin") for t in Path(folder).iterdir()):
            if tool.name not in ("ip", "ss"):
                (tools / tool.name).unlink(missing_ok=True)
                (tools / tool.name).symlink_to(tool)
        told = rig.sealed(tmp_path, netns, *call, path=tools)
    finally:
        squatter.kill()
        squatter.wait()
    assert len(told) == 2, told
    assert told[0].startswith("port 80/tcp is taken by python") and "Caddy" in told[0]
    assert "install iproute2" in told[1]


def test_a_host_without_a_firewall_is_fine(tmp_path: Path, netns: str, view: View) -> None:
    result = fits(tmp_path, netns, view("office"))
    assert result["result"] is True and not result.get("warnings")


def test_a_kernel_without_tun(tmp_path: Path, view: View, make_caller: Callable[..., Any]) -> None:
    caller = make_caller("uk", view("uk"))
    (told,) = caller.cmd("mrvpn_preflight.problems", view("uk"), device=str(tmp_path / "tun"))
    assert "modprobe tun" in told and "No such file" in told
    assert caller.cmd("mrvpn_preflight.problems", view("uk")) == []


def test_firezone_needs_the_kernels_wireguard(view: View, make_caller: Callable[..., Any]) -> None:
    it = view("entry")
    it["gateway"]["kind"], it["gateway"]["firezone"] = "firezone", {"https": True}
    caller = make_caller("entry", it)
    told = [line for line in caller.cmd("mrvpn_preflight.problems", it) if "WireGuard" in line]
    assert bool(told) is not caller.cmd("mrvpn_preflight.wireguard")


def test_firewalls_are_told_what_they_need(tmp_path: Path, netns: str, view: View) -> None:
    etc = tmp_path / "own-etc"
    (etc / "ufw").mkdir(parents=True)
    (etc / "ufw" / "ufw.conf").write_text("# on\nENABLED=yes\n")
    (etc / "systemd" / "system" / "sysinit.target.wants").mkdir(parents=True)
    (etc / "systemd" / "system" / "sysinit.target.wants" / "nftables.service").touch()
    (etc / "nftables.conf").write_text("#!/usr/sbin/nft -f\nflush ruleset\n")
    ruleset = "table inet guard {\n chain through {\n type filter hook forward priority 0; policy drop;\n }\n}\n"
    enter = ["ip", "netns", "exec", netns]
    subprocess.run([*enter, "nft", "-f", "-"], input=ruleset, text=True, check=True)
    it = view("office")
    it["tunnels"]["wg_office"]["listen_port"] = 55825
    rig.prepare(tmp_path, "office", it)
    told = rig.sealed(tmp_path, netns, "mrvpn_preflight.firewalls", f"view={rig.json.dumps(it)}", f'etc="{etc}"')
    assert len(told) == 3
    assert "ufw allow 55825/udp" in told[0] and "ufw allow in on wg_office" in told[0]
    assert "flush ruleset" in told[1]
    assert "the chain inet guard through drops" in told[2] and "wg_office" in told[2]
    (etc / "ufw" / "ufw.conf").write_text("ENABLED=no\n")
    (etc / "nftables.conf").write_text("table inet mine {}\n")
    subprocess.run([*enter, "nft", "delete", "table", "inet", "guard"], check=True)
    assert rig.sealed(tmp_path, netns, "mrvpn_preflight.firewalls", f"view={rig.json.dumps(it)}", f'etc="{etc}"') == []


def test_firewalld_is_told_what_it_needs(tmp_path: Path, netns: str, view: View) -> None:
    """By its own client's word: a folder of it alone says nothing."""
    etc, tools = tmp_path / "own-etc", tmp_path / "tools"
    (etc / "firewalld").mkdir(parents=True)
    tools.mkdir()
    client = tools / "firewall-cmd"
    client.write_text('#!/bin/sh\n[ "$*" = --state ] && cat "$0.state"\n')
    client.chmod(0o755)
    office, entry = view("office"), view("entry")
    office["tunnels"]["wg_office"]["listen_port"] = 55825
    rig.prepare(tmp_path, "office", office)

    def told(it: dict[str, Any]) -> list[str]:
        call = ("mrvpn_preflight.firewalls", f"view={rig.json.dumps(it)}", f'etc="{etc}"')
        return list(rig.sealed(tmp_path, netns, *call, path=f"{tools}:{os.environ['PATH']}"))

    (tools / "firewall-cmd.state").write_text("not running\n")
    assert told(office) == []
    (tools / "firewall-cmd.state").write_text("running\n")
    (line,) = told(office)
    assert (
        "--add-port=55825/udp; " in line and "--zone=trusted --add-interface=wg_office; firewall-cmd --reload" in line
    )
    (line,) = told(entry)
    assert "needed" not in line and "restart Docker" in line, "Docker publishes the gateway's ports"
