"""`python -m lab`: up, down, status, exec HOST -- COMMAND, logs HOST, check, demo."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from lab import dump, topology, up
from lab.state import LOGS, REPO, Trouble, locked, processes


def _up() -> int:
    with locked():
        try:
            up.up()
        except Exception:
            dump.everything()
            raise
    return 0


def _down() -> int:
    with locked():
        up.down()
    return 0


def _status() -> int:
    table = Table("process", "pid")
    for name, pid in processes():
        table.add_row(name, str(pid))
    Console().print(table)
    return 0 if up.is_up() else 1


def _exec(host: str, command: list[str]) -> int:
    if not command:
        raise Trouble("what should be run? python -m lab exec HOST -- COMMAND")
    path = f"{REPO / '.venv' / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.call([*up.reach(host), "env", f"PATH={path}", *command])


def _logs(host: str) -> int:
    found = sorted(path for path in LOGS.glob("*.log") if host in path.stem)
    for path in found:
        print(f"==> {path.name}")
        print(path.read_text(errors="replace")[-8000:])
    if host in topology.BY_NAME and topology.BY_NAME[host].docker:
        dump.containers(topology.BY_NAME[host])
    return 0 if found else 1


def _checks(names: list[str]) -> int:
    from lab import checks

    return checks.main(names)


def _demo() -> int:
    from lab import demo

    return demo.main()


def main(argv: list[str] | None = None) -> int:
    """Runs one command; what the operator can mend is one clear line, not a traceback."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, text in (
        ("up", "build the lab"),
        ("down", "take it away, also after a crash"),
        ("status", "what runs"),
        ("demo", "up, salt '*' state.apply, the checks: `make demo`"),
    ):
        verbs.add_parser(name, help=text)
    execute = verbs.add_parser("exec", help="run a command in a host")
    execute.add_argument("host")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    verbs.add_parser("logs", help="a host's logs").add_argument("host")
    verbs.add_parser("check", help="the proof again, or only some rows").add_argument("row", nargs="*")
    options = parser.parse_args(argv)
    try:
        match options.verb:
            case "up":
                return _up()
            case "down":
                return _down()
            case "status":
                return _status()
            case "exec":
                return _exec(options.host, [part for part in options.command if part != "--"])
            case "logs":
                return _logs(options.host)
            case "check":
                return _checks(options.row)
            case _:
                return _demo()
    except Trouble as trouble:
        print(f"lab: {trouble}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
