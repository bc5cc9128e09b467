"""What a host looks like when something failed: everything an engineer would ask for first.

Knows: commands that show state. Must not know: what went wrong.
"""

from __future__ import annotations

import subprocess
import sys

from lab import hosts, router
from lab.state import LOGS, processes
from lab.topology import MANAGED, Host

LINKS = ("sh", "-c", "ip -br address; wg show all dump | cut -f1,4-")  # without keys
OSPF = ("vtysh", "-c", "show ip ospf neighbor", "-c", "show ip route ospf", "-c", "show ipv6 ospf6 neighbor")


def show(title: str, argv: list[str]) -> None:
    """Prints the output of a command under a title, whatever its exit code."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        text = (done.stdout + done.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        text = str(error)
    print(f"--- {title}\n{text[-6000:]}", file=sys.stderr)


def containers(host: Host) -> None:
    """Prints the host's containers and their last lines."""
    enter = hosts.enter(host)
    show(f"{host.name}: docker ps -a", [*enter, "docker", "ps", "-a", "--format", "{{.Names}}\t{{.Status}}"])
    names = subprocess.run([*enter, "docker", "ps", "-aq"], capture_output=True, text=True).stdout.split()
    for name in names:
        show(f"{host.name}: {name}", [*enter, "docker", "logs", "--tail", "15", name])


def host_state(host: Host) -> None:
    """Prints rules, routes, our nft table, WireGuard, OSPF and containers of a host."""
    enter = hosts.enter(host)
    show(f"{host.name}: routes", [*enter, "sh", "-c", "ip rule; ip route; ip -6 route"])
    containers(host)
    for service in ("firezone", *(f"wg_{host.name}",)):
        inside = [*enter, "docker", "exec", service]
        show(f"{host.name}/{service}: rules", [*inside, "sh", "-c", "ip rule; ip -6 rule; ip route show table all"])
        show(f"{host.name}/{service}: nft", [*inside, "nft", "-t", "list", "table", "inet", "mrvpn"])
        show(f"{host.name}/{service}: links", [*inside, *LINKS])
    for service in ("firezone_frr", f"wg_{host.name}_frr"):
        show(f"{host.name}/{service}: OSPF", [*enter, "docker", "exec", service, *OSPF])


def router_state() -> None:
    """Prints what the router's rows came to in its namespace."""
    try:
        told = router.ask(realised=True)
    except (OSError, ValueError) as error:
        print(f"--- router: does not take commands: {error}", file=sys.stderr)
        return
    print(f"--- router: errors of its namespace\n{told['errors']}", file=sys.stderr)
    for title, argv in (("routes", ("sh", "-c", "ip route; ip -6 route")), ("links", LINKS), ("OSPF", OSPF)):
        show(f"router: {title}", [*told["enter"], *argv])


def everything() -> None:
    """Prints the state of every host that has come so far, and the ends of all logs."""
    running = {name for name, _ in processes()}
    for host in MANAGED:
        if f"dockerd-{host.name}" in running:
            host_state(host)
    if "router" in running:
        router_state()
    for path in sorted(LOGS.glob("*.log")):
        print(f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}", file=sys.stderr)
