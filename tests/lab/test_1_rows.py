"""The rows of `make demo`, each a test: the same code, the same traffic."""

from __future__ import annotations

import pytest

from lab import hosts
from lab.checks import ROWS, STANDING, Row, failure
from lab.deadline import TimedOut
from lab.state import sh
from lab.topology import ENTRY

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.usefixtures("lab")]


@pytest.mark.parametrize("row", [row for row in ROWS if row.number in STANDING], ids=lambda row: f"row {row.number}")
def test_row(row: Row) -> None:
    print(row.check())


def test_icmp_errors_follow_their_flow_only_with_fwmark_reflect() -> None:
    """The proof that row 7 can fail: without the sysctl the gateway's errors leave by its own way."""
    pid = hosts.run(ENTRY, "docker", "inspect", "-f", "{{.State.Pid}}", "firezone").strip()
    reflect = ["nsenter", f"--net=/proc/{pid}/ns/net", "sysctl", "-qw"]
    try:
        sh(*reflect, "net.ipv4.fwmark_reflect=0", "net.ipv6.fwmark_reflect=0")
        with pytest.raises(TimedOut, match="need to frag"):
            failure.needs_frag()
    finally:
        sh(*reflect, "net.ipv4.fwmark_reflect=1", "net.ipv6.fwmark_reflect=1")
    failure.needs_frag()
