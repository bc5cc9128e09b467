"""What a RouterOS host gets instead of containers: the rows of each path, in dependency order.

Knows: the host's view so far, RouterOS's paths and their fields, MRVPN2's names of objects (they are taken over in
place). Must not know: sessions, what a router holds now, Salt.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from typing import Any

from mrvpn.routeros import PATHS
from mrvpn.topology import Network

NO_TABLE = ("off", "auto", "main")
BFD_PORT = "3784"
MESH_LIST = "mrvpn-mesh"
OSPF = {2: ("ospf", 4), 3: ("ospf6", 6)}  # version of the protocol: how its objects are called, and of IP
OSPF_TIMERS = {"hello_interval": "1s", "dead_interval": "4s"}  # as frr.conf.j2 has them: both ends must agree
Rows = dict[str, list[dict[str, Any]]]


def extend(found: dict[str, Any], network: Network) -> None:
    """Adds `routeros` to a view: null for a Linux host; a router has neither FRR nor Docker of ours."""
    found["routeros"] = None
    if found["os"] != "routeros":
        return
    found["frr"], found["host_guard"] = [], None
    rows: Rows = {path: [] for path in PATHS}
    for name, tunnel in found["tunnels"].items():
        spaces = network.router_ids[found["host"]]
        _tunnel(rows, name, tunnel, spaces.get(name) or spaces["host"])
    if any(tunnel["masquerade"] for tunnel in found["tunnels"].values()):
        for family, path in (("ipv4", "/ip"), ("ipv6", "/ipv6")):
            for prefix in found["mesh"][family]:
                row = {"list": MESH_LIST, "address": prefix, "comment": f"mrvpn:mesh:{prefix}"}
                rows[f"{path}/firewall/address-list"].append(row)
    for version in sorted({instance["version"] for instance in rows["/routing/ospf/instance"]}):
        kind, ip_version = OSPF[version]
        # nobody's announcement replaces what is connected here
        accepted = network.mesh_without(found["lan"], ip_version)
        rules = {prefix: f"if (dst in {prefix}) {{accept}}" for prefix in accepted} | {f"{kind}:rest": "reject"}
        for name, rule in rules.items():
            row = {"chain": f"mrvpn-{kind}-in", "rule": rule, "comment": f"mrvpn:mesh:{name}"}
            rows["/routing/filter/rule"].append(row)
    peers = {name: tunnel["peers"] for name, tunnel in found["tunnels"].items()}
    found["routeros"] = {
        "rows": rows,
        # addresses of the far ends: those that answered before a change must answer after it
        "pings": [
            network.addresses[name][peer["host"]][0].split("/")[0] for name, many in peers.items() for peer in many
        ],
        "hooks": {name: tunnel["hooks"] for name, tunnel in found["tunnels"].items() if any(tunnel["hooks"].values())},
        "unknown": [
            f"{name}: {peer['host']}" for name, many in peers.items() for peer in many if peer["public_key"] is None
        ],
    }
    for name, many in peers.items():
        if len(many) > 1:
            found["notices"].append(
                f"tunnels.{name}: on a RouterOS host OSPF runs in tunnels of two hosts only, not of {len(many) + 1}"
            )


def _tunnel(rows: Rows, name: str, tunnel: dict[str, Any], router_id: str) -> None:
    interface = tunnel["interface"]
    token = f"mrvpn:{name}:"

    def add(path: str, role: str, **fields: Any) -> None:
        row = {key.replace("_", "-"): value for key, value in fields.items()}
        rows[path].append({**row, "comment": f"{token}{role}"})

    own = [ipaddress.ip_interface(address) for address in tunnel["addresses"]]
    families = {address.version for address in own}
    port = {"listen_port": tunnel["listen_port"]} if tunnel["listen_port"] else {}
    add("/interface/wireguard", "interface", name=interface, mtu=tunnel["mtu"], disabled=False, **port)
    if any(tunnel["hooks"].values()):
        # hooks run where something of their tunnel changes; that they were edited is a change, too
        digest = hashlib.sha256(json.dumps(tunnel["hooks"], sort_keys=True).encode()).hexdigest()[:12]
        rows["/interface/wireguard"][-1]["comment"] += f" hooks:{digest}"
    for address in own:
        if address.version == 4:
            add("/ip/address", "address", address=str(address), interface=interface)
        else:
            add("/ipv6/address", "address", address=str(address), interface=interface, advertise=False)
    if tunnel["link_local"]:
        add("/ipv6/address", "link-local", address=tunnel["link_local"], interface=interface, advertise=False)
    for peer in tunnel["peers"]:
        if peer["public_key"] is not None:
            add("/interface/wireguard/peers", f"peer:{peer['host']}", **_peer(interface, peer, tunnel["keepalive"]))
    if tunnel["table"] not in NO_TABLE:
        if all(row["name"] != tunnel["table"] for row in rows["/routing/table"]):  # several tunnels may share one
            add("/routing/table", "table", name=tunnel["table"], fib=True)
        _routes(add, tunnel, interface)
    for version in sorted(families):
        menu = "/ip" if version == 4 else "/ipv6"
        clamp = {"protocol": "tcp", "tcp_flags": "syn", "new_mss": "clamp-to-pmtu", "passthrough": True}
        add(f"{menu}/firewall/mangle", "mss", chain="forward", action="change-mss", out_interface=interface, **clamp)
        if tunnel["masquerade"]:
            _masquerade(add, menu, name, interface)
        if len(tunnel["peers"]) == 1:
            first = next((str(address.ip) for address in own if address.version == 4), router_id)
            _ospf(add, 2 if version == 4 else 3, name, interface, first)
    if len(tunnel["peers"]) == 1:
        add("/routing/bfd/configuration", "bfd", interfaces=interface)
    if tunnel["listen_port"]:
        for menu in ("/ip", "/ipv6"):
            udp = {"protocol": "udp", "dst_port": str(tunnel["listen_port"])}
            add(f"{menu}/firewall/filter", "accept:wireguard", chain="input", action="accept", **udp)


def _peer(interface: str, peer: dict[str, Any], keepalive: int) -> dict[str, Any]:
    host, _, port = (peer["endpoint"] or "").rpartition(":")
    return {
        "interface": interface,
        "public_key": peer["public_key"],
        "preshared_key": peer["preshared_key"],
        "allowed_address": list(peer["allowed_ips"]),
        "endpoint_address": host.removeprefix("[").removesuffix("]"),
        "endpoint_port": int(port or 0),
        "persistent_keepalive": f"{keepalive}s",
    }


def _routes(add: Any, tunnel: dict[str, Any], interface: str) -> None:
    """`table` names a routing table: the far ends' prefixes go there, for rules or marks of the user's own."""
    for peer in tunnel["peers"]:
        for prefix in map(ipaddress.ip_network, peer["allowed_ips"]):
            if prefix.is_multicast or prefix.is_link_local:
                continue
            path = "/ip/route" if prefix.version == 4 else "/ipv6/route"
            add(path, f"route:{prefix}", dst_address=str(prefix), gateway=interface, routing_table=tunnel["table"])


def _masquerade(add: Any, menu: str, name: str, interface: str) -> None:
    """What came in by the tunnel and goes to no place of the mesh leaves with the router's own address."""
    mark = f"mrvpn-{name}"
    add(
        f"{menu}/firewall/mangle", "mark", chain="forward", action="mark-connection", in_interface=interface,
        connection_state="new", new_connection_mark=mark, passthrough=True,
    )  # fmt: skip
    where = {"connection_mark": mark, "out_interface": f"!{interface}", "dst_address_list": f"!{MESH_LIST}"}
    add(f"{menu}/firewall/nat", "masquerade", chain="srcnat", action="masquerade", **where)


def _ospf(add: Any, version: int, name: str, interface: str, router_id: str) -> None:
    """One instance per tunnel and family, in MRVPN2's names; both ends take only declared prefixes from the other."""
    kind, ip_version = OSPF[version]
    menu = "/ip" if ip_version == 4 else "/ipv6"
    instance, area = f"{kind}-instance-{name}", f"{kind}-area-{name}"
    add(
        "/routing/ospf/instance", f"{kind}-instance", name=instance, version=version, router_id=router_id,
        redistribute="connected", in_filter_chain=f"mrvpn-{kind}-in",
    )  # fmt: skip
    add("/routing/ospf/area", f"{kind}-area", name=area, instance=instance, area_id="0.0.0.0")
    template = {"area": area, "interfaces": interface, "type": "ptp", "use_bfd": True, **OSPF_TIMERS}
    add("/routing/ospf/interface-template", f"{kind}-template", **template)
    accept = {"chain": "input", "action": "accept", "in_interface": interface}
    add(f"{menu}/firewall/filter", "accept:ospf", protocol="ospf", **accept)
    add(f"{menu}/firewall/filter", "accept:bfd", protocol="udp", dst_port=BFD_PORT, **accept)
