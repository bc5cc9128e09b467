"""The daemon in its namespace: start, reload, kill -9, restart, links, with traffic running."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernel_rig
import pytest
from kernel_rig import CLIENT, Rig, RunningDaemon, running, until

from ipt_server.control.client import NotRunning
from mrvpn import marks

pytestmark = pytest.mark.root
UK, US, NAMED = "81.2.69.160", "198.51.100.9", "93.184.215.14"


def rules(us: str = "198.51.100.0/24", named: str = "wg_uk") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"id": "uk", "exit": "wg_uk", "kind": "prefix", "prefixes": ["81.2.69.0/24", "2a00:1450::/32"]},
        {"id": "us", "exit": "wg_us", "kind": "prefix", "prefixes": [us]},
        {"id": "names", "exit": named, "kind": "domain", "suffixes": ["bbc.co.uk"]},
    ]
    return [{"mark": marks.rule_mark(number), **one} for number, one in enumerate(found)]


@pytest.fixture
def daemon(rig: Rig, tmp_path: Path) -> Iterator[RunningDaemon]:
    with running(rig, tmp_path, *rules()) as found:
        yield found


def test_from_nothing_to_traffic(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    assert [rig.exit_of(address) for address in (UK, US, "9.9.9.9")] == ["wg_uk", "wg_us", "eth0"]
    status = daemon.ask("/status")
    assert status["generation"] == 1 and [e["up"] for e in status["exits"]] == [True, True, True]
    assert daemon.control.stat().st_mode & 0o777 == 0o600


def test_an_answer_is_in_the_kernel_before_it_is_let_go(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    assert rig.exit_of(NAMED) == "eth0"
    assert daemon.hook("www.bbc.co.uk", f"1 600 www.bbc.co.uk {NAMED}") == "T 300"
    assert rig.exit_of(NAMED) == "wg_uk"
    assert daemon.hook("x.example", "1 60 x.example 93.184.215.15") == ""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_traffic_goes_on_without_the_daemon_and_a_new_one_adopts(
    rig: Rig, daemon: RunningDaemon, how: signal.Signals
) -> None:
    daemon.start()
    daemon.hook("bbc.co.uk", f"1 60 bbc.co.uk {NAMED}")
    with rig.udp(NAMED, port=4100) as flow:
        flow.send(b"1")
        assert flow.recv(100) == b"wg_uk 1"
        daemon.signal(how)
        if how == signal.SIGKILL:  # as if it came before the file said what the kernel was taught
            (daemon.folder / "state" / "learned.jsonl").unlink(missing_ok=True)
        flow.send(b"2")
        assert flow.recv(100) == b"wg_uk 2"
        assert [rig.exit_of(address) for address in (UK, US, NAMED)] == ["wg_uk", "wg_us", "wg_uk"]
        before = rig.gateway.run("nft", "-a", "list", "chain", "inet", "mrvpn", "pre")
        daemon.start()
        flow.send(b"3")
        assert flow.recv(100) == b"wg_uk 3"
    assert rig.gateway.run("nft", "-a", "list", "chain", "inet", "mrvpn", "pre") == before, "the table was kept"
    assert [(e["address"], e["name"]) for e in daemon.ask("/learned")] == [(NAMED, "bbc.co.uk")]
    assert rig.exit_of(NAMED) == "wg_uk"


def test_the_learned_table_survives_the_namespaces_rules(rig: Rig, daemon: RunningDaemon) -> None:
    """As after the gateway's container was recreated: the kernel has nothing, the disk has it."""
    daemon.start()
    daemon.hook("bbc.co.uk", f"1 60 bbc.co.uk {NAMED}")
    daemon.signal(signal.SIGTERM)
    rig.gateway.run("nft", "delete", "table", "inet", "mrvpn")
    daemon.start()
    assert rig.exit_of(NAMED) == "wg_uk"


