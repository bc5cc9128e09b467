"""What a running ipt_server does with what it cannot use: it says so, keeps what it has, and stays up."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_rig import CLIENT, Rig, RunningDaemon, running, until

from ipt_server.control import client
from ipt_server.core.learned import Change
from ipt_server.core.rules import RuleSet
from ipt_server.kernel.netlink import KernelRefused
from ipt_server.kernel.state import Kernel
from mrvpn import marks
from tests.disk import fill, small_disk

pytestmark = pytest.mark.root
NAMED, OTHER = "93.184.215.14", "93.184.215.15"


def rules(exit_: str = "wg_uk") -> list[dict[str, Any]]:
    return [{"mark": marks.rule_mark(0), "id": "names", "exit": exit_, "kind": "domain", "suffixes": ["bbc.co.uk"]}]


@pytest.fixture
def daemon(rig: Rig, tmp_path: Path) -> Iterator[RunningDaemon]:
    with running(rig, tmp_path, *rules()) as found:
        yield found


def status(daemon: RunningDaemon) -> tuple[int, Any]:
    try:
        return client.request(daemon.control, "GET", "/status")
    except client.NotRunning:
        return 0, {}


def teach(daemon: RunningDaemon, address: str) -> str:
    return daemon.hook("www.bbc.co.uk", f"1 60 www.bbc.co.uk {address}")


def test_without_the_capability_it_says_so_and_stays(rig: Rig, daemon: RunningDaemon) -> None:
    """What the kernel had goes on; the next one, with the capability, takes it over."""
    daemon.start()
    teach(daemon, NAMED)
    daemon.signal(signal.SIGTERM)
    before = rig.gateway.run("nft", "list", "ruleset")
    daemon.start(ready=False, under=("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"))
    code, told = until("it says why", lambda: (found := status(daemon))[1].get("problems") and found, 30)
    assert (code, told["ready"], told["generation"]) == (503, False, 0)
    (problem,) = told["problems"]
    assert "not permitted" in problem and "CAP_NET_ADMIN" in problem
    assert client.request(daemon.control, "GET", "/learned")[0] == 503
    assert not daemon.control.with_name("ready").exists()
    refused = daemon.reload()
    assert (refused["result"], refused["problems"]) == ("refused", told["problems"])
    assert "mrvpn_ready 0.0" in daemon.ask("/metrics")
    assert rig.gateway.run("nft", "list", "ruleset").splitlines()[0] == before.splitlines()[0]
    assert rig.exit_of(NAMED) == "wg_uk"
    assert daemon.signal(signal.SIGTERM) == 0
    assert "Traceback" not in daemon.log.read_text()
    assert daemon.log.read_text().count("not started") == 1, "once, not every time it is tried"
    daemon.start()
    assert rig.exit_of(NAMED) == "wg_uk"
    until("it is healthy", daemon.control.with_name("ready").exists)


def test_settings_with_many_mistakes_at_its_start(rig: Rig, daemon: RunningDaemon) -> None:
    """All of them are told, and the mended file is taken up without a restart."""
    good = daemon.settings.read_text()
    bad = rig.raw(*rules("wg_nowhere"), hints="x", learned_max=-1, ingress=7, own=["here"])
    daemon.write(bad)
    daemon.start(ready=False)
    _, told = until("it says why", lambda: (found := status(daemon))[1].get("problems") and found, 30)
    assert len(told["problems"]) >= 5
    assert daemon.reload()["result"] == "refused"
    daemon.settings.write_text(good)
    assert daemon.reload()["result"] == "applied"
    assert status(daemon)[0] == 200
    assert teach(daemon, NAMED) == "" and rig.exit_of(NAMED) == "wg_uk"


def test_hostile_datagrams(rig: Rig, daemon: RunningDaemon) -> None:
    """Noise, 60 kB, 2,000 records, names of 255 bytes: none of it ends or holds up the next answer."""
    daemon.start()
    dice = random.Random(4)
    records = [f"1 60 www.bbc.co.uk 93.184.{n >> 8}.{n & 255}" for n in range(2000)]
    hostile = [
        b"",
        *(dice.randbytes(dice.randrange(1, 1400)) for _ in range(50)),
        dice.randbytes(60_000),
        b"nonce 1 " + CLIENT[4].encode() + b" " + b"x" * 60_000,
        f"nonce 1 {CLIENT[4]} {'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}\n".encode(),
        f"nonce 1 {CLIENT[4]} b\\000\\255.bbc.co.uk\n1 60 b\\000\\255.bbc.co.uk {OTHER}".encode(),
        f"nonce 1 {CLIENT[4]} b\u00fccher.bbc.co.uk\n1 60 b\u00fccher.bbc.co.uk {OTHER}".encode(),
        "\n".join([f"nonce 1 {CLIENT[4]} www.bbc.co.uk", *records]).encode(),
    ]
    assert len(hostile[-1]) > 50_000
    with rig.gateway.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", 5311))
        for datagram in hostile:
            s.send(datagram)
    assert teach(daemon, NAMED) == ""
    assert rig.exit_of(NAMED) == "wg_uk"
    hook = status(daemon)[1]["hook"]
    assert hook["malformed"] >= 50
    assert "Traceback" not in daemon.log.read_text()


def test_a_full_disk(rig: Rig, daemon: RunningDaemon) -> None:
    """Answers and reloads go on; that the table is not on disk is told, and no longer once there is room."""
    state = daemon.folder / "state"
    with small_disk(state, "64k"), contextlib.ExitStack() as ending:
        ending.callback(daemon.stop)
        filler = fill(state)
        daemon.start()
        assert teach(daemon, NAMED) == "" and rig.exit_of(NAMED) == "wg_uk"
        until("it is told", lambda: any("not on disk" in text for text in status(daemon)[1]["warnings"]), 30)
        daemon.write(rig.raw(*rules("wg_us")))
        assert daemon.reload()["result"] == "applied" and rig.exit_of(NAMED) == "wg_us"
        filler.unlink()
        until("it is saved", lambda: not any("not on disk" in text for text in status(daemon)[1]["warnings"]), 30)
        file = state / "learned.jsonl"
        assert NAMED in file.read_text() and file.stat().st_mode & 0o777 == 0o600
        assert daemon.log.read_text().count("was not saved") == 1


# --- what netlink answers ---------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(rig: Rig) -> Iterator[Kernel]:
    with rig.gateway.inside():
        found = Kernel()
        found.apply(RuleSet(rig.settings(*rules()), {}), [])
        yield found
        found.close()
        subprocess.run(["nft", "delete", "table", "inet", "mrvpn"], check=True)


def learned(address: str, replaces: bool = False) -> Change:
    return Change(ipaddress.ip_address(address), marks.rule_mark(0), 600, replaces=replaces)


def _without_capabilities() -> None:
    """This thread's effective capabilities away: the kernel keeps them by thread."""
    header, empty = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, empty):
        raise OSError(ctypes.get_errno(), "capset")


