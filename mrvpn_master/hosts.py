"""What is asked of hosts, and what their answers come to: an apply's outcome, the status of the network.

Knows: the answers of the execution modules. Must not know: how hosts are reached; the runner hands in a client that
does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from mrvpn.topology import Network

OK, WARNING, CRITICAL = 0, 1, 2  # exit codes, as monitoring reads them
NOTICE = OK  # worth a line, nothing that could be mended
WORDS = {NOTICE: "notice", WARNING: "warning", CRITICAL: "critical"}
LOSS = 0.2  # of pings by a tunnel: from here on people feel it
HANDSHAKE = 180  # seconds
NO_ANSWER = "Minion did not return"
OLD_DATABASE = 45  # days: countries move by a percent or two a month


class Client(Protocol):
    """Salt's LocalClient, as far as it is used."""

    def cmd(self, tgt: Any, fun: str, arg: Any = (), timeout: int | None = None, tgt_type: str = "glob", **kwargs: Any
            ) -> dict[str, Any]: ...  # fmt: skip


def ask(
    client: Client, hosts: Iterable[str], function: str, /, *arguments: Any, timeout: int = 60, **named: Any
) -> Any:
    """{host: answer} of those that answered. Targets are lists of ids from the description, never grains."""
    listed = sorted(hosts)
    if not listed:
        return {}
    answers = client.cmd(listed, function, list(arguments), timeout=timeout, tgt_type="list", kwarg=named)
    # Salt puts a sentence where a host did not answer
    return {h: a for h, a in answers.items() if not (isinstance(a, str) and a.startswith(NO_ANSWER))}


def outcome(answer: Any) -> dict[str, Any]:
    """A state.apply's answer in short: result, how many changes, every failure's comment."""
    if not isinstance(answer, dict):
        lines = answer if isinstance(answer, list) else [str(answer)]
        return {"result": "failed", "why": [str(line) for line in lines]}
    states = [state for state in answer.values() if isinstance(state, dict)]
    failed = [f"{s.get('__id__', '?')}: {s.get('comment', '')}" for s in states if s.get("result") is False]
    changed = sorted(str(s.get("__id__", "?")) for s in states if s.get("changes"))
    return {"result": "failed" if failed else "applied", "changes": changed, **({"why": failed} if failed else {})}


def failures(answer: Mapping[str, Any]) -> list[str]:
    """What failed in an orchestration's answer."""
    data = answer.get("return")
    data = data.get("data", data) if isinstance(data, dict) else data
    states = next(iter(data.values()), None) if isinstance(data, dict) else None
    if not isinstance(states, dict):
        return [] if answer.get("success") else [str(data or "no answer")[-500:]]
    return [f"{s.get('__id__')}: {s.get('comment')}" for s in states.values() if s.get("result") is False]


