"""Names of resolvers that clients are kept from, as a response policy zone beside the recursor's own bypass.rpz.

Knows: the zone's text (draft-vixie-dnsop-dns-rpz), where the recursor reads it. Must not know: where names come from,
addresses. The zone lies beside the control socket: a recursor that starts later reads it by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ipt_server.lists.formats import Names

FILE = "lists.rpz"
LONGEST = 253  # characters of a name
HEAD = "$TTL 60\n@ IN SOA localhost. hostmaster.localhost. 1 3600 600 86400 60\n@ IN NS localhost.\n"


def zone(lists: Iterable[Names]) -> tuple[str, list[str]]:
    """The zone's text, each name "not here" (NXDOMAIN), and what was passed over.

    That is whole top domains, what a zone cannot say, and names that mean something else there: a list of names must
    not come to be one of addresses or servers (`32.1.2.0.192.rpz-ip`).
    """
    owners: dict[str, None] = {}
    wide, unsaid = [], 0
    for names in lists:
        for found, forms in (
            (names.exact, ("{}",)),
            (names.suffixes, ("{}", "*.{}")),
            (names.below, ("*.{}",)),
        ):
            for name in found:
                if "." in name and not name.rpartition(".")[2].startswith("rpz-"):
                    made = (form.format(name) for form in forms)
                    owners.update(dict.fromkeys(owner for owner in made if len(owner) <= LONGEST))
                else:
                    wide.append(name)
        unsaid += len(names.keywords) + len(names.regexes)
    told = [f"{len(wide)} names cannot be a resolver's and are passed over, the first is {wide[0]}"] if wide else []
    if unsaid:
        told.append(f"{unsaid} keywords and regexes are passed over: a policy zone has names only")
    return HEAD + "".join(f"{owner} CNAME .\n" for owner in owners), told


def write(folder: Path, text: str) -> bool:
    """Makes the zone's file hold this text, in one step; True where it did not. Raises OSError."""
    path = folder / FILE
    if path.exists() and path.read_text() == text:
        return False
    new = path.with_suffix(f".new{os.getpid()}")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)
    return True
