"""`python -m lab.probes.sweep ADDRESS tcp|udp [PORT ...]`: one packet to every port (or to these).

TCP: a SYN each, and prints {"open": [ports that answered with a SYN of their own]}. UDP: a datagram each; {"open": []},
for what is open says nothing. Knows: sockets. Must not know: what should be open.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import sys
import time

BATCH, PAUSE = 100, 0.02  # packets, seconds
PATIENCE = 1.0  # seconds for the last answers


def main() -> int:
    """Sweeps once."""
    address, protocol = sys.argv[1], sys.argv[2]
    ports = [int(text) for text in sys.argv[3:]] or list(range(1, 65536))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = (tcp if protocol == "tcp" else udp)(family, address, ports)
    print(json.dumps({"open": sorted(found)}))
    return 0


def udp(family: int, address: str, ports: list[int]) -> set[int]:
    """A datagram to each port."""
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        for number, port in enumerate(ports):
            with contextlib.suppress(OSError):
                s.sendto(b"mrvpn", (address, port))
            if number % BATCH == 0:
                time.sleep(PAUSE)
    return set()


def tcp(family: int, address: str, ports: list[int]) -> set[int]:
    """A SYN to each port; a socket is kept until the next thousand are under way."""
    found: set[int] = set()
    waiting: dict[int, tuple[socket.socket, int]] = {}
    poll = select.poll()

    def look(seconds: float) -> None:
        for fd, _ in poll.poll(seconds * 1000):
            s, port = waiting.pop(fd)
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.add(port)
            poll.unregister(fd)
            s.close()

    for number, port in enumerate(ports):
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setblocking(False)
        if s.connect_ex((address, port)) in (0, errno.EINPROGRESS):
            waiting[s.fileno()] = (s, port)
            poll.register(s.fileno(), select.POLLOUT)
        else:
            s.close()
        if number % BATCH == 0:
            look(PAUSE)
        while len(waiting) > 800:
            fd, (old, _) = next(iter(waiting.items()))
            poll.unregister(fd)
            del waiting[fd]
            old.close()
    deadline = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < deadline:
        look(0.1)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
