"""What must be true of what was assigned.

Knows: the network and its lock. Must not know: YAML, views.
"""

from __future__ import annotations

import itertools

from mrvpn.errors import Problem
from mrvpn.schema.checks.near import IPNetwork, network
from mrvpn.schema.model import DEFAULT_EXIT
from mrvpn.schema.source import LOCK, Path_, Source
from mrvpn.topology import Network, collapse
from mrvpn.topology.lock import Lock


def check(source: Source, found: Network, lock: Lock) -> None:
    """Adds what is wrong with what was assigned."""
    for name, hosts in found.addresses.items():
        _addresses(source, name, hosts)
        if len(hosts) > 2:
            _allowed(source, found, name)
    _lock(source, found, lock)


def _addresses(source: Source, name: str, hosts: dict[str, tuple[str, ...]]) -> None:
    if any(source.touched(("tunnels", name, "hosts", host, "address")) for host in hosts):
        return
    seen: dict[str, str] = {}
    for host, texts in hosts.items():
        for text in texts:
            other = seen.setdefault(text, host)
            if other != host:
                path: Path_ = ("tunnels", name, "hosts", host, "address")
                address = text.split("/")[0]
                message = f"{address} is {other}'s in this tunnel: pin another address, or run `mrvpn lock` first"
                source.problem(path, message, "address-twice")


def _allowed(source: Source, found: Network, name: str) -> None:
    """In a tunnel of more than two hosts one sees several peers, and WireGuard gives a prefix to one of them alone."""
    d = found.description
    sets: dict[str, list[IPNetwork]] = {}
    for host, end in d.tunnels[name].hosts.items():
        own = [text.split("/")[0] for text in found.addresses[name][host]]
        allowed = [p for p in (*own, *found.behind(name, host), *end.allowed_nets) if not network(p).is_multicast]
        # as written, and as it adds up: two halves are a whole
        allowed += [p for version in (4, 6) for p in collapse(allowed, version)]
        sets[host] = [network(p) for p in dict.fromkeys(str(network(p)) for p in allowed)]
    for (one, ones), (other, others) in itertools.combinations(sets.items(), 2):
        for a, b in itertools.product(ones, others):
            if a.version != b.version or not a.overlaps(b):
                continue
            path: Path_ = ("tunnels", name, "hosts", other, "allowed_nets")
            if a == b:
                message = f"{a} is allowed from {one} too: WireGuard would take it from one of them, declare it at one"
                source.problem(path, message, "allowed-twice")
            elif min(a.prefixlen, b.prefixlen) >= 8 and max(a.prefixlen, b.prefixlen) < a.max_prefixlen:
                wide, narrow = (a, b) if a.prefixlen < b.prefixlen else (b, a)
                holder, taker = (one, other) if a.prefixlen < b.prefixlen else (other, one)
                message = f"{narrow} of {taker} lies in {wide} of {holder}: {taker} alone gets it"
                source.problem(path, message, "allowed-inside", warning=True)


def _lock(source: Source, found: Network, lock: Lock) -> None:
    """Where the description asks for another number than the lock holds: it gets it, and is told."""
    d = found.description

    def differs(path: Path_, wanted: object, held: object) -> None:
        message = f"is {wanted}, and {held} in {LOCK}: hosts change; run `mrvpn lock` when that is meant"
        source.problem(path, message, "lock-differs", warning=True)

    for name, hosts in found.addresses.items():
        for host, texts in hosts.items():
            held = set(lock.addresses.get(name, {}).get(host, ()))
            now = {text.split("/")[0] for text in texts}
            if held - now:
                at = "address" if d.tunnels[name].hosts[host].address else "subnet"
                path: Path_ = ("tunnels", name, "hosts", host, at) if at == "address" else ("tunnels", name, at)
                differs(path, ", ".join(sorted(now)), ", ".join(sorted(held - now)))
            port = lock.ports.get(name, {}).get(host)
            expose = d.tunnels[name].hosts[host].expose
            if port is not None and expose is not None and expose.port != port:
                differs(("tunnels", name, "hosts", host, "expose"), expose.port, port)
    default = lock.exits.get(DEFAULT_EXIT)
    if default is not None and default.mark != d.routing.pbr_mark:
        message = f"is {d.routing.pbr_mark}, and {default.mark} in {LOCK}: exits there keep their marks"
        source.problem(("routing", "pbr_mark"), message, "lock-differs", warning=True)
    if lock != Lock() and _unlocked(found, lock):
        message = f"{_unlocked(found, lock)}: run `mrvpn lock`, or the next change may renumber it"
        source.problems.append(Problem(LOCK, 0, "", message, "lock-stale", "warning"))


def _unlocked(found: Network, lock: Lock) -> str | None:
    """What the lock does not hold yet, in words."""
    ends = [
        f"{host} in {name}"
        for name, hosts in found.addresses.items()
        for host in hosts
        if host not in lock.addresses.get(name, {})
    ]
    if not ends:
        return None
    return f"does not hold {', '.join(ends[:3])}{f' and {len(ends) - 3} more' if len(ends) > 3 else ''}"
