"""What is wrong with a description: values that are collected, not exceptions that stop at the first.

Knows: the form of a problem. Must not know: what is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


# what each code says; docs and tests go through all of them
CODES = {
    "address-outside": "a pinned address that its subnet has not",
    "address-twice": "one address for two",
    "alias": "a YAML alias",
    "allowed-inside": "a prefix of one peer within another peer's",
    "allowed-twice": "a prefix that two peers of one tunnel are allowed",
    "autostart": "autostart of a tunnel that its stack starts",
    "client-address": "a client's address outside the clients' prefixes",
    "clients": "clients of a gateway that keeps its own",
    "compose-both": "compose_service beside compose_network",
    "country-alias": "a country's common name, read as its ISO code",
    "depth": "nesting without end",
    "duplicate-key": "a key set twice",
    "encoding": "a file that is not UTF-8",
    "endpoint-inside": "an endpoint inside the mesh that it leads to",
    "entrypoint": "no entrypoint, or one without a tunnel",
    "exit-narrow": "an exit that carries less than its rule matches",
    "exit-outside": "an exit whose interface is not in the gateway's namespace",
    "fallback-circle": "fallbacks that lead back to where they began",
    "family": "an IPv6 prefix where IPv4 belongs, or the reverse",
    "key": "a key that is no plain word",
    "key-twice": "one public key on two ends",
    "lan-unreached": "a LAN that no tunnel of its host leads to",
    "list-place": "a list without a place, or with two",
    "lock": "a lock that cannot be used",
    "lock-differs": "a number that is not what the lock holds",
    "lock-stale": "a lock that does not hold everything",
    "marks": "more exits or rules than marks",
    "missing": "a key that must be there",
    "multicast-twice": "multicast on more than one peer of a tunnel",
    "name": "a name that cannot be the file, service or line it becomes",
    "never-wins": "a rule all of whose matches others take first",
    "no-endpoint": "a listening host without an address to be reached at",
    "no-exposed-pair": "hosts of one tunnel of which neither listens",
    "no-exposed-side": "a tunnel in which nobody listens",
    "no-files": "nothing to read",
    "no-lan": "an office that brings nothing into the mesh",
    "no-match": "a rule that matches nothing",
    "no-meaning": "a key of MRVPN2 without a meaning here",
    "not-read": "a file beside the description that is not part of it",
    "overlap": "overlapping prefixes of two owners",
    "password": "a password that Firezone refuses",
    "pattern": "a regex that does not compile in RE2",
    "plain-secret": "a secret in plain text",
    "port-range": "a port outside the reserved range",
    "port-taken": "one port for two on one host",
    "routeros": "what only RouterOS has on another host, or the reverse",
    "subnet-family": "two of one family where one is possible",
    "subnet-missing": "a tunnel without a subnet",
    "subnet-small": "a prefix with fewer addresses than hosts",
    "subnet-wide": "a subnet that is no private prefix of sensible size",
    "suffix": "a suffix that is no DNS name",
    "syntax": "a file that is not YAML",
    "tag": "a YAML tag",
    "too-large": "a file beyond the limit",
    "top": "a file without `mrvpn:` at its top",
    "tunnel-ends": "a tunnel with fewer than two hosts",
    "tunnel-name": "a tunnel's name that no interface can have",
    "unknown-country": "a country that ISO 3166 does not know",
    "unknown-exit": "an exit that is no tunnel of the entrypoint",
    "unknown-host": "a host without a tunnel",
    "unknown-interface": "an interface that the entrypoint has not",
    "unknown-key": "a key that nobody reads",
    "unknown-list": "a list that is not described",
    "unknown-service": "a compose service that is not there",
    "unreadable": "a file that the system does not let us read",
    "value": "a value of the wrong form",
}


@dataclass(frozen=True, order=True)
class Problem:
    """One finding: where (path in the description, file and line, 0 where there is none) and what would be right."""

    file: str
    line: int
    path: str
    message: str
    code: str
    severity: Severity = "error"

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"{self.code} is no code: add it to CODES")
        for name in ("path", "message"):  # a line stays a line, whatever stands in the description
            text = getattr(self, name)
            if not text.isprintable():
                safe = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
                object.__setattr__(self, name, safe)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        mark = "" if self.severity == "error" else "warning: "
        return f"{place}{mark}{self.path + ': ' if self.path else ''}{self.message} [{self.code}]"


class Refused(Exception):
    """A description with errors was asked for something that needs a good one; `problems` holds all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
