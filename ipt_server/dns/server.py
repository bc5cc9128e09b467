"""The verdict server: the hook's datagrams in, the kernel taught, verdicts out.

Knows: sockets, the order "kernel first, then the verdict". Must not know: nftables, files. One thread of its own drains
all ports: an answer waits for no work of the daemon's loop, and learning is a few microseconds, so that more threads
would cost more than they bring.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import select
import socket
import threading
from typing import Protocol

from ipt_server.core.answers import Answer, Judgement
from ipt_server.dns import protocol
from ipt_server.settings import Hook

log = logging.getLogger(__name__)


class Refused(Exception):
    """An answer that must fail: its addresses could not be put in force. The text says why."""


class Teacher(Protocol):
    """Judges an answer and has its addresses in the kernel before it returns; raises Refused.

    `settle` is called when nobody waits: it does what no answer needs.
    """

    def teach(self, answer: Answer) -> Judgement: ...

    def settle(self) -> None: ...


class VerdictServer:
    """The hook's sockets."""

    def __init__(self, hook: Hook, teacher: Teacher) -> None:
        self._hook = hook
        self._teacher = teacher
        self._sockets: dict[int, socket.socket] = {}
        self._thread: threading.Thread | None = None
        self._end = -1
        self.asked = self.malformed = self.refused = 0

    def start(self) -> None:
        """Binds every port and serves. Raises OSError; then no port is bound."""
        family = socket.AF_INET6 if ipaddress.ip_address(self._hook.address).version == 6 else socket.AF_INET
        with contextlib.ExitStack() as bound:
            for number in range(self._hook.ports):
                s = bound.enter_context(
                    socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                )
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                s.bind((self._hook.address, self._hook.port + number))
                self._sockets[s.fileno()] = s
            bound.pop_all()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="verdicts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes every port, when the answer that is being judged has been let go."""
        if self._thread is None:
            return
        os.eventfd_write(self._end, 1)
        self._thread.join()
        self._thread = None
        os.close(self._end)
        for s in self._sockets.values():
            s.close()
        self._sockets.clear()

    def _serve(self) -> None:
        with select.epoll() as ready:
            for fd in (self._end, *self._sockets):
                ready.register(fd, select.EPOLLIN)
            while True:
                for fd, _ in ready.poll():
                    if fd == self._end:
                        return
                    try:
                        self._drain(self._sockets[fd])
                    except Exception:  # whatever one datagram does, the next one is served
                        log.exception("a datagram of the hook was not answered")
                try:
                    self._teacher.settle()
                except Exception:
                    log.exception("what was learned was not told")

    def _drain(self, s: socket.socket) -> None:
        # bounded, so that one busy port cannot starve the others
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
