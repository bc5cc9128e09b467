"""A real master and two real minions: keys by orchestration and mine, the reactor, the runner.

master -- entry (entrypoint), uk (exit)      one tunnel between them; no Docker: nothing is deployed here
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import salt.utils.event
import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from saltfactories.manager import FactoriesManager
from saltfactories.plugins.event_listener import EventListener

REPO = Path(__file__).parents[2]
pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@dataclass
class Site:
    master: Any
    minions: dict[str, Any]
    folder: Path
    roots: Path  # mrvpn_root: a folder of its own for each minion is mounted there, {id} below `own`
    own: Path

    def run(self, *arguments: str) -> Any:
        return self.master.salt_run_cli(timeout=120).run(*arguments)

    def salt(self, minion: str, *arguments: str, **kwargs: Any) -> Any:
        return self.master.salt_cli(timeout=120).run(*arguments, minion_tgt=minion, **kwargs)


@pytest.fixture(scope="module")
def site(
    salt_factories: FactoriesManager, tmp_path_factory: pytest.TempPathFactory, minion_with_root: Callable[..., Any]
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    network, roots = folder / "network", folder / "opt"
    network.mkdir()
    description = {
        "entrypoint": "entry",
        "mrvpn_root": str(roots),
        "gateway": "wireguard",
        "tunnels": {
            "wg_uk": {
                "subnet": "10.9.20.0/24",
                "hosts": {
                    "uk": {"expose": "203.0.113.20:55824", "allowed_nets": ["0.0.0.0/0"], "masquerade": True},
                    "entry": {"allowed_nets": ["0.0.0.0/0"], "compose_service": "firezone"},
                },
            }
        },
        "routing": {"interfaces": ["wg-firezone"], "routes": [{"interface": "wg_uk", "country": "GB"}]},
        "services": {"firezone": ["wg-firezone"]},
    }
    (network / "network.yaml").write_text(yaml.safe_dump({"mrvpn": description}))
    secrets = folder / "secrets.yaml"
    secrets.write_text("psk_root: long-enough-to-be-one-and-made-for-this-test\n")
    secrets.chmod(0o600)
    data = folder / "data"
    data.mkdir()
    master = salt_factories.salt_master_daemon("mrvpn-test-master", overrides=_master_options(network, secrets, data))
    with master.started():
        names = ("entry", "uk")
        minions = {name: minion_with_root(master, name, folder, roots) for name in names}
        with minions["entry"].started(), minions["uk"].started():
            yield Site(master, minions, folder, roots, folder / "own")


def _master_options(network: Path, secrets: Path, data: Path) -> dict[str, Any]:
    return {
        "interface": "127.0.0.1",
        "open_mode": True,
        "worker_threads": 3,
        "file_roots": {"base": [str(REPO / "salt"), str(REPO / "ext"), str(data)]},
        "pillar_dirs": [str(REPO / "_pillar")],
        "runner_dirs": [str(REPO / "_runners")],
        "ext_pillar": [{"mrvpn": {"path": str(network), "secrets": str(secrets)}}],
        "reactor": [{"mrvpn/schema/changed": [str(REPO / "reactor" / "schema_changed.sls")]}],
    }


def test_the_runner_knows_the_hosts(site: Site) -> None:
    assert site.run("mrvpn.hosts").data == ["entry", "uk"]
    assert site.run("mrvpn.hosts", "role=entrypoint").data == ["entry"]
    assert site.run("mrvpn.check").data == []


def test_before_the_keys_an_apply_fails_and_names_the_orchestration(site: Site) -> None:
    """Run as a test=True apply of one SLS: nothing of this machine may be touched."""
    site.salt("uk", "saltutil.sync_all")
    answer = site.salt("uk", "state.apply", "mrvpn.tunnel", "test=True")
    (far_ends,) = [state for name, state in answer.data.items() if name.endswith("_|-far_ends")]
    assert far_ends["result"] is False
    assert "orch.keys" in far_ends["comment"] and "wg_uk: entry" in far_ends["comment"]


def _orchestrated(site: Site) -> None:
    """Runs the keys' orchestration; once more where Salt 3008 itself failed: a KeyError of a thread's number."""
    done = site.run("state.orchestrate", "orch.keys")
    if done.returncode and re.search(r'"comment": "\d{9,}"', done.stdout):
        done = site.run("state.orchestrate", "orch.keys")
    assert done.returncode == 0, done.stdout


def test_keys_are_made_everywhere_and_public_ones_travel(site: Site) -> None:
    _orchestrated(site)
    publics = {}
    for host, interface, path in (
        ("uk", "wg_uk", "wg_tunnels/wg_uk/private.key"),
        ("entry", "wg-firezone", "firezone/private.key"),
    ):
        private = base64.b64decode((site.own / host / path).read_text())
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        publics[interface] = base64.b64encode(public).decode()
        told = site.salt(host, "mrvpn.public_keys", f"root={site.roots}").data
        assert told[interface] == publics[interface]
        assert base64.b64encode(private).decode() not in str(told)
    # the far end's view holds it now, and only the public one
    view = site.salt("entry", "pillar.items", "unmask=True").data["mrvpn"]
    assert view["tunnels"]["wg_uk"]["peers"][0]["public_key"] == publics["wg_uk"]
    answer = site.salt("uk", "state.apply", "mrvpn.tunnel", "test=True")
    (far_ends,) = [state for name, state in answer.data.items() if name.endswith("_|-far_ends")]
    assert far_ends["result"] is True
    # again: keys stay
    before = (site.own / "entry" / "firezone/private.key").read_text()
    _orchestrated(site)
    assert (site.own / "entry" / "firezone/private.key").read_text() == before


def test_fifty_events_become_two_runs_at_most(site: Site, event_listener: EventListener) -> None:
    """No daemon runs here, so each orchestration ends in an error: what counts is how many there are."""
    start = time.time()
    with salt.utils.event.get_event("master", opts=site.master.config, listen=False) as bus:
        for _ in range(50):
            bus.fire_event({"tgt": "*", "fun": "cmd.run", "arg": ["touch /tmp/trusted"]}, "mrvpn/schema/changed")

    def ended(function: str) -> list[Any]:
        found = event_listener.get_events([(site.master.id, "salt/run/*/ret")], after_time=start)
        return [event for event in found if event.data.get("fun") == f"runner.{function}"]

    deadline = time.monotonic() + 150
    while len(ended("mrvpn_reactor.schema_changed")) < 50:
        assert time.monotonic() < deadline, f"{len(ended('mrvpn_reactor.schema_changed'))} of 50 events were taken up"
        time.sleep(0.2)
    assert 1 <= len(ended("state.orchestrate")) <= 2
    assert not Path("/tmp/trusted").exists()


def test_an_ext_pillar_that_cannot_load_fails_the_apply(
    site: Site, salt_factories: FactoriesManager, tmp_path: Path
) -> None:
    """Salt logs CRITICAL, compiles an empty pillar and would apply it: the states refuse."""
    options = _master_options(site.folder / "network", site.folder / "secrets.yaml", site.folder / "data")
    options["pillar_dirs"] = [str(tmp_path)]  # the module is not where the master looks
    master = salt_factories.salt_master_daemon("mrvpn-blind-master", overrides=options)
    with master.started(), master.salt_minion_daemon("ru").started():
        answer = master.salt_cli(timeout=120).run("state.apply", minion_tgt="ru")
    assert answer.returncode != 0
    assert isinstance(answer.data, list) and "no view in this minion's pillar" in answer.data[0]
