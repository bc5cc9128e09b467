"""What happens to the kernel's state while traffic runs: replacement, interfaces that go and come, refused batches."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import threading
import time
from collections.abc import Iterator

import kernel_rig
import pytest
from kernel_rig import CLIENT, Rig, until

from ipt_server.core.intervals import Intervals
from ipt_server.core.learned import Change
from ipt_server.core.rules import RuleSet
from ipt_server.kernel import skeleton
from ipt_server.kernel.inspect import destination, seconds_left, stands
from ipt_server.kernel.netlink import Batch, KernelRefused
from ipt_server.kernel.state import Kernel
from mrvpn import marks

pytestmark = pytest.mark.root

# the middle of each block belongs to its own exit in every generation; only what is around it changes
UK, US = "81.2.69", "198.51.100"
RANGES = {
    "GB": {4: [(0x51024500, 0x510245FF)], 6: [(0x2A001450 << 96, (0x2A001451 << 96) - 1)]},
    "US": {4: [(0xC6336400, 0xC63364FF)], 6: [(0x2600 << 112, (0x2601 << 112) - 1)]},
}


def rules(rig: Rig, extra: int = 0, swap: bool = False) -> RuleSet:
    """Two countries by two exits and `extra` prefixes, so that generations differ; `swap`: in the other order."""
    found = [
        {"id": "uk", "mark": marks.rule_mark(0), "exit": "wg_uk", "kind": "country", "countries": ["GB"]},
        {"id": "us", "mark": marks.rule_mark(1), "exit": "wg_us", "kind": "country", "countries": ["US"]},
    ]
    if swap:
        found = [{**one, "mark": marks.rule_mark(number)} for number, one in enumerate(reversed(found))]
    if extra:
        prefixes = [f"5.{number // 250}.{number % 250}.0/25" for number in range(extra)]
        found.append({"id": "x", "mark": marks.rule_mark(2), "exit": "wg_us", "kind": "prefix", "prefixes": prefixes})
    return RuleSet(rig.settings(*found, country_database="/nowhere.mmdb"), RANGES)


@pytest.fixture(scope="module", autouse=True)
def applied(rig: Rig, kernel: Kernel) -> None:
    kernel.apply(rules(rig), [])


class Traffic(threading.Thread):
    """New flows from the client to both countries without a pause: each datagram from a port of its own."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self._rig = rig
        self._over = threading.Event()
        self.sent = 0

    def run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            address = f"{UK if number % 2 else US}.{number // 2 % 254 + 1}"
            with contextlib.suppress(OSError), self._rig.udp(address) as s:
                s.send(b"t")
                self.sent += 1

    @property
    def wrong(self) -> int:
        """Datagrams that left by another exit than their destination's."""
        seen = {name: answerer.seen for name, answerer in self._rig.answerers.items()}
        right = {UK: "wg_uk", US: "wg_us"}
        return sum(
            count
            for name, found in seen.items()
            for (_, destination), count in list(found.items())
            if right.get(destination.rpartition(".")[0], name) != name
        )

    @property
    def arrived(self) -> int:
        return sum(self._rig.answerers[name].seen.total() for name in ("wg_uk", "wg_us"))

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def traffic(rig: Rig) -> Iterator[Traffic]:
    for answerer in rig.answerers.values():
        answerer.seen.clear()
    running = Traffic(rig)
    running.start()
    until("traffic runs", lambda: running.arrived > 20)
    yield running
    running.stop()


def test_maps_are_replaced_under_traffic_without_one_packet_by_a_wrong_exit(
    rig: Rig, kernel: Kernel, traffic: Traffic
) -> None:
    for generation in range(1, 13):
        before = traffic.arrived
        kernel.apply(rules(rig, extra=generation * 400), [])
        until("traffic goes on", lambda before=before: traffic.arrived > before + 20)
    traffic.stop()
    until("what was sent has arrived", lambda: traffic.arrived + traffic.wrong >= traffic.sent)
    assert traffic.wrong == 0


def test_a_table_of_another_form_is_replaced_closed_first(rig: Rig, kernel: Kernel, traffic: Traffic) -> None:
    """Chains and sets that change (here: the hook's port) mean a new table: refused for a moment, never misrouted."""
    with_port = rules(rig)
    hook = with_port.settings.hook.model_copy(update={"port": 5400})
    changed = RuleSet(with_port.settings.model_copy(update={"hook": hook}), RANGES)
    assert kernel.apply(changed, []) is False
    before = traffic.arrived
    until("traffic goes on", lambda: traffic.arrived > before + 20)
    kernel.apply(rules(rig), [])
    traffic.stop()
    assert traffic.wrong == 0, {name: answerer.seen for name, answerer in rig.answerers.items() if name == "eth0"}