def apply(
    client: Client, hosts: Iterable[str], keys: Callable[[list[str]], list[str]], say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Brings hosts to the description: keys first, then every host's apply at once; one that is away keeps none back.

    `keys` runs the orchestration of keys for hosts and answers what failed.
    """
    wanted = sorted(hosts)
    say(f"asking {', '.join(wanted)}")
    here = sorted(host for host, answer in ask(client, wanted, "test.ping", timeout=10).items() if answer is True)
    away = {"result": "unreachable", "why": ["no answer: it is brought up to date when its minion is back"]}
    found: dict[str, dict[str, Any]] = {host: dict(away) for host in wanted if host not in here}
    if not here:
        return found
    say("keys: made where they are missing, public ones to the mine")
    failed = keys(here)
    if failed:
        return found | {host: {"result": "failed", "why": failed} for host in here}
    say(f"applying to {', '.join(here)}")
    # after the timeout Salt asks whether the job still runs there, and waits on as long as it does
    answers = ask(client, here, "state.apply", timeout=60, queue=True)
    for host in here:
        found[host] = outcome(answers[host]) if host in answers else dict(away)
        say(f"{host}: {found[host]['result']}")
    return found


def status(
    network: Network, answers: Mapping[str, Any], versions: Mapping[str, str | None], now: float
) -> dict[str, Any]:
    """What runs beside what should: {"hosts", "exits", "problems"}, each problem with its severity."""
    problems: list[tuple[int, str]] = []
    hosts = {host: _host(network, host, answers.get(host), versions.get(host), problems) for host in network.hosts}
    exits: dict[str, Any] = {}
    entry = network.description.entrypoint or ""
    its = answers.get(entry)
    its = its if isinstance(its, dict) else {}
    for service, rules in its.get("rules", {}).items():
        if "error" in rules:
            problems.append((CRITICAL, f"{entry}: {service}: {rules['error']}"))
            continue
        if not rules.get("ready", True):
            told = [(CRITICAL, f"{entry}: {service}: has no rules in force: {why}") for why in rules["problems"]]
            problems += told or [(CRITICAL, f"{entry}: {service}: has no rules in force yet")]
            continue
        exits |= _exits(rules, problems)
        hosts[entry]["generation"] = rules.get("generation")
        hosts[entry]["learned"] = rules.get("learned")
        problems += _database(entry, rules.get("database") or {}, hosts[entry], now)
    problems.sort(key=lambda item: -item[0])
    return {
        "hosts": hosts,
        "exits": exits,
        "problems": [f"{WORDS[severity]}: {text}" for severity, text in problems],
        "retcode": max((severity for severity, _ in problems), default=OK),
    }


def far_ends(network: Network) -> dict[str, dict[str, str]]:
    """{tunnel: {host: its first address there}}: what hosts ping to tell loss and latency."""
    return {
        tunnel: {host: own[0].split("/")[0] for host, own in ends.items() if own}
        for tunnel, ends in network.addresses.items()
    }


def _database(entry: str, told: Mapping[str, Any], row: dict[str, Any], now: float) -> list[tuple[int, str]]:
    """Its age; an old one is a problem only where a newer one is to be had and did not come."""
    if not told.get("built"):
        return []
    days = round((now - told["built"]) / 86400, 1)
    row["database_age_days"] = days
    if days <= OLD_DATABASE:
        return []
    text = f"{entry}: the country database is {days:.0f} days old"
    if told.get("refused"):
        return [(WARNING, f"{text}, and a newer one was refused: {told['refused']}")]
    why = "its source has no newer one" if told.get("url") else "it is replaced by hand"
    return [(NOTICE, f"{text}; {why}")]


def router(told: Any) -> Any:
    """A RouterOS host's answer (`routeros.status`) in a Linux host's shape."""
    if not isinstance(told, dict):
        return told
    tunnels: dict[str, Any] = {}
    for row in told["peers"]:
        handshake = row.get("last-handshake")
        endpoint = row.get("current-endpoint-address") or row.get("endpoint-address") or None
        port = row.get("current-endpoint-port") or row.get("endpoint-port")
        peer = {
            "public_key": row.get("public-key"),
            "endpoint": f"{endpoint}:{port}" if endpoint else None,
            "handshake": seconds(str(handshake)) if handshake and handshake != "never" else None,
            "rx": int(row.get("rx") or 0),
            "tx": int(row.get("tx") or 0),
        }
        tunnels.setdefault(str(row.get("interface")), {"peers": []})["peers"].append(peer)
    ospf: dict[str, dict[str, str]] = {}
    for row in told["neighbors"]:
        six = " (IPv6)" * (":" in row.get("address", ""))
        ospf.setdefault(row.get("interface", ""), {})[f"{row.get('router-id')}{six}"] = row.get("state", "Down")
    return {"applied": told["applied"], "containers": {}, "tunnels": tunnels, "ospf": {"router": ospf}, "rules": {}}


def seconds(text: str) -> int:
    """RouterOS' durations: `1w2d3h4m5s`, parts of a second cut off."""
    units = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(?:\.\d+)?([wdhms])(?!s)", text))


def _host(
    network: Network, host: str, answer: Any, wanted: str | None, problems: list[tuple[int, str]]
) -> dict[str, Any]:
    if not isinstance(answer, dict):
        problems.append((CRITICAL, f"{host}: {answer or 'does not answer'}"))
        return {"reachable": False}
    if "error" in answer:
        problems.append((CRITICAL, f"{host}: {answer['error']}"))
    have = answer["applied"].get("version")
    if wanted is not None and have != wanted:
        why = f"runs with version {have}, the description is {wanted}" if have else "was never applied"
        problems.append((WARNING, f"{host}: {why}: salt-run mrvpn.apply hosts={host}"))
    for name, state in answer["containers"].items():
        if state != "running":
            problems.append((CRITICAL, f"{host}: container {name} is {state}"))
    tunnels = {}
    for name in network.ends.get(host, ()):
        tunnels[name] = _tunnel(host, name, answer["tunnels"].get(name), problems)
    ospf: dict[str, Any] = {}
    for service, found in answer["ospf"].items():
        if "error" in found:
            problems.append((WARNING, f"{host}: {service}: {found['error']}"))
        else:
            ospf |= found
    silent = any("error" in found for found in answer["ospf"].values())
    problems += [(WARNING, f"{host}: OSPF on {told}") for told in _ospf(ospf, {} if silent else tunnels)]
    found = {"reachable": True, "version": have, "deployed": wanted, "tunnels": tunnels, "ospf": ospf}
    return {**found, "software": answer.get("software", {})}


def _ospf(ospf: Mapping[str, Mapping[str, str]], tunnels: Mapping[str, Any]) -> list[str]:
    """What is not as it should be: a neighbour that is not Full, a tunnel without any whose handshake is fresh."""
    found = []
    for name, states in ospf.items():
        found += [f"{name}: {router} is {state}" for router, state in states.items() if not state.startswith("Full")]
    for name, peers in tunnels.items():
        ages = [peer["handshake"] for peer in peers] if isinstance(peers, list) else []
        fresh = any(age is not None and age < HANDSHAKE for age in ages)
        if fresh and not ospf.get(name):
            found.append(f"{name}: no neighbour")
    return found


def _tunnel(host: str, name: str, found: Any, problems: list[tuple[int, str]]) -> Any:
    if found is None or "error" in found:
        problems.append((CRITICAL, f"{host}: tunnel {name}: {found['error'] if found else 'is not there'}"))
        return found or {"error": "is not there"}
    for peer in found["peers"]:
        if peer["handshake"] is None or peer["handshake"] > HANDSHAKE:
            age = "never" if peer["handshake"] is None else f"{peer['handshake']} s ago"
            problems.append((CRITICAL, f"{host}: tunnel {name}: last handshake {age}"))
        elif peer.get("loss", 0) >= LOSS:
            problems.append((WARNING, f"{host}: tunnel {name}: {peer['loss']:.0%} of pings to {peer['host']} lost"))
    # a peer's key is in the description or the mine: here it would only hide the figures
    return [{key: value for key, value in peer.items() if key != "public_key"} for peer in found["peers"]]


def _exits(rules: Mapping[str, Any], problems: list[tuple[int, str]]) -> dict[str, Any]:
    found = {}
    for exit_ in rules.get("exits", []):
        name = exit_["name"]
        found[name] = {key: value for key, value in exit_.items() if key != "name"}
        if exit_.get("up") is False:
            why = (exit_.get("health") or {}).get("reason") or "its interface is not there"
            problems.append((CRITICAL, f"exit {name} is down: {why}"))
    for problem in [*(rules.get("problems") or []), *(rules.get("warnings") or [])]:
        problems.append((WARNING, f"ipt_server: {problem}"))
    return found
