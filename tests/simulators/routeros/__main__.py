"""`python -m tests.simulators.routeros`: routers on loopback, commanded by JSON lines on standard input.

Each line is a fault (`{"kind": "late", "match": "/ip/address/add", "seconds": 3}`), or `{"show": "/ip/address"}`,
`{"writes": 0}` (prints the counter and sets it), `{"away": true}`. The first line of the output tells the ports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from tests.simulators.routeros import Fault, Router, Simulator, User
from tests.simulators.routeros.certs import Authority
from tests.simulators.routeros.realise import Realised


def main() -> None:
    """Serves until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulators.routeros")
    parser.add_argument("--version", default="7.24.4")
    parser.add_argument("--count", type=int, default=1, help="routers, on consecutive ports from --port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any")
    parser.add_argument("--user", default="salt")
    parser.add_argument("--password", default="s3cret")
    parser.add_argument("--policies", default="read,write,api,test")
    parser.add_argument("--reachable", default="", help="addresses that answer a ping, with commas between")
    parser.add_argument("--tls", type=Path, help="folder for a CA and the server's certificate: API over TLS")
    parser.add_argument("--netns", help="a network namespace that does what the (one) router's rows say")
    parser.add_argument("--image", type=Path, help="with --netns: the root file system of the image, for its tools")
    parser.add_argument("--folder", type=Path, help="with --netns: a folder for its files")
    options = parser.parse_args()
    if options.netns and (options.count != 1 or not options.image or not options.folder):
        parser.error("--netns goes with one router, --image and --folder")
    pair = None
    if options.tls:
        options.tls.mkdir(parents=True, exist_ok=True)
        pair = Authority(options.tls).issue("router")
    user = User(options.user, options.password, frozenset(options.policies.split(",")))
    with contextlib.ExitStack() as stack:
        simulators = []
        for number in range(options.count):
            router = Router(version=options.version, identity=f"router{number}", users=(user,))
            router.reachable |= {address for address in options.reachable.split(",") if address}
            port = options.port + number if options.port else 0
            if options.netns:
                stack.enter_context(Realised(router, options.netns, options.image, options.folder))
            simulators.append(stack.enter_context(Simulator(router, pair, port, options.host)))
        print(json.dumps({"ports": [simulator.port for simulator in simulators]}), flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            simulator = simulators[command.pop("router", 0)]
            print(json.dumps(_command(simulator, command)), flush=True)


def _command(simulator: Simulator, command: dict[str, object]) -> object:
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
    router.faults.append(Fault(**command))  # type: ignore[arg-type]
    return {"faults": len(router.faults)}


if __name__ == "__main__":
    main()
