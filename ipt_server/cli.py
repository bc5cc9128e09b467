"""`ipt-server`: run | check | compile | explain | status | reload | learned | flows | flush |
events | metrics.

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
from ipt_server.kernel.printed import Printed

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
                return _ask(options, "GET", "/explain", destination=options.destination, client=options.client)
            case "reload":
                return _ask(options, "POST", "/reload")
            case "flows":
                return _ask(options, "GET", "/flows", exit=options.exit, client=options.client)
            case "flush":
                asked = {"destination": options.destination, "exit": options.exit}
                return _ask(options, "POST", "/flush", what=options.what, **asked)
            case "events":
                return _ask(options, "GET", "/events", since=str(options.since), wait=str(options.wait))
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
        ("flows", "the connections that run, by exit"),
        ("flush", "forget learned addresses, or end connections"),
        ("metrics", "figures in Prometheus' text form"),
        ("events", "what happened since event number --since"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--json", action="store_true", help="print JSON")
        if name not in ("check", "compile"):
            verb.add_argument("--control", type=Path, default=CONTROL, help="the daemon's control socket")
        if name in ("check", "compile", "explain"):
            verb.add_argument("-c", "--config", type=Path, required=name != "explain", help="a settings file")
        if name == "explain":
            verb.add_argument("destination", help="an address or a name")
            verb.add_argument("addresses", nargs="*", help="offline: addresses that an answer has for the name")
            verb.add_argument("--client", help="only this client's connections")
        if name == "compile":
            verb.add_argument("--format", choices=("json", "nft", "ip"), default="json")
        if name == "flush":
            verb.add_argument("what", choices=("learned", "flows"))
            verb.add_argument("destination", nargs="?", help="an address, or a name that was learned")
        if name in ("flows", "flush"):
            verb.add_argument("--exit", help="only this exit's connections")
        if name == "flows":
            verb.add_argument("--client", help="only this client's connections")
        if name == "events":
            verb.add_argument("--since", type=int, default=0)
            verb.add_argument("--wait", type=float, default=0, help="seconds to wait for the first")
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
    from ipt_server import inquiry
    from ipt_server.daemon import compile_rules

    with tempfile.TemporaryDirectory() as cache:
        rules = compile_rules(settings.load(options.config), Path(cache))
    if options.verb == "check":
        answer: Any = {"version": rules.settings.version, "rules": len(rules.rules)}
    elif options.verb == "compile":
        if options.format in ("nft", "ip"):
            kernel = Printed([e.interface for e in rules.settings.exits if e.interface])
            kernel.apply(rules, [])
            print(kernel.nft() if options.format == "nft" else "".join(map(kernel.ip, (4, 6))), end="")
        else:
            print(json.dumps({f"geo{family}": _readable(rules, family) for family in (4, 6)}))
        return 0
    else:
        try:
            answer = inquiry.offline(options.destination, rules, options.addresses)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    _show(answer, options.json)
    return 0


def _readable(rules: RuleSet, family: int) -> list[list[str]]:
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    return [
        [str(kind(first)), str(kind(last)), rules.exit_of(mark).name] for first, last, mark in rules.intervals[family]
    ]


def _ask(options: argparse.Namespace, method: str, path: str, **query: str | None) -> int:
    given = {key: value for key, value in query.items() if value is not None}
    target = f"{path}?{urllib.parse.urlencode(given)}" if given else path
    status, answer = client.request(options.control, method, target)
    _show(answer, options.json)
    return 0 if status == 200 else 1


def _show(answer: Any, as_json: bool) -> None:
    if isinstance(answer, str):
        print(answer, end="")
        return
    if as_json or not isinstance(answer, dict):
        print(json.dumps(answer, indent=None if as_json else 1))
        return
    for key, value in answer.items():
        print(f"{key}: {value if isinstance(value, (str, int, float, type(None))) else json.dumps(value)}")


if __name__ == "__main__":
    raise SystemExit(main())