def test_eperm_leaves_everything(rig: Rig, kernel: Kernel) -> None:
    kernel.learn([learned(NAMED)])
    told: list[Exception] = []

    def work() -> None:
        _without_capabilities()
        for changes in ([learned(OTHER)], [learned(OTHER), learned(NAMED, replaces=True)]):
            try:
                kernel.learn(changes)
            except KernelRefused as error:
                told.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [getattr(error, "errno", None) for error in told] == [errno.EPERM] * 2
    assert [str(element.key) for element in kernel.standing_learned()] == [NAMED]
    kernel.learn([learned(OTHER)])
    assert (rig.exit_of(NAMED), rig.exit_of(OTHER)) == ("wg_uk", "wg_uk")


def test_enobufs_is_put_right(rig: Rig, kernel: Kernel) -> None:
    """Answers that nobody could read: what became of the batch is unknown, and each element is made what it must be."""
    kernel.learn([learned(NAMED)])
    kernel._socket._socket.setsockopt(socket.SOL_SOCKET, 33, 1)  # SO_RCVBUFFORCE: the least there is
    addresses = [f"93.185.{n >> 8}.{n & 255}" for n in range(400)]
    # each of them fails: they are new, and said to replace
    kernel.learn([learned(NAMED), *(learned(address, replaces=True) for address in addresses)])
    assert {str(element.key) for element in kernel.standing_learned()} == {NAMED, *addresses}
    assert (rig.exit_of(NAMED), rig.exit_of(addresses[-1])) == ("wg_uk", "wg_uk")


def test_eexist_is_put_right(rig: Rig, kernel: Kernel) -> None:
    kernel.learn([learned(NAMED)])
    kernel.learn([learned(NAMED)])
    kernel.learn([learned(NAMED), learned(OTHER)])
    assert sorted(str(element.key) for element in kernel.standing_learned()) == [NAMED, OTHER]
