"""An answer of TTL 10 and what a phone does with it long after: its packets keep to the exit of the name.

Five minutes pass here: the time is what is tried.
"""

from __future__ import annotations

import json
import time

import pytest

from lab import client, hosts, internet, traffic
from lab.checks.destinations import seen_from, url
from lab.internet import SHORT
from lab.state import REPO
from lab.topology import CLIENT, RU

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.usefixtures("lab")]
SILENCE = 130  # seconds: longer than conntrack keeps a UDP flow that was answered
LATE = 300  # seconds after an answer of TTL 10
OWN = (SHORT.ipv4, SHORT.ipv6)


def test_a_flow_that_idles_and_a_client_that_connects_late_keep_their_exit() -> None:
    internet.count_reset()
    assert client.lookup("short.fresh.ru", "A") == [SHORT.ipv4]
    assert client.lookup("short.fresh.ru", "AAAA") == [SHORT.ipv6]
    asked = time.monotonic()
    wanted = {address: [seen_from(RU, address)] * 2 for address in OWN}
    command = ["env", f"PYTHONPATH={REPO}", traffic.PYTHON, "-m", "lab.probes.idle_flow", str(SILENCE), *OWN]
    assert json.loads(hosts.run(CLIENT, *command, timeout=SILENCE + 60)) == wanted
    time.sleep(max(0.0, asked + LATE - time.monotonic()))
    # no question of its own: the phone kept the address
    assert {address: client.fetch(url(address)) for address in OWN} == {a: seen_from(RU, a) for a in OWN}
    assert internet.counted().elsewhere(RU.name, OWN) == {}
