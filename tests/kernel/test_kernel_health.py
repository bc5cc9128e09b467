"""Exits that die and come back: who takes their connections, and that no packet goes astray meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernel_rig
import pytest
from kernel_rig import CLIENT, Rig, RunningDaemon, running, until

from mrvpn import marks

pytestmark = pytest.mark.root
UK = {4: "81.2.69.160", 6: "2a00:1450::7"}
PROBED = {4: "1.1.1.1", 6: "2606:4700::1111"}
QUICK = {"interval": 0.1, "timeout": 0.3, "down_after": 2, "up_after": 3, "grace": 0.1}


def config(rig: Rig, health: dict[str, Any], **uk: Any) -> dict[str, Any]:
    value = rig.raw(
        {"id": "uk", "mark": marks.rule_mark(0), "exit": "wg_uk", "kind": "prefix",
         "prefixes": ["81.2.69.0/24", "2a00:1450::/32"]},
    )  # fmt: skip
    value["exits"][1] |= {"health": QUICK | health, "fallback": ["wg_us"], **uk}
    return value


@pytest.fixture
def daemon(rig: Rig, tmp_path: Path) -> Iterator[RunningDaemon]:
    for answerer in rig.answerers.values():
        answerer.seen.clear()
    with running(rig, tmp_path) as found:
        yield found


def exit_events(daemon: RunningDaemon) -> list[dict[str, Any]]:
    """What was told of exits."""
    return [event for event in daemon.ask("/events") if event["kind"] == "exit"]


def is_up(daemon: RunningDaemon, name: str = "wg_uk") -> bool:
    return bool(next(e for e in daemon.ask("/status")["exits"] if e["name"] == name)["health"]["up"])


def fail(rig: Rig, text: str = "") -> None:
    """The far end of wg_uk stays and answers nothing (or, without text, all again)."""
    far = rig.behind["wg_uk"]
    far.run("nft", "-f", "-", text="table inet fail\ndelete table inet fail\n")
    if text:
        chain = f"chain in {{ type filter hook prerouting priority 0;\n{text}\n }}"
        far.run("nft", "-f", "-", text=f"table inet fail {{\n {chain}\n}}")


class Steady(threading.Thread):
    """A UDP flow of the client's that never idles, and which exit answered each datagram."""

    def __init__(self, rig: Rig, address: str, port: int) -> None:
        super().__init__(daemon=True)
        self.by: list[str] = []
        self._socket = rig.udp(address, port)
        self._socket.settimeout(0.05)
        self._over = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                self._socket.send(b"%d" % number)
                self.by.append(self._socket.recv(100).split()[0].decode())
            except OSError:
                continue
            time.sleep(0.002)

    def exits(self) -> list[str]:
        """The exits in turn, each named once for as long as it answered."""
        by = list(self.by)
        return [name for number, name in enumerate(by) if number == 0 or by[number - 1] != name]

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._socket.close()


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_that_never_idles_goes_by_one_exit_at_a_time(rig: Rig, daemon: RunningDaemon, family: int) -> None:
    """Down: its connection ends and it starts anew by the fallback. Up: it stays there until it ends."""
    daemon.write(config(rig, {"icmp": [PROBED[family]]}))
    daemon.start()
    flow = Steady(rig, UK[family], 4500 + family)
    flow.start()
    try:
        until("the flow runs by its exit", lambda: flow.exits() == ["wg_uk"] and len(flow.by) > 20)
        fail(rig, "  drop")
        until("the fallback carries it", lambda: flow.exits() == ["wg_uk", "wg_us"])
        fail(rig)
        until("the exit is up again", lambda: is_up(daemon))
        assert rig.exit_of(UK[family]) == "wg_uk"
        count = len(flow.by)
        until("the flow goes on", lambda: len(flow.by) > count + 50)
    finally:
        flow.stop()
        fail(rig)
    assert flow.exits() == ["wg_uk", "wg_us"]
    assert not rig.answerers["eth0"].seen, "nothing left by an exit that is nobody's"
    seen = [(e["exit"], e["up"], e["stand_in"]) for e in exit_events(daemon)]
    assert seen == [("wg_uk", False, "wg_us"), ("wg_uk", True, "wg_uk")]


