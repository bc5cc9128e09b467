"""What a running daemon says of its kernel, and what it does when it is told to forget, cut or refresh."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernel_rig
import pytest
from kernel_rig import CLIENT, REPO, Rig, RunningDaemon, running, until
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from prometheus_client.parser import text_string_to_metric_families

from mrvpn import marks

pytestmark = pytest.mark.root
UK, US, NAMED = "81.2.69.160", "198.51.100.9", "93.184.215.14"


def rules(**extra: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"id": "uk", "exit": "wg_uk", "kind": "country", "countries": ["GB"], **extra},
        {"id": "us", "exit": "wg_us", "kind": "prefix", "prefixes": ["198.51.100.0/24"]},
        {"id": "names", "exit": "wg_uk", "kind": "domain", "suffixes": ["bbc.co.uk"]},
        {"id": "ttl", "exit": None, "kind": "domain", "suffixes": ["news.bbc.co.uk"], "ttl": 20},
        {"id": "wide", "exit": "wg_us", "kind": "prefix", "prefixes": ["81.0.0.0/8"], "weight": -5},
    ]
    return [{"mark": marks.rule_mark(number), **one} for number, one in enumerate(found)]


def write_database(path: Path, world: dict[str, list[str]]) -> bytes:
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True)
    for code, prefixes in world.items():
        writer.insert_network(IPSet(prefixes), {"country_code": code})
    writer.to_db_file(str(path))
    return path.read_bytes()


WORLD = {"GB": ["81.2.69.0/24", "93.184.0.0/16", "2a00:1450::/32"], "US": ["198.51.100.0/24"]}


@pytest.fixture
def daemon(rig: Rig, tmp_path: Path) -> Iterator[RunningDaemon]:
    database = tmp_path / "country.mmdb"
    write_database(database, WORLD)
    with running(rig, tmp_path, *rules(), country_database=str(database)) as found:
        yield found


def cli(daemon: RunningDaemon, *argv: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "ipt_server.cli", *argv, "--json", "--control", str(daemon.control)],
        capture_output=True, text=True, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_explain_joins_everything(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    with rig.udp(UK, port=4601) as s:
        s.send(b"1")
        assert s.recv(100)
        found = cli(daemon, "explain", UK, "--client", CLIENT[4])
    assert (found["country"], found["rule"], found["exit"], found["reason"]) == (
        "GB", "uk", "wg_uk", "its country is GB",
    )  # fmt: skip
    assert [(one["rule"], one["why"]) for one in found["losers"]] == [("wide", "weight -5 is less than 0")]
    assert (found["rule_mark"], found["exit_mark"], found["table"], found["next_hop"]) == (0x10000, 201, 201, "wg_uk")
    assert found["kernel"]["geo"] == 0x10000 and found["kernel"]["exit_of"] == 201 and not found["kernel"]["learned"]
    assert found["kernel"]["route"]["dev"] == "wg_uk"
    assert [(c["source_port"], c["exit"]) for c in found["connections"]] == [(4601, "wg_uk")]


def test_explain_tells_of_what_was_learned(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    daemon.hook("bbc.co.uk", f"1 60 bbc.co.uk {NAMED}")
    found = cli(daemon, "explain", NAMED)
    assert (found["rule"], found["name"], found["country"]) == ("names", "bbc.co.uk", "GB")
    assert found["losers"] == [
        {"rule": "uk", "exit": "wg_uk", "match": "its country is GB", "why": "a country comes after a name"}
    ]
    assert found["kernel"]["learned"]["mark"] == 0x10002 and found["kernel"]["learned"]["seconds_left"] > 500
    by_name = cli(daemon, "explain", "news.bbc.co.uk")
    assert by_name["rule"] == "names" and by_name["losers"][0]["why"] == "it has no exit: it only sets a TTL"
    assert [one["destination"] for one in cli(daemon, "explain", "bbc.co.uk")["addresses"]] == [NAMED]


@pytest.mark.parametrize(
    ("destination", "reason"),
    [("10.77.0.5", "declared mesh (10.77.0.0/24)"), ("10.11.0.1", "of the gateway itself"),
     ("169.254.169.254", "private destination"), ("9.9.9.9", "no rule matches: the default exit")],
)  # fmt: skip
def test_explain_of_what_no_rule_routes(rig: Rig, daemon: RunningDaemon, destination: str, reason: str) -> None:
    daemon.start()
    assert reason in cli(daemon, "explain", destination)["reason"]


def test_flows_and_flush(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    daemon.hook("bbc.co.uk", f"1 60 bbc.co.uk {NAMED}", "1 60 bbc.co.uk 93.184.215.15")
    with rig.udp(US, port=4602) as s:
        s.send(b"1")
        assert s.recv(100)
        found = cli(daemon, "flows", "--exit", "wg_us", "--client", CLIENT[4])
        assert found["total"] >= 1 and any(f["source_port"] == 4602 for f in found["flows"])
        assert cli(daemon, "flush", "flows", US, "--exit", "wg_us")["ended"] >= 1
        assert not [f for f in cli(daemon, "flows")["flows"] if f["source_port"] == 4602]
    assert cli(daemon, "flush", "learned", NAMED) == {"forgotten": 1}
    assert [e["address"] for e in cli(daemon, "learned")] == ["93.184.215.15"]
    assert cli(daemon, "flush", "learned", "bbc.co.uk") == {"forgotten": 1}
    assert cli(daemon, "learned") == []
    assert "there is no exit wg_x" in daemon.ask("/flows?exit=wg_x")["error"]


def test_metrics_speak_prometheus_and_every_figure_that_is_watched_is_there(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    daemon.hook("bbc.co.uk", f"1 60 bbc.co.uk {NAMED}")
    rig.exit_of(UK)
    rig.nowhere("169.254.169.254")
    argv = [sys.executable, "-m", "ipt_server.cli", "metrics", "--control", str(daemon.control)]
    text = subprocess.run(argv, capture_output=True, text=True, cwd=REPO, check=True).stdout
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["mrvpn_generation",] == 1 and found["mrvpn_ready",] == 1
    assert found["mrvpn_exit_up", "wg_uk"] == 1 and found["mrvpn_exit_packets_total", "wg_uk"] > 0
    assert found["mrvpn_answer_to_kernel_seconds_count",] == 1
    assert found["mrvpn_packets_total", "private"] > 0
    assert found["mrvpn_exit_connections", "wg_uk"] >= 1
    assert found["mrvpn_learned_addresses",] == 1 and found["mrvpn_database_age_seconds",] >= 0
    names = {name for name, *_ in found}
    for file in ("dashboard.json", "alerts.yaml", "README.md"):
        watched = set(re.findall(r"mrvpn_[a-z_]+", (REPO / "docs" / "monitoring" / file).read_text()))
        assert watched - {"mrvpn_answer_to_kernel_seconds"} <= names, file


def test_compiled_text_is_what_nft_takes(rig: Rig, daemon: RunningDaemon) -> None:
    argv = [sys.executable, "-m", "ipt_server.cli", "compile", "-c", str(daemon.settings), "--format", "nft"]
    text = subprocess.run(argv, capture_output=True, text=True, cwd=REPO, check=True).stdout
    assert "81.2.69.0-81.2.69.255 : 0x10000" in text
    rig.gateway.run("nft", "-c", "-f", "-", text=text)


@pytest.mark.parametrize("live", ["keep", "cut"])
def test_what_a_change_of_rules_does_to_live_connections(rig: Rig, daemon: RunningDaemon, live: str) -> None:
    database = str(daemon.folder / "country.mmdb")
    daemon.write(rig.raw(*rules(live=live), country_database=database))
    daemon.start()
    with rig.udp(UK) as s, rig.udp(US) as other:
        for one in (s, other):
            one.send(b"1")
            assert one.recv(100)
        changed = rules(live=live)
        changed[0]["exit"] = "wg_us"
        daemon.write(rig.raw(*changed, country_database=database))
        answer = daemon.reload()
        assert answer["result"] == "applied" and bool(answer["changes"]["connections_cut"]) == (live == "cut")
        s.send(b"2")
        assert s.recv(100) == (b"wg_us 2" if live == "cut" else b"wg_uk 2")
        other.send(b"2")
        assert other.recv(100) == b"wg_us 2"
    assert rig.exit_of(UK) == "wg_us"


def test_a_table_that_somebody_removed_is_made_anew(rig: Rig, daemon: RunningDaemon) -> None:
    daemon.start()
    daemon.hook("bbc.co.uk", f"1 60 bbc.co.uk {NAMED}")
    rig.gateway.run("nft", "delete", "table", "inet", "mrvpn")
    until("it is there again", lambda: rig.exit_of(UK, timeout=1) == "wg_uk", 30)
    assert rig.exit_of(NAMED) == "wg_uk"


class Source(http.server.BaseHTTPRequestHandler):
    """A server of one file, with an ETag."""

    content = b""
    asked: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        tag = f'"{hash(self.content)}"'
        self.asked.append(self.headers.get("If-None-Match"))
        same = self.headers.get("If-None-Match") == tag
        self.send_response(304 if same else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", "0" if same else str(len(self.content)))
        self.end_headers()
        if not same:
            self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None:
        return


def test_the_database_is_fetched_by_a_named_exit_and_a_bad_one_is_refused(
    rig: Rig, daemon: RunningDaemon, tmp_path: Path
) -> None:
    """The server stands behind wg_us alone: fetched by any other way there is nobody."""
    Source.content = write_database(tmp_path / "new.mmdb", {"GB": ["81.2.69.0/25", "93.184.0.0/16"]})
    with rig.behind["wg_us"].inside():
        server = http.server.ThreadingHTTPServer(("", 8098), Source)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        source = {"url": "http://203.0.113.99:8098/country.mmdb", "refresh": 60, "exit": "wg_us"}
        database = str(daemon.folder / "country.mmdb")
        daemon.write(rig.raw(*rules(), country_database=database, country_source=source))
        daemon.start()
        until("it was fetched", lambda: daemon.ask("/status")["generation"] == 2)
        assert rig.exit_of("81.2.69.100") == "wg_uk"
        assert rig.exit_of(UK) == "wg_us", "by the rule that its country covered before"
        Source.content = b"no database at all" * 20
        daemon.signal(kernel_rig.signal.SIGTERM)
        daemon.start()
        until("a bad one came", lambda: [e for e in daemon.ask("/events") if e["kind"] == "database"], 30)
        (event,) = [e for e in daemon.ask("/events") if e["kind"] == "database"]
        assert event["result"] == "refused"
        assert rig.exit_of("81.2.69.100") == "wg_uk" and daemon.ask("/status")["generation"] == 1
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_link_that_returns_is_served_without_waiting_for_the_clock(rig: Rig, daemon: RunningDaemon) -> None:
    """By its event; the figure is bench/kernel's."""
    daemon.start()
    for _ in range(3):
        rig.gateway.ip("link", "del", "wg_uk")
        until("it is gone", lambda: "wg_uk" not in rig.gateway.ip("route", "show", "table", "201"))
        kernel_rig.tunnel(rig, "wg_uk")
        began = time.monotonic()
        until("its route is back", lambda: "wg_uk" in rig.gateway.ip("route", "show", "table", "201"))
        assert time.monotonic() - began < 4, "the event was not heard: it waited for the clock's turn"


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_a_bad_database_keeps_the_generation_that_is_in_force(
    rig: Rig, daemon: RunningDaemon, content: bytes | None
) -> None:
    daemon.start()
    database = daemon.folder / "country.mmdb"
    good = database.read_bytes()
    database.write_bytes(good[: len(good) // 2] if content is None else content)
    changed = rules()
    changed[1]["exit"] = "wg_uk"
    daemon.write(rig.raw(*changed, country_database=str(database)))
    answer = daemon.reload()
    assert (answer["result"], answer["generation"]) == ("refused", 1)
    assert any("country_database" in problem and "country.mmdb" in problem for problem in answer["problems"])
    assert (rig.exit_of(UK), rig.exit_of(US)) == ("wg_uk", "wg_us")
    database.write_bytes(good)
    assert daemon.reload()["result"] == "applied" and rig.exit_of(US) == "wg_uk"
