"""Servers that say what they saw: run as `python -m lab.servers web|udp` in a namespace of the lab.

Knows: HTTP and UDP on every local address, both families. Must not know: the lab.

web, port 80:   /            the address the request came from, one line
                /stream      the same, then a line every 100 ms until the client goes (a running download)
udp, port 5000: answers each datagram with "<address> <port>" as seen
     port 5001: answers with 1350 bytes and DF (IPv4), for path MTU discovery; a line on stdout per ICMP error
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PKTINFO = 10, 2, 8
BIG = 1350 - 28  # payload of a 1350-byte IPv4 packet


def seen(address: str) -> str:
    """An IPv4-mapped address in IPv4's own form."""
    return address.removeprefix("::ffff:")


class Web(BaseHTTPRequestHandler):
    """Answers with the address it saw."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        line = (seen(self.client_address[0]) + "\n").encode()
        try:
            self.wfile.write(line)
            while self.path.startswith("/stream"):
                time.sleep(0.1)
                self.wfile.write(line)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Says nothing per request."""


class WebServer(ThreadingHTTPServer):
    """Both families on port 80, hundreds of connections at once."""

    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True


def _echo(port: int, family: int, big: bool) -> None:
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        s.bind(("::", port))
    else:
        s.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if big:
            s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        s.bind(("0.0.0.0", port))
    while True:
        data, ancillary, _, peer = s.recvmsg(2048, 256)
        answer = b"x" * BIG if big else f"{peer[0]} {peer[1]} {data.decode(errors='replace')}".encode()
        # answer from the address that was asked, not from the one the route would choose
        control = []
        for level, kind, value in ancillary:
            if family == socket.AF_INET and kind == IP_PKTINFO:
                control = [(level, kind, struct.pack("=I4s4s", 0, value[4:8], b"\0" * 4))]
            elif family == socket.AF_INET6 and kind == socket.IPV6_PKTINFO:
                control = [(level, kind, value[:16] + struct.pack("=I", 0))]
        try:
            s.sendmsg([answer], control, 0, peer)
        except OSError as error:
            print(f"{peer[0]}: {error.strerror}", flush=True)


def main() -> int:
    """Runs the named servers for ever."""
    if sys.argv[1:] == ["web"]:
        WebServer(("::", 80), Web).serve_forever()
    for port, big in ((5000, False), (5001, True)):
        for family in (socket.AF_INET, socket.AF_INET6):
            threading.Thread(target=_echo, args=(port, family, big), daemon=True).start()
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
