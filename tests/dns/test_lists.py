"""Rules of lists through the real daemon and recursor: names that a list gains are routed when it has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dns.rcode
import pytest
import yaml
from dnsrig import NETNS, Recursor, Verdicts, ask, records, settings, sh, until

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
    (tmp_path / "web" / "doh.txt").write_text("n4.many.de\n192.0.2.80\n")
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path / "web"), "8053"]
    lists = {name: {"url": f"http://127.0.0.1:8053/{name}.txt"} for name in ("german", "doh")}
    value = settings(recursor.run, [LISTED], lists=lists, bypass={"lists": ["doh"]})
    verdicts = Verdicts(tmp_path / "daemon", recursor.run, value)
    with subprocess.Popen(["ip", "netns", "exec", NETNS, *command], stderr=subprocess.DEVNULL) as web:
        try:
            until("the web server answers", lambda: _fetches("http://127.0.0.1:8053/"))
            verdicts.start()
            until("fetched", lambda: verdicts.call("GET", "/status")["lists"] == {"doh": 2, "german": 1})
            until("routed", lambda: records(ask("n3.many.de"), "A") and "46.4.85.4" in verdicts.elements())
            until("a resolver's name is not here", lambda: ask("n4.many.de").rcode() == dns.rcode.NXDOMAIN)
        finally:
            verdicts.stop()
            web.terminate()
    # the copy is there for the next life, whatever has become of the server
    verdicts.start()
    try:
        assert verdicts.call("GET", "/status")["lists"] == {"doh": 2, "german": 1}
    finally:
        verdicts.stop()


def _fetches(url: str) -> bool:
    command = ["ip", "netns", "exec", NETNS, "curl", "-s", "-o", "/dev/null", "--max-time", "2", url]
    return subprocess.run(command).returncode == 0


def test_resolvers_of_a_list_are_refused_by_name_and_address_at_run_time(recursor: Recursor, tmp_path: Path) -> None:
    path = tmp_path / "doh.txt"
    path.write_text("n1.many.de\n192.0.2.80\n")

    def guarded() -> set[str]:
        text = sh("ip", "netns", "exec", NETNS, "nft", "list", "set", "inet", "mrvpn_bypass", "https4")
        return {address for address in ("1.1.1.1", "192.0.2.80", "192.0.2.81") if address in text}

    def answers() -> list[str]:
        return [dns.rcode.to_text(ask(name).rcode()) for name in ("n1.many.de", "n2.many.de", "dns.google")]

    value = settings(recursor.run, lists={"doh": {"path": str(path)}}, bypass={"lists": ["doh"]})
    verdicts = Verdicts(tmp_path / "daemon", recursor.run, value)
    verdicts.start()
    try:
        until("the name is not here", lambda: answers() == ["NXDOMAIN", "NOERROR", "NXDOMAIN"])
        assert guarded() == {"1.1.1.1", "192.0.2.80"} and verdicts.call("GET", "/status")["problems"] == []
        path.write_text("n2.many.de\n192.0.2.81\n0.0.0.0/0\n")
        assert verdicts.call("POST", "/reload")["result"] == "applied"
        until("the list is followed", lambda: answers() == ["NOERROR", "NXDOMAIN", "NXDOMAIN"])
        assert guarded() == {"1.1.1.1", "192.0.2.81"}
        assert "0.0.0.0/0" in verdicts.call("GET", "/status")["problems"][0]
        verdicts.settings.write_text(yaml.safe_dump(settings(recursor.run)))
        assert verdicts.call("POST", "/reload")["result"] == "applied"
        until("without the list", lambda: answers() == ["NOERROR", "NOERROR", "NXDOMAIN"])
        assert guarded() == {"1.1.1.1"}
    finally:
        verdicts.stop()
