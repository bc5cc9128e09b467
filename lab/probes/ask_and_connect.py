"""`python -m lab.probes.ask_and_connect`: asks for many names at once and connects the moment each answer arrives.

Reads from stdin {"server": address, "names": [[name, "A" or "AAAA", over TCP?], ...], "rounds": n} and prints for each
round {"answered": {name: address}, "seen": {address: what its web server saw}, "failed": {name: why}}.
Knows: DNS and HTTP. Must not know: which answer or exit is right.
"""

from __future__ import annotations

import json
import socket
import sys
import threading

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

PATIENCE = 20.0  # seconds for one answer or one page: the machine may be busy
TRIES = 3


class Round:
    """One round of questions: a thread each, all let go together."""

    def __init__(self, server: str, names: list[tuple[str, str, bool]]) -> None:
        self.answered: dict[str, str] = {}
        self.seen: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self._server = server
        self._start = threading.Barrier(len(names))
        threads = [threading.Thread(target=self._one, args=name) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _one(self, name: str, kind: str, tcp: bool) -> None:
        query = dns.message.make_query(name, kind)
        self._start.wait()
        try:
            address = self._ask(query, tcp)
            self.answered[name] = address
            self.seen[address] = page(address)
        except (OSError, dns.exception.DNSException, ValueError) as error:
            self.failed[name] = f"{type(error).__name__}: {error}"

    def _ask(self, query: dns.message.QueryMessage, tcp: bool) -> str:
        for left in reversed(range(TRIES)):
            try:
                if tcp:
                    answer = dns.query.tcp(query, self._server, timeout=PATIENCE)
                else:
                    answer = dns.query.udp(query, self._server, timeout=PATIENCE / TRIES)
                break
            except dns.exception.Timeout:
                if not left:
                    raise
        wanted = query.question[0].rdtype
        for rrset in answer.answer:
            if rrset.rdtype == wanted:
                return str(rrset[0].to_text())
        raise ValueError(f"no {dns.rdatatype.to_text(wanted)}: {dns.rcode.to_text(answer.rcode())}")


def page(address: str) -> str:
    """What the web server at an address saw."""
    with socket.create_connection((address, 80), timeout=PATIENCE) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while part := s.recv(4096):
            data += part
    return data.rpartition(b"\r\n\r\n")[2].decode().strip()


def main() -> int:
    """Runs the rounds one after another."""
    wish = json.load(sys.stdin)
    names = [(name, kind, tcp) for name, kind, tcp in wish["names"]]
    rounds = [Round(wish["server"], names) for _ in range(wish["rounds"])]
    print(json.dumps([{"answered": r.answered, "seen": r.seen, "failed": r.failed} for r in rounds]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
