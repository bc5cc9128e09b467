"""The kernel contract on a real kernel: which exit a connection leaves by, and what never passes."""

from __future__ import annotations

import ipaddress
import json
import socket

import pytest
from kernel_rig import CLIENT, GATEWAY, OFFICE, UPLINK, Namespace, Rig, sh, until

from ipt_server.core.learned import Change
from ipt_server.core.rules import RuleSet
from ipt_server.kernel import skeleton
from ipt_server.kernel.state import Kernel
from mrvpn import marks

pytestmark = pytest.mark.root

UK = {4: "81.2.69.160", 6: "2a00:1450::7"}
US = {4: "198.51.100.9", 6: "2600::9"}
ELSEWHERE = {4: "9.9.9.9", 6: "2620:fe::9"}


def rules(rig: Rig) -> RuleSet:
    s = rig.settings(
        {"id": "uk", "mark": marks.rule_mark(0), "exit": "wg_uk", "kind": "country", "countries": ["GB"]},
        {"id": "us", "mark": marks.rule_mark(1), "exit": "wg_us", "kind": "prefix",
         "prefixes": ["198.51.100.0/24", "2600::/12"]},
        {"id": "names", "mark": marks.rule_mark(2), "exit": "wg_us", "kind": "domain", "suffixes": ["x.example"]},
        country_database="/nowhere.mmdb",
        recursor={"port": 5301, "interfaces": ["wg-firezone"], "uid": 953},
    )  # fmt: skip
    return RuleSet(s, {"GB": {4: [(0x51024500, 0x510245FF)], 6: [(0x2A001450 << 96, (0x2A001451 << 96) - 1)]}})


@pytest.fixture(scope="module", autouse=True)
def applied(rig: Rig, kernel: Kernel) -> RuleSet:
    """Closed first: a table that has its chains but was not opened lets nothing through."""
    made = rules(rig)
    rig.gateway.run("nft", "-f", "-", text=skeleton.table(made.settings))
    assert rig.exit_of(UK[4], timeout=0.5) != "wg_uk" and rig.exit_of(ELSEWHERE[4], timeout=0.5) != "eth0"
    kernel.apply(made, [])
    return made


@pytest.mark.parametrize("family", [4, 6])
def test_each_destination_leaves_by_its_own_exit(rig: Rig, family: int) -> None:
    assert rig.exit_of(UK[family]) == "wg_uk"
    assert rig.exit_of(US[family]) == "wg_us"
    assert rig.exit_of(ELSEWHERE[family]) == "eth0"


def test_the_default_is_masqueraded_and_a_tunnel_is_not(rig: Rig) -> None:
    for family in (4, 6):
        for where, sender in ((UK, "wg_uk"), (ELSEWHERE, "eth0")):
            with rig.udp(where[family]) as s:
                s.send(b"x")
                assert s.recv(100) == f"{sender} x".encode()
        assert rig.answerers["wg_uk"].seen[CLIENT[family], UK[family]]
        assert not rig.answerers["eth0"].seen[CLIENT[family], ELSEWHERE[family]]


@pytest.mark.parametrize("family", [4, 6])
def test_declared_mesh_is_reached_by_its_route_whatever_the_rules_say(rig: Rig, family: int) -> None:
    assert rig.exit_of(OFFICE[family]) == "wg_office"


def test_declared_mesh_without_a_route_goes_nowhere(rig: Rig) -> None:
    assert rig.nowhere("10.78.0.1")


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "10.200.0.1", "172.30.55.1", "192.168.1.1", "100.64.0.1", "fd00::1"]
)
def test_private_destinations_are_refused_and_counted(rig: Rig, address: str) -> None:
    before = rig.counter("private")
    assert rig.nowhere(address)
    assert rig.counter("private") > before
    assert not any(destination == address for a in rig.answerers.values() for _, destination in a.seen)


@pytest.mark.parametrize("family", [4, 6])
def test_a_learned_address_wins_over_its_country_until_it_is_forgotten(rig: Rig, kernel: Kernel, family: int) -> None:
    address = ipaddress.ip_address(UK[family]) + 1
    assert rig.exit_of(str(address)) == "wg_uk"
    kernel.learn([Change(address, marks.rule_mark(2), 60, replaces=False)])
    assert rig.exit_of(str(address)) == "wg_us"
    kernel.learn([Change(address, None, 0, replaces=True)])
    assert rig.exit_of(str(address)) == "wg_uk"


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_keeps_its_exit_when_its_element_comes_and_goes(rig: Rig, kernel: Kernel, family: int) -> None:
    address = ipaddress.ip_address(UK[family]) + 2
    with rig.connect(str(address)) as old, rig.udp(str(address)) as flow:
        assert old.recv(100) == b"wg_uk\n"
        flow.send(b"1")
        assert flow.recv(100) == b"wg_uk 1"
        kernel.learn([Change(address, marks.rule_mark(2), 60, replaces=False)])
        for s in (old, flow):
            s.send(b"2")
            assert s.recv(100) == b"wg_uk 2"
        assert rig.exit_of(str(address)) == "wg_us"
    kernel.learn([Change(address, None, 0, replaces=True)])


