"""A RouterOS of the tests: its API on the wire, strict about every field, with the quirks of versions 7.12 to 7.24.

Knows: `menus.json` (which menus, verbs and fields each version has) and the published behaviour of the API. Must not
know: MRVPN, its facts about paths or its states; where both agree, they agree because RouterOS says so.
"""

from tests.simulators.routeros.faults import Fault
from tests.simulators.routeros.router import Router, Unverified, User
from tests.simulators.routeros.server import Simulator

__all__ = ["Fault", "Router", "Simulator", "Unverified", "User"]
