"""What follows a change: who is brought along, in which order, and where it says that it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mrvpn import changes
from mrvpn.changes import Change
from mrvpn.topology import Network
from mrvpn_master import Trouble, candidate, deployment, following

EXAMPLE = Path(__file__).parents[3] / "pillar" / "network"
UP = {"up": True, "why": None}


class Master:
    """Hosts that do what they are asked, but for those that a test names."""

    def __init__(self, bad: Mapping[str, str] | None = None, flows: Any = UP) -> None:
        self.bad, self.flows = dict(bad or {}), flows
        self.did: list[Any] = []
        self.runs: list[dict[str, Any]] = [{"success": True}]
        self.version: str | None = None

    def ask(self, host: str, function: str, *arguments: Any, timeout: int) -> Any:
        self.did.append((function, host))
        return self.flows if function == "mrvpn_live.flows" else {"generation": 2, "version": self.version}

    def apply(self, hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
        self.did.append(("apply", sorted(hosts)))
        return {host: {"result": self.bad.get(host, "applied")} for host in hosts}

    def reload(self) -> list[dict[str, Any]]:
        self.did.append("reload")
        return self.runs

    def last_reload(self) -> Mapping[str, Any]:
        return {}

    def say(self, text: str) -> None:
        pass


def made(change_of: Any) -> tuple[dict[str, Any], Change, Network]:
    """A change of the example: the answer so far, the change, the network that it makes."""
    texts, network = candidate.read(EXAMPLE), candidate.network_of(EXAMPLE)
    change = change_of(texts, network)
    after = candidate.check({**texts, **change.texts}).network
    found = {"done": change.subject, "notes": [], **deployment.shown(deployment.plan_of(network, after))}
    return found, change, after


@pytest.fixture
def exit_gone() -> tuple[dict[str, Any], Change, Network]:
    return made(lambda texts, network: changes.remove_exit(texts, network, "us", to="_DEFAULT"))


@pytest.fixture
def exit_new() -> tuple[dict[str, Any], Change, Network]:
    rule = {"country": "DE"}
    return made(lambda t, n: changes.add_exit(t, n, "two", host="uk", endpoint="192.0.2.7", match=rule))


def test_every_host_whose_view_changed_follows_routers_too(exit_gone: Any) -> None:
    master = Master()
    found = following.follow(*exit_gone, master, wait=1)
    assert master.did == [("apply", ["entry", "us"]), ("apply", ["office", "router", "ru", "uk"])]
    assert set(found["hosts"]) == {"entry", "office", "router", "ru", "uk", "us"}


def test_traffic_is_waited_for_before_the_others_follow(exit_new: Any) -> None:
    master = Master()
    found = following.follow(*exit_new, master, wait=1)
    assert [what for what, _ in master.did] == ["apply", "mrvpn_live.flows", "apply"]
    assert found["flows"] == UP and "router" in found["hosts"]


def test_one_that_does_not_follow_is_named_with_the_way_on(exit_gone: Any) -> None:
    found = following.follow(*exit_gone, Master({"router": "unreachable", "us": "unreachable"}), wait=1)
    assert found["notes"][-2:] == [
        "us left the description and is away: MRVPN stays on it",
        "not yet brought along: `salt-run mrvpn.apply hosts=router`",
    ]


def test_what_the_change_is_about_must_follow(exit_new: Any) -> None:
    master = Master({"uk": "failed"})
    with pytest.raises(Trouble, match=r"not brought to uk\. Go on with `salt-run mrvpn\.apply hosts=uk`") as caught:
        following.follow(*exit_new, master, wait=1)
    assert [what for what, _ in master.did] == ["apply"] and caught.value.stands["hosts"]["entry"]


def test_traffic_that_does_not_flow_is_told_with_its_reason(exit_new: Any) -> None:
    with pytest.raises(Trouble, match="all is applied, but traffic cannot flow yet: no handshake"):
        following.follow(*exit_new, Master(flows={"up": False, "why": "no handshake"}), wait=1)


@pytest.fixture
def rule() -> tuple[dict[str, Any], Change, Network]:
    return made(lambda texts, network: changes.add_rule(texts, network, "uk", {"country": "IE"}))


def test_a_rule_is_done_when_the_entrypoint_runs_with_it(rule: Any) -> None:
    master = Master()
    found, change, network = rule
    (wanted,) = following.versions(network).values()
    master.version = wanted
    done = following.follow(found, change, network, master, wait=1)
    assert done["applied"] == {"firezone_ipt": {"generation": 2, "version": wanted}}
    assert master.did == ["reload", ("mrvpn_ipt.status", "entry")]


def test_a_rule_that_is_refused_is_told_with_its_reason(rule: Any) -> None:
    master = Master()
    master.runs = [{"success": False, "why": ["rules: no"]}]
    with pytest.raises(Trouble, match="entry does not run with it") as caught:
        following.follow(*rule, master, wait=1)
    assert caught.value.problems == ["rules: no"]
