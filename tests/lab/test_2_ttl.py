"""An answer of TTL 10 and what a phone does with it long after: its packets keep to the exit of the name.

Five minutes pass here: the time is what is tried. They pass while the rows are done and other tests run, see conftest:
a scan of every port and two applies among them.
"""

from __future__ import annotations

import json
import time

import pytest

from lab import client, internet
from lab.checks.destinations import seen_from, url
from lab.deadline import until
from lab.topology import RU
from tests.lab.conftest import OWN, ShortLived

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
LATE = 300  # seconds after an answer of TTL 10


def test_a_flow_that_idles_and_a_client_that_connects_late_keep_their_exit(short_lived: ShortLived) -> None:
    until("the flows have gone on", lambda: short_lived.flows.process.poll() is not None, 200, every=1)
    wanted = {address: [seen_from(RU, address)] * 2 for address in OWN}
    assert json.loads(short_lived.flows.said()) == wanted
    time.sleep(max(0.0, short_lived.asked + LATE - time.monotonic()))
    # no question of its own: the phone kept the address
    assert {address: client.fetch(url(address)) for address in OWN} == {a: seen_from(RU, a) for a in OWN}
    assert internet.counted().elsewhere(RU.name, OWN) == {}
