"""What follows a change of the description: rules in force, hosts brought along, traffic; or where it stands.

Knows: the plan of a change, the order in which hosts follow it. Must not know: how a host is reached; the runner
brings what does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from mrvpn import views
from mrvpn.changes import Change
from mrvpn.topology import Network
from mrvpn_master import Trouble

TIMEOUT = 60  # seconds within which rules are in force


class Master(Protocol):
    """What reaches hosts."""

    def ask(self, host: str, function: str, *arguments: Any, timeout: int) -> Any:
        """One host's answer; None where there is none."""

    def apply(self, hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
        """{host: what became of bringing it to the description}."""

    def reload(self) -> list[dict[str, Any]]:
        """Has the entrypoint take the rules; the runs, none where another process does it."""

    def last_reload(self) -> Mapping[str, Any]:
        """The last run, whoever started it: `started` (Unix seconds), `success`, `why`."""

    def say(self, text: str) -> None:
        """Progress, for people."""


def follow(found: dict[str, Any], change: Change, network: Network, master: Master, wait: int) -> dict[str, Any]:
    """Brings hosts to a change and waits until traffic can flow: the answer, with what became of it. Trouble else.

    `found`: the answer so far, with the plan's `changes`; `wait`: seconds for traffic to flow.
    """
    begin = time.monotonic()
    if change.rules:
        found["applied"] = _rules(found, network, master)
    else:
        found["hosts"] = master.apply(change.hosts)
        _all_applied(found, network)
        if change.tunnel in network.description.tunnels:
            _flows(found, change, network, master, wait)
    found["seconds"] = round(time.monotonic() - begin, 1)
    if not change.rules:
        _others(found, change, network, master)
    return found


def versions(network: Network) -> dict[str, str]:
    """{service: the version of the rules} that the entrypoint runs with when it follows the description."""
    view = views.view(network, network.description.entrypoint or "", {}, lambda _: None)
    return {entry["service"]: entry["settings"]["version"] for entry in view["routing"]}


def _rules(found: dict[str, Any], network: Network, master: Master) -> dict[str, Any]:
    """Has the entrypoint run with changed rules, or says where it stands: no other host has to do with them."""
    begin, since = time.monotonic(), time.time()
    entry = network.description.entrypoint or ""
    wanted = versions(network)
    runs = master.reload()
    why = [] if not runs or runs[-1]["success"] else runs[-1]["why"] or ["the orchestration failed"]
    while not why:
        # the reactor may have been quicker: then it is its run that ends with this version, or does not
        last = master.last_reload()
        if last.get("started", 0) > since and not last["success"]:
            why = last["why"] or ["the orchestration failed"]
            break
        told = {service: master.ask(entry, "mrvpn_ipt.status", service, timeout=15) for service in wanted}
        if all(isinstance(t, dict) and t.get("version") == wanted[s] for s, t in told.items()):
            return {s: {"generation": t["generation"], "version": t["version"]} for s, t in told.items()}
        if time.monotonic() - begin > TIMEOUT:
            why = [f"{service} says {answer or 'nothing'}" for service, answer in told.items()]
        time.sleep(0.5)
    raise Trouble(
        f"{found['done']}: the description is changed, {entry} does not run with it: `salt-run "
        "mrvpn_reactor.schema_changed` tries again, `salt-run mrvpn.rollback` goes back",
        why,
        found,
    )


def _all_applied(found: dict[str, Any], network: Network) -> None:
    bad = {}
    for host, told in found["hosts"].items():
        if told["result"] == "unreachable" and host not in network.hosts:
            found["notes"] = [*found["notes"], f"{host} left the description and is away: MRVPN stays on it"]
        elif told["result"] != "applied":
            bad[host] = told
    if bad:
        commit = f" (commit {found['commit'][:12]})" if found.get("commit") else ""
        raise Trouble(
            f"{found['done']}: the description is changed{commit}; not brought to {', '.join(bad)}. Go on with "
            f"`salt-run mrvpn.apply hosts={','.join(bad)}`, or go back with `salt-run mrvpn.rollback`",
            [f"{host}: {why}" for host, told in bad.items() for why in told.get("why", [])],
            found,
        )


def _flows(found: dict[str, Any], change: Change, network: Network, master: Master, wait: int) -> None:
    d = network.description
    master.say(f"waiting for {change.tunnel}")
    about = (change.tunnel, d.mrvpn_root, wait)
    answer = master.ask(d.entrypoint or "", "mrvpn_live.flows", *about, timeout=wait + 30)
    found["flows"] = answer
    if not isinstance(answer, dict) or not answer["up"]:
        why = answer["why"] if isinstance(answer, dict) else answer or "no answer"
        raise Trouble(f"{found['done']}: all is applied, but traffic cannot flow yet: {why}", [], found)


def _others(found: dict[str, Any], change: Change, network: Network, master: Master) -> None:
    """Brings the other hosts whose views changed along (the mesh they accept); traffic flows without them already."""
    rest = [host for host in found.get("changes", {}).get("hosts", {}) if host not in change.hosts]
    rest = [host for host in rest if host in network.hosts]
    if not rest:
        return
    master.say(f"bringing {', '.join(rest)} along")
    told = master.apply(rest)
    found["hosts"] = {**found["hosts"], **told}
    late = sorted(host for host, answer in told.items() if answer["result"] != "applied")
    if late:
        found["notes"] = [*found["notes"], f"not yet brought along: `salt-run mrvpn.apply hosts={','.join(late)}`"]
