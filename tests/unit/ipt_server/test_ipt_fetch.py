"""Files from a server and from disk: only what is new, whole and of a likely size replaces what is there."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipt_server.fetch import FetchRefused, fetch


class Server(http.server.ThreadingHTTPServer):
    """One file at every path; `lie`: bytes that Content-Length promises and nobody sends."""

    content = b"x" * 1000
    lie = 0
    status = 200
    digest: str | None = None
    conditional = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.csv"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = (self.server.digest or "").encode() if self.path.endswith(".sha256") else self.server.content
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        if self.headers.get("If-None-Match") == tag:
            self.server.conditional += 1
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(self.server.status)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) + self.server.lie))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def fine(_: Path) -> None:
    return


def test_it_is_taken_once_and_again_when_it_changed(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file.csv"
    assert fetch(server.url, target, fine) and target.read_bytes() == server.content
    assert not fetch(server.url, target, fine) and server.conditional == 1
    server.content = b"y" * 900
    assert fetch(server.url, target, fine) and target.read_bytes() == b"y" * 900


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"content": b"y" * 499}, "shrank from 1000 to 499 bytes"),
        ({"content": b""}, "is empty"),
        ({"content": b"y" * 800, "lie": 50}, "800 (of 850 bytes|bytes read)"),
        ({"content": b"y" * 800, "status": 500}, "500"),
        ({"content": b"y" * 800, "digest": "0" * 64}, "its SHA-256 is"),
    ],
)
def test_what_is_not_good_leaves_the_old_copy(
    server: Server, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    target = tmp_path / "file.csv"
    fetch(server.url, target, fine)
    for name, value in change.items():
        setattr(server, name, value)
    checksum = server.url + ".sha256" if "digest" in change else None
    with pytest.raises(FetchRefused, match=told):
        fetch(server.url, target, fine, checksum=checksum)
    assert target.read_bytes() == b"x" * 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.csv", "file.csv.json"]


def test_who_accepts_may_refuse(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.csv"
    fetch(server.url, target, fine)
    server.content = b"z" * 1000

    def refuse(new: Path) -> None:
        assert new.suffix == ".csv" and new.read_bytes() == server.content
        raise FetchRefused("no database")

    with pytest.raises(FetchRefused, match="no database"):
        fetch(server.url, target, refuse)
    assert target.read_bytes() == b"x" * 1000
    assert fetch(server.url, target, fine), "and it is asked for again"


def test_a_right_checksum_is_right(server: Server, tmp_path: Path) -> None:
    server.digest = f"{hashlib.sha256(server.content).hexdigest()}  file.csv\n"
    assert fetch(server.url, tmp_path / "file.csv", fine, checksum=server.url + ".sha256")


def test_a_file_is_a_source_too(tmp_path: Path) -> None:
    source = tmp_path / "source.csv"
    source.write_bytes(b"x" * 10)
    target = tmp_path / "target.csv"
    assert fetch(str(source), target, fine) and not fetch(source.as_uri(), target, fine)
    with pytest.raises(FetchRefused, match="No such file"):
        fetch(str(tmp_path / "missing"), target, fine)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FetchRefused, match="refused"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", fine)


def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    target = target / "file.csv"
    fetch(server.url, target, fine)
    server.content = b"y" * 1000
    (target.parent / "new-file.csv").symlink_to("/dev/full")
    with pytest.raises(FetchRefused, match="No space left"):
        fetch(server.url, target, fine)
    assert target.read_bytes() == b"x" * 1000
