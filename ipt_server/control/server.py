"""The control socket: GET /status, GET /learned, GET /explain?destination=, POST /reload.

Knows: HTTP on a Unix socket of mode 0600. Must not know: what the answers mean.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web


class Subject(Protocol):
    """What is asked."""

    learned: Any

    async def reload(self) -> dict[str, Any]: ...
    def status(self) -> dict[str, Any]: ...
    def explain(self, destination: str) -> dict[str, Any]: ...


class Control:
    """The server of one daemon's control socket."""

    def __init__(self, subject: Subject, path: Path) -> None:
        self._subject = subject
        self._path = path
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens; the socket is made with mode 0600 in a folder of mode 0700."""
        app = web.Application(client_max_size=1 << 16)
        app.add_routes(
            [
                web.get("/status", self._status),
                web.get("/learned", self._learned),
                web.get("/explain", self._explain),
                web.post("/reload", self._reload),
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

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._subject.status())

    async def _learned(self, _: web.Request) -> web.Response:
        entries = self._subject.learned.entries
        return web.json_response([{"address": str(a), "mark": e.mark, "name": e.name} for a, e in entries.items()])

    async def _explain(self, request: web.Request) -> web.Response:
        return web.json_response(self._subject.explain(request.query.get("destination", "")))

    async def _reload(self, _: web.Request) -> web.Response:
        answer = await self._subject.reload()
        return web.json_response(answer, status=409 if answer["result"] == "refused" else 200)