def test_a_connection_from_behind_a_tunnel_is_answered_through_it(rig: Rig) -> None:
    with rig.client.inside():
        server = socket.create_server((CLIENT[4], 8008))
    office = rig.behind["wg_office"]
    with server, office.inside(), socket.create_connection((CLIENT[4], 8008), 3, (OFFICE[4], 0)) as s:
        server.settimeout(3)
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"hello")
            s.settimeout(3)
            assert s.recv(100) == b"hello"


@pytest.mark.parametrize("source", ["10.9.22.1", "203.0.113.77"])
def test_a_tunnel_may_not_speak_for_what_is_not_declared_behind_it(rig: Rig, source: str) -> None:
    office = rig.behind["wg_office"]
    if source not in office.ip("addr", "show", "dev", "lo") and not source.startswith("10.9."):
        office.ip("addr", "add", f"{source}/32", "dev", "lo")
    before = rig.counter("wrong_way")
    with office.inside(), pytest.raises(OSError):
        socket.create_connection((CLIENT[4], 9), 0.5, (source, 0))
    assert rig.counter("wrong_way") > before


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("where", ["wg_office", "eth0"])
def test_nobody_speaks_for_the_gateway_itself(rig: Rig, family: int, where: str) -> None:
    """The kernel is told to leave sources to nftables (docs/adr/0018)."""
    other, link = rig.behind[where], "tun" if where == "wg_office" else "up0"
    source, to = GATEWAY[family], UPLINK[family]
    ip, bits = (["-6"], 128) if family == 6 else ([], 32)
    other.ip(*ip, "addr", "add", f"{source}/{bits}", "dev", "lo", *(["nodad"] if family == 6 else []))
    if link == "tun":
        other.ip(*ip, "route", "replace", f"{to}/{bits}", "dev", link)
    else:  # asked for by that source, nobody would tell where the gateway is
        hardware = json.loads(rig.gateway.ip("-json", "link", "show", "eth0"))[0]["address"]
        other.ip("neigh", "replace", to, "lladdr", hardware, "nud", "permanent", "dev", link)
    try:
        before = rig.counter("spoofed")
        with other.inside(), socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind((source, 0))
            s.sendto(b"x", (to, 9))
        until("it is counted", lambda: rig.counter("spoofed") == before + 1, 2)
    finally:
        other.ip(*ip, "addr", "del", f"{source}/{bits}", "dev", "lo")
        if link == "tun":
            other.ip(*ip, "route", "del", f"{to}/{bits}", "dev", link)
        else:
            other.ip("neigh", "del", to, "dev", link)


SEEN = """table inet seen {
 counter it { }
 chain pre { type filter hook prerouting priority 0;
  iifname "wg_office" ip6 saddr fe80::1 udp dport 9 counter name it
 }
}"""


