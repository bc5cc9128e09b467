"""Where the lab keeps what it made, and the processes it started: enough to take all of it away after a crash.

Knows: the state folder, processes by PID and start time. Must not know: what the processes are for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
NAME = os.environ.get("MRVPN_LAB_NAME", "lab")  # labs of several names stand beside each other
LAB = Path(os.environ.get("MRVPN_LAB_DIR", f"/var/lib/mrvpn-{NAME}"))
CACHE = LAB / "image"
RUN = LAB / "run"
LOGS = LAB / "logs"
PROCESSES = RUN / "processes.jsonl"
CGROUP = f"mrvpn-{NAME}"


class Trouble(Exception):
    """Something the operator can mend; the text says what and how."""


def sh(*argv: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> str:
    """Runs a command and returns its standard output; a failure is a Trouble with the tool's last lines."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-6:]
        raise Trouble(f"{' '.join(argv)[:200]}: exit code {done.returncode}: " + " / ".join(said))
    return done.stdout


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat: with the PID it names one process for ever. None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def spawn(name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> int:
    """Starts a process of the lab's own with its output in the log of that name, records it, returns its PID."""
    LOGS.mkdir(parents=True, exist_ok=True)
    RUN.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
        )
    with PROCESSES.open("a") as book:
        book.write(json.dumps({"name": name, "pid": process.pid, "start": _start_time(process.pid)}) + "\n")
    return process.pid


def processes() -> list[tuple[str, int]]:
    """The recorded processes that still live, oldest first; a PID that was given to another process is not ours."""
    if not PROCESSES.exists():
        return []
    entries = [json.loads(line) for line in PROCESSES.read_text().splitlines() if line.strip()]
    return [(e["name"], e["pid"]) for e in entries if e["start"] and _start_time(e["pid"]) == e["start"]]


def alive(pid: int) -> bool:
    """Whether the process lives (a zombie does not)."""
    return _start_time(pid) is not None


def reap() -> None:
    """Takes note of children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def stop(pids: Sequence[int], seconds: float = 10) -> None:
    """Ends these processes: SIGTERM, and SIGKILL for what still lives after `seconds`."""
    for sig, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        left = [pid for pid in pids if alive(pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        deadline = time.monotonic() + wait
        while any(alive(pid) for pid in left) and time.monotonic() < deadline:
            reap()
            time.sleep(0.05)
        reap()


def descendants(pids: Sequence[int]) -> list[int]:
    """These processes and all below them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: list[int] = []
    todo = list(pids)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cgroups() -> list[Path]:
    """The lab's cgroup folders in every hierarchy, deepest first."""
    roots = [p for p in (Path("/sys/fs/cgroup") / CGROUP, *Path("/sys/fs/cgroup").glob(f"*/{CGROUP}")) if p.is_dir()]
    # walk passes over what goes while it looks: a dying container takes its own folder away
    found = {Path(folder) for root in roots for folder, _, _ in os.walk(root)}
    return sorted(found, key=lambda p: -len(p.parts))


def in_cgroups(part: str | None = None) -> list[int]:
    """PIDs in the lab's cgroups, or below one part of them: containers, whoever started them."""
    found: set[int] = set()
    for folder in cgroups():
        if part is not None and part not in folder.parts:
            continue
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
    return sorted(found)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Holds the lab's lock: two labs at once would take each other's names."""
    LAB.mkdir(parents=True, exist_ok=True)
    with (LAB / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble("another lab command is running on this machine: wait for it to end") from None
        yield
