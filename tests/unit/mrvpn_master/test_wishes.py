"""Many processes' wishes: few runs, none lost."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from mrvpn_master import Trouble
from mrvpn_master.wishes import Wishes, alone


def _wish(folder: Path, key: str, log: Path) -> None:
    def run(keys: list[str]) -> None:
        with log.open("a") as stream:
            stream.write(f"{' '.join(keys)}\n")
        time.sleep(0.3)  # what a run takes; the others come meanwhile

    wishes = Wishes(folder)
    wishes.leave(key)
    wishes.work(run)


def test_fifty_at_once_are_few_runs_and_every_key_is_served(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    all_ = [context.Process(target=_wish, args=(tmp_path / "w", f"host/{n % 5}", log)) for n in range(50)]
    for process in all_:
        process.start()
    for process in all_:
        process.join(60)
        assert process.exitcode == 0
    runs = log.read_text().splitlines()
    assert set(" ".join(runs).split()) == {f"host/{n}" for n in range(5)}
    assert len(runs) < 25
    assert not list((tmp_path / "w").glob("*.wish"))


def test_a_wish_during_a_run_is_another_run(tmp_path: Path) -> None:
    wishes, seen = Wishes(tmp_path), []

    def run(keys: list[str]) -> None:
        seen.append(keys)
        if len(seen) == 1:
            wishes.leave("late")

    wishes.leave("early")
    wishes.work(run)
    assert seen == [["early"], ["late"]]


def test_a_lock_that_is_held_is_told(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "lock", 1, "a change"),
        pytest.raises(Trouble, match="a change is at work"),
        alone(tmp_path / "lock", 0, "a change"),
    ):
        pass