@pytest.mark.parametrize("family", [4, 6])
def test_without_its_interface_an_exit_is_unreachable_and_comes_back(rig: Rig, kernel: Kernel, family: int) -> None:
    compiled = rules(rig)
    address = {4: f"{UK}.7", 6: "2a00:1450::77"}[family]
    assert rig.exit_of(address) == "wg_uk"
    rig.gateway.ip("link", "del", "wg_uk")
    assert rig.nowhere(address)
    kernel.links_changed(compiled)
    assert rig.nowhere(address)
    kernel_rig.tunnel(rig, "wg_uk")
    kernel.links_changed(compiled)
    assert rig.exit_of(address) == "wg_uk"


def test_the_clients_interface_may_come_back(rig: Rig, kernel: Kernel) -> None:
    rig.gateway.ip("link", "del", "wg-firezone")
    kernel.links_changed(rules(rig))
    kernel_rig.ingress(rig)
    assert kernel.links_changed(rules(rig)) == 1
    assert [rig.exit_of(a) for a in (f"{UK}.7", "2a00:1450::77", "9.9.9.9")] == ["wg_uk", "wg_uk", "eth0"]


def test_another_interface_with_the_number_of_one_that_is_gone_is_no_exit(rig: Rig, kernel: Kernel) -> None:
    """What may pass together is known by number; a number that is free is given again."""
    number = rig.gateway.ip("-o", "link", "show", "wg_uk").split(":")[0]
    assert f'"wg-firezone" . 0x{201:08x} . "wg_uk"' in rig.gateway.run("nft", "list", "set", "inet", "mrvpn", "pair")
    rig.gateway.ip("link", "del", "wg_uk")
    rig.gateway.ip("link", "add", "other", "index", number, "type", "veth", "peer", "name", "peer")
    try:
        rig.gateway.ip("link", "set", "other", "up")
        assert rig.nowhere(f"{UK}.7"), "before anybody looked: no route leads there"
        kernel.links_changed(rules(rig))
        assert "other" not in rig.gateway.run("nft", "list", "set", "inet", "mrvpn", "pair")
    finally:
        rig.gateway.ip("link", "del", "other")
        kernel_rig.tunnel(rig, "wg_uk")
        kernel.links_changed(rules(rig))
    assert rig.exit_of(f"{UK}.7") == "wg_uk"


def test_an_interface_that_is_late_does_not_fail_the_others(rig: Rig, kernel: Kernel) -> None:
    rig.gateway.ip("link", "del", "wg_uk")
    try:
        kernel.apply(rules(rig), [])
        assert rig.exit_of(f"{US}.7") == "wg_us"
        assert rig.nowhere(f"{UK}.7")
    finally:
        kernel_rig.tunnel(rig, "wg_uk")
        kernel.links_changed(rules(rig))
    assert rig.exit_of(f"{UK}.7") == "wg_uk"


def test_the_default_gateway_may_change_at_any_time(rig: Rig, kernel: Kernel) -> None:
    rig.gateway.ip("route", "del", "default")
    assert rig.nowhere("9.9.9.9")
    kernel.links_changed(rules(rig))
    rig.gateway.ip("route", "add", "default", "via", "192.0.2.1")
    kernel.links_changed(rules(rig))
    assert rig.exit_of("9.9.9.9") == "eth0"


def test_applying_the_same_again_changes_nothing(rig: Rig, kernel: Kernel) -> None:
    compiled = rules(rig)
    kernel.apply(compiled, [])
    before = rig.gateway.run("nft", "-s", "list", "ruleset")
    routes = [rig.gateway.ip(f"-{f}", *what) for f in (4, 6) for what in (("rule",), ("route", "show", "table", "all"))]
    assert kernel.apply(compiled, []) is True
    assert rig.gateway.run("nft", "-s", "list", "ruleset") == before
    assert routes == [
        rig.gateway.ip(f"-{f}", *what) for f in (4, 6) for what in (("rule",), ("route", "show", "table", "all"))
    ]


def test_other_peoples_rules_tables_and_chains_are_left_alone(rig: Rig, kernel: Kernel) -> None:
    rig.gateway.run("nft", "-f", "-", text="table ip nat { chain DOCKER_OUTPUT { counter;\n}\n}")
    rig.gateway.ip("rule", "add", "pref", "20000", "from", "198.18.0.1", "lookup", "main")
    kernel.apply(rules(rig), [])
    assert "DOCKER_OUTPUT" in rig.gateway.run("nft", "list", "ruleset")
    assert "198.18.0.1" in rig.gateway.ip("rule")


