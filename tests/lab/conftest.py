"""One lab for all tests of this folder: brought up and applied once, taken away at the end.

With MRVPN_LAB_KEEP=1 a lab that is up already is used and left as it is: for those who work on it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import pytest
import yaml

from lab import client, dump, hosts, internet, salt, traffic, up
from lab.deadline import until
from lab.internet import SHORT
from lab.state import RUN
from lab.topology import ENTRY, Host

KEEP = os.environ.get("MRVPN_LAB_KEEP") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What all hosts look like goes with every failure, as they are before anything is put back."""
    report = yield
    if report.failed and report.when != "teardown":
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            dump.everything()
        report.sections.append(("the lab", said.getvalue()))
    return report


@pytest.fixture(scope="session")
def lab() -> Iterator[None]:
    if not (KEEP and up.is_up()):
        up.down()  # what an interrupted run left
        up.up()
        salt.apply()
    yield
    if not KEEP:
        up.down()


def described() -> dict[str, str]:
    """The files of the lab's description."""
    return {path.name: path.read_text() for path in salt.DESCRIPTION.glob("*.yaml")}


@pytest.fixture
def description(lab: None) -> Iterator[None]:
    """The lab's description is put back, and applied, where a test has changed it."""
    kept = described()
    yield
    if described() != kept:
        shutil.rmtree(salt.DESCRIPTION)
        salt.DESCRIPTION.mkdir()
        for name, text in kept.items():
            (salt.DESCRIPTION / name).write_text(text)
        salt.orchestrate("orch.keys")
        salt.apply()


OWN = (SHORT.ipv4, SHORT.ipv6)
SILENCE = 130  # seconds: longer than conntrack keeps a UDP flow that was answered


@dataclass
class ShortLived:
    """When a name with a TTL of ten seconds was asked for, and flows to it that are silent for a while."""

    asked: float
    flows: traffic.Running


@pytest.fixture(scope="session")
def short_lived(lab: None) -> Iterator[ShortLived]:
    """Asks once. Whoever wants the time to pass beside other tests wants this before them."""
    internet.count_reset()
    for kind, address in (("A", SHORT.ipv4), ("AAAA", SHORT.ipv6)):
        until(f"short.fresh.ru {kind}", lambda k=kind, a=address: client.lookup("short.fresh.ru", k) == [a], 30)  # type: ignore[misc]
    flows = traffic.Running(traffic.PYTHON, "-m", "lab.probes.idle_flow", str(SILENCE), *OWN)
    yield ShortLived(time.monotonic(), flows)
    flows.stop()


SECOND = client.Phone(
    Host("second", "198.51.100.8", "2001:db8:0:8::1"),
    RUN / "second.key",
    "10.11.0.3",
    "fd6d:7276:11::3",
    "second0",
)


@pytest.fixture
def second(lab: None) -> Iterator[client.Phone]:
    """A second phone, described and connected; away with it afterwards."""
    file = salt.DESCRIPTION / "clients.yaml"
    text = file.read_text()
    described = yaml.safe_load(text)
    described["mrvpn"]["clients"]["second"] = {
        "public_key": client.make_key(SECOND.key),
        "addresses": [SECOND.ipv4, SECOND.ipv6],
    }
    file.write_text(yaml.safe_dump(described))
    hosts.link(SECOND.host)
    hosts.make_root(SECOND.host)
    try:
        salt.apply(ENTRY.name)
        client.connect(salt.gateway_key(), SECOND)
        until("the second phone is connected", lambda: client.connected(SECOND), 20)
        yield SECOND
    finally:
        hosts.remove(SECOND.host)
        file.write_text(text)
        salt.apply(ENTRY.name)
