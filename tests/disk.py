"""A small disk, to be filled."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lab.deadline import until


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A tmpfs of this size (as mount(8) takes it) on a folder, made where it is missing, as long as the block lasts.

    It goes as soon as nobody uses it, five seconds at most: a process just forked, by any thread, holds what was open
    here until it runs its own program.
    """
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        until(f"umount {folder}", lambda: subprocess.run(["umount", str(folder)]).returncode == 0, 5)


def fill(disk: Path) -> Path:
    """Fills what is left of a disk; the file that does, to be deleted."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return filler
