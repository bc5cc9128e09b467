"""What the kernel says: of one destination, its elements and the route that a packet would take; of learned elements.

Knows: map names, `ip route get`. Must not know: why. Nothing here changes anything. Elements are asked for one by one:
nft would begin its dump of a map anew whenever the daemon learns meanwhile.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import sys
from collections.abc import Iterable
from typing import Any

from ipt_server.core.intervals import SIZE
from ipt_server.core.learned import ClientAddress, Key
from ipt_server.core.rules import Address, RuleSet
from ipt_server.kernel import routes, skeleton
from ipt_server.kernel.netlink import TABLE_NAME, KernelRefused, Socket, attribute
from mrvpn import marks

_NFTABLES, _GETTABLE, _INET = 10, 1, 1


def stands() -> bool:
    """Whether our table is there at all."""
    with contextlib.closing(Socket()) as socket:
        try:
            return bool(socket.request(_NFTABLES, _GETTABLE, _INET, attribute(1, TABLE_NAME)))
        except KernelRefused:
            return False


def seconds_left(keys: Iterable[Key]) -> dict[Key, float]:
    """What learned elements have left of their lives; one that is gone is not in it. Raises KernelRefused."""
    found: dict[Key, float] = {}
    with contextlib.closing(Socket()) as socket:
        for key in keys:
            size = SIZE[key.version] << isinstance(key, ClientAddress)
            element = socket.element(f"learned{key.version}", int(key).to_bytes(size, "big"))
            if element is not None and element[1] is not None:
                found[key] = element[1]
    return found


def destination(address: Address, rules: RuleSet, client: Address | None = None) -> dict[str, Any]:
    """The elements that answer for an address, the exit mark that follows, and where a packet with it would go.

    `client`: whose learned elements count, where they are each client's own.
    """
    family = address.version
    key = int(address).to_bytes(4 if family == 4 else 16, "big")
    socket = Socket()
    try:
        found: dict[str, Any] = {"learned": None, "geo": None, "exit_of": None}
        alone = rules.settings.learn_scope == "client"
        of = client.packed if alone and client is not None and client.version == family else b""
        element = socket.element(f"learned{family}", of + key) if bool(of) == alone else None
        if element is not None:
            found["learned"] = {"mark": skeleton.untagged(element[0]), "seconds_left": element[1]}
        buffer = (socket.jump("current", b"\x02") or "look_a").removeprefix("look_")
        layers = skeleton.geo(family, buffer, skeleton.counts(rules.intervals))
        maps = [layer.name if layer.count == 1 else socket.jump(layer.shards, key) for layer in layers]
        covering = next((e for name in maps if name and (e := socket.element(name, key)) is not None), None)
        found["geo"] = skeleton.untagged(covering[0]) if covering else None
        default = skeleton.tagged(marks.DEFAULT_RULE, buffer)
        mark = element[0] if element else covering[0] if covering else default
        leads = socket.element("exit_of", mark.to_bytes(4, sys.byteorder))
        found["exit_of"] = leads[0] if leads else None
    except KernelRefused as error:
        found["error"] = str(error)
    finally:
        socket.close()
    if found["exit_of"]:
        found["route"] = route(address, found["exit_of"], rules)
    return found


def route(address: Address, mark: int, rules: RuleSet) -> dict[str, Any]:
    """`ip route get` with a mark, as a packet of a client's would be routed."""
    ingress = rules.settings.ingress
    client = _client(rules, address.version)
    argv = ["-json", "route", "get", str(address), "mark", f"{mark:#x}"]
    if ingress and client:
        argv += ["from", client, "iif", ingress[0]]
    try:
        found = json.loads(routes.ip(address.version, *argv))[0]
    except (routes.RouteProblem, ValueError, IndexError) as problem:
        return {"error": str(problem)}
    return {key: found[key] for key in ("dev", "gateway", "table", "prefsrc", "type") if key in found}


def _client(rules: RuleSet, family: int) -> str | None:
    """An address that a client could have: the one after the gateway's own on a mesh prefix that holds it."""
    for text in rules.settings.own:
        own = ipaddress.ip_address(text)
        mesh = rules.settings.mesh.ipv4 if family == 4 else rules.settings.mesh.ipv6
        for prefix in mesh:
            with contextlib.suppress(ValueError):
                if own.version == family and own in ipaddress.ip_network(prefix):
                    return str(own + 1)
    return None
