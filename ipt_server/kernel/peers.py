"""Which addresses are one client's, as WireGuard has them.

Knows: `wg show`. Must not know: what it is asked for. A gateway whose WireGuard runs as a program of another container
cannot be asked: then nothing is known, and nothing is wrong.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterable


def addresses(interfaces: Iterable[str]) -> list[tuple[str, ...]]:
    """The addresses of each peer of these interfaces: what its allowed_ips hold of /32 and /128."""
    found = []
    for interface in interfaces:
        try:
            done = subprocess.run(["wg", "show", interface, "allowed-ips"], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            continue
        found += parse(done.stdout)
    return found


def parse(text: str) -> list[tuple[str, ...]]:
    """The same of the output of `wg show INTERFACE allowed-ips`: a key, a tab, prefixes."""
    found = []
    for line in text.splitlines():
        networks = []
        for word in line.split()[1:]:
            try:
                networks.append(ipaddress.ip_network(word))
            except ValueError:  # "(none)"
                continue
        own = tuple(str(n.network_address) for n in networks if n.prefixlen == n.max_prefixlen)
        if own:
            found.append(own)
    return found
