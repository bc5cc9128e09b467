"""The daemon's figures in Prometheus' text form, gathered when they are asked for.

Knows: names and types of figures (docs/monitoring describes them). Must not know: how figures come about. Only what
must be counted as it happens, the time from an answer to the kernel, is kept here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ipt_server.kernel import KernelProblem, counters
from ipt_server.kernel.conntrack import Conntrack

if TYPE_CHECKING:
    from ipt_server.daemon import Daemon

_BUCKETS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.1)


class Metrics:
    """The figures of one daemon."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._registry = CollectorRegistry()
        self.taught = Histogram(
            "mrvpn_answer_to_kernel_seconds", "From an answer's datagram to its elements in the kernel.",
            buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)

    def text(self) -> bytes:
        """Everything, in Prometheus' text form."""
        return generate_latest(self._registry)

    def describe(self) -> list[Any]:
        """Nothing is known before the daemon runs."""
        return []

    def collect(self) -> Iterator[Any]:
        """The figures that the daemon and the kernel hold."""
        d = self._daemon
        yield _gauge("mrvpn_generation", "Number of the rules in force.", d.generation)
        yield _gauge("mrvpn_ready", "1 while rules are in force and none of the last reload's problems stands.",
                     int(bool(d.generation and not d.problems)))  # fmt: skip
        if not d.generation:
            return
        learned = d.teacher.learned
        yield _gauge("mrvpn_learned_addresses", "Learned addresses alive.", len(learned.entries))
        yield _gauge("mrvpn_learned_limit", "The most learned addresses there may be.", learned.limit)
        yield _count("mrvpn_learned_conflicts", "Answers with an address that another rule holds.", learned.conflicts)
        yield _count("mrvpn_learned_refused", "Answers refused because the table was full.", learned.refused)
        yield _count("mrvpn_answers", "Answers that the hook asked about.", d.server.asked)
        yield _count("mrvpn_answers_refused", "Answers that failed by policy.", d.server.refused)
        yield _count("mrvpn_datagrams_malformed", "Datagrams that were none of the hook's.", d.server.malformed)
        intervals = GaugeMetricFamily("mrvpn_intervals", "Intervals in the geo maps.", labels=["family"])
        for family in (4, 6):
            intervals.add_metric([f"ipv{family}"], len(d.rules.intervals[family]))
        yield intervals
        yield from self._exits()
        yield from self._kernel()
        yield from self._database()

    def _exits(self) -> Iterator[Any]:
        d = self._daemon
        up = GaugeMetricFamily("mrvpn_exit_up", "1 while new connections may take this exit.", labels=["exit"])
        changes = CounterMetricFamily("mrvpn_exit_changes", "Times that an exit went down or up.", labels=["exit"])
        for e in d.rules.settings.exits:
            up.add_metric([e.name], int(e.name not in d.kernel.down))
            state = d.monitor.states.get(e.name)
            changes.add_metric([e.name], state.changes if state else 0)
        yield up
        yield changes

    def _kernel(self) -> Iterator[Any]:
        d = self._daemon
        try:
            dropped = CounterMetricFamily("mrvpn_packets", "Packets counted by the nft table.", labels=["what"])
            traffic = {
                unit: CounterMetricFamily(f"mrvpn_exit_{unit}", f"{unit.capitalize()} to and from an exit.",
                                          labels=["exit"])
                for unit in ("packets", "bytes")
            }  # fmt: skip
            for name, (packets, _) in counters.read().items():
                dropped.add_metric([name], packets)
            interfaces = counters.interfaces()
            for e in d.rules.settings.exits:
                if (seen := interfaces.get(e.interface or d.kernel.default or "")) is not None:
                    packets, octets = seen
                    traffic["packets"].add_metric([e.name], packets)
                    traffic["bytes"].add_metric([e.name], octets)
            conntrack = Conntrack()
            try:
                running: dict[int, int] = {}
                for flow in conntrack.flows():
                    running[flow.mark] = running.get(flow.mark, 0) + 1
            finally:
                conntrack.close()
        except KernelProblem:
            return
        connections = GaugeMetricFamily("mrvpn_exit_connections", "Connections that run.", labels=["exit"])
        for e in d.rules.settings.exits:
            connections.add_metric([e.name], running.get(e.mark, 0))
        yield from (dropped, *traffic.values(), connections)

    def _database(self) -> Iterator[Any]:
        d = self._daemon
        path = d.database_in_force()
        if path is not None and path.exists():
            yield _gauge("mrvpn_database_age_seconds", "Since the country database's content was made or fetched.",
                         max(0.0, time.time() - Path(path).stat().st_mtime))  # fmt: skip
        yield _count("mrvpn_database_refusals", "Fetched databases that were refused.", d.refresher.refusals)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _count(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
