"""`ipt-server`: run | check -c FILE | compile -c FILE | explain [-c FILE] DEST | status | reload | learned.

Knows: arguments, exit codes, how answers look. Must not know: how they come about.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import sys
import tempfile
import urllib.parse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipt_server import settings
from ipt_server.control import client
from ipt_server.core.rules import RuleSet
from ipt_server.kernel import KernelProblem

CONTROL = Path("/run/ipt-server/control.sock")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 refused or not running, 2 wrong arguments."""
    options = _parser().parse_args(argv)
    try:
        match options.verb:
            case "run":
                return _run(options)
            case "check" | "compile":
                return _offline(options)
            case "explain" if options.config:
                return _offline(options)
            case "explain":
                target = "/explain?" + urllib.parse.urlencode({"destination": options.destination})
                return _ask(options, "GET", target)
            case "reload":
                return _ask(options, "POST", "/reload")
            case verb:
                return _ask(options, "GET", f"/{verb}")
    except settings.Refused as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 1
    except KernelProblem as error:
        print(f"{error} (it needs CAP_NET_ADMIN, and a namespace of its own)", file=sys.stderr)
        return 1
    except client.NotRunning as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ipt-server", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="serve")
    run.add_argument("--control", type=Path, default=CONTROL, help="where to listen for commands")
    run.add_argument("--settings", type=Path, help="the settings file, instead of the two usual places")
    run.add_argument("--state", type=Path, help="the folder of what survives a restart")
    for name, text in (
        ("check", "say what is wrong with settings"),
        ("compile", "print the maps that settings come to"),
        ("explain", "by which exit a destination leaves, and why"),
        ("status", "what runs"),
        ("reload", "put the settings on disk in force, all or nothing"),
        ("learned", "the learned addresses"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--json", action="store_true", help="print JSON")
        if name not in ("check", "compile"):
            verb.add_argument("--control", type=Path, default=CONTROL, help="the daemon's control socket")
        if name in ("check", "compile", "explain"):
            verb.add_argument("-c", "--config", type=Path, required=name != "explain", help="a settings file")
        if name == "explain":
            verb.add_argument("destination", help="an address or a name")
    return parser


def _run(options: argparse.Namespace) -> int:
    from ipt_server.daemon import Daemon, Paths

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    paths = Paths(control=options.control)
    if options.settings:
        paths = replace(paths, live=options.settings, mounted=options.settings)
    if options.state:
        paths = replace(paths, state=options.state)

    async def serve() -> None:
        await Daemon(paths).run()

    asyncio.run(serve())
    return 0


def _offline(options: argparse.Namespace) -> int:
    from ipt_server.daemon import compile_rules, explain

    with tempfile.TemporaryDirectory() as cache:
        rules = compile_rules(settings.load(options.config), Path(cache))
    if options.verb == "check":
        answer: Any = {"version": rules.settings.version, "rules": len(rules.rules)}
    elif options.verb == "compile":
        answer = {f"geo{family}": _readable(rules, family) for family in (4, 6)}
        print(json.dumps(answer))
        return 0
    else:
        answer = explain(options.destination, rules)
    _show(answer, options.json)
    return 0


def _readable(rules: RuleSet, family: int) -> list[list[str]]:
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    return [
        [str(kind(first)), str(kind(last)), rules.exit_of(mark).name] for first, last, mark in rules.intervals[family]
    ]


def _ask(options: argparse.Namespace, method: str, target: str) -> int:
    status, answer = client.request(options.control, method, target)
    _show(answer, options.json)
    return 0 if status == 200 else 1


def _show(answer: Any, as_json: bool) -> None:
    if as_json or not isinstance(answer, dict):
        print(json.dumps(answer, indent=None if as_json else 1))
        return
    for key, value in answer.items():
        print(f"{key}: {value if isinstance(value, (str, int, float, type(None))) else json.dumps(value)}")


if __name__ == "__main__":
    raise SystemExit(main())
