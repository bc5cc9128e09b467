"""A matching name is in the kernel before its answer is out: the real recursor, hook, daemon and nftables."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.flags
import dns.rcode
import pytest
import yaml
from dnsrig import HOOK_PORT, PORT, PORTS, Recursor, Verdicts, ask, records, rendered, settings, view
from dnszones import MANY

pytestmark = [pytest.mark.root, pytest.mark.image]
RU, US = 0x10000, 0x10001


def test_the_rendered_configuration_is_taken(recursor: Recursor) -> None:
    done = recursor.check()
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_recursor_asks_from_none_of_the_hooks_ports() -> None:
    avoided = yaml.safe_load(rendered(view())["recursor.yml"])["outgoing"]["udp_source_port_avoid"]
    assert {str(port) for port in range(HOOK_PORT, HOOK_PORT + PORTS)} <= set(avoided)


def test_a_configuration_with_a_mistake_is_not_taken(tmp_path: Path, ds: str) -> None:
    broken = Recursor(tmp_path, changes={"dnssec": "nonsense"})
    assert broken.check().returncode != 0


def test_addresses_are_in_the_kernel_before_the_answer_is_out(recursor: Recursor, tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path / "slow", recursor.run, settings(recursor.run), delay=0.02)
    verdicts.start()
    try:
        recursor.wipe()

        def one(number: int) -> tuple[str, float]:
            (address,) = records(ask(f"n{number}.many.ru"), "A")
            return address, time.monotonic()

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(one, range(80)))
        taught = verdicts.taught()
        late = [(a, at - taught[a]) for a, at in answers if taught[a] > at]
        assert not late and len(taught) == 80
        assert set(verdicts.elements()) == {a for a, _ in answers}
    finally:
        verdicts.stop()


CASES = [
    ("www.shop.ru", "A", {"81.2.69.160"}),
    ("UP.Shop.RU", "A", {"81.2.69.176"}),
    ("www.shop.ru", "AAAA", {"2a00:23c5::160"}),
    ("alias.shop.ru", "A", {"208.80.154.225"}),
    ("into.example.com", "A", {"81.2.69.177"}),
    ("below.old.example.com", "A", {"81.2.69.178"}),
    ("x.wild.ru", "A", {"81.2.69.163"}),
    (r"a\.b\@c\032d.shop.ru", "A", {"81.2.69.164"}),
    ("svc.shop.ru", "HTTPS", {"81.2.69.165", "2a00:23c5::165"}),
    ("179.69.2.81.in-addr.arpa", "PTR", {"81.2.69.179"}),
    ("9.7.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.c.3.2.0.0.a.2.ip6.arpa", "PTR", {"2a00:23c5::179"}),
    ("private.shop.ru", "A", set()),
    ("text.shop.ru", "TXT", set()),
    ("www.heise.de", "A", set()),
    ("1.84.4.46.in-addr.arpa", "PTR", set()),
    ("www.example.com", "AAAA", set()),
]


@pytest.mark.parametrize(("server", "tcp"), [("127.0.0.1", False), ("127.0.0.1", True), ("::1", False)])
def test_what_is_learned(verdicts: Verdicts, server: str, tcp: bool) -> None:
    before: set[str] = set()
    for name, kind, learned in CASES:
        answer = ask(name, kind, tcp=tcp, server=(server, PORT))
        assert answer.rcode() == dns.rcode.NOERROR and answer.answer, name
        elements = verdicts.elements()
        assert set(elements) - before == learned, name
        before |= learned
        assert {mark for mark, _ in elements.values()} <= {RU}


def test_names_that_no_rule_can_match_do_not_leave_the_recursor(verdicts: Verdicts) -> None:
    for n in range(50):
        assert records(ask(f"n{n}.many.de"), "A")
    assert verdicts.call("GET", "/status")["hook"]["asked"] == 0
    assert records(ask("n0.many.ru"), "A")
    assert verdicts.call("GET", "/status")["hook"]["asked"] == 1


@pytest.mark.parametrize(("service", "target", "address"), [
    ("svc.shop.ru", "edge.example.net", "81.2.69.166"),
    ("weird.shop.ru", r"e\@f\.g.example.net", "81.2.69.167"),
])  # fmt: skip
def test_the_target_of_an_https_record_inherits(verdicts: Verdicts, service: str, target: str, address: str) -> None:
    assert records(ask(target), "A") == [address] and address not in verdicts.elements()
    assert records(ask(service, "HTTPS"), "HTTPS")
    # the target was cached before it was known to be one: its packet must not go out unrouted for longer than its TTL
    assert records(ask(target, tcp=True), "A") == [address]
    assert verdicts.elements()[address][0] == RU


def test_ttls_are_clamped_and_outlived(verdicts: Verdicts) -> None:
    answer = ask("www.shop.ru")
    assert [rrset.ttl for rrset in answer.answer] == [90]
    before = verdicts.elements()["81.2.69.160"][1]
    assert before > 500
    # packet-cache hits run no hook: the element outlives what they hand out
    asked = verdicts.call("GET", "/status")["hook"]["asked"]
    for _ in range(5):
        hit = ask("www.shop.ru")
        assert 0 < hit.answer[0].ttl <= 90 < verdicts.elements()["81.2.69.160"][1]
    assert verdicts.call("GET", "/status")["hook"]["asked"] == asked


def test_a_large_answer_over_tcp(verdicts: Verdicts) -> None:
    answer = ask("big.ru")
    assert answer.flags & dns.flags.TC
    addresses = records(ask("big.ru", tcp=True), "A")
    assert len(addresses) == 250 and set(addresses) == set(verdicts.elements())


def test_an_exit_without_ipv6(verdicts: Verdicts) -> None:
    assert records(ask("www.site.us", "AAAA"), "AAAA") == []
    answer = ask("six.site.us", "AAAA")
    assert answer.rcode() == dns.rcode.NOERROR and not answer.answer
    assert [rrset.rdtype.name for rrset in answer.authority] == ["SOA"], "no negative caching without one"
    (https,) = records(ask("www.site.us", "HTTPS"), "HTTPS")
    assert "ipv6hint" not in https and 'ipv4hint="208.80.154.231"' in https
    assert records(ask("www.site.us"), "A") == ["208.80.154.230"]
    assert {a: mark for a, (mark, _) in verdicts.elements().items()} == {"208.80.154.230": US, "208.80.154.231": US}
    assert records(ask("www.shop.ru", "AAAA"), "AAAA") == ["2a00:23c5::160"]


def test_hints_are_stripped_by_setting(recursor: Recursor, tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path / "strip", recursor.run, settings(recursor.run, hints="strip"))
    verdicts.start()
    try:
        recursor.wipe()
        (https,) = records(ask("svc.shop.ru", "HTTPS"), "HTTPS")
        assert "hint" not in https and "edge.example.net" in https and "alpn" in https
        assert verdicts.elements() == {}
    finally:
        verdicts.stop()


def test_a_thousand_answers_at_once_each_get_their_own_verdict(verdicts: Verdicts) -> None:
    with ThreadPoolExecutor(16) as pool:
        ru = pool.map(lambda n: records(ask(f"n{n % MANY}.many.ru", tcp=n >= MANY), "A"), range(2 * MANY))
        de = pool.map(lambda n: records(ask(f"n{n}.many.de"), "A"), range(MANY))
        assert all(len(found) == 1 for found in [*ru, *de])
    assert set(verdicts.elements()) == {f"81.2.70.{n % 250 + 1}" for n in range(MANY)}
