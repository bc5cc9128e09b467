"""The internet: one namespace that routes, answers at real public addresses, and is authoritative for the test zones.

Knows: addresses by country, zones, NSD, nftables counters. Must not know: the VPN. Which exit a packet used is
counted here, on the link of the host it came from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import maxminddb

from lab import topology
from lab.deadline import until
from lab.state import REPO, RUN, Trouble, alive, sh, spawn
from lab.topology import HOSTS

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
EDGE = Site("US", "208.80.154.226", "2620:0:861:ed1a::3")  # target of its HTTPS record
PREFIXES = (
    "81.2.69.0/24", "77.88.55.0/24", "208.80.154.0/24", "46.4.84.0/22",
    "2a00:23c5::/64", "2a02:6b8::/64", "2620:0:861:ed1a::/64", "2a01:4f8::/64", "2a01:4f8:86::/64",
)  # fmt: skip
FRESH = 300


def fresh(number: int) -> tuple[str, str]:
    """Name and address of the fresh .ru name of this number: even ones have an A, odd ones an AAAA, all in Germany."""
    address = f"2a01:4f8:86::{number + 1:x}" if number % 2 else f"46.4.{86 + number // 250}.{number % 250 + 1}"
    return f"n{number}.fresh.ru", address


def check_countries() -> None:
    """Compares every site with the country database; raises Trouble naming those that moved."""
    wrong = []
    with maxminddb.open_database(DATABASE) as database:
        expected = [(a, s.country) for s in (*SITES.values(), CDN, EDGE) for a in (s.ipv4, s.ipv6)]
        expected += [(fresh(n)[1], "DE") for n in range(FRESH)]
        for address, country in expected:
            record = database.get(address)
            found = record.get("country_code") if isinstance(record, dict) else None
            if found != country:
                wrong.append(f"{address} is {found}, not {country}")
    if wrong:
        raise Trouble("the country database disagrees with the lab's servers: " + "; ".join(wrong[:5]))


def _zones() -> Mapping[str, list[str]]:
    def site(name: str, s: Site) -> list[str]:
        return [f"{name} 60 IN A {s.ipv4}", f"{name} 60 IN AAAA {s.ipv6}"]

    names = [fresh(n) for n in range(FRESH)]
    return {
        "ru": [
            *site("www.yandex.ru.", SITES["RU"]),
            "www.shop.ru. 60 IN CNAME cdn.example.com.",
            *[f"{name}. 30 IN {'AAAA' if ':' in address else 'A'} {address}" for name, address in names],
            *site("de.fresh.ru.", SITES["DE"]),
        ],
        "com": [
            *site("www.example.com.", SITES["US"]),
            *site("cdn.example.com.", CDN),
            f"cdn.example.com. 60 IN HTTPS 1 edge.example.com. alpn=h2 ipv4hint={EDGE.ipv4} ipv6hint={EDGE.ipv6}",
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


def count_reset() -> None:
    """Starts counting from zero: packets by (link they came in by, destination), both families."""
    sets = "\n".join(
        f" set seen{family} {{ type ifname . {kind}; size 65536; flags dynamic; counter; }}"
        for family, kind in ((4, "ipv4_addr"), (6, "ipv6_addr"))
    )
    rules = "\n".join(f"  add @seen{family} {{ iifname . {key} daddr }}" for family, key in ((4, "ip"), (6, "ip6")))
    text = (
        "table inet count\ndelete table inet count\ntable inet count {\n"
        f"{sets}\n chain pre {{ type filter hook prerouting priority raw;\n{rules}\n }}\n}}\n"
    )
    sh("ip", "netns", "exec", NETNS, "nft", "-f", "-", stdin=text)


def counted() -> dict[str, dict[str, int]]:
    """Packets since the reset: {host: {destination: packets}}."""
    found: dict[str, dict[str, int]] = {host.name: {} for host in HOSTS}
    for family in (4, 6):
        text = sh("ip", "netns", "exec", NETNS, "nft", "-j", "list", "set", "inet", "count", f"seen{family}")
        for item in json.loads(text)["nftables"]:
            for element in item.get("set", {}).get("elem", []):
                link, destination = element["elem"]["val"]["concat"]
                host = link.removeprefix("v-")
                if host in found:
                    found[host][destination] = element["elem"]["counter"]["packets"]
    return found
