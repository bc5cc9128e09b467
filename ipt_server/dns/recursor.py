"""The recursor's caches, policy zones and lives, by its control socket.

Knows: rec_control. Must not know: why.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

log = logging.getLogger(__name__)


def began(folder: str) -> tuple[int, int] | None:
    """What tells one life of the recursor from another: its control socket; None where there is none."""
    try:
        seen = (Path(folder) / "pdns_recursor.controlsocket").stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_ctime_ns


async def wipe_caches(folder: str) -> bool:
    """Empties both caches of the recursor whose control socket lies in `folder`; False where it is not there."""
    return await _control(folder, "the recursor's caches were not wiped", "wipe-cache", "$")


async def reload_policies(folder: str) -> bool:
    """Has the recursor read its policy zones again; its caches keep what they have until they are wiped."""
    return await _control(folder, "the recursor reads the policy zones only when it starts", "reload-yaml")


async def _control(folder: str, otherwise: str, *command: str) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(
            "rec_control", f"--socket-dir={folder}", "--timeout=3", *command,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        log.warning("%s: %s", otherwise, error)
        return False
    output, _ = await process.communicate()
    if process.returncode:
        log.warning("%s: %s", otherwise, output.decode(errors="replace").strip()[-200:])
        return False
    return True
