"""mrvpn-wireguard on the real kernel: two namespaces, one tunnel, as the containers run it.

left (wg_t 10.9.0.1) ---- veth 192.0.2.0/24 ---- right (wg_t 10.9.0.2)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

pytestmark = pytest.mark.root
SCRIPT = Path(__file__).parents[2] / "image/rootfs/usr/local/bin/mrvpn-wireguard"
NAME = "wg_t"


def sh(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def until(what: str, probe: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def keypair() -> tuple[str, str]:
    import base64

    key = X25519PrivateKey.generate()
    raw = key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode(), base64.b64encode(public).decode()


@dataclass
class End:
    netns: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def command(self, verb: str) -> list[str]:
        binds = (
            "mkdir -p /conf; mount -t tmpfs t /run; mkdir -p /run/mrvpn /run/wireguard; "
            f"mount --bind {self.folder} /conf; mount --bind {self.folder}/live /run/mrvpn"
        )
        return [
            "ip",
            "netns",
            "exec",
            self.netns,
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"{binds}; exec {SCRIPT} {verb}",
        ]

    def start(self) -> None:
        env = {**os.environ, "WG_INTERFACE": NAME}
        self.process = subprocess.Popen(self.command("run"), env=env)

    def enter(self, *argv: str) -> list[str]:
        assert self.process is not None
        return [
            "nsenter",
            "--target",
            str(self.process.pid),
            "--mount",
            "--net",
            "env",
            f"WG_INTERFACE={NAME}",
            *argv,
        ]

    def ip(self, *argv: str, check: bool = True) -> str:
        return sh("ip", "-n", self.netns, *argv, check=check)


def write(
    end: End, address: str, port: int | None, peer_key: str, endpoint: str, allowed: str, extra: str = ""
) -> None:
    (end.folder / "live/peers").mkdir(parents=True, exist_ok=True)
    listen = f"ListenPort = {port}\n" if port else ""
    (end.folder / "live/interface.conf").write_text(
        f"[Interface]\nAddress = {address}\n{listen}MTU = 1400\nTable = off\n\n[MRVPN]\n{extra}\n"
    )
    (end.folder / "live/peers/far.conf").write_text(
        f"[Peer]\nPublicKey = {peer_key}\nEndpoint = {endpoint}\nAllowedIPs = {allowed}\nPersistentKeepalive = 1\n"
    )


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[End, End]]:
    left, right = (End(f"mrvpn-t{os.getpid()}{side}", tmp_path / side) for side in "ab")
    conf_made = not Path("/conf").exists()
    try:
        for end in (left, right):
            sh("ip", "netns", "add", end.netns)
            end.ip("link", "set", "lo", "up")
            end.folder.mkdir()
            (end.folder / "live").mkdir()
        left.ip("link", "add", "v", "type", "veth", "peer", "name", "v", "netns", right.netns)
        for number, end in enumerate((left, right), 1):
            end.ip("address", "add", f"192.0.2.{number}/24", "dev", "v")
            end.ip("link", "set", "v", "up")
        keys = [keypair(), keypair()]
        for end, (private, _) in zip((left, right), keys, strict=True):
            (end.folder / "private.key").write_text(private + "\n")
        write(left, "10.9.0.1/24", 5001, keys[1][1], "192.0.2.2:5002", "10.9.0.2/32", "LinkLocal = fe80::1/64")
        write(right, "10.9.0.2/24", 5002, keys[0][1], "192.0.2.1:5001", "10.9.0.1/32", "LinkLocal = fe80::2/64")
        yield left, right
    finally:
        for end in (left, right):
            if end.process is not None and end.process.poll() is None:
                end.process.terminate()
                end.process.wait(10)
            sh("ip", "netns", "del", end.netns, check=False)
        if conf_made:
            Path("/conf").rmdir()


def pings(end: End, address: str) -> bool:
    return (
        subprocess.run(
            ["ip", "netns", "exec", end.netns, "ping", "-c1", "-W1", address], capture_output=True
        ).returncode
        == 0
    )


def test_tunnel_comes_up_reloads_in_place_and_is_gone_after_stop(ends: tuple[End, End]) -> None:
    left, _ = ends
    for end in ends:
        end.start()
    until("a ping over the tunnel", lambda: pings(left, "10.9.0.2"))
    assert "mtu 1400" in left.ip("link", "show", NAME)
    assert "fe80::1/64" in left.ip("-6", "address", "show", "dev", NAME)
    assert sh(*left.enter(str(SCRIPT), "health")) == ""

    # one more address and allowed prefix, without a new handshake
    before = sh(*left.enter("wg", "show", NAME, "latest-handshakes"))
    conf = left.folder / "live/interface.conf"
    conf.write_text(conf.read_text().replace("Address = 10.9.0.1/24", "Address = 10.9.0.1/24\nAddress = 10.8.0.1/24"))
    sh(*left.enter(str(SCRIPT), "reload"))
    assert "10.8.0.1/24" in left.ip("address", "show", "dev", NAME)
    assert sh(*left.enter("wg", "show", NAME, "latest-handshakes")) == before

    assert left.process is not None
    left.process.terminate()
    assert left.process.wait(10) == 0
    assert NAME not in left.ip("link", "show")
    assert f"mrvpn_{NAME}" not in sh("ip", "netns", "exec", left.netns, "nft", "list", "tables")


def test_peers_change_and_no_packet_of_those_that_stay_is_lost(ends: tuple[End, End]) -> None:
    left, _ = ends
    for end in ends:
        end.start()
    until("a ping over the tunnel", lambda: pings(left, "10.9.0.2"))
    peers = left.folder / "live/peers"
    far = (peers / "far.conf").read_text()
    key = far.split("PublicKey = ")[1].split()[0]
    other, third = keypair()[1], keypair()[1]
    secret = keypair()[0]

    def allowed() -> dict[str, set[str]]:
        lines = sh(*left.enter("wg", "show", NAME, "allowed-ips")).splitlines()
        return {line.split()[0]: set(line.split()[1:]) for line in lines}

    ping = subprocess.Popen(
        ["ip", "netns", "exec", left.netns, "ping", "-n", "-q", "-i", "0.001", "-W", "1", "10.9.0.2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    for number in range(10):
        # what the far peer gives up the other gets, and the other way round; one peer has a preshared key at times
        (peers / "far.conf").write_text(far.replace("10.9.0.2/32", "10.9.0.2/32, 10.7.0.0/24, fd07::/64"))
        (peers / "other.conf").write_text(
            f"[Peer]\nPublicKey = {other}\nPresharedKey = {secret}\nAllowedIPs = 10.6.0.0/24\n"
        )
        (peers / "third.conf").unlink(missing_ok=True)
        sh(*left.enter(str(SCRIPT), "reload"))
        assert allowed() == {key: {"10.9.0.2/32", "10.7.0.0/24", "fd07::/64"}, other: {"10.6.0.0/24"}}, number
        assert secret in sh(*left.enter("wg", "show", NAME, "preshared-keys"))
        (peers / "far.conf").write_text(far.replace("10.9.0.2/32", "10.6.0.0/24, 10.9.0.2/32"))
        (peers / "other.conf").write_text(
            f"[Peer]\nPublicKey = {other}\nPersistentKeepalive = 7\nAllowedIPs = 10.7.0.0/24, fd07:1::/64\n"
        )
        (peers / "third.conf").write_text(f"[Peer]\nPublicKey = {third}\nAllowedIPs = fd07::/64\n")
        sh(*left.enter(str(SCRIPT), "reload"))
        assert allowed() == {
            key: {"10.9.0.2/32", "10.6.0.0/24"},
            other: {"10.7.0.0/24", "fd07:1::/64"},
            third: {"fd07::/64"},
        }
        assert secret not in sh(*left.enter("wg", "show", NAME, "preshared-keys"))
        assert f"{other}\t7" in sh(*left.enter("wg", "show", NAME, "persistent-keepalive"))
    ping.send_signal(signal.SIGINT)
    told = ping.communicate(timeout=10)[0]
    sent, answered = (int(number) for number in re.findall(r"(\d+) (?:packets transmitted|received)", told))
    assert sent > 500 and sent - answered <= 1, told  # the last may have been on its way
    # what somebody changed by hand is put right
    sh(*left.enter("wg", "set", NAME, "peer", other, "allowed-ips", "10.5.0.0/24"))
    sh(*left.enter(str(SCRIPT), "reload"))
    assert allowed()[other] == {"10.7.0.0/24", "fd07:1::/64"}


def test_a_reload_keeps_the_link_local_address_that_the_kernel_made(ends: tuple[End, End]) -> None:
    """The gateway's interface has no other: without it OSPFv3 stops announcing the clients' prefix."""
    left, _ = ends
    conf = left.folder / "live/interface.conf"
    conf.write_text(conf.read_text().replace("10.9.0.1/24", "10.9.0.1/24, fd09::1/64").replace("LinkLocal", "#"))
    left.start()
    until("the kernel's link-local address", lambda: bool(link_local(left)))
    made = link_local(left)
    assert "fe80::1/64" not in made
    conf.write_text(conf.read_text().replace("fd09::1/64", "fd09::2/64"))
    sh(*left.enter(str(SCRIPT), "reload"))
    assert "fd09::1/64" not in left.ip("-6", "address", "show", "dev", NAME)
    assert link_local(left) == made


def link_local(end: End) -> list[str]:
    shown = end.ip("-6", "address", "show", "dev", NAME, "scope", "link", check=False)
    return [line.split()[1] for line in shown.splitlines() if "inet6" in line]


def test_a_deleted_interface_ends_the_process(ends: tuple[End, End]) -> None:
    left, _ = ends
    left.start()
    until("the interface", lambda: NAME in left.ip("link", "show", "up", check=False))
    left.ip("link", "del", NAME)
    assert left.process is not None
    assert left.process.wait(10) == 1


def test_a_missing_key_is_named_and_nothing_is_left(ends: tuple[End, End], capfd: pytest.CaptureFixture[str]) -> None:
    left, _ = ends
    (left.folder / "private.key").unlink()
    left.start()
    assert left.process is not None
    assert left.process.wait(10) == 1
    assert "make the keys first" in capfd.readouterr().err
    assert NAME not in left.ip("link", "show")


def test_masquerade_spares_the_mesh(ends: tuple[End, End]) -> None:
    left, _ = ends
    conf = left.folder / "live/interface.conf"
    conf.write_text(
        conf.read_text() + "Masquerade = true\nForward = true\nMesh = 10.9.0.0/24, 10.77.0.0/24, fd00::/64\n"
    )
    left.start()
    until(
        "the nft table",
        lambda: (
            "mesh4"
            in sh(
                "ip",
                "netns",
                "exec",
                left.netns,
                "nft",
                "list",
                "table",
                "inet",
                f"mrvpn_{NAME}",
                check=False,
            )
        ),
    )
    table = sh("ip", "netns", "exec", left.netns, "nft", "list", "table", "inet", f"mrvpn_{NAME}")
    assert "10.77.0.0/24" in table and "fd00::/64" in table
    assert "ip daddr != @mesh4 masquerade" in table
