"""One lab for all tests of this folder: brought up and applied once, taken away at the end.

With MRVPN_LAB_KEEP=1 a lab that is up already is used and left as it is: for those who work on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab import dump, salt, up

KEEP = os.environ.get("MRVPN_LAB_KEEP") == "1"


@pytest.fixture(scope="session")
def lab() -> Iterator[None]:
    if not (KEEP and up.is_up()):
        up.down()  # what an interrupted run left
        try:
            up.up()
            salt.apply()
        except Exception:
            dump.everything()
            raise
    yield
    if not KEEP:
        up.down()
