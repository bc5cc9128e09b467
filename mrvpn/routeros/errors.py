"""What may go wrong with a router, one class per answer to "and now?".

Knows: kinds of errors. Must not know: who raises them.
"""

from __future__ import annotations


class RouterError(Exception):
    """Any trouble with a router; the text is one line without secrets."""


class Away(RouterError):
    """The router cannot be reached, or the login, certificate or protocol fails: nothing was sent."""


class Lost(RouterError):
    """The connection broke off; what was asked last may have been done or not."""


class Trapped(RouterError):
    """The router refused a command and goes on."""


class Refusal(RouterError):
    """Nothing was written: the reasons, all of them."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons


class Failed(RouterError):
    """An apply failed midway; the text says why and what the router is like now."""
