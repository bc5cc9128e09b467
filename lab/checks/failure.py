"""Row 7: what breaks fails closed and comes back by itself; ICMP errors follow their flow.

Knows: how to break things, what was counted on the exits. Must not know: why nothing leaks.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from lab import client, hosts, internet, traffic
from lab.checks.destinations import seen_from, url
from lab.checks.outcome import require
from lab.deadline import until
from lab.internet import CDN, SITES
from lab.state import Trouble, sh
from lab.topology import CLIENT, ENTRY, RU, UK, US, Host

MAIN = "/opt/mrvpn/docker-compose.yml"
COMPOSE = ("docker", "compose", "--project-name", "mrvpn", "--project-directory", "/opt/mrvpn", "--file", MAIN)
TUNNEL = "wg_ru"
BACK_WITHIN = 90.0  # seconds; a phone's own re-handshake timers alone are 15


def fails_closed() -> str:
    """Row 7."""
    client.lookup("www.shop.ru", "A")
    client.lookup("www.shop.ru", "AAAA")
    tunnel = while_flowing("the tunnel's process is killed", _kill_tunnel, {RU: ("RU",)})
    project = while_flowing("the project is recreated", _recreate, {RU: ("RU", "CDN"), UK: ("GB",), US: ("US",)})
    frag = needs_frag()
    return f"closed while the tunnel was away ({tunnel}) and from boot on ({project}); {frag}"


def while_flowing(what: str, work: Callable[[], None], wanted: dict[Host, tuple[str, ...]]) -> str:
    """Breaks something under UDP flows that never idle; Wrong where a packet left by another exit than its own."""
    sites = {**SITES, "CDN": CDN}
    own = {address: host for host, names in wanted.items() for n in names for address in (sites[n].ipv4, sites[n].ipv6)}
    with traffic.flowing(*own) as flows:
        internet.count_reset()
        start = time.monotonic()
        work()
        for address, host in own.items():
            until(f"after {what} {address} is reached by {host.name} again", _reached(address, host), BACK_WITHIN)
        back = time.monotonic() - start
        counts = internet.counted()
    problems = []
    for address, host in own.items():
        for other, packets in counts.elsewhere(host.name, [address]).items():
            problems.append(f"{what}: {packets} packets to {address} left by {other}, not {host.name}")
    problems += [f"{what}: {n} packets left {host} with an inside address" for host, n in counts.inside.items()]
    for flow, (address, host) in zip(flows, own.items(), strict=True):
        if set(flow.seen or ()) - {seen_from(host, address)}:
            problems.append(f"{what}: the flow to {address} was seen from {flow.seen}")
    require(problems)
    packets = sum(sum(counts.packets[host.name].get(a, 0) for a, h in own.items() if h is host) for host in wanted)
    lost = sum(flow.sent - flow.answered for flow in flows)
    return (
        f"{packets} packets by their own exits, 0 by another, back in {back:.0f} s; "
        f"{lost} of {sum(flow.sent for flow in flows)} datagrams lost"
    )


def _reached(address: str, host: Host) -> Callable[[], bool]:
    return lambda: client.fetch(url(address)) == seen_from(host, address)


def _kill_tunnel() -> None:
    """Kills the tunnel's process in its container and deletes the interface, as a crash would."""
    listed = hosts.run(ENTRY, "docker", "top", TUNNEL, "-eo", "pid,args")
    pids = [line.split()[0] for line in listed.splitlines() if "wireguard-go" in line]
    hosts.run(ENTRY, "docker", "exec", "firezone", "ip", "link", "del", TUNNEL, check=False)
    for pid in pids:
        sh("kill", "-9", pid, check=False)


def _recreate() -> None:
    """As somebody would by hand; again where Compose stops the gateway's dependents twice at once and trips over it."""
    command = [*COMPOSE, "up", "--detach", "--force-recreate"]
    try:
        hosts.run(ENTRY, *command, timeout=180)
    except Trouble as trouble:
        if "is not running" not in str(trouble):
            raise
        hosts.run(ENTRY, *command, timeout=180)


def needs_frag() -> str:
    """1350 bytes with DF through a tunnel of MTU 1400: the gateway's ICMP errors leave by the flow's own exit."""
    own = (SITES["US"].ipv4, SITES["US"].ipv6)
    internet.forget_mtu()
    internet.count_reset()
    for address in own:
        code = "import socket, sys; socket.socket(int(sys.argv[1]), 2).sendto(b'x', (sys.argv[2], 5001))"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        hosts.run(CLIENT, traffic.PYTHON, "-c", code, str(int(family)), address)

    def reached() -> bool:
        errors = internet.counted().errors[US.name]
        return all(errors.get(address) for address in own)

    until("need to frag and packet too big reach the server by us", reached, 10)
    errors = internet.counted().errors
    strays = {host: sum(n for a, n in seen.items() if a in own) for host, seen in errors.items() if host != US.name}
    require([f"{n} ICMP errors left by {host}" for host, n in strays.items() if n])
    return "need to frag and packet too big by us"
