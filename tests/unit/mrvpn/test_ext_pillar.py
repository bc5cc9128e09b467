"""_pillar/mrvpn.py: parsed once per content, secrets from a file or sdb, `_errors` on anything wrong."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.cache
import salt.config

REPO = Path(__file__).parents[3]
GOOD = (REPO / "tests" / "bad" / "good" / "network.yaml").read_text()
PSK = "cHJlc2hhcmVkIHByZXNoYXJlZCBwcmVzaGFyZWQga2U="
PSK_PATH = "tunnels.wg_uk.hosts.uk.psk"
Pillar = Callable[..., dict[str, Any]]


@pytest.fixture
def module(tmp_path: Path) -> Any:
    """The module as Salt's loader makes it, with a master's real options, mine cache and sdb."""
    spec = importlib.util.spec_from_file_location("mrvpn_pillar_under_test", REPO / "_pillar" / "mrvpn.py")
    assert spec is not None and spec.loader is not None
    found: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    options = dict(salt.config.DEFAULT_MASTER_OPTS)
    options.update(cachedir=str(tmp_path / "cache"), extension_modules=str(tmp_path / "extmods"))
    options["__role"] = "master"
    options["vault"] = {"driver": "yaml", "files": [str(tmp_path / "sdb.yaml")]}
    found.__opts__ = options
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "network"
    found.mkdir()
    (found / "network.yaml").write_text(GOOD)
    return found


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    found = tmp_path / "secrets.yaml"
    found.write_text(f"psk_root: root-of-all\nuk_psk: {PSK}\n")
    found.chmod(0o600)
    return found


def test_a_view(module: Any, folder: Path, secrets: Path) -> None:
    view = module.ext_pillar("uk", {}, path=str(folder), secrets=str(secrets))["mrvpn"]
    assert view["host"] == "uk"
    (peer,) = view["tunnels"]["wg_uk"]["peers"]
    assert peer["preshared_key"] not in (None, "root-of-all")


def test_parsed_once_per_content(module: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compile_path = module.compiler.compile_path
    monkeypatch.setattr(module.compiler, "compile_path", lambda path: calls.append(path) or compile_path(path))
    for host in ("uk", "us", "entry", "stranger", "uk"):
        assert "mrvpn" in module.ext_pillar(host, {}, path=str(folder))
    assert len(calls) == 1
    changed = GOOD.replace("55824", "55823")
    (folder / "network.yaml").write_text(changed)
    os.utime(folder / "network.yaml", ns=(1, 1))
    assert module.ext_pillar("uk", {}, path=str(folder))["mrvpn"]["tunnels"]["wg_uk"]["listen_port"] == 55823
    (folder / "lock.yaml").write_text("version: 1\naddresses: {wg_uk: {uk: [10.9.20.9]}}\n")
    addresses = module.ext_pillar("uk", {}, path=str(folder))["mrvpn"]["tunnels"]["wg_uk"]["addresses"]
    assert addresses[0] == "10.9.20.9/24"
    assert len(calls) == 3


def test_a_link_that_is_switched(module: Any, folder: Path, tmp_path: Path) -> None:
    """As a deployment does it: both trees stay as they are, the link moves."""
    other = tmp_path / "next"
    other.mkdir()
    (other / "network.yaml").write_text(GOOD.replace("55824", "55899"))
    link = tmp_path / "current"
    link.symlink_to(folder)
    assert module.ext_pillar("uk", {}, path=str(link))["mrvpn"]["tunnels"]["wg_uk"]["listen_port"] == 55824
    link.unlink()
    link.symlink_to(other)
    assert module.ext_pillar("uk", {}, path=str(link))["mrvpn"]["tunnels"]["wg_uk"]["listen_port"] == 55899


def test_keys_from_the_mine_of_far_ends_alone(module: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = salt.cache.factory(module.__opts__)
    for host in ("uk", "us", "entry"):
        cache.store(
            "mine", host, {"mrvpn_public_keys": {"__data__": {"wg_uk": f"key-of-{host}", "wg_us": f"key-of-{host}"}}}
        )
    asked: list[str] = []
    fetch = type(cache).fetch

    def spy(self: Any, bank: str, key: str) -> Any:
        asked.append(key)
        return fetch(self, bank, key)

    module.ext_pillar("us", {}, path=str(folder))  # compiles, and makes the entrypoint's along with it
    monkeypatch.setattr(type(cache), "fetch", spy)
    module._told.clear()
    view = module.ext_pillar("uk", {}, path=str(folder))["mrvpn"]
    assert view["tunnels"]["wg_uk"]["peers"][0]["public_key"] == "key-of-entry"
    assert asked == ["entry"]
    entry = module.ext_pillar("entry", {}, path=str(folder))["mrvpn"]
    assert {name: t["peers"][0]["public_key"] for name, t in entry["tunnels"].items()} == {
        "wg_office": None,
        "wg_uk": "key-of-uk",
        "wg_us": "key-of-us",
    }


def test_what_changes_in_the_mine_is_seen_at_once(
    module: Any, folder: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view is made once for what it is made of: nothing new, no view; each of the three renewed, a new one."""
    cache = salt.cache.factory(module.__opts__)

    def told() -> Any:
        view = module.ext_pillar("entry", {}, path=str(folder), secrets=str(secrets))["mrvpn"]
        made.append(view)
        (peer,) = view["tunnels"]["wg_uk"]["peers"]
        return peer["public_key"], peer["preshared_key"]

    made: list[dict[str, Any]] = []
    calls: list[str] = []
    view = module.views.view
    monkeypatch.setattr(
        module.views, "view", lambda network, host, *rest: calls.append(host) or view(network, host, *rest)
    )
    cache.store("mine", "us", {"mrvpn_public_keys": {"wg_us": "key-of-us"}})
    assert told()[0] is None
    for key in ("one", "two"):
        cache.store("mine", "uk", {"mrvpn_public_keys": {"wg_uk": key}})
        assert told()[0] == key
        assert told()[0] == key
    assert len(calls) == 3
    before = told()[1]
    secrets.write_text("psk_root: another\n")
    assert told()[1] not in (None, before)
    assert len(calls) == 4
    made[-1]["tunnels"].clear()  # a caller's copy is its own
    assert told()[0] == "two"
    assert len(calls) == 4
    cache.flush("mine", "uk")
    assert told()[0] is None


