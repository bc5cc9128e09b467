"""Where an answer counts for the phone that asked, another phone's traffic to the same address stays as it was."""

from __future__ import annotations

import pytest

from lab import client, daemon, salt
from lab.checks.destinations import leaves_by
from lab.client import PHONE, Phone
from lab.deadline import until
from lab.internet import CDN
from lab.topology import ENTRY, RU, US

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.usefixtures("lab", "description")]
NAME = "www.shop.ru"  # a .ru name whose chain ends at addresses of the US


def ask(phone: Phone) -> None:
    """The phone's own questions, one of each family."""
    for kind, address in (("A", CDN.ipv4), ("AAAA", CDN.ipv6)):
        assert address in client.lookup(NAME, kind, phone=phone)


def exit_of(phone: Phone) -> str:
    """By which exit the daemon says this phone's connections to the address leave."""
    return str(daemon.says("explain", CDN.ipv4, "--client", phone.ipv4)["exit"])


def test_what_a_phone_asks_for_moves_no_other_phones_traffic(second: Phone) -> None:
    routing = salt.DESCRIPTION / "routing.yaml"
    text = routing.read_text()
    assert "  routing:\n" in text
    routing.write_text(text.replace("  routing:\n", "  routing:\n    learn_scope: client\n"))
    salt.apply(ENTRY.name)
    for phone in (PHONE, second):
        until("nobody has asked", lambda p=phone: leaves_by(US, CDN, p) == [], 30)  # type: ignore[misc]
    ask(PHONE)
    assert leaves_by(RU, CDN, PHONE) == []
    assert leaves_by(US, CDN, second) == []
    assert (exit_of(PHONE), exit_of(second)) == ("wg_ru", "wg_us")
    ask(second)
    assert leaves_by(RU, CDN, second) == leaves_by(RU, CDN, PHONE) == []
