"""One rig per module, and the kernel side of ipt_server inside its gateway."""

from __future__ import annotations

from collections.abc import Iterator

import kernel_rig
import pytest
from kernel_rig import Rig

from ipt_server.kernel.state import Kernel


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with kernel_rig.rig() as made:
        yield made


@pytest.fixture(scope="module")
def kernel(rig: Rig) -> Iterator[Kernel]:
    with rig.gateway.inside():
        made = Kernel()
        yield made
        made.close()
