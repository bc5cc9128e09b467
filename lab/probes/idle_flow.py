"""`python -m lab.probes.idle_flow SECONDS ADDRESS...`: UDP flows that say something, are silent, and go on.

Prints {address: [what the far end saw before, and after]} as JSON. Knows: UDP. Must not know: which exit is right.
"""

from __future__ import annotations

import json
import socket
import sys
import time

PORT = 5000
PATIENCE = 10.0


def main() -> int:
    """Asks, waits and asks again from the same sockets."""
    silence, *addresses = sys.argv[1:]
    flows = {}
    for address in addresses:
        flows[address] = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        flows[address].settimeout(PATIENCE)
        flows[address].connect((address, PORT))
    seen: dict[str, list[str]] = {address: [] for address in addresses}
    for turn in range(2):
        if turn:
            time.sleep(float(silence))
        for address, flow in flows.items():
            try:
                flow.send(b"still there?")
                seen[address].append(flow.recv(2048).decode().split(" ")[0])
            except OSError as error:
                seen[address].append(str(error))
    print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
