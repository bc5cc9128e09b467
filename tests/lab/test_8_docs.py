"""The documentation's command blocks, run as they stand.

A block below `<!-- tried on: HOST -->` is for that host of the lab; its lines are run there one by one, as an operator
types them, and each must end well.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from lab import hosts, salt
from lab.deadline import until
from lab.state import REPO
from lab.topology import BY_NAME

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.usefixtures("lab")]
BLOCK = re.compile(r"^<!-- tried on: (\w+) -->\n```sh\n(.*?)^```$", re.M | re.S)
WAITS = "salt-run state.event"  # for what another does: not run
BLOCKS = [
    (page.name, host, block.splitlines())
    for page in sorted((REPO / "docs").glob("*.md"))
    for host, block in BLOCK.findall(page.read_text())
]


def test_there_are_blocks_of_each_page_that_an_operator_follows() -> None:
    assert {page for page, _, _ in BLOCKS} >= {"operations.md", "events.md"}


@pytest.mark.parametrize(("page", "host", "lines"), BLOCKS, ids=[f"{page}:{lines[0]}" for page, _, lines in BLOCKS])
def test_the_block_runs_as_it_stands(page: str, host: str, lines: list[str]) -> None:
    for line in lines:
        if line.startswith(WAITS):
            continue
        # a network that is being changed has something to warn of for a while, and says so by its exit code
        print(until(line, lambda given=line: run(host, given), 90, every=2)[-400:])


def run(host: str, line: str) -> str:
    """What a line of a shell prints on a host, whose checkout stands where it stands."""
    path = f"PATH={salt.BIN}:/usr/sbin:/usr/bin:/sbin:/bin"
    command = [*hosts.enter(BY_NAME[host]), "env", path, "bash", "-c", re.sub(r"/srv/mrvpn(?=/)", str(REPO), line)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}: exit code {done.returncode}: {done.stdout[-2000:]}{done.stderr[-500:]}"
    return done.stdout or "nothing"
