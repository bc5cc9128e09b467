"""Clients that would take their DNS elsewhere, on the real kernel.

client (10.11.0.2, .3, fd00::2, ::3) --wg-firezone-- gateway --world-- world (1.1.1.1, 192.0.2.80, ...)
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest
from dnsrig import entered, sh, until

from ipt_server import settings
from ipt_server.kernel import bypass, skeleton
from ipt_server.lists.formats import parse

pytestmark = pytest.mark.root
PREFIX = f"mrvpn-t-byp-{os.getpid()}"
GATEWAY, CLIENT, WORLD = (f"{PREFIX}-{name}" for name in ("g", "c", "w"))
SERVERS = ["1.1.1.1", "192.0.2.80", "192.0.2.53", "2606:4700:4700::1111", "2001:db8::80"]
HELLO = """
import select, socket, sys
kinds, socks = (socket.SOCK_STREAM, socket.SOCK_DGRAM), {}
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    for kind in kinds:
        for port in (443, 853, 80):
            s = socket.socket(family, kind)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((address, port))
            if kind == socket.SOCK_STREAM: s.listen(16)
            socks[s] = kind
print('ready', flush=True)
while True:
    for s in select.select(list(socks), [], [])[0]:
        if socks[s] == socket.SOCK_STREAM:
            c, _ = s.accept(); c.sendall(b'hello'); c.close()
        else:
            _, peer = s.recvfrom(99); s.sendto(b'hello', peer)
"""


def value(**changes: object) -> settings.Settings:
    return settings.parse(
        {
            "version": "v", "ingress": ["wg-firezone"],
            "exits": [{"name": "_DEFAULT", "mark": 200, "table": 254}],
            "recursor": {"interfaces": ["wg-firezone"], "exempt": ["10.11.0.3/32", "fd00::3/128"]},
        }
        | changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[None]:
    """The three namespaces with a server that says hello on every port of interest."""
    server = None
    try:
        for name in (GATEWAY, CLIENT, WORLD):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
            quick = [f"net.ipv6.conf.{which}.accept_dad=0" for which in ("all", "default")]
            forward = ["net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1"]
            sh("ip", "netns", "exec", name, "sysctl", "-qw", *quick, *forward)
        sh("ip", "-n", GATEWAY, "link", "add", "wg-firezone", "type", "veth", "peer", "name", "c", "netns", CLIENT)
        sh("ip", "-n", GATEWAY, "link", "add", "world", "type", "veth", "peer", "name", "w", "netns", WORLD)
        for netns, link, addresses in (
            (GATEWAY, "wg-firezone", ["10.11.0.1/24", "fd00::1/64"]),
            (GATEWAY, "world", ["192.0.2.1/24", "2001:db8::1/64"]),
            (CLIENT, "c", ["10.11.0.2/24", "10.11.0.3/24", "fd00::2/64", "fd00::3/64"]),
            (WORLD, "w", ["192.0.2.80/24", "192.0.2.53/24", "2001:db8::80/64"]),
        ):
            for address in addresses:
                sh("ip", "-n", netns, "address", "add", address, "dev", link)
            sh("ip", "-n", netns, "link", "set", link, "up")
        for netns, via4, via6 in ((CLIENT, "10.11.0.1", "fd00::1"), (WORLD, "192.0.2.1", "2001:db8::1")):
            sh("ip", "-n", netns, "route", "add", "default", "via", via4)
            sh("ip", "-n", netns, "-6", "route", "add", "default", "via", via6)
        for address in ("1.1.1.1/32", "2606:4700:4700::1111/128"):
            sh("ip", "-n", WORLD, "address", "add", address, "dev", "lo")
            sh("ip", "-n", GATEWAY, "route", "add", address, "via", "2001:db8::80" if ":" in address else "192.0.2.80")
        server = subprocess.Popen(
            ["ip", "netns", "exec", WORLD, "python3", "-c", HELLO, *SERVERS], stdout=subprocess.PIPE
        )
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        until("the world answers", lambda: says("192.0.2.80", 80) == "hello")
        until("the world answers over IPv6", lambda: says("2001:db8::80", 80, source="fd00::2") == "hello")
        yield
    finally:
        if server is not None:
            server.kill()
            server.wait()
        for name in (GATEWAY, CLIENT, WORLD):
            subprocess.run(["ip", "netns", "del", name])


def says(to: str, port: int, udp: bool = False, source: str = "10.11.0.2") -> str:
    """What the client hears: hello, or how it was refused."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    s = entered(CLIENT, lambda: socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM))
    with s:
        s.settimeout(5)
        try:
            s.bind((source, 0))
            s.connect((to, port))
            if udp:
                s.send(b"?")
            return s.recv(99).decode()
        except OSError as error:
            return type(error).__name__


