"""What hosts answer, and what that comes to: outcomes of an apply, problems and exit codes of a status."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from mrvpn import compiler
from mrvpn_master import hosts

EXAMPLE = Path(__file__).parents[3] / "pillar" / "network"
NOW = 1_700_000_000


def peer(handshake: int | None = 20) -> dict[str, Any]:
    return {"public_key": "k=", "endpoint": "192.0.2.1:1", "handshake": handshake, "rx": 1, "tx": 2}


@pytest.fixture(scope="module")
def network():
    return compiler.compile_path(EXAMPLE).network


@pytest.fixture
def answers(network) -> dict[str, Any]:
    """Every host as it is when all is well."""
    found = {}
    for host in network.hosts:
        found[host] = {
            "applied": {"version": f"v-{host}"},
            "containers": dict.fromkeys(network.ends[host], "running"),
            "tunnels": {name: {"peers": [peer()]} for name in network.ends[host]},
            "ospf": {"frr": {name: {"10.0.0.1": "Full/-"} for name in network.ends[host]}},
            "rules": {},
        }
    exits = [{"name": e.name, "up": True, "health": {"reason": ""}} for e in network.exits]
    found["entry"]["rules"] = {"firezone_ipt": {"generation": 7, "learned": 3, "exits": exits, "problems": []}}
    found["entry"]["rules"]["firezone_ipt"]["database"] = {"built": NOW - 86400, "url": None, "refused": None}
    return found


def status(network, answers: dict[str, Any]) -> dict[str, Any]:
    return hosts.status(network, answers, {host: f"v-{host}" for host in network.hosts}, NOW)


def test_all_is_well(network, answers: dict[str, Any]) -> None:
    found = status(network, answers)
    assert (found["problems"], found["retcode"]) == ([], 0)
    assert found["hosts"]["entry"]["generation"] == 7 and found["hosts"]["entry"]["database_age_days"] == 1
    assert found["hosts"]["uk"]["tunnels"]["wg_uk"] == [
        {"endpoint": "192.0.2.1:1", "handshake": 20, "rx": 1, "tx": 2}
    ]  # no key beside the figures
    assert set(found["exits"]) == {e.name for e in network.exits}


def _away(found: dict[str, Any]) -> None:
    del found["uk"]


def _old(found: dict[str, Any]) -> None:
    found["uk"]["applied"] = {"version": "older"}


def _silent(found: dict[str, Any]) -> None:
    found["uk"]["tunnels"]["wg_uk"]["peers"] = [peer(None)]


def _late(found: dict[str, Any]) -> None:
    found["uk"]["tunnels"]["wg_uk"]["peers"] = [peer(400)]


def _no_tunnel(found: dict[str, Any]) -> None:
    del found["uk"]["tunnels"]["wg_uk"]


def _stopped(found: dict[str, Any]) -> None:
    found["uk"]["containers"]["wg_uk"] = "stopped"


def _no_docker(found: dict[str, Any]) -> None:
    found["uk"]["error"] = "Docker does not answer"


def _exchange(found: dict[str, Any]) -> None:
    found["entry"]["ospf"]["frr"]["wg_uk"] = {"10.0.0.1": "ExStart/-"}


def _exit_down(found: dict[str, Any]) -> None:
    found["entry"]["rules"]["firezone_ipt"]["exits"][1] |= {"up": False, "health": {"reason": "no handshake"}}


def _no_daemon(found: dict[str, Any]) -> None:
    found["entry"]["rules"]["firezone_ipt"] = {"error": "not running"}


def _not_begun(found: dict[str, Any]) -> None:
    rules = {"ready": False, "generation": 0, "problems": ["exits[1]: is no exit"]}
    found["entry"]["rules"]["firezone_ipt"] = rules


def _old_database(found: dict[str, Any]) -> None:
    found["entry"]["rules"]["firezone_ipt"]["database"]["built"] = NOW - 100 * 86400


def _refused_database(found: dict[str, Any]) -> None:
    _old_database(found)
    found["entry"]["rules"]["firezone_ipt"]["database"]["refused"] = "it is no database"


def _lossy(found: dict[str, Any]) -> None:
    found["uk"]["tunnels"]["wg_uk"]["peers"] = [peer() | {"host": "entry", "loss": 0.3, "latency": 12.5}]


@pytest.mark.parametrize(
    ("mutate", "code", "problem"),
    [
        (_away, 2, "critical: uk: does not answer"),
        (_old, 1, "warning: uk: runs with version older"),
        (_silent, 2, "critical: uk: tunnel wg_uk: last handshake never"),
        (_late, 2, "critical: uk: tunnel wg_uk: last handshake 400 s ago"),
        (_no_tunnel, 2, "critical: uk: tunnel wg_uk: is not there"),
        (_stopped, 2, "critical: uk: container wg_uk is stopped"),
        (_no_docker, 2, "critical: uk: Docker does not answer"),
        (_exchange, 1, "warning: entry: OSPF on wg_uk: 10.0.0.1 is ExStart/-"),
        (_exit_down, 2, "critical: exit wg_uk is down: no handshake"),
        (_no_daemon, 2, "critical: entry: firezone_ipt: not running"),
        (_not_begun, 2, "critical: entry: firezone_ipt: has no rules in force: exits[1]: is no exit"),
        (_old_database, 0, "notice: entry: the country database is 100 days old; it is replaced by hand"),
        (_refused_database, 1, "warning: entry: the country database is 100 days old, and a newer one was refused: it"),
        (_lossy, 1, "warning: uk: tunnel wg_uk: 30% of pings to entry lost"),
    ],
)
def test_one_thing_is_wrong(network, answers: dict[str, Any], mutate: Any, code: int, problem: str) -> None:
    mutate(answers)
    found = status(network, copy.deepcopy(answers))
    assert found["retcode"] == code
    assert [line for line in found["problems"] if line.startswith(problem)], found["problems"]
    assert len(found["problems"]) == 1


def test_the_worst_stands_first(network, answers: dict[str, Any]) -> None:
    _old(answers)
    _exit_down(answers)
    assert [line.split(":")[0] for line in status(network, answers)["problems"]] == ["critical", "warning"]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ({"a": {"__id__": "x", "result": True, "changes": {"k": 1}}}, {"result": "applied", "changes": ["x"]}),
        ({"a": {"__id__": "x", "result": True, "changes": {}}}, {"result": "applied", "changes": []}),
        (
            {"a": {"__id__": "x", "result": False, "comment": "no", "changes": {}}},
            {"result": "failed", "changes": [], "why": ["x: no"]},
        ),
        (["Pillar failed to render"], {"result": "failed", "why": ["Pillar failed to render"]}),
        ("no such function", {"result": "failed", "why": ["no such function"]}),
    ],
)
def test_the_outcome_of_an_apply(answer: Any, wanted: dict[str, Any]) -> None:
    assert hosts.outcome(answer) == wanted


class Client:
    """Hosts of which one is away, one fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def cmd(self, tgt: list[str], fun: str, arg: Any = (), **_: Any) -> dict[str, Any]:
        self.asked.append((fun, tgt))
        told: dict[str, Any] = dict.fromkeys(tgt, True)
        if fun == "state.apply":
            told = {host: {"a": {"__id__": "x", "result": host != "bad", "comment": "no"}} for host in tgt}
        return told | ({"away": "Minion did not return. [No response]"} if "away" in tgt else {})


