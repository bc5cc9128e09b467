"""Connections as the kernel tells of them, and the end of some of them."""

from __future__ import annotations

import ipaddress

import pytest
from kernel_rig import CLIENT, Rig, until

from ipt_server.core.learned import Change
from ipt_server.core.rules import RuleSet
from ipt_server.kernel.conntrack import Conntrack
from ipt_server.kernel.netlink import Socket
from ipt_server.kernel.state import Kernel
from mrvpn import marks

pytestmark = pytest.mark.root
UK = {4: "81.2.69.160", 6: "2a00:1450::7"}
US = {4: "198.51.100.9", 6: "2600::9"}


@pytest.fixture(scope="module", autouse=True)
def applied(rig: Rig, kernel: Kernel) -> None:
    prefixes = {"wg_uk": ["81.2.69.0/24", "2a00:1450::/32"], "wg_us": ["198.51.100.0/24", "2600::/16"]}
    rules = [
        {"id": name, "mark": marks.rule_mark(n), "exit": name, "kind": "prefix", "prefixes": found}
        for n, (name, found) in enumerate(prefixes.items())
    ]
    kernel.apply(RuleSet(rig.settings(*rules), {}), [])


@pytest.mark.parametrize("family", [4, 6])
def test_flows_are_told_with_their_marks(rig: Rig, family: int) -> None:
    with rig.udp(UK[family], port=4200 + family) as s, rig.gateway.inside():
        s.send(b"x")
        assert s.recv(10)
        conntrack = Conntrack()
        (flow,) = [f for f in conntrack.flows(201) if f.source_port == 4200 + family]
        assert (flow.mark, flow.protocol, str(flow.source), str(flow.destination), flow.destination_port) == (
            201, 17, CLIENT[family], UK[family], 7007,
        )  # fmt: skip
        assert not [f for f in conntrack.flows(202) if f.source_port == 4200 + family]
        conntrack.close()


@pytest.mark.parametrize("family", [4, 6])
def test_one_flow_is_cut_and_looked_up_anew(rig: Rig, kernel: Kernel, family: int) -> None:
    address = ipaddress.ip_address(UK[family]) + 1
    with rig.udp(str(address)) as s, rig.udp(UK[family], port=4300 + family) as other, rig.gateway.inside():
        conntrack = Conntrack()
        for flow in (s, other):
            flow.send(b"1")
            assert flow.recv(10) == b"wg_uk 1"
        kernel.learn([Change(address, marks.rule_mark(1), 60, replaces=False)])
        assert conntrack.cut(lambda flow: flow.destination == address) == 1
        s.send(b"2")
        assert s.recv(10) == b"wg_us 2"
        assert any(f.source_port == 4300 + family for f in conntrack.flows())
        kernel.learn([Change(address, None, 0, replaces=True)])
        conntrack.close()


def test_every_flow_of_an_exit_is_cut_and_no_other(rig: Rig) -> None:
    with rig.gateway.inside():
        conntrack = Conntrack()
        for address in (*UK.values(), *US.values()):
            with rig.udp(address) as s:
                s.send(b"1")
                assert s.recv(10)
        assert list(conntrack.flows(201)) and list(conntrack.flows(202))
        conntrack.cut_marks([201])
        until("they are gone", lambda: not list(conntrack.flows(201)))
        assert {f.family for f in conntrack.flows(202)} == {4, 6}
        conntrack.close()


@pytest.mark.parametrize("family", [4, 6])
def test_an_element_is_told_with_what_is_left_of_it(rig: Rig, kernel: Kernel, family: int) -> None:
    size = 4 if family == 4 else 16
    address = ipaddress.ip_address(UK[family])
    with rig.gateway.inside():
        s = Socket()
        assert s.element(f"geo{family}_a", int(address).to_bytes(size, "big")) == (marks.rule_mark(0), None)
        assert s.element(f"geo{family}_a", b"\x09" * size) is None
        assert s.element(f"learned{family}", int(address).to_bytes(size, "big")) is None
        kernel.learn([Change(address, marks.rule_mark(1), 60, replaces=False)])
        found = s.element(f"learned{family}", int(address).to_bytes(size, "big"))
        assert found is not None and found[0] == marks.rule_mark(1) and 0 < (found[1] or 0) <= 60
        kernel.learn([Change(address, None, 0, replaces=True)])
        s.close()
