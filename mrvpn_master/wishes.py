"""Many wishes, few runs: what many processes want is done by one of them, the last state wins, and none is lost.

Knows: files and their locks. Must not know: what is wished for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mrvpn_master import Trouble


@contextlib.contextmanager
def alone(file: Path, seconds: float, what: str) -> Iterator[None]:
    """Holds a lock; waits up to `seconds` for it, then Trouble."""
    file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with file.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Trouble(
                        f"{what} is at work for more than {seconds:.0f} s: try again when it is done"
                    ) from None
                time.sleep(0.1)
        yield


class Wishes:
    """Wishes of one kind: keys in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def leave(self, key: str) -> None:
        """Leaves a wish; the same key again is the same wish."""
        (self._folder / f"{urllib.parse.quote(key, safe='')}.wish").write_text(str(os.getpid()))

    def work(self, run: Callable[[list[str]], Any]) -> list[Any]:
        """Runs with all wishes that are there, as long as there are any; the answers. Empty: another does it."""
        answers: list[Any] = []
        # asked again after the lock is free: a wish left in the last moment of another's work is not lost
        while self._left():
            with (self._folder / "lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return answers
                while files := self._left():
                    # taken before the run: what is wished for from now on is another run's
                    keys = [urllib.parse.unquote(file.stem) for file in files]
                    for file in files:
                        file.unlink(missing_ok=True)
                    answers.append(run(keys))
        return answers

    def _left(self) -> list[Path]:
        return sorted(self._folder.glob("*.wish"))
