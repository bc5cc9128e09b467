"""What a client reaches, both families: every port of the gateway, other clients, OSPF. docs/security.md has the list.

What passes the gateway's firewall is counted behind it, so that silence is never taken for closed:

    phone --wg-firezone--> [arrived: raw] -> inet mrvpn input -> [passed: after it] -> recursor
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import client, hosts, topology, traffic
from lab.client import GATEWAY4, INTERFACE, Phone
from lab.deadline import until
from lab.state import REPO, sh
from lab.topology import CLIENT, ENTRY, Host

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.usefixtures("lab", "short_lived")]
GATEWAY6 = "fd6d:7276:11::1"
BRIDGE = ("172.30.55.2", "fd6d:7276:0:55::2")  # the gateway's addresses on its own compose network
HOST_BEHIND = ("172.30.55.1",)  # the host's
ALL = set(range(1, 65536))


def documented(to: str) -> set[str]:
    """The ports that docs/security.md says a client finds open, as `53/udp`."""
    text = (REPO / "docs" / "security.md").read_text()
    (line,) = [row for row in text.splitlines() if row.startswith(f"| a client | {to}")]
    return set(re.findall(r"\d+/(?:tcp|udp)", line.split("|")[3]))


def gateway(*argv: str, stdin: str | None = None, check: bool = True) -> str:
    """Runs one of the image's tools in the gateway's network namespace."""
    return hosts.run(ENTRY, "docker", "exec", "-i", "firezone", *argv, stdin=stdin, check=check)


@contextlib.contextmanager
def counting() -> Iterator[None]:
    """Two sets in the gateway: what came from clients, and what of it the firewall let through."""
    lines = ["table inet seen {"]
    for name in ("arrived", "passed"):
        lines.append(f" set {name} {{ type nf_proto . inet_proto . inet_service; flags dynamic; size 524288; }}")
        lines.append(f" set {name}_other {{ type inet_proto; flags dynamic; size 256; }}")
    for name, hook in (("arrived", "prerouting priority raw"), ("passed", "input priority 100")):
        lines += [
            f" chain {name} {{ type filter hook {hook}; policy accept;",
            '  iifname != "wg-firezone" return',
            f"  meta l4proto {{ tcp, udp }} add @{name} {{ meta nfproto . meta l4proto . th dport }}",
            f"  meta l4proto != {{ tcp, udp }} add @{name}_other {{ meta l4proto }}",
            " }",
        ]
    gateway("nft", "-f", "-", stdin="\n".join(["table inet seen", "delete table inet seen", *lines, "}", ""]))
    try:
        yield
    finally:
        gateway("nft", "delete", "table", "inet", "seen")


def seen(name: str, protocol: str, family: str) -> set[int]:
    """Ports in one of the sets, of a family (ipv4, ipv6)."""
    found = json.loads(gateway("nft", "-j", "list", "set", "inet", "seen", name))["nftables"]
    elements = next(entry["set"].get("elem", []) for entry in found if "set" in entry)
    triples = [element["concat"] for element in elements]
    numbers = (protocol, {"tcp": 6, "udp": 17}[protocol])
    return {int(port) for of, kind, port in triples if of == family and kind in numbers}


def others(name: str) -> set[str]:
    """Protocols in one of the sets."""
    found = json.loads(gateway("nft", "-j", "list", "set", "inet", "seen", f"{name}_other"))["nftables"]
    return {str(element) for entry in found if "set" in entry for element in entry["set"].get("elem", [])}


def sweep(host: Host, address: str, protocol: str, ports: list[int] | None = None) -> set[int]:
    """One packet to every port; the ports that answered (TCP)."""
    argv = [
        "env",
        f"PYTHONPATH={REPO}",
        traffic.PYTHON,
        "-m",
        "lab.probes.sweep",
        address,
        protocol,
        *map(str, ports or []),
    ]
    return set(json.loads(hosts.run(host, *argv, timeout=300))["open"])


def test_the_gateways_open_ports_are_the_documented_ones() -> None:
    def swept(address: str, family: str, protocol: str) -> tuple[set[int], set[int]]:
        """Ports that answered, and ports that were never tried."""
        found = sweep(CLIENT, address, protocol)
        for _ in range(8):  # what a busy tunnel dropped is sent again
            missing = ALL - seen("arrived", protocol, family)
            if not missing:
                break
            found |= sweep(CLIENT, address, protocol, sorted(missing)[:20000])
        return found, ALL - seen("arrived", protocol, family)

    ways = [(GATEWAY4, "ipv4", "tcp"), (GATEWAY6, "ipv6", "tcp"), (GATEWAY4, "ipv4", "udp"), (GATEWAY6, "ipv6", "udp")]
    with counting():
        with ThreadPoolExecutor(len(ways)) as pool:
            found = list(pool.map(lambda way: swept(*way), ways))
        passed = [seen("passed", protocol, family) for _, family, protocol in ways]
    for (address, _, protocol), (answered, missing), behind in zip(ways, found, passed, strict=True):
        assert not missing, f"{len(missing)} ports of {address} were never tried"
        wanted = {int(port.split("/")[0]) for port in documented("the gateway") if port.endswith(protocol)}
        # 53 is redirected, and arrives behind the firewall as the recursor's own port
        assert behind == {5301 if port == 53 else port for port in wanted}
        assert protocol == "udp" or answered == wanted
        print(f"{address} {protocol}: {len(ALL)} ports tried, {sorted(wanted)} open")


def test_no_other_address_of_the_gateway_has_more_open() -> None:
    listening = gateway("ss", "-Hltnu", check=False)
    ports = sorted(
        {int(port) for port in re.findall(r":(\d+)\s+\S+:\*", listening)} | {22, 80, 443, 13000, 2601, 2604, 2605, 9100}
    )
    assert 5301 in ports and 3784 in ports, listening
    with counting():
        for address in BRIDGE:
            for protocol in ("tcp", "udp"):
                assert sweep(CLIENT, address, protocol, [*ports, 53]) <= {53}, address
        for family in ("ipv4", "ipv6"):
            for protocol in ("tcp", "udp"):
                assert seen("passed", protocol, family) <= {5301}
                assert set(ports) <= seen("arrived", protocol, family)
    for address in HOST_BEHIND:  # 53 of whatever address is the recursor's
        assert sweep(CLIENT, address, "tcp", [22, 53, 80, 443, 2375, 4505, 4506, 13000]) <= {53}


def test_the_internet_finds_no_tcp_port_of_the_entrypoint() -> None:
    internet = ["ip", "netns", "exec", topology.PREFIX + topology.INTERNET, "env", f"PYTHONPATH={REPO}", traffic.PYTHON]
    for address in (ENTRY.ipv4, ENTRY.ipv6):
        assert json.loads(sh(*internet, "-m", "lab.probes.sweep", address, "tcp", timeout=300))["open"] == []
    published = hosts.run(ENTRY, "docker", "ps", "--format", "{{.Ports}}")
    assert set(re.findall(r"0\.0\.0\.0:([\d-]+)->\S+/(\w+)", published)) == {("51620", "udp"), ("55800-55899", "udp")}


def _pings(host: Host, address: str) -> bool:
    return " 0 received" not in hosts.run(host, "ping", "-c2", "-i0.2", "-W1", address, check=False)


def _refused() -> int:
    table = json.loads(gateway("nft", "-j", "list", "counter", "inet", "mrvpn", "wrong_way"))["nftables"]
    return int(next(entry["counter"]["packets"] for entry in table if "counter" in entry))


def test_clients_do_not_reach_each_other(second: Phone) -> None:
    assert _pings(CLIENT, GATEWAY4) and _pings(second.host, GATEWAY6), "both reach the gateway"
    before = _refused()
    for address in (second.ipv4, second.ipv6):
        assert not _pings(CLIENT, address), address
        assert sweep(CLIENT, address, "tcp", [22, 80]) == set()
    for address in (client.CLIENT4, client.CLIENT6):
        assert not _pings(second.host, address), address
    assert _refused() >= before + 8, "dropped by the forward chain, and counted"


# -- OSPF --------------------------------------------------------------------------------------------------------------


def _hello(seconds: int) -> None:
    argv = ["env", f"PYTHONPATH={REPO}", traffic.PYTHON, "-m", "lab.probes.ospf_hello"]
    hosts.run(CLIENT, *argv, str(seconds), INTERFACE, GATEWAY4, GATEWAY6)


def _neighbors() -> str:
    return hosts.run(ENTRY, "docker", "exec", "firezone_frr", "vtysh", "-c", "show ip ospf neighbor")


def test_a_client_cannot_speak_ospf() -> None:
    before = _neighbors().split()
    with counting():
        _hello(6)
        assert "ospf" in others("arrived") or "89" in others("arrived"), "the hellos did arrive"
        assert not {"ospf", "89"} & others("passed")
    assert "192.0.2.66" not in _neighbors() and len(_neighbors().split()) == len(before)

    # the proof that they are good hellos: with the firewall open and the interface not passive, the client is a router
    frr = ("docker", "exec", "firezone_frr")
    wish = ("configure terminal", "interface wg-firezone", "no ip ospf passive", "ip ospf network point-to-point",
            "ip ospf hello-interval 1", "ip ospf dead-interval 4")  # fmt: skip
    handle = gateway("nft", "-e", "-a", "insert", "rule", "inet", "mrvpn", "input", "meta", "l4proto", "89", "accept")
    try:
        hosts.run(ENTRY, *frr, "vtysh", *(part for command in wish for part in ("-c", command)))
        with counting():
            _hello(3)
            assert {"ospf", "89"} & others("passed")
        assert "192.0.2.66" in _neighbors()
    finally:
        (number,) = re.findall(r"handle (\d+)", handle)
        gateway("nft", "delete", "rule", "inet", "mrvpn", "input", "handle", number)
        hosts.run(ENTRY, *frr, "mrvpn-frr", "reload")
    until("the client is no neighbour again", lambda: "192.0.2.66" not in _neighbors(), 20)
