"""From what MRVPN2 leaves on a router: taken over in place, no tunnel dropped, compared with a golden file.

`MRVPN_WRITE_GOLDEN=1` writes what is seen instead of comparing; the difference is then for a review.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mrvpn.routeros.transaction import Order, reconcile
from tests.routeros.conftest import FAR, until
from tests.simulators.routeros import Router

GOLDEN = Path(__file__).parent / "golden" / "from_mrvpn2.json"
PRIVATE = base64.b64encode(bytes(range(32))).decode()
FAR_KEY = base64.b64encode(b"e" * 32).decode()


def as_mrvpn2_leaves_it(router: Router, name: str = "wg_tik") -> None:
    """Every object with the tunnel's name as its comment; values as MRVPN2 writes them."""
    seed = router.seed
    seed("/interface/wireguard", name=name, private_key=PRIVATE, mtu="1280", listen_port="13231", comment=name)
    seed("/ip/address", address="10.9.22.1/24", interface=name, comment=name)
    seed(
        "/interface/wireguard/peers", interface=name, public_key=FAR_KEY, preshared_key=FAR_KEY, comment=name,
        allowed_address="0.0.0.0/0", endpoint_address="203.0.113.10", endpoint_port="55825", persistent_keepalive="25",
    )  # fmt: skip
    seed("/routing/table", name=name, fib="yes", comment=f"Autocreated for {name}")
    seed("/ip/route", dst_address="0.0.0.0/0", gateway=name, routing_table=name, comment=name)
    instance, area = f"ospf-instance-{name}", f"ospf-area-{name}"
    seed("/routing/ospf/instance", name=instance, redistribute="connected", router_id="10.9.22.1", comment=name)
    seed("/routing/ospf/area", name=area, instance=instance, comment=name)
    seed("/routing/ospf/interface-template", area=area, interfaces=name, type="ptp", comment=name)
    seed(
        "/ip/firewall/mangle", chain="forward", action="change-mss", new_mss="clamp-to-pmtu", protocol="tcp",
        tcp_flags="syn", out_interface=name, comment=name,
    )  # fmt: skip
    seed("/interface/list/member", list="LAN", interface=name, comment=name)


@pytest.mark.parametrize("version", ["7.12.2", "7.17", "7.18.2", "7.24.4"])
def test_taken_over_in_place(
    version: str,
    proxy_module: ModuleType,
    settings: Callable[..., Any],
    serve: Callable[..., Any],
    section: dict[str, Any],
) -> None:
    router = Router(version=version)
    router.reachable.add(FAR)
    as_mrvpn2_leaves_it(router)
    before = router.snapshot()
    session = proxy_module.Session(settings(serve(router, None)))
    order = Order(declared=section["rows"], pings=tuple(section["pings"]), hooks=section["hooks"])
    outcome = reconcile(session, order, until(5))
    after = router.snapshot()
    # nothing of the tunnel went away or was made anew, and the key is the one the far end knows
    for path in before:
        kept = {row[".id"] for row in after[path]}
        gone = [row for row in before[path] if row[".id"] not in kept]
        assert path == "/interface/list/member" or not gone, path
    assert after["/interface/wireguard"][0]["private-key"] == PRIVATE
    commands = [command for command, _ in router.history]
    assert not [c for c in commands if c.endswith("/remove") and not c.startswith("/system/scheduler")]
    assert len(outcome.plan.adopted) == 9
    assert reconcile(session, order, until(5)).plan.changes == []
    if version != "7.24.4":
        return
    seen = {
        "adopted": outcome.plan.adopted,
        "changes": outcome.plan.told(),
        "commands": [command for command in commands if command != "/execute"],
    }
    if os.environ.get("MRVPN_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(seen, indent=1) + "\n")
    assert seen == json.loads(GOLDEN.read_text())