def test_a_mine_that_is_kept_elsewhere_is_asked_every_time(
    module: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = salt.cache.factory(module.__opts__)
    cache.store("mine", "uk", {"mrvpn_public_keys": {"wg_uk": "one"}})
    monkeypatch.setitem(module.__opts__, "cache", "etcd")
    answers = iter(("one", "two"))
    monkeypatch.setattr(
        type(cache),
        "fetch",
        lambda self, bank, key: {"mrvpn_public_keys": {"wg_uk": next(answers)}} if key == "uk" else {},
    )
    monkeypatch.setattr(salt.cache, "factory", lambda opts: cache)
    for key in ("one", "two"):
        view = module.ext_pillar("entry", {}, path=str(folder))["mrvpn"]
        assert view["tunnels"]["wg_uk"]["peers"][0]["public_key"] == key


def test_an_address_from_the_mine(module: Any, folder: Path) -> None:
    (folder / "network.yaml").write_text(GOOD.replace("us: {endpoint: us.example.net}", "us: {}"))
    cache = salt.cache.factory(module.__opts__)
    cache.store("mine", "us", {"mrvpn_address": {"__data__": "198.51.100.7"}})
    entry = module.ext_pillar("entry", {}, path=str(folder))["mrvpn"]
    assert entry["tunnels"]["wg_us"]["peers"][0]["endpoint"] == "198.51.100.7:55824"
    assert entry["tunnels"]["wg_uk"]["peers"][0]["endpoint"] == "203.0.113.20:55824"


def with_psk(folder: Path, secret: str) -> None:
    text = GOOD.replace("uk: {expose: 55824,", f"uk: {{psk: {{secret: '{secret}'}}, expose: 55824,")
    (folder / "network.yaml").write_text(text)


def psk_of(answer: dict[str, Any]) -> Any:
    return answer["mrvpn"]["tunnels"]["wg_uk"]["peers"][0]["preshared_key"]


def test_a_secret_by_name(module: Any, folder: Path, secrets: Path) -> None:
    with_psk(folder, "uk_psk")
    assert psk_of(module.ext_pillar("uk", {}, path=str(folder), secrets=str(secrets))) == PSK


def test_a_secret_that_is_not_there(module: Any, folder: Path, secrets: Path) -> None:
    with_psk(folder, "no_such")
    answer = module.ext_pillar("uk", {}, path=str(folder), secrets=str(secrets))
    assert answer == {
        "_errors": [f"mrvpn: {PSK_PATH}: there is no secret `no_such`: add it to the master's secrets ({secrets})"]
    }
    # it is nobody else's trouble
    assert "mrvpn" in module.ext_pillar("us", {}, path=str(folder), secrets=str(secrets))


def test_secrets_of_sdb(module: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sdb.yaml").write_text(f"uk_psk: {PSK}\npsk_root: root\n")
    with_psk(folder, "uk_psk")
    assert psk_of(module.ext_pillar("uk", {}, path=str(folder), secrets="sdb://vault")) == PSK
    with_psk(folder, "sdb://vault/uk_psk")
    assert psk_of(module.ext_pillar("uk", {}, path=str(folder))) == PSK
    with_psk(folder, "gone")
    answer = module.ext_pillar("uk", {}, path=str(folder), secrets="sdb://vault")
    assert answer == {
        "_errors": [f"mrvpn: {PSK_PATH}: there is no secret `gone`: add it to the master's secrets (sdb://vault)"]
    }


def test_secrets_of_sdb_are_asked_for_every_time(module: Any, folder: Path, tmp_path: Path) -> None:
    """Nothing tells that one changed there."""
    salt.cache.factory(module.__opts__).store("mine", "us", {"mrvpn_address": "192.0.2.1"})
    with_psk(folder, "sdb://vault/uk_psk")
    for psk in (PSK, PSK.replace("c", "d")):
        (tmp_path / "sdb.yaml").write_text(f"uk_psk: {psk}\n")
        assert psk_of(module.ext_pillar("uk", {}, path=str(folder))) == psk


def test_all_that_is_wrong_with_secrets_at_once(module: Any, folder: Path, secrets: Path) -> None:
    """Those of Firezone's configuration among them; no value is told."""
    text = GOOD.replace("gateway: wireguard", "gateway: firezone")
    head, _, rest = text.partition("  clients:\n")
    text = head + "".join(line for line in rest.splitlines(True) if not line.startswith("    "))
    text = text.replace("uk: {expose: 55824,", "uk: {psk: {secret: bad}, expose: 55824,") + (
        "  firezone:\n    fz_admin_password: {secret: short}\n"
        "    fz_configuration: {logo: {data: {secret: gone}}, local_auth_enabled: true}\n"
    )
    (folder / "network.yaml").write_text(text)
    secrets.write_text("psk_root: root\nbad: hush-hush\nshort: hush\n")
    errors = module.ext_pillar("entry", {}, path=str(folder), secrets=str(secrets))["_errors"]
    assert [error.split(": ")[1] for error in errors] == [
        "tunnels.wg_uk.hosts.uk.psk",
        "firezone.fz_configuration.logo.data",
        "firezone.fz_admin_password",
    ]
    assert "hush" not in json.dumps(errors)
    secrets.write_text(f"psk_root: root\nbad: {PSK}\nshort: hush-hush-hush\ngone: hush-logo\n")
    view = module.ext_pillar("entry", {}, path=str(folder), secrets=str(secrets))["mrvpn"]
    gateway = view["gateway"]["firezone"]
    assert gateway["configuration"] == {"logo": {"data": "hush-logo"}, "local_auth_enabled": True}
    assert gateway["secret_keys"] == ["logo"]
    assert type(gateway["admin"]["password"]) is str


@pytest.mark.parametrize("text", ["psk_root: [unclosed hush", "- hush", "hush"])
def test_secrets_that_cannot_be_read(module: Any, folder: Path, secrets: Path, text: str) -> None:
    secrets.write_text(text)
    answer = module.ext_pillar("uk", {}, path=str(folder), secrets=str(secrets))
    assert list(answer) == ["_errors"]
    assert "hush" not in json.dumps(answer)


def test_secrets_that_others_can_read(module: Any, folder: Path, secrets: Path) -> None:
    secrets.chmod(0o640)
    (error,) = module.ext_pillar("uk", {}, path=str(folder), secrets=str(secrets))["_errors"]
    assert "chmod 600" in error


def test_a_bad_description(module: Any, folder: Path) -> None:
    (folder / "network.yaml").write_text(
        GOOD.replace("wg_uk, country", "wg_uc, country").replace("10.9.23.0", "10.9.22.0")
    )
    errors = module.ext_pillar("uk", {}, path=str(folder))["_errors"]
    assert len(errors) == 2
    assert all(error.startswith("mrvpn: network.yaml:") for error in errors)


def test_mrvpn_in_the_pillar_already(module: Any, folder: Path) -> None:
    for there in ({"tunnels": {}}, None):
        assert "_errors" in module.ext_pillar("uk", {"mrvpn": there}, path=str(folder))
    # masterless: our own of the last time
    own = module.ext_pillar("uk", {}, path=str(folder))
    assert "mrvpn" in module.ext_pillar("uk", own, path=str(folder))


def test_no_path(module: Any, tmp_path: Path) -> None:
    assert "_errors" in module.ext_pillar("uk", {})
    assert "_errors" in module.ext_pillar("uk", {}, path=str(tmp_path / "gone"))


def test_notices_reach_those_they_concern(module: Any, folder: Path) -> None:
    text = GOOD.replace("us: {endpoint: us.example.net}", "us: {}").replace("country: GB", "country: UK")
    (folder / "network.yaml").write_text(text)
    notices = {
        host: module.ext_pillar(host, {}, path=str(folder))["mrvpn"]["notices"] for host in ("uk", "us", "entry")
    }
    assert notices["uk"] == []
    assert len(notices["us"]) == 1
    assert len(notices["entry"]) == 2
