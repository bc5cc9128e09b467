"""Tiny country databases for tests, in both record shapes."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

WORLD = {
    "GB": ["81.2.69.0/24", "2a00:1450::/32"],
    "RU": ["5.255.255.0/24", "77.88.0.0/18", "2a02:6b8::/32"],
    "US": ["198.51.100.0/24", "2600::/12"],
}


def write_mmdb(path: Path, world: Mapping[str, Sequence[str]] = WORLD, maxmind: bool = False, **options: int) -> Path:
    """A database of these countries; `maxmind`: records as MaxMind's, else with `country_code`."""
    writer = MMDBWriter(ip_version=6, database_type="Country", ipv4_compatible=True, **options)
    for code, prefixes in world.items():
        record = {"country": {"iso_code": code}} if maxmind else {"country_code": code}
        writer.insert_network(IPSet(prefixes), record)
    writer.to_db_file(str(path))
    return path


def ranges(prefixes: Sequence[str], family: int) -> list[tuple[int, int]]:
    """(first, last) of the prefixes of one family, in order."""
    networks = [ipaddress.ip_network(p) for p in prefixes]
    return sorted((int(n[0]), int(n[-1])) for n in networks if n.version == family)
