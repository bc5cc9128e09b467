"""Rows 1 to 3: which exit a destination calls for, by country and by name.

Knows: the internet's servers, the exits' addresses. Must not know: how the entrypoint decides.
"""

from __future__ import annotations

import itertools

from lab import client, internet, traffic
from lab.checks.outcome import require
from lab.deadline import until
from lab.internet import CDN, EDGE, FRESH, HINT, ROUNDS, SITES, Site
from lab.state import RUN, Trouble
from lab.topology import ENTRY, RU, UK, US, Host

EXIT_OF = {"GB": UK, "RU": RU, "US": US, "DE": ENTRY}


def url(address: str) -> str:
    """The URL of the web server at an address."""
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


def seen_from(host: Host, address: str) -> str:
    """The address by which a far end of this family sees a host."""
    return host.ipv6 if ":" in address else host.ipv4


def leaves_by(host: Host, site: Site, phone: client.Phone = client.PHONE) -> list[str]:
    """Why the phone does not reach a site from this host's address in both families; empty when it does."""
    problems = []
    for address in (site.ipv4, site.ipv6):
        seen = client.fetch(url(address), seconds=10, phone=phone)
        if seen != seen_from(host, address):
            problems.append(f"{address} saw {seen or 'nothing'}, not {host.name} ({seen_from(host, address)})")
    return problems


def countries() -> str:
    """Row 1: each country's server sees the exit of its country."""
    for host in (UK, RU, US):
        # OSPF and the first handshakes may still be on their way
        until(f"traffic leaves by {host.name}", lambda h=host: not leaves_by(h, _site_of(h)), 30)  # type: ignore[misc]
    require([problem for country, host in EXIT_OF.items() for problem in leaves_by(host, SITES[country])])
    return "4 countries x 2 families, each from its exit's own address"


def _site_of(host: Host) -> Site:
    return next(SITES[country] for country, exit_ in EXIT_OF.items() if exit_ is host)


def chain() -> str:
    """Row 2: a matched name's chain, the hints and the target of its HTTPS record."""
    problems = []
    answers = {"A": CDN.ipv4, "AAAA": CDN.ipv6}
    for kind, address in answers.items():
        found = client.lookup("www.shop.ru", kind)
        if address not in found:
            problems.append(f"www.shop.ru {kind}: {found}")
    problems += leaves_by(RU, CDN)
    https = " ".join(client.lookup("www.shop.ru", "HTTPS"))
    if f"ipv4hint={HINT.ipv4}" not in https or f"ipv6hint={HINT.ipv6}" not in https:
        problems.append(f"www.shop.ru HTTPS: {https!r}")
    problems += leaves_by(RU, HINT)
    for kind, address in (("A", EDGE.ipv4), ("AAAA", EDGE.ipv6)):
        found = client.lookup("edge.example.com", kind)
        if address not in found:
            problems.append(f"edge.example.com {kind}: {found}")
    problems += leaves_by(RU, EDGE)
    # a .com name that no .ru name leads to goes its own way
    client.lookup("www.example.com", "A")
    client.lookup("www.example.com", "AAAA")
    problems += leaves_by(US, SITES["US"])
    require(problems)
    return "CNAME, hints and target by ru; www.example.com by us; A and AAAA"


def _turn() -> int:
    """The next round of fresh names that this lab has not asked for."""
    marker = RUN / "fresh-turn"
    turn = int(marker.read_text()) + 1 if marker.exists() else 0
    if turn >= ROUNDS:
        raise Trouble(f"this lab has asked for all its {ROUNDS} rounds of fresh names: bring it up anew")
    marker.write_text(str(turn))
    return turn


def fresh_names() -> str:
    """Row 3: not one packet to a fresh name's address leaves by another exit, from the first one on."""
    turn = _turn()
    names, addresses = [], {}
    for number in range(FRESH):
        name, address = internet.fresh(number, turn)
        addresses[name] = address
        names.append((name, "AAAA" if ":" in address else "A", number % 8 in (0, 1)))
    internet.count_reset()
    rounds = traffic.ask_and_connect(names, client.GATEWAY4, 2)
    counts = internet.counted()
    problems = [f"{host}: {n} packets" for host, n in counts.elsewhere(RU.name, addresses.values()).items()]
    unseen = [name for name, address in addresses.items() if address not in counts.packets[RU.name]]
    if unseen:
        problems.append(f"{len(unseen)} never reached, {unseen[0]} among them")
    for number, found in enumerate(rounds, 1):
        problems += [f"round {number}: {name}: {why}" for name, why in itertools.islice(found["failed"].items(), 2)]
        for name, address in addresses.items():
            answered = found["answered"].get(name)
            if answered not in (None, address):
                problems.append(f"{name} is {answered}, not {address}")
            seen = found["seen"].get(address)
            if seen not in (None, seen_from(RU, address)):
                problems.append(f"round {number}: {name} at {address} saw {seen}")
    require(problems)
    packets = sum(counts.packets[RU.name][address] for address in addresses.values())
    return f"{packets} packets to {FRESH} addresses by ru, 0 by another; {sum(t for *_, t in names)} over TCP"
