"""The kernel of text, without a kernel: what generations, answers and failures come to, as nft and ip would say it."""

from __future__ import annotations

import ipaddress

from ipt_build import build, exits, rule

from ipt_server.core.learned import Change
from ipt_server.core.rules import RuleSet
from ipt_server.kernel.printed import Printed
from ipt_server.kernel.state import Element

ADDRESS = ipaddress.ip_address("93.184.215.14")
UK = rule(0, "wg_uk", prefixes=["81.2.69.0/24"])
US = rule(1, "wg_us", suffixes=["us"])


def told(kernel: Printed, name: str) -> list[str]:
    """The elements that are added to a set or map."""
    head = f"add element inet mrvpn {name} {{"
    lines = kernel.nft().splitlines()
    found = [line for line in lines if line.startswith(head)]
    if found == [head]:  # a map of intervals, a line each
        at = lines.index(head)
        return [line.strip().rstrip(",") for line in lines[at + 1 : lines.index("}", at)]]
    return found[0].removeprefix(head).removesuffix("}").strip().split(", ") if found else []


def test_before_the_first_generation_there_is_nothing() -> None:
    assert (Printed().nft(), Printed().ip(4)) == ("", "")


def test_an_answer_is_one_element_with_its_life() -> None:
    kernel = Printed()
    kernel.apply(RuleSet(build(UK, US), {}), [])
    assert told(kernel, "geo4_a") == ["81.2.69.0-81.2.69.255 : 0x10000"]
    kernel.learn([Change(ADDRESS, US["mark"], 600, replaces=False)])
    assert told(kernel, "learned4") == ["93.184.215.14 timeout 600000ms : 0x10001"]
    kernel.learn([Change(ADDRESS, None, 0, replaces=True)])
    assert told(kernel, "learned4") == []


def test_what_differs_in_its_intervals_lies_in_the_other_buffer_with_marks_of_its_own() -> None:
    kernel = Printed()
    kernel.apply(RuleSet(build(UK, US), {}), [])
    assert kernel.apply(
        RuleSet(build(rule(0, "wg_uk", prefixes=["81.2.70.0/24"]), US), {}), [Element(ADDRESS, 0x10001, 60.0)]
    )
    assert told(kernel, "geo4_a") == []
    assert told(kernel, "geo4_b") == ["81.2.70.0-81.2.70.255 : 0x18000"]
    assert told(kernel, "learned4") == ["93.184.215.14 timeout 60000ms : 0x18001"]
    assert told(kernel, "current") == ["ipv4 : jump look_b", "ipv6 : jump look_b"]


def test_failover_is_an_element_and_no_route() -> None:
    rules = RuleSet(build(UK, US, exits=exits(wg_uk={"fallback": ["wg_de"]})), {})
    kernel = Printed(links=["wg_uk", "wg_us", "wg_de"], default="eth0")
    kernel.apply(rules, [])
    before = told(kernel, "exit_of"), kernel.ip(4)
    assert before[0][:2] == ["0x10000 : 0xc9", "0x10001 : 0xca"]
    kernel.down = frozenset(["wg_uk", "wg_us"])
    kernel.open(rules)
    assert told(kernel, "exit_of")[0] == "0x10000 : 0xcb"
    assert not [element for element in told(kernel, "exit_of") if element.startswith("0x10001")]
    assert kernel.ip(4) == before[1]
    assert told(kernel, "pair")[0] == '"wg-firezone" . 0xc8 . "eth0"'


def test_an_interface_that_is_not_there_leaves_the_floor_alone() -> None:
    kernel = Printed(links=["wg_us"])
    kernel.apply(RuleSet(build(UK, US), {}), [])
    tables = [line for line in kernel.ip(4).splitlines() if line.endswith(("table 201", "table 202"))]
    assert tables == [
        "route replace unreachable default metric 9999 table 201",
        "route replace unreachable default metric 9999 table 202",
        "route replace default dev wg_us metric 1 table 202",
    ]
