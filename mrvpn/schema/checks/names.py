"""Names that become files, services and interfaces: nothing in them may leave its place.

Knows: which name becomes what. Must not know: how names relate.
"""

from __future__ import annotations

import re

from mrvpn.schema.checks.near import GATEWAY_INTERFACE
from mrvpn.schema.model import DEFAULT_EXIT, HOST_NAME, Description
from mrvpn.schema.source import Path_, Source

INTERFACE = re.compile(r"[A-Za-z0-9_=+.-]{1,15}")
RESERVED = {GATEWAY_INTERFACE, DEFAULT_EXIT, "lo", "eth0", "all", "default", "docker0"}
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
FOLDER = re.compile(r"/(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9_./-]{1,200}")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,254}")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check(source: Source, d: Description) -> None:
    """Adds what is wrong with the form of names."""
    for name in d.tunnels:
        _interface(source, name)
    for path, name in _ids(d):
        if not ID.fullmatch(name):
            source.problem(path, "is no id: letters, digits and _ . @ -, not beginning with a dot", "name")
    for path, name in _services(d):
        if not SERVICE.fullmatch(name):
            source.problem(path, f"{name!r} is no name of a compose service or network", "name")
    for key in ("mrvpn_root", "mrvpn_base_dir"):
        folder = getattr(d, key)
        if folder is not None and not FOLDER.fullmatch(folder):
            source.problem((key,), f"{folder!r} is no absolute path of plain characters, such as /opt/mrvpn", "name")
    if d.image.name is not None and not IMAGE.fullmatch(d.image.name):
        source.problem(("image", "name"), f"{d.image.name!r} is no name of an image", "name")
    for zone in d.dns.forward:
        if zone != "." and not HOST_NAME.fullmatch(zone):
            source.problem(("dns", "forward", zone), "is no DNS name", "name")
    for path, text in _lines(d):
        if CONTROL.search(text):
            source.problem(path, "holds a line break or control character: write it as one line", "name")


def _interface(source: Source, name: str) -> None:
    path: Path_ = ("tunnels", name)
    if name in RESERVED:
        source.problem(path, "is the name of an interface that is there already: choose another", "tunnel-name")
    elif not INTERFACE.fullmatch(name) or name in (".", ".."):
        found = f"has {len(name)} characters" if len(name) > 15 else "has characters that no interface may have"
        message = f"a tunnel's name is its interface's name; this one {found}: 1 to 15 of A-Z a-z 0-9 _ = + . -"
        source.problem(path, message, "tunnel-name")


def _ids(d: Description) -> list[tuple[Path_, str]]:
    found: list[tuple[Path_, str]] = [(("hosts", host), host) for host in d.hosts]
    found += [(("clients", client), client) for client in d.clients]
    found += [(("lists", name), name) for name in d.lists]
    found += [(("tunnels", name, "hosts", host), host) for name, tunnel in d.tunnels.items() for host in tunnel.hosts]
    return found


def _services(d: Description) -> list[tuple[Path_, str]]:
    found: list[tuple[Path_, str]] = [(("services", service), service) for service in d.services]
    for name, tunnel in d.tunnels.items():
        for host, end in tunnel.hosts.items():
            here = ("tunnels", name, "hosts", host)
            found += [((*here, "compose_service"), end.compose_service)] if end.compose_service else []
            found += [((*here, "compose_network"), end.compose_network)] if end.compose_network else []
    return found


def _lines(d: Description) -> list[tuple[Path_, str]]:
    """Texts that end up in one line of some file."""
    f = d.firezone
    found: list[tuple[Path_, str]] = []
    for key in ("fz_admin", "fz_server_url", "fz_firezone_dir", "fz_client_gateway"):
        value = getattr(f, key)
        found += [(("firezone", key), value)] if value else []
    for number, route in enumerate(d.routing.routes):
        found += [(("routing", "routes", number), text) for text in (*route.domain, *route.suffix)]
    for name, tunnel in d.tunnels.items():
        for host, end in tunnel.hosts.items():
            found += [(("tunnels", name, "hosts", host, "table"), end.table)] if end.table else []
    return found