def put(s: settings.Settings, *lists: str) -> list[str]:
    resolvers, told = bypass.known(parse(text) for text in lists)
    entered(GATEWAY, lambda: bypass.apply(s, resolvers))
    return told


REFUSED = ("ConnectionRefusedError", "PermissionError", "OSError", "ConnectionResetError")


@pytest.mark.parametrize("udp", [False, True])
def test_who_is_refused_and_who_is_not(world: None, udp: bool) -> None:
    put(value())
    for to in ("192.0.2.80", "1.1.1.1", "2001:db8::80", "2606:4700:4700::1111"):
        source = "fd00::2" if ":" in to else "10.11.0.2"
        exempt = "fd00::3" if ":" in to else "10.11.0.3"
        assert says(to, 853, udp, source) in REFUSED, "DNS over TLS or QUIC"
        resolver = not to.startswith(("192", "2001"))
        assert (says(to, 443, udp, source) in REFUSED) == resolver, "HTTPS, HTTP/3"
        assert says(to, 80, udp, source) == "hello"
        assert [says(to, port, udp, exempt) for port in (853, 443)] == ["hello"] * 2, "its own resolver by choice"


def test_who_tried_is_counted(world: None) -> None:
    entered(GATEWAY, lambda: sh("nft", "delete", "table", "inet", bypass.TABLE, check=False))
    assert entered(GATEWAY, bypass.attempts) == {}
    put(value())
    assert entered(GATEWAY, bypass.attempts) == {}
    says("192.0.2.80", 853)
    says("1.1.1.1", 443)
    says("2606:4700:4700::1111", 443, source="fd00::2")
    says("1.1.1.1", 443, source="10.11.0.3")
    tried = entered(GATEWAY, bypass.attempts)
    assert set(tried) == {"10.11.0.2", "fd00::2"} and tried["10.11.0.2"] >= 2


def test_a_list_of_more_resolvers_and_switching_it_off(world: None) -> None:
    assert put(value(), "192.0.2.80  # ours\n") == []
    assert says("192.0.2.80", 443) in REFUSED and says("192.0.2.53", 443) == "hello"
    assert says("1.1.1.1", 443) in REFUSED, "those shipped stay"
    assert put(value(), "0.0.0.0/0\n::/0\n192.0.2.53\n") == [
        "2 prefixes are no resolver's and passed over, the first is 0.0.0.0/0"
    ]
    assert says("192.0.2.53", 443) in REFUSED and says("192.0.2.80", 443) == "hello", "what is good holds"
    put(value(bypass={"enabled": False}))
    assert says("1.1.1.1", 443) == says("192.0.2.80", 853) == "hello"


def test_exempt_clients_are_not_redirected() -> None:
    text = "\n".join(skeleton._chains(value(), skeleton.ONE_MAP))
    for key, name in (("ip", "exempt4"), ("ip6", "exempt6")):
        assert f"iifname @dns {key} saddr != @{name} meta l4proto {{ tcp, udp }} th dport 53 redirect to :5301" in text
        assert f"{key} saddr != @{name} meta l4proto {{ tcp, udp }} th dport 53 iifname @dns meta mark set" in text