def test_one_that_is_away_keeps_none_back() -> None:
    client, keys = Client(), []
    found = hosts.apply(client, ["good", "away", "bad"], lambda h: keys.append(h) or [], lambda text: None)
    assert {host: told["result"] for host, told in found.items()} == {
        "good": "applied", "away": "unreachable", "bad": "failed",
    }  # fmt: skip
    assert keys == [["bad", "good"]] and client.asked[-1] == ("state.apply", ["bad", "good"])


@pytest.mark.parametrize(("text", "wanted"), [("1m5s", 65), ("1w2d3h4m5s", 788645), ("12s340ms", 12), ("0s", 0)])
def test_routeros_durations(text: str, wanted: int) -> None:
    assert hosts.seconds(text) == wanted


def test_a_router_answers_in_the_same_shape(network, answers: dict[str, Any]) -> None:
    row = {"interface": "wg_office", "public-key": "k=", "last-handshake": "20s", "rx": "1", "tx": "2"}
    row |= {"current-endpoint-address": "192.0.2.1", "current-endpoint-port": "1"}
    near = {"interface": "wg_office", "router-id": "10.9.23.2", "address": "10.9.23.2", "state": "Full"}
    six = near | {"address": "fe80::1%wg_office"}
    told = {"applied": {"version": "v1"}, "peers": [row], "neighbors": [near, six]}
    answers["office"] = hosts.router(told)
    found = hosts.status(network, answers, {"office": "v1"}, NOW)
    office = found["hosts"]["office"]
    assert found["retcode"] == 0 and office["tunnels"]["wg_office"][0]["handshake"] == 20
    assert office["ospf"] == {"wg_office": {"10.9.23.2": "Full", "10.9.23.2 (IPv6)": "Full"}}
    assert office["version"] == office["deployed"] == "v1"
    assert hosts.router("no answer") == "no answer"
    answers["office"] = hosts.router(told | {"applied": {}, "neighbors": [near | {"state": "ExStart"}]})
    found = hosts.status(network, answers, {"office": "v1"}, NOW)
    assert found["problems"] == [
        "warning: office: was never applied: salt-run mrvpn.apply hosts=office",
        "warning: office: OSPF on wg_office: 10.9.23.2 is ExStart",
    ]
    answers["office"] = hosts.router(told | {"neighbors": []})
    found = hosts.status(network, answers, {"office": "v1"}, NOW)
    assert found["problems"] == ["warning: office: OSPF on wg_office: no neighbour"]


def test_without_keys_nothing_is_applied() -> None:
    client = Client()
    found = hosts.apply(client, ["good"], lambda h: ["no key"], lambda text: None)
    assert found["good"] == {"result": "failed", "why": ["no key"]}
    assert [function for function, _ in client.asked] == ["test.ping"]
