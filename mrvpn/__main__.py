"""The command `mrvpn`, also `python -m mrvpn`: a description checked, shown and compared, without Salt or network.

Knows: arguments and exit codes. Must not know: what a command does (commands.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mrvpn import __version__, commands

PATH_HELP = "a description: a file, or a folder of *.yaml"


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments; each sets `run`, which answers the exit code."""
    top = argparse.ArgumentParser(
        prog="mrvpn", description="One reviewed description of a network: checked, shown, compared."
    )
    top.add_argument("--version", action="version", version=f"mrvpn {__version__}")
    sub = top.add_subparsers(required=True, metavar="COMMAND")

    one = sub.add_parser("check", help="every problem of a description; exit code 1 when there are errors")
    one.add_argument("path", type=Path, help=PATH_HELP)
    one.add_argument("--format", choices=("text", "json", "github"), default="text")
    one.set_defaults(run=lambda a: commands.check(a.path, a.format))

    one = sub.add_parser("view", help="what one host gets, as YAML; secrets are masked")
    one.add_argument("path", type=Path, help=PATH_HELP)
    one.add_argument("--host", required=True, help="the host's id, its minion id")
    one.set_defaults(run=lambda a: commands.view(a.path, a.host))

    one = sub.add_parser("lock", help="pins addresses, ports, marks, tables and router ids in lock.yaml")
    one.add_argument("path", type=Path, help=PATH_HELP)
    one.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the lock does not hold all")
    one.add_argument(
        "--prune", action="store_true", help="forget what is no longer described: its numbers are free again"
    )
    one.set_defaults(run=lambda a: commands.lock(a.path, check_only=a.check, prune=a.prune))

    one = sub.add_parser(
        "plan", help="what changes from one description to another; exit code 0: nothing, 2: something"
    )
    one.add_argument("old", type=Path, help=PATH_HELP)
    one.add_argument("new", type=Path, help=PATH_HELP)
    one.add_argument("--format", choices=("text", "json"), default="text")
    one.add_argument("--country-database", type=Path, help="an mmdb file: tells what moves prefix by prefix")
    one.add_argument("--states", type=Path, help="the folder of the Salt states: tells what becomes of containers")
    one.set_defaults(run=lambda a: commands.plan(a.old, a.new, a.format, a.country_database, a.states))

    one = sub.add_parser("import", help="writes a description from an MRVPN2 configuration; says what it left out")
    one.add_argument("config", type=Path, help="MRVPN2's configuration file")
    one.add_argument("--inventory", type=Path, help="Ansible's inventory, YAML")
    one.add_argument("--output", type=Path, default=Path("network"), help="the folder to write (default: network)")
    one.add_argument(
        "--secrets", type=Path, default=Path("secrets.yaml"), help="the file of secrets to write, mode 0600"
    )
    one.set_defaults(run=lambda a: commands.import_(a.config, a.inventory, a.output, a.secrets))

    one = sub.add_parser("schema", help="the description's JSON Schema, for editors; or its reference")
    one.add_argument("--format", choices=("json", "markdown"), default="json")
    one.set_defaults(run=lambda a: commands.schema(a.format))

    one = sub.add_parser("graph", help="draws the mesh")
    one.add_argument("path", type=Path, help=PATH_HELP)
    one.add_argument("--format", choices=("mermaid", "svg"), default="mermaid")
    one.set_defaults(run=lambda a: commands.graph(a.path, a.format))

    one = sub.add_parser("init", help="a deployment repository to begin with")
    one.add_argument("folder", type=Path)
    one.add_argument("--entrypoint", default="entry", help="the minion id of the entrypoint (default: entry)")
    one.add_argument("--exit", default="uk", help="the minion id of the first exit (default: uk)")
    one.set_defaults(run=lambda a: commands.init(a.folder, a.entrypoint, a.exit))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code: 0 well, 1 problems, 2 wrong arguments or (plan) changes."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except BrokenPipeError:  # `mrvpn ... | head`
        sys.stderr.close()
        return 1
    return code


if __name__ == "__main__":
    raise SystemExit(main())
