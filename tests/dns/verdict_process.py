"""The real daemon in the tests' namespace, with a kernel that writes down when it was taught.

Usage: verdict_process.py SETTINGS STATE CONTROL LOG [DELAY]. LOG gets a line a lesson: [CLOCK_MONOTONIC when the kernel
had it, [address, ...]]; - is none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ipt_server.core.learned import Change
from ipt_server.daemon import Daemon, Paths


def main(settings: str, state: str, control: str, log: str, delay: str = "0") -> None:
    logging.basicConfig(level=logging.INFO)
    daemon = Daemon(Paths(Path(settings), Path(settings), Path(state), Path(control)))
    learn = daemon.kernel.learn
    if log == "-":
        asyncio.run(daemon.run())
        return
    with Path(log).open("a", buffering=1) as out:

        def taught(changes: Sequence[Change]) -> None:
            learn(changes)
            if changes:
                time.sleep(float(delay))
                out.write(json.dumps([time.monotonic(), [str(c.address) for c in changes]]) + "\n")

        daemon.kernel.learn = taught  # type: ignore[method-assign]
        asyncio.run(daemon.run())


if __name__ == "__main__":
    main(*sys.argv[1:])
