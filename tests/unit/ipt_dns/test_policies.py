"""The policy zone of resolvers' names: what it says, what it must not, and that dnspython reads it."""

from __future__ import annotations

from pathlib import Path

import dns.zone

from ipt_server.dns import policies
from ipt_server.lists.formats import parse

LIST = """+.doh.example.com
.dns.example.net
resolver.example.org
com
32.1.2.0.192.rpz-ip
DOMAIN-KEYWORD,dns
IP-CIDR,192.0.2.0/24
"""


def owners(text: str) -> set[str]:
    zone = dns.zone.from_text(text, origin=".", relativize=False)
    return {name.to_text(omit_final_dot=True) for name, _, data in zone.iterate_rdatas("CNAME")
            if data.target.to_text() == "."}  # fmt: skip


def test_names_are_not_here_and_what_is_no_name_is_told() -> None:
    text, told = policies.zone([parse(LIST, "clash"), parse("dns.test\n192.0.2.1\n", "plain")])
    assert owners(text) == {
        "doh.example.com", "*.doh.example.com", "*.dns.example.net", "resolver.example.org", "dns.test", "*.dns.test",
    }  # fmt: skip
    assert told == [
        "2 names cannot be a resolver's and are passed over, the first is com",
        "1 keywords and regexes are passed over: a policy zone has names only",
    ]
    assert policies.zone([]) == (policies.HEAD, []) and owners(policies.HEAD) == set()


def test_the_longest_name_fits() -> None:
    long = ".".join(["a" * 63] * 3 + ["b" * 61])
    text, _ = policies.zone([parse(f"{long}\n", "plain")])
    assert owners(text) == {long}, "its star would have 255 characters"


def test_it_is_written_when_it_changed(tmp_path: Path) -> None:
    assert policies.write(tmp_path, policies.HEAD) and not policies.write(tmp_path, policies.HEAD)
    assert policies.write(tmp_path, policies.HEAD + "a.test CNAME .\n")
    assert [path.name for path in tmp_path.iterdir()] == [policies.FILE], "nothing is left beside it"