def test_a_reload_is_all_or_nothing(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    good = daemon.settings.read_text()
    daemon.write(rig.raw(*rules(us="203.0.113.0/24"), exits=[], hints="x"))
    refused = daemon.reload()
    assert refused["result"] == "refused" and refused["generation"] == 1 and len(refused["problems"]) > 2
    assert rig.exit_of(US) == "wg_us"
    daemon.settings.write_text(good)
    assert daemon.reload()["result"] == "unchanged"
    daemon.write(rig.raw(*rules(us="203.0.113.0/24")))
    applied = daemon.reload()
    assert (applied["result"], applied["generation"]) == ("applied", 2)
    assert applied["changes"]["rules_changed"] == ["us"]
    assert (rig.exit_of(US), rig.exit_of("203.0.113.9")) == ("eth0", "wg_us")


def test_learned_addresses_are_judged_again_when_rules_change(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    daemon.hook("bbc.co.uk", f"1 60 bbc.co.uk {NAMED}")
    daemon.write(rig.raw(*rules(named="wg_us")))
    daemon.reload()
    assert rig.exit_of(NAMED) == "wg_us"
    daemon.write(rig.raw(*rules()[:2]))
    daemon.reload()
    assert rig.exit_of(NAMED) == "eth0" and daemon.ask("/learned") == []


def test_killed_in_the_middle_of_a_reload_with_traffic_running(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    for answerer in rig.answerers.values():
        answerer.seen.clear()
    over = threading.Event()

    def traffic() -> None:
        number = 0
        while not over.is_set():
            number += 1
            with rig.udp(f"81.2.69.{number % 250 + 1}") as s:
                s.send(b"t")

    def interrupted() -> None:
        with contextlib.suppress(NotRunning):
            daemon.reload()

    running = threading.Thread(target=traffic, daemon=True)
    running.start()
    try:
        for generation in range(3):
            prefixes = [f"5.{n % 250}.{n // 250}.0/25" for n in range(2000 + generation)]
            more = {"id": "x", "mark": 0x10007, "exit": "wg_us", "kind": "prefix", "prefixes": prefixes}
            daemon.write(rig.raw(*rules(), more))
            reload = threading.Thread(target=interrupted, daemon=True)
            reload.start()
            until("traffic ran", lambda least=30 * generation + 30: rig.answerers["wg_uk"].seen.total() > least)
            daemon.signal(signal.SIGKILL)
            reload.join()
            assert rig.exit_of(UK) == "wg_uk"
            daemon.start()
    finally:
        over.set()
        running.join()
    assert rig.answerers["wg_uk"].seen.total() > 90
    assert not rig.answerers["wg_us"].seen and not rig.answerers["eth0"].seen


def test_a_mark_that_changes_hands_takes_no_live_flow_along(rig: Rig, daemon: RunningDaemon) -> None:
    """Without a lock, an exit that goes lets those behind it move up: their marks and tables meant another before."""
    daemon.start()
    swapped = rig.raw(*rules())
    uk, us = swapped["exits"][1:]
    uk["mark"], uk["table"], us["mark"], us["table"] = us["mark"], us["table"], uk["mark"], uk["table"]
    with rig.udp("198.51.100.40", port=4141) as s:
        s.send(b"0")
        assert s.recv(100) == b"wg_us 0"
        stop = threading.Event()

        def flow() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    s.send(b"1")
                time.sleep(0.0005)

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            daemon.write(swapped)
            assert daemon.reload()["result"] == "applied", daemon.log.read_text()[-2000:]
            daemon.write(rig.raw(*rules()))
            assert daemon.reload()["result"] == "applied", daemon.log.read_text()[-2000:]
        finally:
            stop.set()
            thread.join()
    assert rig.answerers["wg_uk"].seen[CLIENT[4], "198.51.100.40"] == 0
    assert rig.exit_of("198.51.100.41") == "wg_us" and rig.exit_of(UK) == "wg_uk"


def test_an_interface_that_vanishes_and_returns_is_served_again_at_once(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    rig.gateway.ip("link", "del", "wg_uk")
    assert rig.nowhere(UK)
    kernel_rig.tunnel(rig, "wg_uk")
    until("the exit works again", lambda: rig.exit_of(UK, timeout=0.5) == "wg_uk", 10)
    assert rig.answerers["eth0"].seen[CLIENT[4], UK] == 0
