"""The commands by hand, against a simulated router, without Salt around them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from tests.routeros.conftest import FAR, load
from tests.simulators.routeros import Router, Simulator

WG = "/interface/wireguard"


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def ros(proxy_module: ModuleType, settings: Callable[..., Any], serve: Callable[..., Simulator], router: Router) -> Any:
    module: Any = load("_modules/routeros.py")
    session = proxy_module.Session(settings(serve(router, None), timeout=2))
    module.__proxy__ = {"routeros.session": lambda: session}
    module.__opts__ = {"proxy": {"proxytype": "routeros"}}
    return module


def test_rows_by_hand(ros: Any, router: Router) -> None:
    ident = ros.add("/ip/address", address="192.0.2.1/24", interface="bridge", comment='"так"', __pub_fun="x")
    assert ros.set_("/ip address", ident, comment="other", disabled=True) is True
    (row,) = ros.print_("ip address", fields=["address", "comment", "disabled"], comment="other")
    assert row == {"address": "192.0.2.1/24", "comment": "other", "disabled": "true"}
    assert ros.matching("/ip/address", comment="other") == 1
    assert ros.remove("/ip/address", ident) is True
    assert ros.matching("/ip/address", comment="other") == 0
    table = ros.add("/routing/table", name="x", fib=True)
    ros.set_("/routing/table", table, fib=None)
    assert "fib" not in router.find("/routing/table", name="x")[0]


def test_secrets_are_masked(ros: Any, router: Router) -> None:
    router.users = (router.users[0].__class__(policies=router.users[0].policies | {"sensitive"}),)
    router.seed(WG, name="w1", comment="mrvpn:t:interface")
    (shown,) = ros.print_(WG)
    assert shown["private-key"] == "*****" and len(shown["public-key"]) == 44
    assert ros.public_keys() == {"w1": shown["public-key"]}
    assert ros.export().startswith('/interface/wireguard/add name="w1"')
    assert router.rows[WG][0]["private-key"] not in ros.export()


def test_other_commands(ros: Any, router: Router) -> None:
    assert ros.command("/system/identity/print") == [{"name": "MikroTik"}]
    assert ros.monitor("bridge")[0]["name"] == "bridge"
    assert ros.ping(FAR, count=2) == {"sent": 2, "received": 0, "loss": "100"}
    rules = [row[".id"] for row in router.find("/ip/firewall/filter", chain="input")]
    assert ros.move("/ip/firewall/filter", rules[1], rules[0]) is True
    assert router.find("/ip/firewall/filter", chain="input")[0][".id"] == rules[1]
    assert ros.script(":put hello") == "hello"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda ros: ros.print_("/nope"), "no such command"),
        (lambda ros: ros.add("/ip/address", adress="x"), "missing value"),
        (lambda ros: ros.set_("/ip/address", "*99", comment="x"), "no such item"),
        (lambda ros: ros.remove("/ip/address", ""), "needs the id of a row"),
        (lambda ros: ros.move("/ip/address", "*1", "*2"), "no such command"),
        (lambda ros: ros.command("/system/nope"), "no such command"),
        (lambda ros: ros.script("/nope add"), "hook by hand failed: '/nope add': bad command name nope"),
        (lambda ros: ros.ping("10.0.0.1", count="many"), ""),
        (lambda ros: ros.reconcile({"/nope": []}), "MRVPN has no facts about this path"),
        (lambda ros: ros.reconcile({WG: [{"name": "x"}]}), "must have a comment"),
        (lambda ros: ros.reconcile({WG: []}, owner="peter:"), "must begin with mrvpn:"),
        (lambda ros: ros.export(["/nope"]), None),
    ],
)
def test_errors_are_one_kind(ros: Any, call: Callable[[Any], Any], told: str | None) -> None:
    if told is None:
        assert call(ros) == ""
        return
    with pytest.raises(CommandExecutionError) as error:
        call(ros)
    assert told in str(error.value) and "Traceback" not in str(error.value)


def test_on_another_minion_it_does_not_load(ros: Any) -> None:
    ros.__opts__ = {}
    assert ros.__virtual__() == (False, "this minion is no proxy of a RouterOS router")


@pytest.mark.parametrize("pillar", [{}, {"mrvpn_routeros": {"force": True}}])
def test_force_of_the_pillar_is_for_every_state_of_an_apply(pillar: dict[str, Any]) -> None:
    states: Any = load("_states/routeros.py")
    asked: list[bool] = []

    def reconcile(rows: Any, **order: Any) -> dict[str, Any]:
        asked.append(order["force"])
        return {"changes": {}, "notices": [], "adopted": [], "hooks": [], "writes": 0}

    states.__salt__, states.__opts__, states.__pillar__ = {"routeros.reconcile": reconcile}, {"test": False}, pillar
    for result in (states.managed("x", {}), states.present("x", {}), states.absent("mrvpn:", [])):
        assert result["result"] is True
    assert asked == [bool(pillar)] * 3
    states.managed("x", {}, force=True)
    assert asked[-1] is True
