"""What goes wrong: a daemon that is dead, hung or slow; bogus zones; a filter swapped under load."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import dns.flags
import dns.rcode
import pytest
import yaml
from dnsrig import Recursor, Verdicts, ask, ede, records, settings, until
from dnszones import MANY

pytestmark = [pytest.mark.root, pytest.mark.image]
NOT_READY, BOGUS = 14, 6


def fails_closed(name: str, kind: str = "A") -> None:
    answer = ask(name, kind)
    assert (answer.rcode(), ede(answer), records(answer, kind)) == (dns.rcode.SERVFAIL, [NOT_READY], [])


def test_without_the_daemon_names_that_match_fail_and_others_are_answered(verdicts: Verdicts) -> None:
    verdicts.stop()
    fails_closed("www.shop.ru")
    fails_closed("into.example.com")
    fails_closed("www.shop.ru", "AAAA")
    assert records(ask("www.heise.de"), "A") and records(ask("www.example.com"), "A")
    # a failure is not cached: with the daemon comes the answer
    verdicts.start()
    assert records(ask("www.shop.ru"), "A") and "81.2.69.160" in verdicts.elements()


def test_a_hung_daemon_delays_nobody_else(verdicts: Verdicts) -> None:
    verdicts.signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(fails_closed, f"n{n}.many.ru") for n in range(4)]
            answered = 0
            while not all(w.done() for w in waiting):
                assert records(ask(f"n{answered % MANY}.many.de"), "A")
                answered += 1
            assert answered > 3, "others waited for the daemon"
            for w in waiting:
                w.result()
    finally:
        verdicts.signal(signal.SIGCONT)
    until("answers again", lambda: records(ask("n9.many.ru"), "A"))


def test_a_daemon_that_is_slower_than_the_patience_fails_closed_and_its_late_verdicts_harm_nobody(
    recursor: Recursor, tmp_path: Path
) -> None:
    slow = Verdicts(tmp_path / "slow", recursor.run, settings(recursor.run), delay=4)
    slow.start()
    try:
        recursor.wipe()
        fails_closed("n1.many.ru")
        # what was learned late is there all the same, and the next question finds it in force
        until("learned late", lambda: "81.2.70.2" in slow.taught())
        assert until("answered", lambda: records(ask("n1.many.ru"), "A")) == ["81.2.70.2"]
    finally:
        slow.stop()


def test_fail_open_answers_unchanged(ds: str, recursor: Recursor, tmp_path: Path) -> None:
    recursor.stop()  # it has the port
    opened = Recursor(tmp_path, ds, fail="open")
    opened.start()
    try:
        answer = ask("www.shop.ru")
        assert records(answer, "A") == ["81.2.69.160"] and answer.rcode() == dns.rcode.NOERROR
        assert ask("www.bad.bogus", flags=dns.flags.AD).rcode() == dns.rcode.SERVFAIL, "bogus is bogus"
    finally:
        opened.stop()
        recursor.start()


def test_a_matching_name_keeps_its_ad_bit(verdicts: Verdicts) -> None:
    for name in ("www.good.signed", "other.signed", "long.good.signed"):
        answer = ask(name, dnssec=True)
        assert answer.rcode() == dns.rcode.NOERROR and records(answer, "A") and records(answer, "RRSIG"), name
        assert answer.flags & dns.flags.AD, f"{name} lost its AD bit"
        assert max(rrset.ttl for rrset in answer.answer) <= 300
    assert set(verdicts.elements()) == {"81.2.69.170", "81.2.69.171"}


@pytest.mark.parametrize("name", ["www.bad.bogus", "long.bad.bogus", "other.bogus"])
def test_bogus_never_gets_out_and_teaches_nothing(verdicts: Verdicts, name: str) -> None:
    answer = ask(name, dnssec=True)
    assert answer.rcode() == dns.rcode.SERVFAIL and records(answer, "A") == []
    assert BOGUS in ede(answer) or ede(answer), "no reason told"
    assert verdicts.elements() == {}
    checking_disabled = ask(name, dnssec=True, flags=dns.flags.CD)
    if name != "other.bogus":  # that one no rule names: whoever disables checking gets what he asks for
        assert records(checking_disabled, "A") == []
    assert verdicts.elements() == {}


def test_rules_that_change_under_load_lose_no_query(recursor: Recursor, verdicts: Verdicts) -> None:
    """.de becomes a rule's and stops being one, with 100,000 more suffixes, while clients ask on."""
    done = Event()
    unanswered: list[str] = []

    def client(number: int) -> int:
        asked = 0
        while not done.is_set():
            for zone in ("de", "ru"):
                name = f"n{(number * 100 + asked) % MANY}.many.{zone}"
                if not records(ask(name, tries=1), "A"):
                    unanswered.append(name)
            asked += 1
        return asked

    base = settings(recursor.run)
    many = {"id": "many", "mark": 0x10003, "exit": "wg_ru", "kind": "domain"}
    many["suffixes"] = [f"n{n}.example{n % 977}.org" for n in range(20_000)]
    german = many | {"id": "de", "mark": 0x10004, "suffixes": ["de"]}
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, n) for n in range(3)]
        for version, more in enumerate(([many, german], [many], [many, german])):
            rules = [*base["rules"], *more]
            verdicts.settings.write_text(yaml.safe_dump(base | {"rules": rules, "version": f"v{version + 2}"}))
            answer = verdicts.call("POST", "/reload")
            assert answer["result"] == "applied", answer
            time.sleep(0.3)
        done.set()
        assert sum(c.result() for c in clients) > 50
    assert not unanswered
    recursor.wipe()
    assert records(ask("n7.many.de"), "A") == ["46.4.85.8"] and verdicts.elements()["46.4.85.8"][0] == 0x10004


def test_what_is_cached_is_wiped(recursor: Recursor, verdicts: Verdicts) -> None:
    assert records(ask("www.heise.de"), "A") and not verdicts.elements()
    base = settings(recursor.run)
    german = {"id": "de", "mark": 0x10004, "exit": "wg_ru", "kind": "domain", "suffixes": ["de"]}
    verdicts.settings.write_text(yaml.safe_dump(base | {"rules": [german], "version": "v2"}))
    assert verdicts.call("POST", "/reload")["result"] == "applied"
    assert records(ask("www.heise.de"), "A")
    until("the caches were wiped", lambda: records(ask("www.heise.de"), "A") and "46.4.84.1" in verdicts.elements())


@pytest.fixture(autouse=True)
def _nothing_hangs(recursor: Recursor) -> Iterator[None]:
    yield
    assert recursor.process is not None and recursor.process.poll() is None, "the recursor died"


def test_names_that_take_dns_elsewhere_are_not_here(verdicts: Verdicts) -> None:
    for name in ("use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com"):
        assert ask(name).rcode() == dns.rcode.NXDOMAIN, name
    for name in ("_dns.resolver.arpa", "resolver.arpa", "x.y.resolver.arpa"):
        answer = ask(name, "SVCB")
        assert answer.rcode() == dns.rcode.NOERROR and not answer.answer, name
