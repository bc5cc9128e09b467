"""One request to a running daemon's control socket.

Knows: HTTP over a Unix socket, by the standard library: the command starts fast. Must not know: what is asked.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class NotRunning(Exception):
    """Nobody listens at the control socket."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(path: Path, method: str, target: str) -> tuple[int, Any]:
    """(HTTP status, decoded JSON, or the text that is none). Raises NotRunning."""
    connection = _Connection(path)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = response.read()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(body) if is_json else body.decode()
    except (OSError, http.client.HTTPException) as error:
        raise NotRunning(f"ipt-server does not answer at {path}: {error}") from None
    finally:
        connection.close()
