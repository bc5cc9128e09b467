"""Rows 5 and 6: applying again, and applying a changed description, with the phone's traffic running.

Knows: Salt, containers' ids, the description's files. Must not know: what the states do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from typing import Any

from lab import daemon, hosts, salt, traffic
from lab.checks.destinations import leaves_by, url
from lab.checks.outcome import require
from lab.client import GATEWAY4
from lab.deadline import until
from lab.internet import SITES
from lab.topology import ENTRY, MANAGED, MASTER, UK

ROUTING = salt.DESCRIPTION / "routing.yaml"
BEFORE = "country: GB,"
AFTER = "country: [GB, DE],"


def containers() -> dict[str, str]:
    """{host/container: id and start time} of all hosts."""
    found = {}
    for host in MANAGED:
        ids = hosts.run(host, "docker", "ps", "-q").split()
        form = "{{.Name}} {{.Id}} {{.State.StartedAt}}"
        for line in hosts.run(host, "docker", "inspect", "-f", form, *ids).splitlines() if ids else []:
            name, rest = line.split(" ", 1)
            found[host.name + name] = rest
    return found


def recreated(before: dict[str, str]) -> list[str]:
    """Which containers are not those of before."""
    after = containers()
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def again() -> str:
    """Row 5."""
    before = containers()
    with traffic.pinging(GATEWAY4) as near, traffic.pinging(SITES["GB"].ipv4) as far:
        start = time.monotonic()
        changes = salt.changes(salt.apply())
        taken = time.monotonic() - start
    problems = [f"{host}: {', '.join(states)} changed" for host, states in changes.items()]
    problems += [f"{name} was recreated" for name in recreated(before)]
    problems += lost(near, "gateway") + lost(far, "GB")
    require(problems)
    return f"0 changes, 0 recreated, 0 of {near.sent + far.sent} pings lost; {taken:.1f} s"


def lost(pings: traffic.Pings, what: str) -> list[str]:
    """Tells of lost pings."""
    return [f"{pings.lost} of {pings.sent} pings to {what} lost"] if pings.lost else []


def changed() -> str:
    """Row 6: DE goes through wg_uk by an apply, and back by the event alone; a download from before stays."""
    text = ROUTING.read_text()
    if BEFORE not in text:
        raise AssertionError(f"the example's rule for GB moved: {BEFORE!r} is not in {ROUTING.name}")
    before, generation = containers(), daemon.generation()
    germany = SITES["DE"]
    with (
        contextlib.closing(Events("mrvpn/routing/applied")) as told,
        traffic.pinging(GATEWAY4) as near,
        traffic.pinging(SITES["GB"].ipv4) as far,
        traffic.downloading(url(germany.ipv4) + "stream") as old4,
        traffic.downloading(url(germany.ipv6) + "stream") as old6,
    ):
        try:
            ROUTING.write_text(text.replace(BEFORE, AFTER))
            salt.apply()
            moved = leaves_by(UK, germany)
        finally:
            ROUTING.write_text(text)
        hosts.run(MASTER, str(salt.BIN / "salt-run"), "event.send", "mrvpn/schema/changed")
        # the reload of something earlier may be told first
        event = until("the entrypoint's mrvpn/routing/applied", lambda: told.next(generation + 1), 60, every=0.5)
        back = leaves_by(ENTRY, germany)
    problems = [f"after the apply {problem}" for problem in moved] + [f"after the event {problem}" for problem in back]
    if event["generation"] != generation + 2 or daemon.generation() != generation + 2:
        problems.append(f"generation {event['generation']} after {generation}, an apply and an event")
    for download, own in ((old4, ENTRY.ipv4), (old6, ENTRY.ipv6)):
        if not download.alive or set(download.seen) != {own}:
            problems.append(f"the download {'moved' if download.alive else 'ended'}: seen from {download.seen}")
    problems += lost(near, "gateway") + lost(far, "GB")
    problems += [f"{name} was recreated" for name in recreated(before)]
    require(problems)
    return (
        f"generations {generation + 1} and {generation + 2}; downloads stayed, 0 of {near.sent + far.sent} pings lost"
    )


class Events:
    """The master's event bus, one tag of it."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        command = [str(salt.BIN / "salt-run"), "state.event", f"tagmatch={tag}", "count=-1"]
        self._process = subprocess.Popen(
            [*hosts.enter(MASTER), *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._text = ""

    def next(self, after: int) -> dict[str, Any] | None:
        """The next event's data of a generation later than `after`, or None where there is none yet."""
        assert self._process.stdout is not None
        self._text += (self._process.stdout.read() or b"").decode()
        while "\n" in self._text:
            line, _, self._text = self._text.partition("\n")
            event = dict(json.loads(line.removeprefix(self._tag)))
            if event["generation"] > after:
                return event
        return None

    def close(self) -> None:
        """Stops listening."""
        self._process.kill()
        self._process.wait()