def test_a_neighbour_may_have_the_link_local_address_that_another_link_has_here(rig: Rig) -> None:
    """Each link numbers its own: fe80::1 is the gateway's on one and a neighbour's on another."""
    rig.gateway.ip("-6", "addr", "add", "fe80::1/64", "dev", "wg_uk", "nodad")
    office = rig.behind["wg_office"]
    office.ip("-6", "addr", "add", "fe80::1/64", "dev", "tun", "nodad")
    try:
        rig.gateway.run("nft", "-f", "-", text=SEEN)
        before = rig.counter("spoofed")
        with office.inside(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            index = socket.if_nametoindex("tun")
            s.bind(("fe80::1", 0, 0, index))
            s.sendto(b"x", ("ff02::1", 9, 0, index))
        until("it arrived", lambda: "packets 1 " in rig.gateway.run("nft", "list", "counter", "inet", "seen", "it"), 2)
        assert rig.counter("spoofed") == before
    finally:
        rig.gateway.run("nft", "delete", "table", "inet", "seen")
        rig.gateway.ip("-6", "addr", "del", "fe80::1/64", "dev", "wg_uk")
        office.ip("-6", "addr", "del", "fe80::1/64", "dev", "tun")


def test_a_tunnel_does_not_reach_the_internet_through_the_gateway(rig: Rig) -> None:
    office = rig.behind["wg_office"]
    office.ip("route", "add", ELSEWHERE[4], "dev", "tun")
    before = rig.counter("wrong_way")
    with office.inside(), pytest.raises(OSError):
        socket.create_connection((ELSEWHERE[4], 7007), 0.5, (OFFICE[4], 0))
    assert rig.counter("wrong_way") > before


def test_a_packet_whose_mark_and_interface_disagree_is_dropped(rig: Rig) -> None:
    """Whatever the routes say: the table of one exit is made to lead to another."""
    rig.gateway.ip("route", "replace", "default", "dev", "wg_us", "table", "201", "metric", "0")
    try:
        before = rig.counter("wrong_way")
        assert rig.exit_of(UK[4], timeout=0.5) == "TimeoutError"
        assert rig.counter("wrong_way") > before
    finally:
        rig.gateway.ip("route", "del", "default", "dev", "wg_us", "table", "201")
    assert rig.exit_of(UK[4]) == "wg_uk"


@pytest.mark.parametrize("family", [4, 6])
def test_errors_that_the_gateway_makes_follow_the_flow(rig: Rig, family: int) -> None:
    """A server's datagram is too long for the client's link: "too big" goes back by the exit it came from."""
    rig.client.ip("link", "set", "cl", "mtu", "1280")
    rig.gateway.ip("link", "set", "wg-firezone", "mtu", "1280")
    uk, address = rig.behind["wg_uk"], str(ipaddress.ip_address(UK[family]) + 9)
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    match = "icmp type destination-unreachable icmp code frag-needed" if family == 4 else "icmpv6 type packet-too-big"
    for namespace in (uk, rig.behind["eth0"]):
        namespace.run("nft", "-f", "-", text=COUNT_ICMP.format(match=match))
    uk.ip("addr", "add", address, "dev", "lo", *(["nodad"] if family == 6 else []))
    try:
        with uk.inside():
            server = socket.socket(kind, socket.SOCK_DGRAM)
            server.setsockopt(socket.SOL_IP if family == 4 else socket.IPPROTO_IPV6, 10 if family == 4 else 23, 2)
            server.bind((address, 7100))
            server.settimeout(3)
        with rig.client.inside():
            client = socket.socket(kind, socket.SOCK_DGRAM)
        with server, client:
            client.sendto(b"x", (address, 7100))
            _, peer = server.recvfrom(100)
            server.sendto(b"y" * 1400, peer)
            until("the error came back by the flow's exit", lambda: errors_seen(uk))
            assert errors_seen(rig.behind["eth0"]) == 0
    finally:
        for namespace in (uk, rig.behind["eth0"]):
            namespace.run("nft", "delete", "table", "inet", "seen")


COUNT_ICMP = """table inet seen {{
 counter errors {{ }}
 chain in {{ type filter hook prerouting priority -400; {match} counter name errors; }}
}}"""


def errors_seen(namespace: Namespace) -> int:
    return int(namespace.run("nft", "list", "counter", "inet", "seen", "errors").split("packets ")[1].split()[0])


@pytest.mark.parametrize("family", [4, 6])
def test_clients_reach_nothing_of_the_gateway_but_dns_and_icmp(rig: Rig, family: int) -> None:
    with rig.gateway.inside():
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        secret = socket.create_server((GATEWAY[family], 8080), family=kind)
        dns = socket.create_server((GATEWAY[family], 5301), family=kind)
    with secret, dns, rig.client.inside():
        before = rig.counter("input_refused")
        for port in (8080, 5301):  # the recursor's own port is for the redirect alone
            with pytest.raises(OSError):
                socket.create_connection((GATEWAY[family], port), 0.5)
        assert rig.counter("input_refused") > before
        for server in (GATEWAY[family], ELSEWHERE[family]):
            socket.create_connection((server, 53), 3).close()
        sh("ping", "-c1", "-W3", GATEWAY[family])


def test_only_the_recursor_speaks_to_the_hooks_ports(rig: Rig, applied: RuleSet) -> None:
    hook = applied.settings.hook
    with rig.gateway.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        before = rig.counter("hook_refused")
        with pytest.raises(PermissionError):
            s.sendto(b"x", (hook.address, hook.port + 3))
        assert rig.counter("hook_refused") > before


def test_the_text_is_what_nft_takes(rig: Rig, applied: RuleSet) -> None:
    s = applied.settings
    for text in (skeleton.table(s), skeleton.table(s, {4: (64, 1), 6: (1, 64)})):
        rig.gateway.run("nft", "-c", "-f", "-", text=text)
