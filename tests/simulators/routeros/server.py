"""The router on the wire: connections, TLS, login, sentences, tags, faults.

Knows: asyncio, the API's sentences. Must not know: what commands do (router.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from types import TracebackType

from tests.simulators.routeros import certs
from tests.simulators.routeros.faults import Fault
from tests.simulators.routeros.router import Router, Session
from tests.simulators.routeros.values import Trap
from tests.simulators.routeros.wire import Sentence, encode, read_sentence


class Closed(Exception):
    """The server closes the connection."""


class Connection:
    """One client."""

    def __init__(self, router: Router, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.router, self.reader, self.writer = router, reader, writer
        self.session: Session | None = None

    async def run(self) -> None:
        """Serves until one side closes; a held safe mode is then undone."""
        try:
            while True:
                await self._answer(await read_sentence(self.reader))
        except (Closed, asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, UnicodeDecodeError, ValueError):
            pass
        finally:
            if self.session is not None and self.router.closed(self.session):
                asyncio.get_running_loop().call_later(self.router.unverified.rollback_delay, self._undo, self.session)
            self.writer.close()

    def _undo(self, session: Session) -> None:
        if self.router.safe is not None and self.router.safe.session is session:
            self.router.undo_safe_mode()

    async def _send(self, *words: str, tag: str | None = None) -> None:
        self.writer.write(encode([*words, *([f".tag={tag}"] if tag is not None else [])]))
        await self.writer.drain()

    async def _fatal(self, *words: str) -> None:
        await self._send("!fatal", *words)
        raise Closed

    async def _answer(self, sentence: Sentence) -> None:
        command, arguments, queries, tag = sentence[0], {}, [], None
        for word in sentence[1:]:
            if word.startswith("="):
                name, _, value = word[1:].partition("=")
                arguments[name] = value
            elif word.startswith("?"):
                queries.append(word)
            elif word.startswith(".tag="):
                tag = word.removeprefix(".tag=")
            else:
                await self._send("!trap", f"=message=unknown word {word}", tag=tag)
                return await self._send("!done", tag=tag)
        if command == "/login":
            return await self._login(arguments, tag)
        if self.session is None:
            await self._fatal("not logged in")
        if command == "/quit":
            await self._fatal("session terminated on request")
        fault = next((f for f in self.router.faults if f.strikes(command, self.router.is_write(command))), None)
        if fault is not None and await self._before(fault, tag):
            return
        await self._run(command, arguments, queries, tag, fault)

    async def _login(self, arguments: dict[str, str], tag: str | None) -> None:
        if "name" not in arguments:  # before 6.43 this asked for a challenge
            return await self._send("!done", "=ret=" + "0" * 32, tag=tag)
        user = self.router.login(arguments)
        if user is None:
            await self._send("!trap", "=message=invalid user name or password (6)", tag=tag)
            return await self._send("!done", tag=tag)
        local, remote = (self.writer.get_extra_info(name) for name in ("sockname", "peername"))
        self.session = Session(user, local[0], f"{remote[0]}:{remote[1]}")
        self.router.sessions.append(self.session)
        await self._send("!done", tag=tag)

    async def _before(self, fault: Fault, tag: str | None) -> bool:
        """What a fault does before or instead of the command; True when that was all."""
        if fault.kind == "cut_before":
            raise Closed
        if fault.kind == "fatal":
            await self._fatal(fault.text)
        if fault.kind == "fatal_bare":
            await self._fatal()
        texts = {
            "trap": [fault.text],
            "double_trap": [fault.text, "and another"],
            "trap_bare": [None],
            "ignored": [],
        }.get(fault.kind)
        if texts is None:
            return False
        for text in texts:
            await self._send("!trap", *([f"=message={text}"] if text is not None else []), tag=tag)
        await self._send("!done", tag=tag)
        return True

    async def _run(
        self, command: str, arguments: dict[str, str], queries: list[str], tag: str | None, fault: Fault | None
    ) -> None:
        assert self.session is not None
        sentences: list[Sentence] = []
        try:
            rows, ret = self.router.command(self.session, command, arguments, queries)
            sentences += [["!re", *(f"={name}={value}" for name, value in row.items())] for row in rows]
            if not rows and ret is None and command.endswith("/print") and self.router._at_least("7.18"):
                sentences.append(["!empty"])
            sentences.append(["!done", *([f"=ret={ret}"] if ret is not None else [])])
        except Trap as trap:
            category = [f"=category={trap.category}"] if trap.category is not None else []
            sentences += [["!trap", *category, f"=message={trap.message}"], ["!done"]]
        kind = fault.kind if fault is not None else None
        if kind == "cut_after":
            raise Closed
        if kind == "cut_mid":
            self.writer.write(encode(sentences[0])[:-3])
            await self.writer.drain()
            raise Closed
        if fault is not None and kind == "late":
            await asyncio.sleep(fault.seconds)
        if kind == "unknown":
            await self._send("!what", tag=tag)
        for sentence in sentences:
            await self._send(*sentence, tag=tag)


class Simulator:
    """Serves routers on loopback ports, in a thread of its own: `with Simulator(router, tls=pair) as simulator`."""

    def __init__(self, router: Router, tls: certs.Pair | None = None, port: int = 0, host: str = "127.0.0.1") -> None:
        self.router, self.tls, self.host, self.port = router, tls, host, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self.connections = 0

    def __enter__(self) -> Simulator:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)  # type: ignore[arg-type]

    async def _start(self) -> None:
        context = None
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls.certificate, self.tls.key)
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        self._ticker = self._loop.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.router.tick()
            await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await Connection(self.router, reader, writer).run()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._connections.discard(task)

    async def _stop(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*self._connections, return_exceptions=True), 5)

    def stop(self) -> None:
        """The router goes away: every connection closes, nobody listens."""
        self._do(self._stop())

    def start(self) -> None:
        """The router is back on the same port."""
        self._do(self._start())

    def cut(self) -> None:
        """Closes every connection at once; the router goes on listening."""

        async def work() -> None:
            for task in list(self._connections):
                task.cancel()

        self._do(work())
