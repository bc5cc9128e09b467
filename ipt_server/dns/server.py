"""The verdict server: the hook's datagrams in, the kernel taught, verdicts out.

Knows: sockets, the order "kernel first, then the verdict". Must not know: nftables, files. One drain loop over all
ports: learning is a few microseconds, so that a thread pool would cost more than it brings.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from typing import Protocol

from ipt_server.core.answers import Answer, Judgement
from ipt_server.dns import protocol
from ipt_server.settings import Hook

log = logging.getLogger(__name__)


class Refused(Exception):
    """An answer that must fail: its addresses could not be put in force. The text says why."""


class Teacher(Protocol):
    """Judges an answer and has its addresses in the kernel before it returns; raises Refused."""

    def teach(self, answer: Answer) -> Judgement: ...


class VerdictServer:
    """The hook's sockets."""

    def __init__(self, hook: Hook, teacher: Teacher) -> None:
        self._hook = hook
        self._teacher = teacher
        self._sockets: list[socket.socket] = []
        self.asked = self.malformed = self.refused = 0

    def start(self) -> None:
        """Binds every port and serves on the running loop."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ipaddress.ip_address(self._hook.address).version == 6 else socket.AF_INET
        for number in range(self._hook.ports):
            s = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            s.bind((self._hook.address, self._hook.port + number))
            loop.add_reader(s, self._drain, s)
            self._sockets.append(s)

    def stop(self) -> None:
        """Closes every port."""
        loop = asyncio.get_running_loop()
        for s in self._sockets:
            loop.remove_reader(s)
            s.close()
        self._sockets.clear()

    def _drain(self, s: socket.socket) -> None:
        # bounded, so that one busy port cannot starve the others and the control socket
        for _ in range(64):
            try:
                data, peer = s.recvfrom(65535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.warning("hook socket: %s", error)
                return
            answer = self.verdict(data)
            if answer:
                with contextlib.suppress(OSError):
                    s.sendto(answer, peer)

    def verdict(self, data: bytes) -> bytes:
        """The answer to a datagram; b"" where it is none of the hook's."""
        self.asked += 1
        try:
            answer = protocol.parse(data)
        except protocol.Malformed as error:
            self.malformed += 1
            log.warning("a datagram of %d bytes was not understood: %s", len(data), error)
            return protocol.refusal(error.nonce) if error.nonce else b""
        try:
            return protocol.verdict(answer.nonce, self._teacher.teach(answer))
        except Refused as error:
            self.refused += 1
            log.warning("%s: the answer fails: %s", answer.qname, error)
            return protocol.refusal(answer.nonce)
