"""The internet: one namespace that routes, answers at real public addresses, and is authoritative for the test zones.

Knows: addresses by country, zones, NSD, nftables counters. Must not know: the VPN. Which exit a packet used is
counted here, on the link of the host it came from.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import maxminddb

from lab import topology
from lab.deadline import until
from lab.state import REPO, RUN, Trouble, alive, sh, spawn
from lab.topology import HOSTS, Host

NETNS = topology.PREFIX + topology.INTERNET
DATABASE = REPO / ".cache" / "country" / "country.mmdb"


@dataclass(frozen=True)
class Site:
    """A web server at a real address of a country, both families."""

    country: str
    ipv4: str
    ipv6: str


SITES = {
    "GB": Site("GB", "81.2.69.160", "2a00:23c5::160"),
    "RU": Site("RU", "77.88.55.60", "2a02:6b8::2:242"),
    "US": Site("US", "208.80.154.224", "2620:0:861:ed1a::1"),
    "DE": Site("DE", "46.4.84.1", "2a01:4f8::10"),
}
CDN = Site("US", "208.80.154.225", "2620:0:861:ed1a::2")  # www.shop.ru is a CNAME to it
HINT = Site("US", "208.80.154.226", "2620:0:861:ed1a::3")  # the address hints of its HTTPS record
EDGE = Site("US", "208.80.154.227", "2620:0:861:ed1a::4")  # the target of its HTTPS record
SHORT = Site("DE", "46.4.84.2", "2a01:4f8::11")  # short.fresh.ru: ten seconds and no more
PREFIXES = (
    "81.2.69.0/24", "77.88.55.0/24", "208.80.154.0/24", "46.4.84.0/22", "46.4.128.0/17",
    "2a00:23c5::/64", "2a02:6b8::/64", "2620:0:861:ed1a::/64", "2a01:4f8::/64", "2a01:4f8:86::/48",
)  # fmt: skip
FRESH = 300
ROUNDS = 16  # how often a lab can ask for names that it never asked for before


def fresh(number: int, turn: int = 0) -> tuple[str, str]:
    """Name and address of a fresh .ru name of a round: even ones have an A, odd ones an AAAA, all in Germany."""
    low = number // 2 + 1
    address = f"2a01:4f8:86:{turn + 1:x}::{low:x}" if number % 2 else f"46.4.{128 + turn}.{low}"
    return f"n{number}.t{turn}.fresh.ru", address


def check_countries() -> None:
    """Compares every site with the country database; raises Trouble naming those that moved."""
    wrong = []
    with maxminddb.open_database(DATABASE) as database:
        expected = [(a, s.country) for s in (*SITES.values(), CDN, HINT, EDGE, SHORT) for a in (s.ipv4, s.ipv6)]
        expected += [(fresh(n, turn)[1], "DE") for turn in range(ROUNDS) for n in range(FRESH)]
        for address, country in expected:
            record = database.get(address)
            found = record.get("country_code") if isinstance(record, dict) else None
            if found != country:
                wrong.append(f"{address} is {found}, not {country}")
    if wrong:
        raise Trouble("the country database disagrees with the lab's servers: " + "; ".join(wrong[:5]))


def _zones() -> Mapping[str, list[str]]:
    def site(name: str, s: Site, ttl: int = 60) -> list[str]:
        return [f"{name} {ttl} IN A {s.ipv4}", f"{name} {ttl} IN AAAA {s.ipv6}"]

    names = [fresh(n, turn) for turn in range(ROUNDS) for n in range(FRESH)]
    return {
        "ru": [
            *site("www.yandex.ru.", SITES["RU"]),
            "www.shop.ru. 60 IN CNAME cdn.example.com.",
            *[f"{name}. 30 IN {'AAAA' if ':' in address else 'A'} {address}" for name, address in names],
            *site("de.fresh.ru.", SITES["DE"]),
            *site("short.fresh.ru.", SHORT, ttl=10),
        ],
        "com": [
            *site("www.example.com.", SITES["US"]),
            *site("cdn.example.com.", CDN),
            f"cdn.example.com. 60 IN HTTPS 1 edge.example.com. alpn=h2 ipv4hint={HINT.ipv4} ipv6hint={HINT.ipv6}",
            *site("edge.example.com.", EDGE),
        ],
        "uk": site("www.bbc.co.uk.", SITES["GB"]),
        "de": site("www.heise.de.", SITES["DE"]),
    }


def _nsd_config(folder: Path) -> str:
    for zone, records in _zones().items():
        head = [
            f"$ORIGIN {zone}.",
            "$TTL 60",
            f"@ IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 5",
            f"@ IN NS ns.{zone}.",
            f"ns.{zone}. IN A {topology.DNS}",
        ]
        (folder / f"{zone}.zone").write_text("\n".join([*head, *records]) + "\n")
    zones = "\n".join(f'zone:\n  name: "{zone}"\n  zonefile: "{zone}.zone"' for zone in _zones())
    return (
        f'server:\n  ip-address: {topology.DNS}\n  zonesdir: "{folder}"\n  username: ""\n  chroot: ""\n'
        f'  pidfile: ""\n  zonelistfile: "{folder}/zone.list"\n  xfrdfile: "{folder}/xfrd.state"\n'
        f'  xfrdir: "{folder}"\n  database: ""\n  server-count: 1\n  verbosity: 1\n  tcp-count: 500\n'
        f"remote-control:\n  control-enable: no\n{zones}\n"
    )


def start() -> None:
    """Gives the namespace its addresses, servers and counters."""
    check_countries()
    for prefix in PREFIXES:
        sh("ip", "-n", NETNS, "route", "add", "local", prefix, "dev", "lo")
    sh("ip", "-n", NETNS, "address", "add", f"{topology.DNS}/32", "dev", "lo")
    inside = ["ip", "netns", "exec", NETNS]
    sh(*inside, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.ip_nonlocal_bind=1")
    folder = RUN / "nsd"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nsd.conf").write_text(_nsd_config(folder))
    sh("/usr/sbin/nsd-checkconf", str(folder / "nsd.conf"))
    pids = {
        "nsd": spawn("nsd", [*inside, "/usr/sbin/nsd", "-d", "-c", str(folder / "nsd.conf")]),
        "web": spawn("internet-web", [*inside, sys.executable, "-m", "lab.servers", "web"], cwd=REPO),
        "udp": spawn("internet-udp", [*inside, sys.executable, "-m", "lab.servers", "udp"], cwd=REPO),
    }
    for name, pid in pids.items():
        if not alive(pid):
            raise Trouble(f"the internet's {name} ended at once: see the log")
    dig = [*inside, "dig", "+short", "+time=1", "+tries=1", f"@{topology.DNS}", "www.yandex.ru", "A"]
    until("the internet's DNS answers", lambda: sh(*dig, check=False).strip() == SITES["RU"].ipv4, 15)
    curl = [*inside, "curl", "-s", "--max-time", "1", f"http://{SITES['DE'].ipv4}/"]
    until("the internet's web server answers", lambda: sh(*curl, check=False).strip(), 15)
    count_reset()


@dataclass
class Counts:
    """What came by each host's link since the reset. Destinations are addresses as text."""

    packets: dict[str, dict[str, int]]  # host -> destination -> packets
    errors: dict[str, dict[str, int]]  # host -> destination -> ICMP "need to frag", ICMPv6 "packet too big"
    inside: dict[str, int]  # host -> packets whose source is an address of the mesh: nobody's NAT has seen them

    def elsewhere(self, host: str, destinations: Iterable[str]) -> dict[str, int]:
        """Packets to these destinations that came by another host's link than this one's: {host: packets}."""
        wanted = set(destinations)
        found = {
            name: sum(n for destination, n in seen.items() if destination in wanted)
            for name, seen in self.packets.items()
            if name != host
        }
        return {name: n for name, n in found.items() if n}


