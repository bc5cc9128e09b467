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
    found.write_text("psk_root: root-of-all\nuk_psk: given-by-hand\n")
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

    monkeypatch.setattr(type(cache), "fetch", spy)
    view = module.ext_pillar("uk", {}, path=str(folder))["mrvpn"]
    assert view["tunnels"]["wg_uk"]["peers"][0]["public_key"] == "key-of-entry"
    assert asked == ["entry"]
    entry = module.ext_pillar("entry", {}, path=str(folder))["mrvpn"]
    assert {name: t["peers"][0]["public_key"] for name, t in entry["tunnels"].items()} == {
        "wg_office": None,
        "wg_uk": "key-of-uk",
        "wg_us": "key-of-us",
    }


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
    assert psk_of(module.ext_pillar("uk", {}, path=str(folder), secrets=str(secrets))) == "given-by-hand"


def test_a_secret_that_is_not_there(module: Any, folder: Path, secrets: Path) -> None:
    with_psk(folder, "no_such")
    answer = module.ext_pillar("uk", {}, path=str(folder), secrets=str(secrets))
    assert answer == {"_errors": [f"mrvpn: there is no secret `no_such`: add it to {secrets}"]}
    # it is nobody else's trouble
    assert "mrvpn" in module.ext_pillar("us", {}, path=str(folder), secrets=str(secrets))


def test_secrets_of_sdb(module: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sdb.yaml").write_text("uk_psk: from-sdb\npsk_root: root\n")
    with_psk(folder, "uk_psk")
    assert psk_of(module.ext_pillar("uk", {}, path=str(folder), secrets="sdb://vault")) == "from-sdb"
    with_psk(folder, "sdb://vault/uk_psk")
    assert psk_of(module.ext_pillar("uk", {}, path=str(folder))) == "from-sdb"
    with_psk(folder, "gone")
    answer = module.ext_pillar("uk", {}, path=str(folder), secrets="sdb://vault")
    assert answer == {"_errors": ["mrvpn: there is no secret `gone`: add it to sdb://vault"]}


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
