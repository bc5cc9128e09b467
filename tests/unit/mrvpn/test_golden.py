"""Golden descriptions: YAML in, every host's view out, exactly; nothing in a view that its host has no part in.

`MRVPN_WRITE_GOLDEN=1` writes what is seen instead of comparing; the difference is then for a review.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrvpn import compiler, views
from mrvpn.render import files
from mrvpn.schema.checks import secrets_named
from mrvpn.topology import Network
from mrvpn.views.content import content_hash

REPO = Path(__file__).parents[3]
GOLDEN = REPO / "tests" / "golden" / "descriptions"
CASES = sorted(folder.name for folder in GOLDEN.iterdir())
FOLDERS = {**{name: GOLDEN / name for name in CASES}, "example": REPO / "pillar" / "network"}


def key(*of: str) -> str:
    """A WireGuard key that tells whose it is."""
    return base64.b64encode(hashlib.sha256("/".join(of).encode()).digest()).decode()


def secret(name: str) -> str:
    """A value of its own for each name, which a preshared key could have, too."""
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


def load(name: str) -> compiler.Compiled:
    compiled = compiler.compile_path(FOLDERS[name])
    assert compiled.network is not None, "\n".join(map(str, compiled.problems))
    return compiled


def keys_of(network: Network) -> dict[str, dict[str, str]]:
    return {host: {name: key(host, name) for name in names} for host, names in network.ends.items()}


def views_of(compiled: compiler.Compiled) -> dict[str, Any]:
    network = compiled.network
    assert network is not None
    hosts = [*network.hosts, "stranger"]
    return {host: views.view(network, host, keys_of(network), secret, compiled.notices(host)) for host in hosts}


def without_versions(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_versions(v) for k, v in value.items() if k != "version"}
    return [without_versions(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", CASES)
def test_views(name: str) -> None:
    compiled = load(name)
    # versions are the hashes of the rest: they would make every difference two
    seen = {"problems": [str(problem) for problem in compiled.problems], "views": without_versions(views_of(compiled))}
    path = GOLDEN / name / "views.json"
    if os.environ.get("MRVPN_WRITE_GOLDEN"):
        path.write_text(json.dumps(seen, indent=1, ensure_ascii=False) + "\n")
    assert seen == json.loads(path.read_text())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_view_is_plain_and_its_version_is_its_content(name: str) -> None:
    for view in views_of(load(name)).values():
        assert json.loads(json.dumps(view)) == view
        rest = {k: v for k, v in view.items() if k != "version"}
        assert view["version"] == content_hash(rest)


@pytest.mark.parametrize("name", FOLDERS)
def test_views_are_the_same_again_and_nobody_changes_anothers(name: str) -> None:
    compiled = load(name)
    first = views_of(compiled)
    text = json.dumps(first)

    def spoil(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                spoil(item)
            value["spoilt"] = 1
        elif isinstance(value, list):
            for item in value:
                spoil(item)
            value.append("spoilt")

    spoil(first)
    assert json.dumps(views_of(compiled)) == text
    assert json.dumps(views_of(load(name))) == text


@pytest.mark.parametrize("name", FOLDERS)
def test_every_file_renders(name: str) -> None:
    for view in views_of(load(name)).values():
        if view["member"] and view["os"] == "linux":
            assert list(files(view, REPO / "salt"))


# --- nothing that is another's ----------------------------------------------------------------------------------------


def foreign(network: Network, host: str) -> Iterator[tuple[str, str]]:
    """What a host has no part in: (what it is, text that must not stand in its view)."""
    d = network.description
    mine = set(network.ends.get(host, ()))
    peers = {peer for name in mine for peer in d.tunnels[name].hosts}
    for name, tunnel in d.tunnels.items():
        ends = list(tunnel.hosts)
        for one in ends:
            for other in ends:
                if one != other and host not in (one, other):
                    yield f"preshared key of {one} and {other}", views.psk.derive(secret("psk_root"), name, one, other)
        for end in ends:
            if name not in mine:
                yield f"public key of {end}", key(end, name)
                expose = tunnel.hosts[end].expose
                if expose and expose.host:
                    at = f"[{expose.host}]" if ":" in expose.host else expose.host
                    yield f"endpoint of {end}", f"{at}:{expose.port}"
        if name not in mine:
            yield "a tunnel's name", name
            named = {value for end in tunnel.hosts.values() for value in secrets_named(end)}
            for value in named:
                yield f"secret {value}", secret(value)
            for end in tunnel.hosts.values():
                for command in (*end.mikrotik_cleanup, *end.mikrotik_deploy):
                    yield "a router's command", command
        else:
            for end, options in tunnel.hosts.items():
                if options.private is not None:
                    yield f"private key of {end}", secret(getattr(options.private, "secret", ""))
    for other in network.hosts:
        if other not in peers and other != host:
            yield "a host's id", other
            options = d.hosts.get(other)
            if options and options.endpoint:
                yield f"endpoint of {other}", options.endpoint
    if host != d.entrypoint:
        for value in secrets_named(d.firezone):
            yield f"secret {value}", secret(value)
        for client, options_ in d.clients.items():
            yield f"client {client}", options_.public_key
    yield "the root of preshared keys", secret("psk_root")


def stands(text: str, content: str) -> bool:
    return (
        re.search(rf"(?<![\w.-]){re.escape(json.dumps(text, ensure_ascii=False)[1:-1])}(?![\w-])", content) is not None
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_no_secret_and_no_data_of_a_host_without_part_in_it(name: str) -> None:
    compiled = load(name)
    network = compiled.network
    assert network is not None
    checked = 0
    for host, view in views_of(compiled).items():
        content = json.dumps(view, ensure_ascii=False)
        for what, text in foreign(network, host):
            checked += 1
            assert not stands(text, content), f"{what} stands in the view of {host}"
    assert checked


def test_the_search_finds_what_is_there() -> None:
    """So that the test above could fail: a host's own data is found by the same search."""
    compiled = load("mesh")
    network = compiled.network
    assert network is not None
    content = json.dumps(views_of(compiled)["hub"], ensure_ascii=False)
    for text in ("wg_offices", "north", key("north", "wg_offices"), "192.0.2.51:55850"):
        assert stands(text, content)
    assert stands(views.psk.derive(secret("psk_root"), "wg_offices", "north", "hub"), content)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_masked_view_shows_no_secret(name: str) -> None:
    compiled = load(name)
    network = compiled.network
    assert network is not None
    named = [secret(value) for value in (*secrets_named(network.description), "psk_root")]
    pairs = [
        views.psk.derive(secret("psk_root"), tunnel, one, other)
        for tunnel, ends in network.addresses.items()
        for one in ends
        for other in ends
    ]
    for view in views_of(compiled).values():
        shown = json.dumps(views.masked(view))
        assert not [value for value in (*named, *pairs) if value in shown]


