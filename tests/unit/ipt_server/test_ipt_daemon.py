"""What may happen at once in a daemon: a generation is put in force in a thread while its loop goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ipt_build import build, rule

from ipt_server import daemon as module
from ipt_server.core.health import ExitHealth
from ipt_server.core.learned import Change, Learned
from ipt_server.core.rules import RuleSet
from ipt_server.daemon import Daemon, Paths
from ipt_server.settings import Health
from ipt_server.teacher import Teacher


class SlowKernel:
    """A kernel whose commit lasts until somebody else could have come in between, and that tells the order."""

    def __init__(self) -> None:
        self.down: frozenset[str] = frozenset()
        self.order: list[str] = []
        self.committing = threading.Event()

    def commit(self, prepared: Any, learned: Any, changes: Sequence[Change] | None = None) -> None:
        self.order.append("commit begins")
        self.committing.set()
        threading.Event().wait(0.3)
        self.order.append("commit ends")

    def open(self, rules: RuleSet) -> None:
        self.order.append(f"open by {rules.settings.version}")

    def learn(self, changes: Sequence[Change]) -> None:
        """Takes nothing in."""


def test_an_exit_that_dies_while_a_generation_is_put_in_force_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `exit_of` would hold the new rules' marks for the old maps: packets by a wrong exit."""
    monkeypatch.setattr(module, "Kernel", SlowKernel)
    old, new = (RuleSet(build(rule(0, "wg_uk", suffixes=["uk"]), version=v), {}) for v in ("old", "new"))

    async def work() -> list[str]:
        daemon = Daemon(Paths(state=tmp_path))
        learned = Learned(10, 2, 300)
        daemon.teacher = Teacher(old, learned, daemon.kernel, daemon.journal, daemon.clock, lambda seconds: None)
        kernel: Any = daemon.kernel
        committing = asyncio.create_task(asyncio.to_thread(daemon._commit, SimpleNamespace(rules=new), {}))  # type: ignore[arg-type]
        assert await asyncio.to_thread(kernel.committing.wait, 5)
        daemon._health_changed(new.settings.exit("wg_uk"), ExitHealth(Health()))
        await committing
        return list(kernel.order)

    assert asyncio.run(work()) == ["commit begins", "commit ends", "open by new"]
