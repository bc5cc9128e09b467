"""The verdict server: the hook's datagrams in, the kernel taught, verdicts out.

Knows: sockets, the order "kernel first, then the verdict". Must not know: nftables, files. Each port has a thread that
blocks on it: an answer waits for no work of the daemon's loop, and none pays for being told which port is ready, which
was a third of what an echo costs here. They do not work side by side, and need not: judging is a few microseconds.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
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
    """Judges an answer and has its addresses in the kernel before it returns; raises Refused. Any thread may call it.

    `settle` is called when the verdict is on its way: it does what no answer needs.
    """

    def teach(self, answer: Answer) -> Judgement: ...

    def settle(self) -> None: ...


class VerdictServer:
    """The hook's sockets."""

    def __init__(self, hook: Hook, teacher: Teacher) -> None:
        self._hook = hook
        self._teacher = teacher
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self.asked = self.malformed = self.refused = 0  # by threads that the interpreter runs in turns: near enough

    def start(self) -> None:
        """Binds every port and serves. Raises OSError; then no port is bound."""
        family = socket.AF_INET6 if ipaddress.ip_address(self._hook.address).version == 6 else socket.AF_INET
        sockets = []
        with contextlib.ExitStack() as bound:
            for number in range(self._hook.ports):
                s = bound.enter_context(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                s.bind((self._hook.address, self._hook.port + number))
                sockets.append(s)
            bound.pop_all()
        self._sockets, self._stopping = sockets, False
        for s in self._sockets:
            thread = threading.Thread(target=self._serve, args=(s,), name=f"verdicts {s.getsockname()[1]}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Closes every port, when the answers that are being judged have been let go."""
        self._stopping = True
        for s in self._sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RD)  # "not connected", and whoever waits for it is woken
        for thread in self._threads:
            thread.join()
        for s in self._sockets:
            s.close()
        self._threads.clear()
        self._sockets.clear()

    def _serve(self, s: socket.socket) -> None:
        receive, send, settle = s.recvfrom_into, s.sendto, self._teacher.settle
        buffer = bytearray(65535)  # made anew for each, it would be given back to the system each time
        while not self._stopping:
            try:
                size, peer = receive(buffer)
            except OSError as error:
                log.warning("hook socket: %s", error)
                continue
            if self._stopping:  # woken, not asked
                return
            try:
                answer = self.verdict(buffer[:size])
                if answer:
                    with contextlib.suppress(OSError):
                        send(answer, peer)
                settle()
            except Exception:  # whatever one datagram does, the next one is served
                log.exception("a datagram of the hook was not answered")

    def verdict(self, data: bytes | bytearray) -> bytes:
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
            log.warning("%s: the answer fails: %s", answer.names[0], error)
            return protocol.refusal(answer.nonce)
