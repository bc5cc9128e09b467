"""`python -m lab.probes.ospf_hello SECONDS INTERFACE [ADDRESS ...]`: says hello as an OSPF router of area 0 would.

Once a second to everybody (224.0.0.5) and to each address, IPv4 and IPv6. The hello is good enough for FRR to list its
sender as a neighbour (RFC 2328, A.3.2): router 192.0.2.66, hello 1, dead 4. Knows: OSPF's hello. Must not know: who
listens.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

OSPF = 89
ROUTER = "192.0.2.66"
EVERYBODY = "224.0.0.5"


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def hello(mask: str) -> bytes:
    """A hello of version 2, without authentication, that has seen nobody."""
    body = socket.inet_aton(mask) + struct.pack("!HBBI", 1, 0x02, 1, 4) + bytes(8)
    head = struct.pack("!BBH4sI", 2, 1, 24 + len(body), socket.inet_aton(ROUTER), 0)
    # the checksum leaves the eight bytes of authentication out
    sum_ = checksum(head + struct.pack("!HH", 0, 0) + body)
    return head + struct.pack("!HH", sum_, 0) + bytes(8) + body


def main() -> int:
    """Says hello until the time is over."""
    seconds, interface, *addresses = sys.argv[1:]
    four = socket.socket(socket.AF_INET, socket.SOCK_RAW, OSPF)
    four.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    six = socket.socket(socket.AF_INET6, socket.SOCK_RAW, OSPF)
    packet = hello("255.255.255.0")
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        for address in [EVERYBODY, *addresses]:
            with contextlib.suppress(OSError):
                (six if ":" in address else four).sendto(packet, (address, 0))
        time.sleep(1)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
