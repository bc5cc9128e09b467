"""`python -m lab.probes.udp_flow ADDRESS`: one UDP flow that never idles: a datagram every 20 ms from one socket.

Prints each change of what the far end saw ("<seconds> <address as seen>"), and on SIGTERM one last line of JSON:
{"sent", "answered", "seen": {address: answers}}. Knows: UDP. Must not know: which exit is right.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time

PORT = 5000
EVERY = 0.02


def main() -> int:
    """Sends until SIGTERM."""
    address = sys.argv[1]
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(EVERY)
    sent = answered = 0
    seen: dict[str, int] = {}
    last = ""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    start = time.monotonic()
    while not stopping:
        begun = time.monotonic()
        try:
            s.sendto(f"{sent}".encode(), (address, PORT))
            sent += 1
            source = s.recv(2048).decode().split(" ")[0]
            answered += 1
            seen[source] = seen.get(source, 0) + 1
            if source != last:
                print(f"{time.monotonic() - start:.2f} {source}", flush=True)
                last = source
        except OSError:  # unreachable or unanswered: the flow goes on, that is what it is for
            pass
        time.sleep(max(0.0, EVERY - (time.monotonic() - begun)))
    print(json.dumps({"sent": sent, "answered": answered, "seen": seen}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
