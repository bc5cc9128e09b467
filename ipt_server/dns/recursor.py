"""The recursor's caches, by its control socket.

Knows: rec_control. Must not know: why.
"""

from __future__ import annotations

import asyncio
import logging

log = logging.getLogger(__name__)


async def wipe_caches(folder: str) -> bool:
    """Empties both caches of the recursor whose control socket lies in `folder`; False where it is not there."""
    try:
        process = await asyncio.create_subprocess_exec(
            "rec_control", f"--socket-dir={folder}", "--timeout=3", "wipe-cache", "$",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        log.warning("the recursor's caches were not wiped: %s", error)
        return False
    output, _ = await process.communicate()
    if process.returncode:
        log.warning("the recursor's caches were not wiped: %s", output.decode(errors="replace").strip()[-200:])
        return False
    return True