def test_the_loss_of_the_far_ends_route_is_down_at_once(rig: Rig, daemon: RunningDaemon) -> None:
    rig.gateway.ip("route", "add", "10.9.20.1/32", "dev", "wg_uk", "proto", "ospf")
    daemon.write(config(rig, {"route": "10.9.20.1/32"}))
    daemon.start()
    assert rig.exit_of(UK[4]) == "wg_uk"
    rig.gateway.ip("route", "del", "10.9.20.1/32", "dev", "wg_uk")
    until("the fallback has it", lambda: rig.exit_of(UK[4]) == "wg_us")
    (down,) = exit_events(daemon)
    assert "OSPF has no route to 10.9.20.1/32" in down["reason"]
    rig.gateway.ip("route", "add", "10.9.20.1/32", "dev", "wg_uk", "proto", "ospf")
    until("it comes back", lambda: rig.exit_of(UK[4]) == "wg_uk")
    rig.gateway.ip("route", "del", "10.9.20.1/32", "dev", "wg_uk")


def test_an_exit_that_is_judged_otherwise_from_now_on_begins_anew(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.write(config(rig, {"icmp": [PROBED[4]]}))
    daemon.start()
    fail(rig, "  icmp type echo-request drop")
    try:
        until("the fallback has it", lambda: rig.exit_of(UK[4]) == "wg_us")
        daemon.write(config(rig, {}))
        assert daemon.reload()["result"] == "applied"
        assert rig.exit_of(UK[4]) == "wg_uk" and is_up(daemon)
    finally:
        fail(rig)


@pytest.mark.parametrize(("on_down", "where"), [("block", None), ("default", "eth0")])
def test_without_a_living_fallback_on_down_decides(
    rig: Rig, daemon: RunningDaemon, on_down: str, where: str | None
) -> None:
    daemon.write(config(rig, {"icmp": [PROBED[4]]}, fallback=[], on_down=on_down))
    daemon.start()
    with rig.udp(UK[4]) as flow:
        flow.send(b"1")
        assert flow.recv(100) == b"wg_uk 1"
        fail(rig, "  drop")
        try:
            until("it is down", lambda: not is_up(daemon))
            until("new ones follow", lambda: rig.nowhere(UK[4]) if where is None else rig.exit_of(UK[4]) == where)
            if where:
                until("the old one too", lambda: _answered(flow) == b"eth0 2")
                # masqueraded from its first packet: the default exit never saw the client's own address
                assert not rig.answerers["eth0"].seen[CLIENT[4], UK[4]]
            found = daemon.ask(f"/explain?destination={UK[4]}")
            assert found["exit"] == "wg_uk" and found["stand_in"] == ("_DEFAULT" if where else None)
        finally:
            fail(rig)
    until("it is up", lambda: rig.exit_of(UK[4]) == "wg_uk")


def _answered(flow: Any) -> bytes:
    try:
        flow.send(b"2")
        return bytes(flow.recv(100))
    except OSError:
        return b""


@pytest.mark.parametrize("kind", ["http", "dns"])
def test_other_probes_go_by_the_exit_they_judge(rig: Rig, daemon: RunningDaemon, kind: str) -> None:
    """Behind wg_uk something answers, behind the others nothing does: bound to the exit, the probe is well."""
    with kernel_rig.replies(rig.behind["wg_uk"]):
        daemon.write(config(rig, {"http": ["http://1.1.1.1:8099/x"]} if kind == "http" else {"dns": ["1.1.1.1"]}))
        daemon.start()
        until("probes ran", lambda: rig.exit_of(UK[4]) == "wg_uk")
        assert is_up(daemon)
        fail(rig, f"  meta l4proto {'tcp' if kind == 'http' else 'udp'} th dport {8099 if kind == 'http' else 53} drop")
        try:
            until("the fallback has it", lambda: rig.exit_of(UK[4]) == "wg_us")
            assert "does not answer" in daemon.ask("/status")["exits"][1]["health"]["reason"]
        finally:
            fail(rig)
        until("it comes back", lambda: rig.exit_of(UK[4]) == "wg_uk")


def test_an_interface_that_stays_away_is_down_and_one_that_restarts_is_not(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.write(config(rig, {"grace": 600}))
    daemon.start()
    rig.gateway.ip("link", "del", "wg_uk")
    assert rig.nowhere(UK[4])
    kernel_rig.tunnel(rig, "wg_uk")
    until("its routes are back", lambda: rig.exit_of(UK[4], timeout=0.5) == "wg_uk")
    assert exit_events(daemon) == []
    daemon.write(config(rig, {"grace": 0}))
    daemon.reload()
    rig.gateway.ip("link", "del", "wg_uk")
    until("the fallback has it", lambda: rig.exit_of(UK[4], timeout=0.5) == "wg_us")
    kernel_rig.tunnel(rig, "wg_uk")
    until("it comes back", lambda: rig.exit_of(UK[4], timeout=0.5) == "wg_uk")