_KINDS = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))
_ERRORS = {4: "icmp type destination-unreachable icmp code frag-needed", 6: "icmpv6 type packet-too-big"}
_INSIDE = {4: "10.0.0.0/8", 6: "fc00::/7"}


def count_reset() -> None:
    """Starts counting from zero, both families."""
    lines = ["table inet count", "delete table inet count", "table inet count {"]
    rules = []
    for family, key, kind in _KINDS:
        for name in ("seen", "errors", "inside"):
            value = "" if name == "inside" else f" . {kind}"
            lines.append(f" set {name}{family} {{ type ifname{value}; size 65536; flags dynamic; counter; }}")
        rules.append(f"  add @seen{family} {{ iifname . {key} daddr }}")
        rules.append(f"  {_ERRORS[family]} add @errors{family} {{ iifname . {key} daddr }}")
        rules.append(f"  {key} saddr {_INSIDE[family]} add @inside{family} {{ iifname }}")
    head = [" chain pre { type filter hook prerouting priority raw;", '  iifname != "v-*" return']
    text = "\n".join([*lines, *head, *rules, " }", "}", ""])
    sh("ip", "netns", "exec", NETNS, "nft", "-f", "-", stdin=text)


@contextlib.contextmanager
def cut(host: Host) -> Iterator[None]:
    """Drops all that a host sends while the body runs: its line is dead."""
    inside = ["ip", "netns", "exec", NETNS, "nft"]
    hook = "type filter hook prerouting priority -400;"
    table = ["table inet cut {", "chain pre {", hook, f'iifname "v-{host.name}" drop', "}", "}", ""]
    sh(*inside, "-f", "-", stdin="\n".join(table))
    try:
        yield
    finally:
        sh(*inside, "delete table inet cut")


def forget_mtu() -> None:
    """Makes the servers forget every path MTU that they have learned."""
    for family in ("-4", "-6"):
        sh("ip", "-n", NETNS, family, "route", "flush", "cache")


def counted() -> Counts:
    """What was counted since the reset."""
    found = Counts({host.name: {} for host in HOSTS}, {host.name: {} for host in HOSTS}, {})
    table = json.loads(sh("ip", "netns", "exec", NETNS, "nft", "-j", "list", "table", "inet", "count"))["nftables"]
    for item in (entry["set"] for entry in table if "set" in entry):
        for element in (e["elem"] for e in item.get("elem", [])):
            packets = element["counter"]["packets"]
            if item["name"].startswith("inside"):
                host = element["val"].removeprefix("v-")
                found.inside[host] = found.inside.get(host, 0) + packets
                continue
            link, destination = element["val"]["concat"]
            into = found.errors if item["name"].startswith("errors") else found.packets
            into.setdefault(link.removeprefix("v-"), {})[destination] = packets
    return found
