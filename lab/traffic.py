"""What the phone does while something happens to the VPN: a ping, a download, a UDP flow that never idles.

Knows: programs that run in the phone, and what they say at their end. Must not know: what happens meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import hosts
from lab.deadline import until
from lab.state import REPO
from lab.topology import CLIENT

PYTHON = str(REPO / ".venv" / "bin" / "python")


class Running:
    """A program in the phone, its output in a file; `stop` ends it and returns all it said."""

    def __init__(self, *argv: str, stop_by: signal.Signals = signal.SIGTERM) -> None:
        self._out = tempfile.NamedTemporaryFile(prefix="mrvpn-lab-", suffix=".out", delete=False)  # noqa: SIM115
        self._stop_by = stop_by
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        self.process = subprocess.Popen(
            [*hosts.enter(CLIENT), *argv], stdout=self._out, stderr=subprocess.STDOUT, env=environment
        )

    def said(self) -> str:
        """What it said so far."""
        return Path(self._out.name).read_text(errors="replace")

    def stop(self) -> str:
        """Ends it and returns what it said."""
        if self.process.poll() is None:
            self.process.send_signal(self._stop_by)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        text = self.said()
        self._out.close()
        Path(self._out.name).unlink(missing_ok=True)
        return text


@dataclass
class Pings:
    """Pings sent and answered; the one in flight at the end counts as neither."""

    sent: int = 0
    answered: int = 0

    @property
    def lost(self) -> int:
        """How many had no answer."""
        return self.sent - self.answered


@contextlib.contextmanager
def pinging(address: str) -> Iterator[Pings]:
    """Pings an address five times a second from the phone while the body runs."""
    found = Pings()
    ping = Running("ping", "-n", "-i", "0.2", "-W", "2", address, stop_by=signal.SIGINT)
    try:
        until(f"{address} answers pings", lambda: "bytes from" in ping.said(), 15)
        yield found
    finally:
        text = ping.stop()
    sequence = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", text)]
    summary = re.search(r"(\d+) packets transmitted", text)
    # the last one may have been on its way when the ping ended
    found.sent = max(sequence, default=int(summary[1]) if summary else 0)
    found.answered = len(set(sequence))


@dataclass
class Download:
    """What a download was told of its own source address: {address: lines}, and whether it was running at the end."""

    seen: dict[str, int]
    alive: bool = False


@contextlib.contextmanager
def downloading(url: str) -> Iterator[Download]:
    """Downloads slowly and without end while the body runs: a line every 100 ms."""
    found = Download({})
    curl = Running("curl", "-sN", url)
    try:
        until("the download runs", lambda: curl.said().count("\n") > 3, 15)
        yield found
        before = curl.said().count("\n")
        with contextlib.suppress(Exception):
            found.alive = bool(until("the download goes on", lambda: curl.said().count("\n") > before, 5))
    finally:
        text = curl.stop()
    for line in text.splitlines():
        found.seen[line.strip()] = found.seen.get(line.strip(), 0) + 1


@dataclass
class Flow:
    """A UDP flow: datagrams sent and answered, and by which source the far end saw it."""

    running: Running
    sent: int = 0
    answered: int = 0
    seen: dict[str, int] | None = None


@contextlib.contextmanager
def flowing(*addresses: str) -> Iterator[list[Flow]]:
    """Keeps a UDP flow to each address, a datagram every 20 ms, while the body runs."""
    flows = [Flow(Running(PYTHON, "-m", "lab.probes.udp_flow", address)) for address in addresses]
    try:
        for flow, address in zip(flows, addresses, strict=True):
            until(f"the flow to {address} is answered", lambda f=flow: f.running.said().count("\n") > 0, 30)  # type: ignore[misc]
        yield flows
    finally:
        for flow in flows:
            last = flow.running.stop().splitlines()[-1:]
            with contextlib.suppress(ValueError):
                told = json.loads(last[0]) if last else {}
                flow.sent, flow.answered, flow.seen = told["sent"], told["answered"], told["seen"]


def ask_and_connect(names: list[tuple[str, str, bool]], server: str, rounds: int) -> list[dict[str, dict[str, str]]]:
    """Asks for names (name, kind, over TCP?) all at once and connects as each is answered; a result per round."""
    wish = json.dumps({"server": server, "names": names, "rounds": rounds})
    command = ["env", f"PYTHONPATH={REPO}", PYTHON, "-m", "lab.probes.ask_and_connect"]
    text = hosts.run(CLIENT, *command, stdin=wish, timeout=180)
    found: list[dict[str, dict[str, str]]] = json.loads(text)
    return found
