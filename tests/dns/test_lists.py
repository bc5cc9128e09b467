"""Rules of lists through the real daemon and recursor: names that a list gains are routed when it has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dnsrig import NETNS, Recursor, Verdicts, ask, records, settings, until

pytestmark = [pytest.mark.root, pytest.mark.image]
LISTED = {"id": "listed", "mark": 0x10004, "exit": "wg_ru", "kind": "domain", "lists": ["german"]}


def test_a_list_from_a_file_is_read_again_at_a_reload(recursor: Recursor, tmp_path: Path) -> None:
    path = tmp_path / "german.txt"
    path.write_text("0.0.0.0 n1.many.de\n")
    value = settings(recursor.run, [LISTED], lists={"german": {"path": str(path)}})
    verdicts = Verdicts(tmp_path / "daemon", recursor.run, value)
    verdicts.start()
    try:
        recursor.wipe()
        assert records(ask("n1.many.de"), "A") and records(ask("n2.many.de"), "A")
        assert set(verdicts.elements()) == {"46.4.85.2"}
        assert verdicts.call("POST", "/reload")["result"] == "unchanged"
        path.write_text("0.0.0.0 n1.many.de\n0.0.0.0 n2.many.de\n")
        assert verdicts.call("POST", "/reload")["result"] == "applied"
        until("wiped and routed", lambda: records(ask("n2.many.de"), "A") and "46.4.85.3" in verdicts.elements())
        # garbage: told, and the last good copy stays in force
        path.write_text("<html>")
        assert verdicts.call("POST", "/reload")["result"] == "unchanged"
        status = verdicts.call("GET", "/status")
        assert any(p.startswith("lists.german: ") and "line 1" in p for p in status["problems"])
        assert status["lists"] == {"german": 2}
    finally:
        verdicts.stop()


def test_a_list_from_a_url_comes_by_itself(recursor: Recursor, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "german.txt").write_text("n3.many.de\n")
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path / "web"), "8053"]
    value = settings(recursor.run, [LISTED], lists={"german": {"url": "http://127.0.0.1:8053/german.txt"}})
    verdicts = Verdicts(tmp_path / "daemon", recursor.run, value)
    with subprocess.Popen(["ip", "netns", "exec", NETNS, *command], stderr=subprocess.DEVNULL) as web:
        try:
            until("the web server answers", lambda: _fetches("http://127.0.0.1:8053/"))
            verdicts.start()
            until("fetched", lambda: verdicts.call("GET", "/status")["lists"] == {"german": 1})
            until("routed", lambda: records(ask("n3.many.de"), "A") and "46.4.85.4" in verdicts.elements())
        finally:
            verdicts.stop()
            web.terminate()
    # the copy is there for the next life, whatever has become of the server
    verdicts.start()
    try:
        assert verdicts.call("GET", "/status")["lists"] == {"german": 1}
    finally:
        verdicts.stop()


def _fetches(url: str) -> bool:
    command = ["ip", "netns", "exec", NETNS, "curl", "-s", "-o", "/dev/null", "--max-time", "2", url]
    return subprocess.run(command).returncode == 0
