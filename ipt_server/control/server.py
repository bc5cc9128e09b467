"""The control socket: what is asked and told, as HTTP and JSON.

GET /status /learned /flows[?exit=&client=] /explain?destination=[&client=] /events[?since=&wait=] /metrics;
POST /reload /flush?what=learned|flows[&destination=][&exit=].

Knows: HTTP on a Unix socket of mode 0600. Must not know: what the answers mean.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ipt_server import inquiry
from ipt_server.kernel import KernelProblem

if TYPE_CHECKING:
    from ipt_server.daemon import Daemon

LONGEST_WAIT = 300.0


class Control:
    """The server of one daemon's control socket."""

    def __init__(self, subject: Daemon, path: Path) -> None:
        self._subject = subject
        self._path = path
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens; the socket is made with mode 0600 in a folder of mode 0700."""
        app = web.Application(client_max_size=1 << 16, middlewares=[_problems, self._begun])
        app.add_routes(
            [
                web.get("/status", self._status),
                web.get("/learned", self._learned),
                web.get("/explain", self._explain),
                web.get("/flows", self._flows),
                web.get("/events", self._events),
                web.get("/metrics", self._metrics),
                web.post("/reload", self._reload),
                web.post("/flush", self._flush),
            ]
        )
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        before = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(self._path)).start()
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Stops listening and removes the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._path.unlink(missing_ok=True)

    @web.middleware
    async def _begun(self, request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        """Before the first generation nothing can be asked but why, and the settings read once more."""
        if request.path in ("/status", "/reload", "/events", "/metrics") or self._subject.generation:
            return await handler(request)
        return web.json_response({"error": "not started", "problems": self._subject.problems}, status=503)

    async def _status(self, _: web.Request) -> web.Response:
        answer = await asyncio.to_thread(inquiry.status, self._subject)
        return web.json_response(answer, status=200 if answer["ready"] else 503)

    async def _learned(self, _: web.Request) -> web.Response:
        return web.json_response(inquiry.learned(self._subject))

    async def _explain(self, request: web.Request) -> web.Response:
        destination = request.query.get("destination", "")
        if not destination:
            raise inquiry.NotAsked("destination: an address or a name is wanted")
        return web.json_response(await inquiry.live(self._subject, destination, request.query.get("client")))

    async def _flows(self, request: web.Request) -> web.Response:
        asked = request.query
        return web.json_response(await inquiry.flows(self._subject, asked.get("exit"), asked.get("client")))

    async def _flush(self, request: web.Request) -> web.Response:
        asked = request.query
        what = (asked.get("what", ""), asked.get("destination"), asked.get("exit"))
        return web.json_response(await inquiry.flush(self._subject, *what))

    async def _events(self, request: web.Request) -> web.Response:
        try:
            since, wait = int(request.query.get("since", 0)), float(request.query.get("wait", 0))
        except ValueError:
            raise inquiry.NotAsked("since: the number of an event; wait: seconds") from None
        return web.json_response(await self._subject.events.after(since, min(max(wait, 0), LONGEST_WAIT)))

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await asyncio.to_thread(self._subject.metrics.text)
        return web.Response(body=body, headers={"Content-Type": self._subject.metrics.content_type})

    async def _reload(self, _: web.Request) -> web.Response:
        answer = await self._subject.reload()
        return web.json_response(answer, status=409 if answer["result"] == "refused" else 200)


@web.middleware
async def _problems(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
    """Turns what is wrong with a question into an answer that says so."""
    try:
        return await handler(request)
    except inquiry.NotAsked as error:
        return web.json_response({"error": str(error)}, status=400)
    except KernelProblem as error:
        return web.json_response({"error": str(error)}, status=503)
