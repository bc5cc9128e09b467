"""Copies of lists: fetched when due, kept when what comes is worse; a real HTTP server."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import pytest

from ipt_server.lists.subscriptions import AGAIN, Subscriptions
from ipt_server.settings import EVERY, NameList, seconds

GOOD = "".join(f"n{n}.example.com\n" for n in range(100))


class Server(ThreadingHTTPServer):
    """Serves `text`, and `files` by name, with an ETag; counts what it sent whole and what was still the same."""

    text, status, whole, same = GOOD, 200, 0, 0
    files: ClassVar[dict[str, str]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/list.txt"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = unquote(self.path.partition("?")[0]).removeprefix("/")
        if self.server.files and name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files.get(name, self.server.text).encode()
        if self.path.endswith(".sha256"):
            body = hashlib.sha256(body).hexdigest().encode()
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        if self.headers.get("If-None-Match") == tag:
            self.server.same += 1
            self.send_response(304)
            self.end_headers()
            return
        self.server.whole += 1
        self.send_response(self.server.status)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def lists(tmp_path: Path) -> Subscriptions:
    return Subscriptions(tmp_path / "lists")


def test_fetched_read_and_fetched_again_only_when_it_changed(server: Server, lists: Subscriptions) -> None:
    of = {"video": NameList(url=server.url)}
    assert lists.read(of)[1].problems == (f"lists.video: is not there yet: {server.url}",)
    assert lists.due(of) == ["video"]
    assert lists.refresh("video", of["video"]) and lists.due(of) == []
    names, first = lists.read(of)
    assert len(names["video"]) == first.entries["video"] == 100 and not first.problems
    assert not lists.refresh("video", of["video"]) and (server.whole, server.same) == (1, 1)
    server.text += "more.example.com\n"
    assert lists.refresh("video", of["video"])
    _, second = lists.read(of)
    assert second.entries == {"video": 101} and second.digest != first.digest


@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        ("".join(f"n{n}.example.com{' ' * 60}# padded\n" for n in range(40)), 200, "shrank from 100 to 40 entries"),
        ("n1.example.com\n", 200, "shrank from"),
        ("", 200, "is empty"),
        ("<html>" * 1000, 200, "is no name"),
        (GOOD, 500, "500"),
    ],
)
def test_what_is_worse_is_refused_and_the_old_copy_kept(
    server: Server, lists: Subscriptions, text: str, status: int, told: str
) -> None:
    of = {"video": NameList(url=server.url, refresh="1h")}
    assert lists.refresh("video", of["video"], now=1e9)
    before = lists.read(of)
    server.text, server.status = text + ("" if status == 200 else "x"), status
    assert not lists.refresh("video", of["video"], now=1e9)
    assert told in lists.problems["video"] and lists.problems["video"].startswith("lists.video: ")
    assert lists.read(of) == before
    assert lists.due(of, 1e9 + AGAIN - 1) == [] and lists.due(of, 1e9 + AGAIN) == ["video"]
    server.text, server.status = GOOD + "new.example.com\n", 200
    assert lists.refresh("video", of["video"]) and lists.problems == {}


def test_nobody_there(lists: Subscriptions) -> None:
    of = NameList(url="http://127.0.0.1:9/list.txt")
    assert not lists.refresh("video", of) and "refused" in lists.problems["video"]


def test_checksum(server: Server, lists: Subscriptions) -> None:
    of = NameList(url=server.url, checksum=server.url.replace(".txt", ".sha256"))
    assert lists.refresh("video", of)
    bad = NameList(url=server.url, checksum=server.url)
    server.text += "more.example.com\n"
    assert not lists.refresh("video", bad) and "SHA-256" in lists.problems["video"]


INCLUDED = {
    "data/mine": "full:www.example.com\ninclude:a @-ads\n",
    "data/a": "a.example\nads.example @ads\ninclude:geolocation-!cn\n",
    "data/geolocation-!cn": "".join(f"n{n}.example\n" for n in range(50)),
}


def test_what_a_url_includes_is_fetched_beside_it_and_followed(server: Server, lists: Subscriptions) -> None:
    server.files = dict(INCLUDED)
    of = NameList(url=server.url.replace("list.txt", "data/mine?key=1"), format="geosite")
    assert lists.refresh("mine", of) and lists.problems == {}
    names, first = lists.read({"mine": of})
    assert names["mine"].exact == ["www.example.com"] and names["mine"].suffixes[:2] == ["a.example", "n0.example"]
    assert first.entries == {"mine": 52} and server.whole == 3
    assert not lists.refresh("mine", of) and (server.whole, server.same) == (3, 3), "asked for each, none is new"
    server.files["data/geolocation-!cn"] += "more.example\n"  # the list itself is the same
    assert lists.refresh("mine", of) and (server.whole, server.same) == (4, 5)
    assert lists.read({"mine": of})[1].entries == {"mine": 53}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data/a": None}, "include:a: http://.*/data/a.*: HTTP Error 404"),
        (
            {"data/geolocation-!cn": None},
            "include:a: line 3: include:geolocation-!cn: http://.*%21cn.*: HTTP Error 404",
        ),
        (
            {"data/geolocation-!cn": "<html>no such page</html>\n" * 30},
            "include:geolocation-!cn: .*lines are no entries",
        ),
        ({"data/geolocation-!cn": "n1.example\n"}, "include:geolocation-!cn: .*shrank from"),
        ({"data/a": "a.example  # " + "padded" * 20 + "\n"}, "shrank from 52 to 2 entries"),
        ({"data/a": "a.example\nads.example @ads\ninclude:a\n" + "#" * 40}, "in a circle: a -> a"),
        ({"data/a": "a.example\nads.example @ads\ninclude:mine\n" + "#" * 40}, "in a circle: mine -> a -> mine"),
        ({"data/mine": "full:other.example.com\ninclude:a\ninclude:gone\n"}, "include:gone: http://.*: HTTP Error 404"),
    ],
)
def test_an_include_that_is_worse_leaves_the_whole_list_as_it_was(
    server: Server, lists: Subscriptions, changes: dict[str, str | None], told: str
) -> None:
    server.files = dict(INCLUDED)
    of = NameList(url=server.url.replace("list.txt", "data/mine"))
    assert lists.refresh("mine", of)
    before = lists.read({"mine": of})
    server.files = {name: text for name, text in (INCLUDED | changes).items() if text is not None}
    assert not lists.refresh("mine", of)
    assert re.search(told, lists.problems["mine"]), lists.problems
    assert lists.read({"mine": of}) == before
    server.files = INCLUDED | {"data/a": "a.example\nb.example\nads.example @ads\ninclude:geolocation-!cn\n"}
    assert lists.refresh("mine", of) and lists.problems == {}
    assert lists.read({"mine": of})[1].entries == {"mine": 53}


def test_what_a_file_includes_lies_beside_it(tmp_path: Path, lists: Subscriptions) -> None:
    for name, text in INCLUDED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    of = {"mine": NameList(path=str(tmp_path / "data" / "mine"))}
    names, first = lists.read(of)
    assert len(names["mine"]) == 52 and first.problems == ()
    (tmp_path / "data" / "a").write_text("a.example\n")
    _, second = lists.read(of)
    assert second.entries == {"mine": 2} and second.digest != first.digest
    (tmp_path / "data" / "a").unlink()
    names, third = lists.read(of)
    assert (third.entries, third.digest) == (second.entries, second.digest), "the last good copy, whole"
    assert "include:a: " in third.problems[0] and "No such file" in third.problems[0]


def test_a_checksum_covers_what_is_included(server: Server, lists: Subscriptions) -> None:
    def sums(*names: str) -> str:
        return "".join(f"{hashlib.sha256(INCLUDED[name].encode()).hexdigest()}  ./{name}\n" for name in names)

    of = NameList(url=server.url.replace("list.txt", "data/mine"), checksum=server.url.replace("list.txt", "SUMS"))
    server.files = INCLUDED | {"SUMS": sums("data/mine", "data/a")}
    assert not lists.refresh("mine", of)
    assert re.search("include:geolocation-!cn: .*its SHA-256 is ", lists.problems["mine"])
    server.files["SUMS"] = sums(*INCLUDED)
    assert lists.refresh("mine", of) and lists.problems == {}


def test_another_url_under_the_same_name_is_another_list(server: Server, lists: Subscriptions) -> None:
    server.files = {"long": GOOD, "short": "one.example\n"}
    assert lists.refresh("video", NameList(url=server.url.replace("list.txt", "long")))
    assert lists.refresh("video", NameList(url=server.url.replace("list.txt", "short"))), "chosen, not shrunk"
    assert lists.problems == {}


def test_a_file_of_the_host(tmp_path: Path, lists: Subscriptions) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("example.com\n")
    of = {
        "mine": NameList(path=str(path)),
        "gone": NameList(path=str(tmp_path / "gone")),
        "bad": NameList(path="/dev/null"),
    }
    names, content = lists.read(of)
    assert names["mine"].suffixes == ["example.com"] and content.entries == {"mine": 1}
    assert [p.partition(" ")[0] for p in content.problems] == ["lists.bad:", "lists.gone:"]
    assert lists.due(of) == []
    # what comes after is worse: the last good copy serves, and it is told
    for worse in ("<html>", None):
        path.write_text(worse) if worse else path.unlink()
        names, kept = lists.read({"mine": of["mine"]})
        assert names["mine"].suffixes == ["example.com"] and kept.problems[0].startswith("lists.mine: ")
        assert Subscriptions(lists.folder).read({"mine": of["mine"]})[1].digest == kept.digest


def test_addresses_are_of_use_to_the_bypass_guard_alone(tmp_path: Path, lists: Subscriptions) -> None:
    (tmp_path / "doh").write_text("192.0.2.1\n2001:db8::/32\n")
    of = {"doh": NameList(path=str(tmp_path / "doh"))}
    assert lists.read(of)[1].problems[0].startswith("lists.doh: holds addresses only")
    names, content = lists.read(of, guard=["doh"])
    assert content.problems == () and content.entries == {"doh": 2} and names["doh"].names == 0


def test_when_a_list_is_due(server: Server, lists: Subscriptions) -> None:
    of = {"video": NameList(url=server.url, refresh="6h")}
    lists.refresh("video", of["video"], now=1000.0)
    os.utime(lists.copy("video"), (1000, 1000))
    assert lists.due(of, 1000 + 6 * 3600 - 1) == [] and lists.due(of, 1000 + 6 * 3600) == ["video"]
    # another life of the daemon knows the age of the copy
    assert Subscriptions(lists.folder).due(of, 1000 + 6 * 3600 - 1) == []


def test_times() -> None:
    assert [seconds(t) for t in (None, 3600, "90", "30m", "6h", "1d", "1w", 5)] == [
        EVERY,
        3600,
        90,
        1800,
        21600,
        86400,
        604800,
        60,
    ]
    for text in ("", "soon", "-1", "0", "1y", "1.5h"):
        with pytest.raises(ValueError, match="is no time"):
            seconds(text)
