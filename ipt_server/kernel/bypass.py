"""The nft table `inet mrvpn_bypass`: clients that would take their DNS past the recursor are refused, and counted.

Knows: DNS over TLS and QUIC (port 853), addresses of resolvers that speak HTTPS (port 443, UDP as well: HTTP/3), who
is exempt. Must not know: rules, exits, names (those are the recursor's policy zones). A table of its own, looked at
before `inet mrvpn` picks an exit: the two change without each other. What is refused is told to the client at once, so
that it comes back to port 53 without a pause.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from ipt_server.lists.formats import Names, parse
from ipt_server.settings import Settings

TABLE = "mrvpn_bypass"
KNOWN = Path(__file__).parents[1] / "dns" / "doh.txt"
TRIED_FOR = "1d"  # how long a client that tried is remembered
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_KEY = {4: "ip", 6: "ip6"}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


SHORTEST = {4: 16, 6: 29}  # prefixes that could be a resolver's


class BypassRefused(Exception):
    """A table that nft refused; the text says why."""


def known(lists: Iterable[Names] = ()) -> tuple[list[Network], list[str]]:
    """The resolvers' addresses and prefixes, those shipped and those of the lists, and what was passed over."""
    found: list[Network] = []
    wide: list[Network] = []
    for names in (parse(KNOWN.read_text(), "plain"), *lists):
        for text in names.addresses:
            network = ipaddress.ip_network(text, strict=False)
            (found if network.prefixlen >= SHORTEST[network.version] else wide).append(network)
    told = f"{len(wide)} prefixes are no resolver's and passed over, the first is {wide[0]}" if wide else ""
    return found, [told] if told else []


def table(s: Settings, resolvers: Iterable[Network]) -> str:
    """The whole table in place of the one before, for `nft -f -`; gone where nothing is guarded."""
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}"]
    guarded = [name for name in s.recursor.interfaces if name in s.ingress]
    if not guarded or not s.bypass.enabled:
        return "\n".join([*lines, ""])
    resolvers = list(resolvers)
    lines.append(f"table inet {TABLE} {{")
    lines += [" counter tls { }", " counter https { }"]
    for family in (4, 6):
        kind = _TYPE[family]
        exempt = _set(s.recursor.exempt, family)
        https = _set(map(str, resolvers), family)
        lines += [
            f" set exempt{family} {{ type {kind}; flags interval;{exempt} }}",
            f" set https{family} {{ type {kind}; flags interval;{https} }}",
            f" set tried{family} {{ type {kind}; flags dynamic,timeout; timeout {TRIED_FOR}; size 65536; counter; }}",
        ]
    names = ", ".join(f'"{name}"' for name in guarded)
    lines += [
        " chain guard { type filter hook prerouting priority mangle - 10; policy accept;",
        "  ct state established,related accept",  # first: it is nearly every packet
        f"  iifname != {{ {names} }} accept",
        *(f"  {_KEY[f]} saddr @exempt{f} accept" for f in (4, 6)),
        "  meta l4proto { tcp, udp } th dport 853 counter name tls goto refuse",
        *(
            f"  {_KEY[f]} daddr @https{f} meta l4proto {{ tcp, udp }} th dport 443 counter name https goto refuse"
            for f in (4, 6)
        ),
        " }",
        " chain refuse {",
        *(f"  update @tried{f} {{ {_KEY[f]} saddr }}" for f in (4, 6)),
        "  meta l4proto tcp reject with tcp reset",
        "  reject with icmpx admin-prohibited",
        " }",
        "}",
        "",
    ]
    return "\n".join(lines)


def _set(prefixes: Iterable[str], family: int) -> str:
    own = [n for n in map(ipaddress.ip_network, prefixes) if n.version == family]
    merged: Sequence[Network] = list(ipaddress.collapse_addresses(own))  # type: ignore[type-var]
    return f" elements = {{ {', '.join(map(str, merged))} }};" if merged else ""


def apply(s: Settings, resolvers: Iterable[Network]) -> None:
    """Makes the table what the settings and the resolvers say. Raises BypassRefused; then it is as it was."""
    done = subprocess.run(["nft", "-f", "-"], input=table(s, resolvers), capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise BypassRefused((done.stderr.strip() or "nft failed").splitlines()[0])


def attempts() -> dict[str, int]:
    """Who tried to take DNS elsewhere in the last day: packets by client; empty without the table."""
    found: dict[str, int] = {}
    for family in (4, 6):
        command = ["nft", "-j", "list", "set", "inet", TABLE, f"tried{family}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        for item in json.loads(done.stdout)["nftables"] if done.returncode == 0 else ():
            for element in item.get("set", {}).get("elem", []):
                found[element["elem"]["val"]] = element["elem"].get("counter", {}).get("packets", 0)
    return found
