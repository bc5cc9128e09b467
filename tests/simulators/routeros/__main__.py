"""`python -m tests.simulators.routeros`: routers that are commanded by JSON lines, on standard input or on a socket.

Each line is a fault (`{"kind": "late", "match": "/ip/address/add", "seconds": 3}`), or `{"show": "/ip/address"}`,
`{"writes": 0}` (tells the counter and sets it), `{"away": true}`, `{"realised": true}` (what went wrong in the
namespace, and the command prefix that enters it). The first line of the output tells the ports. The user's password
is MRVPN_ROUTEROS_PASSWORD in the environment: a command line is for everybody to read.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from tests.simulators.routeros import Fault, Router, Simulator, User
from tests.simulators.routeros.certs import Authority
from tests.simulators.routeros.realise import Realised


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulators.routeros")
    parser.add_argument("--version", default="7.24.4")
    parser.add_argument("--identity", default="router", help="with --count, a number is added")
    parser.add_argument("--count", type=int, default=1, help="routers, on consecutive ports from --port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any")
    parser.add_argument("--user", default="salt")
    parser.add_argument("--policies", default="read,write,api,test")
    parser.add_argument("--address", action="append", default=[], metavar="ADDRESS=INTERFACE", help="a row it has")
    parser.add_argument("--reachable", default="", help="addresses that answer a ping, with commas between")
    parser.add_argument("--tls", type=Path, help="folder for a CA and the server's certificate: API over TLS")
    parser.add_argument("--control", type=Path, help="a socket for the commands, until SIGTERM; else standard input")
    parser.add_argument("--netns", help="a network namespace that does what the (one) router's rows say")
    parser.add_argument("--image", type=Path, help="with --netns: the root file system of the image, for its tools")
    parser.add_argument("--folder", type=Path, help="with --netns: a folder for its files")
    options = parser.parse_args()
    if options.netns and (options.count != 1 or not options.image or not options.folder):
        parser.error("--netns goes with one router, --image and --folder")
    return options


def main() -> None:
    """Serves until standard input ends, or with a control socket until SIGTERM."""
    options = _options()
    pair = None
    if options.tls:
        options.tls.mkdir(parents=True, exist_ok=True)
        pair = Authority(options.tls).issue("router")
    password = os.environ.get("MRVPN_ROUTEROS_PASSWORD", User().password)
    user = User(options.user, password, frozenset(options.policies.split(",")))
    listening: list[socket.socket] = []
    # what the namespace runs ends with the context: a signal must not pass it by
    signal.signal(signal.SIGTERM, lambda *_: _end(listening))
    with contextlib.ExitStack() as stack:
        simulators = []
        realised = None
        for number in range(options.count):
            identity = options.identity + (str(number) if options.count > 1 else "")
            router = Router(version=options.version, identity=identity, users=(user,))
            router.reachable |= {address for address in options.reachable.split(",") if address}
            for address, _, interface in (text.partition("=") for text in options.address):
                router.seed("/ipv6/address" if ":" in address else "/ip/address", address=address, interface=interface)
            if options.netns:
                realised = stack.enter_context(Realised(router, options.netns, options.image, options.folder))
            port = options.port + number if options.port else 0
            simulators.append(stack.enter_context(Simulator(router, pair, port, options.host)))
        control = stack.enter_context(_listening(options.control)) if options.control else None
        listening += [control] if control else []
        print(json.dumps({"ports": [simulator.port for simulator in simulators]}), flush=True)

        def answer(command: dict[str, Any]) -> object:
            return _command(simulators[command.pop("router", 0)], realised, command)

        if control is None:
            _answer(sys.stdin, sys.stdout, answer)
        while control is not None:
            try:
                client, _ = control.accept()
            except OSError:
                return  # its end
            # a client that is gone takes no answer
            with contextlib.suppress(OSError), client, client.makefile("r") as asked, client.makefile("w") as told:
                _answer(asked, told, answer)


def _end(listening: list[socket.socket]) -> None:
    """Lets the main loop end; an exception would be lost where the signal meets a finalizer."""
    if not listening:
        sys.exit(0)
    listening[0].shutdown(socket.SHUT_RDWR)


def _listening(path: Path) -> socket.socket:
    """A Unix socket for its owner alone."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen()
    return listener


def _answer(asked: Iterable[str], told: TextIO, answer: Callable[[dict[str, Any]], object]) -> None:
    for line in asked:
        print(json.dumps(answer(json.loads(line))), file=told, flush=True)


def _command(simulator: Simulator, realised: Realised | None, command: dict[str, Any]) -> object:
    router = simulator.router
    if "show" in command:
        return router.find(str(command["show"]))
    if "writes" in command:
        told = router.writes
        router.writes = int(str(command["writes"]))
        return {"writes": told, "prints": dict(router.prints)}
    if "away" in command:
        simulator.stop() if command["away"] else simulator.start()
        return {"away": command["away"]}
    if "realised" in command and realised is not None:
        return {"errors": realised.errors, "enter": realised.enter()}
    router.faults.append(Fault(**command))
    return {"faults": len(router.faults)}


if __name__ == "__main__":
    main()