# --- spellings --------------------------------------------------------------------------------------------------------

BASE = """
mrvpn:
  entrypoint: entry
  tunnels:
    wg_uk:
      subnet: 10.9.20.0/24
      hosts: {uk: {expose: "192.0.2.20:55824", allowed_nets: [0.0.0.0/0]}, entry: {compose_service: firezone}}
  routing:
    routes:
      - {interface: wg_uk, country: GB}
      - {interface: wg_uk, domain: '.*\\.uk'}
      - {interface: wg_uk, net: 198.51.100.0/24}
"""


@pytest.mark.parametrize(
    ("written", "also"),
    [
        ("country: GB", "country: [GB]"),
        ("country: GB", "country: gb"),
        ("country: GB", "geo: [\"country='GB'\"]"),
        ("country: GB", "geo: country=GB"),
        ("country: GB", "geo: 'country = \"GB\"'"),
        ("country: GB", "country: UK"),
        ("domain: '.*\\.uk'", "domain: ['.*\\.uk']"),
        ("domain: '.*\\.uk'", "domains: '.*\\.uk'"),
        ("net: 198.51.100.0/24", "static: [198.51.100.0/24]"),
        ("net: 198.51.100.0/24", "net: [198.51.100.77/24]"),
        ("subnet: 10.9.20.0/24", "subnet: [10.9.20.0/24]"),
        ("allowed_nets: [0.0.0.0/0]", "allowed_nets: 0.0.0.0/0"),
        ("allowed_nets: [0.0.0.0/0]", "allowed_nets: [0.0.0.0/0], table: off, autostart: yes, private: ~"),
        ("compose_service: firezone", 'compose_service: firezone, compose_network: null, table: "off"'),
        (
            'hosts: {uk: {expose: "192.0.2.20:55824", allowed_nets: [0.0.0.0/0]}, entry: {compose_service: firezone}}',
            'uk: {expose: "192.0.2.20:55824", allowed_nets: [0.0.0.0/0]}\n      entry: {compose_service: firezone}',
        ),
        ("mrvpn:\n", "mrvpn_config:\n"),
    ],
)
def test_spellings_mean_the_same(written: str, also: str, tmp_path: Path) -> None:
    assert BASE.count(written) == 1
    changed = BASE.replace(written, also)
    found = []
    for text in (BASE, changed):
        (tmp_path / "a.yaml").write_text(text)
        compiled = compiler.compile_path(tmp_path)
        assert compiled.network is not None, "\n".join(map(str, compiled.problems))
        found.append({host: views.view(compiled.network, host, {}, secret) for host in compiled.network.hosts})
    assert found[0] == found[1]


def test_the_spellings_are_yaml() -> None:
    yaml.safe_load(BASE)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_daemon_takes_its_settings(name: str) -> None:
    from ipt_server.settings import Settings, parse

    for view in views_of(load(name)).values():
        for entry in view.get("routing") or ():
            if "lists" in Settings.model_fields or "lists" not in entry["settings"]:
                parse(entry["settings"])
