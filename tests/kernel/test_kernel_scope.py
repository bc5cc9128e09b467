"""`learn_scope: client`: what a client's question taught holds for that client alone, by all its addresses."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_rig import CLIENT, PORT, Rig, RunningDaemon, running

from ipt_server.core.learned import ClientAddress
from ipt_server.kernel import peers
from ipt_server.kernel.inspect import seconds_left
from mrvpn import marks

pytestmark = pytest.mark.root
NAMED = {4: "93.184.215.14", 6: "2606:2800:21f::14"}
OTHER = {4: "10.11.0.3", 6: "fd6d:7276:11::3"}
RULES = [
    {"id": "names", "mark": marks.rule_mark(0), "exit": "wg_uk", "kind": "domain", "suffixes": ["bbc.co.uk"]},
    {"id": "more", "mark": marks.rule_mark(1), "exit": "wg_us", "kind": "domain", "suffixes": ["x.example"]},
]
RECORD = {4: f"1 60 bbc.co.uk. {NAMED[4]}", 6: f"28 60 bbc.co.uk. {NAMED[6]}"}


@pytest.fixture
def daemon(rig: Rig, tmp_path: Path) -> Iterator[RunningDaemon]:
    clients = [[CLIENT[4], CLIENT[6]]]
    for address in (f"{OTHER[4]}/24", f"{OTHER[6]}/64"):
        rig.client.ip("address", "add", address, "dev", "cl", *(["nodad"] if ":" in address else []))
    try:
        with running(rig, tmp_path, *RULES, learn_scope="client", clients=clients) as found:
            found.start()
            yield found
    finally:
        for address in (f"{OTHER[4]}/24", f"{OTHER[6]}/64"):
            rig.client.ip("address", "del", address, "dev", "cl")


def by(rig: Rig, source: str, family: int) -> str:
    """The exit that a connection from this address of the client leaves by."""
    with rig.client.inside(), socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET) as s:
        s.settimeout(3)
        s.bind((source, 0))
        s.connect((NAMED[family], PORT))
        return s.recv(100).decode().strip()


def test_an_answer_moves_nobody_elses_traffic(rig: Rig, daemon: RunningDaemon) -> None:
    assert daemon.hook("bbc.co.uk.", RECORD[4]) == ""
    assert by(rig, CLIENT[4], 4) == "wg_uk" and by(rig, OTHER[4], 4) == "eth0"
    # asked over IPv4, answered with IPv6: it counts for the client's own IPv6 address
    assert daemon.hook("bbc.co.uk.", RECORD[6], qtype=28) == ""
    assert by(rig, CLIENT[6], 6) == "wg_uk" and by(rig, OTHER[6], 6) == "eth0"
    keys = [ClientAddress(*map(ipaddress.ip_address, (CLIENT[f], NAMED[f]))) for f in (4, 6)]
    with rig.gateway.inside():
        left = seconds_left([*keys, ClientAddress(*map(ipaddress.ip_address, (OTHER[4], NAMED[4])))])
    assert left.keys() == set(keys) and all(590 < seconds <= 700 for seconds in left.values())
    told = daemon.ask("/learned")
    assert {(one["client"], one["address"]) for one in told} == {(CLIENT[f], NAMED[f]) for f in (4, 6)}
    explained = daemon.ask(f"/explain?destination={NAMED[4]}&client={CLIENT[4]}")
    assert explained["rule"] == "names" and explained["kernel"]["learned"]["mark"] == marks.rule_mark(0)
    explained = daemon.ask(f"/explain?destination={NAMED[4]}&client={OTHER[4]}")
    assert explained["rule"] is None and explained["learned_by"] == [CLIENT[4]]


def test_two_clients_may_hold_one_address_by_different_names(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.hook("bbc.co.uk.", RECORD[4])
    daemon.hook("x.example.", f"1 60 x.example. {NAMED[4]}", client_=OTHER[4])
    assert by(rig, CLIENT[4], 4) == "wg_uk" and by(rig, OTHER[4], 4) == "wg_us"


def test_a_client_whose_other_address_is_unknown(daemon: RunningDaemon) -> None:
    assert daemon.hook("bbc.co.uk.", RECORD[6], qtype=28, client_=OTHER[4]).startswith("D"), "AAAA is withheld"
    assert daemon.hook("bbc.co.uk.", RECORD[4], client_=OTHER[6]) == "F"
    assert daemon.ask("/learned") == []


def test_a_restart_keeps_it_and_another_scope_forgets_it(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.hook("bbc.co.uk.", RECORD[4])
    daemon.hook("bbc.co.uk.", RECORD[6], qtype=28)
    daemon.signal(signal.SIGKILL)
    assert by(rig, CLIENT[4], 4) == "wg_uk"
    daemon.start()
    assert by(rig, CLIENT[4], 4) == "wg_uk" and by(rig, CLIENT[6], 6) == "wg_uk" and by(rig, OTHER[6], 6) == "eth0"
    assert len(daemon.ask("/learned")) == 2
    # the other rule's place: every pair is judged again, and the kernel's mark follows
    daemon.write(
        rig.raw(*(r | {"exit": "wg_us"} for r in RULES), learn_scope="client", clients=[list(CLIENT.values())])
    )
    assert daemon.reload()["result"] == "applied"
    assert by(rig, CLIENT[4], 4) == "wg_us" and by(rig, CLIENT[6], 6) == "wg_us"
    assert daemon.ask(f"/flush?what=learned&destination={NAMED[4]}", "POST") == {"forgotten": 1}
    assert by(rig, CLIENT[4], 4) == "eth0" and by(rig, CLIENT[6], 6) == "wg_us"
    daemon.write(rig.raw(*RULES))
    assert daemon.reload()["result"] == "applied"
    assert daemon.ask("/learned") == [] and by(rig, CLIENT[6], 6) == "eth0"
    daemon.hook("bbc.co.uk.", RECORD[4])
    assert by(rig, CLIENT[4], 4) == "wg_uk" and by(rig, OTHER[4], 4) == "wg_uk"


def test_wireguard_tells_which_addresses_are_one_clients() -> None:
    told = "KEY1=\t10.11.0.2/32 fd6d:7276:11::2/128\nKEY2=\t(none)\nKEY3=\t10.11.0.4/32 10.80.0.0/24\n"
    assert peers.parse(told) == [("10.11.0.2", "fd6d:7276:11::2"), ("10.11.0.4",)]
    assert peers.addresses(["no-such-interface"]) == []