def test_foreign_routes_in_an_exits_table_are_removed(rig: Rig, kernel: Kernel) -> None:
    for metric in ("0", "500", "10000"):
        rig.gateway.ip("route", "add", "default", "dev", "wg_us", "table", "201", "metric", metric)
    rig.gateway.ip("route", "add", "1.2.3.0/24", "dev", "wg_us", "table", "201")
    kernel.links_changed(rules(rig))
    left = rig.gateway.ip("route", "show", "table", "201").splitlines()
    assert [line.split()[:3] for line in left] == [["default", "dev", "wg_uk"], ["unreachable", "default", "metric"]]


A = [ipaddress.ip_address(a) for a in (f"{UK}.31", f"{UK}.32", "2a00:1450::31")]
BY_US = marks.rule_mark(1)


def element(rig: Rig, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    kind = f"learned{address.version}"
    text = rig.gateway.run("nft", "list", "map", "inet", "mrvpn", kind)
    return next((part for part in text.replace("{", ",").split(",") if f"{address} " in f"{part.strip()} "), "")


def test_what_the_shadow_and_the_kernel_see_differently_is_put_right(rig: Rig, kernel: Kernel) -> None:
    """ENOENT: an element ran out that the table thought alive; EEXIST: one is there that it did not know."""
    changes = [Change(address, BY_US, 60, replaces=True) for address in A]
    kernel.learn(changes)  # none of them is there
    assert all(element(rig, address) for address in A)
    kernel.learn([Change(address, marks.rule_mark(0), 90, replaces=False) for address in A])  # all of them are
    assert all(f"{marks.rule_mark(0):#x}"[2:] in element(rig, address) for address in A)
    kernel.learn([Change(address, None, 0, replaces=True) for address in A])
    assert not any(element(rig, address) for address in A)
    kernel.learn([Change(address, None, 0, replaces=True) for address in A])  # gone is gone


def test_an_element_that_is_learned_again_gets_its_whole_life_again(rig: Rig, kernel: Kernel) -> None:
    address = A[0]
    for replaces in (False, False, True):
        kernel.learn([Change(address, BY_US, 2 if not replaces else 600, replaces=replaces)])
    left = {str(e.key): e.seconds for e in kernel.standing_learned()}
    assert left[str(address)] > 500
    kernel.learn([Change(address, BY_US, 900, replaces=False)])  # known to the kernel, not to the table
    left = {str(e.key): e.seconds for e in kernel.standing_learned()}
    assert left[str(address)] > 800


def test_an_element_carries_the_name_that_taught_it(rig: Rig, kernel: Kernel) -> None:
    """As nft's comment: by itself, in a batch, through a renewal by a packet and through a change of rules."""

    def names() -> dict[str, str]:
        return {str(e.key): e.name for e in kernel.standing_learned()}

    for length in (1, 2, 3, 4, 126, 127):
        name = ("x" * 60 + ".") * 3
        for replaces in (False, True):
            own = [Change(address, BY_US, 60, replaces, name[:length]) for address in A]
            for change in own:
                kernel.learn([change])
            assert names() == dict.fromkeys(map(str, A), name[:length])
            kernel.learn([change._replace(replaces=True) for change in own])
            assert names() == dict.fromkeys(map(str, A), name[:length])
        kernel.learn([change._replace(mark=None, replaces=True) for change in own])
    for unfit in ("x" * 128, 'a"b.example', ""):
        kernel.learn([Change(A[1], BY_US, 60, False, unfit)])
        assert names() == {str(A[1]): ""} and rig.exit_of(str(A[1])) == "wg_us"
        kernel.learn([Change(A[1], None, 0, True)])
    for address in A[1:3]:
        kernel.learn([Change(address, BY_US, 60, False, "www.example.com")])
        assert rig.exit_of(str(address)) == "wg_us"
    kernel.apply(rules(rig, extra=7), kernel.standing_learned())
    assert names() == dict.fromkeys(map(str, A[1:3]), "www.example.com")
    assert 'comment "www.example.com"' in rig.gateway.run("nft", "list", "map", "inet", "mrvpn", "learned4")
    kernel.learn([Change(address, None, 0, True) for address in A[1:3]])


def test_what_elements_have_left_is_read_while_others_come(rig: Rig, kernel: Kernel) -> None:
    """nft would begin its dump anew with each of these changes, for as long as they come."""
    own = [Change(address, BY_US, 300, replaces=False) for address in A]
    kernel.learn(own)
    many = [ipaddress.IPv4Address(0x2E000000 + n) for n in range(2000)]
    enough = threading.Event()

    def teach() -> None:
        while not enough.is_set():
            for replaces in (False, True):
                for address in many:
                    kernel.learn([Change(address, BY_US if not replaces else None, 60, replaces)])

    with rig.gateway.inside():
        teaching = threading.Thread(target=teach)
        teaching.start()
        try:
            left = seconds_left([*A, ipaddress.IPv4Address("9.9.9.9")])
            assert stands()
        finally:
            enough.set()
            teaching.join()
    assert set(left) == set(A) and all(290 < seconds <= 300 for seconds in left.values())
    kernel.learn([change._replace(mark=None, replaces=True) for change in own])


@pytest.mark.parametrize("address", [A[1], A[2]])
def test_each_new_connection_renews_its_learned_address(
    rig: Rig, kernel: Kernel, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    kernel.learn([Change(address, BY_US, 30, replaces=False)])
    with rig.connect(str(address)) as s:
        assert s.recv(100) == b"wg_us\n"
        left = {str(e.key): e.seconds for e in kernel.standing_learned()}
        assert left[str(address)] > 500
        kernel.learn([Change(address, BY_US, 30, replaces=True)])
        s.send(b"x")
        assert s.recv(100) == b"wg_us x"
        left = {str(e.key): e.seconds for e in kernel.standing_learned()}
        assert left[str(address)] <= 30, "a packet of a connection that stands does not"
    kernel.learn([Change(address, None, 0, replaces=True)])


def test_a_refused_batch_changes_nothing(rig: Rig, kernel: Kernel) -> None:
    with rig.gateway.inside():
        from ipt_server.kernel.netlink import Socket

        s = Socket()
        good = [(int(A[0]), BY_US, 60.0, "")]
        before = kernel.standing_learned()
        with pytest.raises(KernelRefused):
            s.send(Batch("mrvpn").flush("learned4").set_timed("learned4", 4, good).delete("learned4", 4, [1]))
        with pytest.raises(KernelRefused):
            s.send(Batch("mrvpn").flush("learned4").flush("geo4_a").flush("geo4_b").flush("no_such_map"))
        s.close()
    assert {e.key for e in kernel.standing_learned()} == {e.key for e in before}
    assert rig.exit_of(f"{UK}.7") == "wg_uk"


def test_a_flow_that_never_idles_keeps_its_exit_through_replacement(rig: Rig, kernel: Kernel) -> None:
    with rig.udp(f"{UK}.40", port=4040) as s:
        for generation in range(8):
            s.send(b"%d" % generation)
            assert s.recv(100) == b"wg_uk %d" % generation
            kernel.learn([Change(ipaddress.ip_address(f"{UK}.40"), BY_US, 60, replaces=generation > 0)])
            kernel.apply(rules(rig, extra=generation * 10), [])
            time.sleep(0)
    assert rig.answerers["wg_us"].seen[CLIENT[4], f"{UK}.40"] == 0


def test_rules_that_change_places_under_traffic_mislead_no_packet(rig: Rig, kernel: Kernel, traffic: Traffic) -> None:
    """Rule marks go by place: after a change of places each mark means the other exit."""
    for generation in range(24):
        before = traffic.arrived
        kernel.apply(rules(rig, swap=bool(generation % 2)), [])
        until("traffic goes on", lambda before=before: traffic.arrived > before + 20)
    traffic.stop()
    until("what was sent has arrived", lambda: traffic.arrived + traffic.wrong >= traffic.sent)
    assert traffic.wrong == 0


@pytest.mark.parametrize("family", [4, 6])
def test_a_large_map_is_many_maps_and_says_the_same(rig: Rig, kernel: Kernel, family: int) -> None:
    """As many intervals as a world has: every shard's first and last address, and both ends of the family."""
    top = (1 << (32 if family == 4 else 128)) - 1
    base, grain = {4: (0x0B000000, 1 << 8), 6: (0x2400 << 112, 1 << 80)}[family]
    spans = [(base + number * grain, base + number * grain + grain // 2) for number in range(skeleton.LARGE + 1)]
    plain = [(first, last, marks.rule_mark(number % 2)) for number, (first, last) in enumerate(spans)]
    plain.append((top, top, marks.rule_mark(1)))
    compiled = rules(rig)
    intervals = {**compiled.intervals, family: Intervals.of(family, plain)}
    large = RuleSet(compiled.settings, {}, intervals)
    assert kernel.apply(large, []) is False and kernel.apply(large, []) is True
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    size = len(plain) / skeleton.SHARDS
    for number in (0, 1, int(size) - 1, int(size), int(size) + 1, int(9 * size), skeleton.LARGE - 1, skeleton.LARGE):
        first, last, mark = plain[number]
        right = "wg_uk" if mark == marks.rule_mark(0) else "wg_us"
        for address in (first, last):
            assert rig.exit_of(str(kind(address))) == right, kind(address)
        assert rig.exit_of(str(kind(last + 1))) == "eth0"
    # one element more: the shards are cut anew, in one batch
    assert kernel.apply(RuleSet(compiled.settings, {}, {**intervals, family: Intervals.of(family, plain[1:])}), [])
    assert rig.exit_of(str(kind(plain[0][0]))) == "eth0" and rig.exit_of(str(kind(plain[1][0]))) == "wg_us"
    assert kernel.apply(compiled, []) is False
    assert rig.exit_of({4: f"{UK}.7", 6: "2a00:1450::77"}[family]) == "wg_uk"


@pytest.mark.parametrize("family", [4, 6])
def test_a_large_map_in_two_layers_says_the_same(rig: Rig, kernel: Kernel, family: int) -> None:
    """Intervals that touch, one country's within another's, so many that each layer is many maps."""
    start, grain = {4: (0x0B000000, 1 << 8), 6: (0x2400 << 112, 1 << 80)}[family]
    uk, us = marks.rule_mark(0), marks.rule_mark(1)
    plain = []
    for number in range(skeleton.LARGE + 1):
        first = start + 4 * grain * number
        plain += [(first + n * grain, first + (n + 1) * grain - 1, mark) for n, mark in enumerate((uk, us, uk))]
    compiled = rules(rig)
    large = RuleSet(compiled.settings, {}, {**compiled.intervals, family: Intervals.of(family, plain)})
    layers = skeleton.geo(family, "a", skeleton.counts(large.intervals))
    assert [layer.count for layer in layers] == [skeleton.SHARDS, skeleton.SHARDS]
    kernel.apply(large, [])
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    place = random.Random(family).randrange
    for number in (0, *(place(skeleton.LARGE) for _ in range(100)), skeleton.LARGE):
        first = start + 4 * grain * number
        said = {n: destination(kind(first + n * grain + place(grain)), large)["geo"] for n in range(4)}
        assert said == {0: uk, 1: us, 2: uk, 3: None}, number
    last = start + 4 * grain * skeleton.LARGE
    exits = [rig.exit_of(str(kind(last + n * grain))) for n in range(4)]
    assert exits == ["wg_uk", "wg_us", "wg_uk", "eth0"]


def test_the_last_address_of_a_family_ends_its_map(rig: Rig, kernel: Kernel) -> None:
    compiled = rules(rig)
    whole = {4: (1 << 32) - 1, 6: (1 << 128) - 1}
    intervals = {f: Intervals.of(f, [(1 << 24, whole[f], marks.rule_mark(0))]) for f in (4, 6)}
    kernel.apply(RuleSet(compiled.settings, {}, intervals), [])
    assert "255.255.255.255 :" in rig.gateway.run("nft", "list", "map", "inet", "mrvpn", f"geo4_{kernel.buffer}")
    assert [rig.exit_of(a) for a in ("9.9.9.9", "2620:fe::9")] == ["wg_uk", "wg_uk"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_rule_for_all_the_rest_is_the_default(rig: Rig, kernel: Kernel, family: int) -> None:
    rest = {"id": "rest", "mark": marks.rule_mark(3), "exit": "wg_us", "kind": "default",
            "prefixes": ["0.0.0.0/0", "::/0"]}  # fmt: skip
    uk = {"id": "uk", "mark": marks.rule_mark(0), "exit": "wg_uk", "kind": "country", "countries": ["GB"]}
    kernel.apply(RuleSet(rig.settings(uk, rest, country_database="/nowhere.mmdb"), RANGES), [])
    assert rig.exit_of({4: "9.9.9.9", 6: "2620:fe::9"}[family]) == "wg_us"
    assert rig.exit_of({4: f"{UK}.7", 6: "2a00:1450::77"}[family]) == "wg_uk"
    assert rig.nowhere({4: "192.168.7.7", 6: "fd00::7"}[family]), "a default names no private destination"
