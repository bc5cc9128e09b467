"""MRVPN2's configurations: what becomes of every key, where secrets go, and what a person is told."""

from __future__ import annotations

import base64
import itertools
import re
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mrvpn import compiler, views
from mrvpn.__main__ import main
from mrvpn.importer import NotImportable, import_config

GOLDEN = Path(__file__).parents[2] / "golden" / "descriptions"

CONFIG = r"""
mrvpn_config:
  mrvpn_root: /opt/mrvpn
  entrypoint: mrvpn-entry
  tunnels:
    wg_uk:
      subnet: 10.9.20.0/24
      hosts:
        out-mrvpn-uk: {expose: 55824, table: off, allowed_nets: [0.0.0.0/0], masquerade: true, psk: hush-psk}
        mrvpn-entry: &entry
          allowed_nets: [0.0.0.0/0]
          compose_service: firezone
          autostart: true
          private: hush-private
    wg_us:
      out-mrvpn-us: {expose: "{{ us_port }}", allowed_nets: [0.0.0.0/0]}
      mrvpn-entry:
        expose: 55826
        compose_service: firezone
        psk: !vault |
          $ANSIBLE_VAULT;1.1;AES256
          6162
      subnet: 10.9.21.0/24
    wg_tik:
      subnet: 10.9.22.0/24
      hosts:
        mikrotik_router: {allowed_nets: [0.0.0.0/0], table: wg_tik, mikrotik_deploy: [/interface print]}
        mrvpn-entry: {<<: *entry, expose: 55825, private: null}
  routing:
    db: ipt.db
    pbr_mark: 200
    table: 200
    interfaces: [wg-firezone]
    routes:
      - interface: _DEFAULT
        metric: 100
        geo: ["country='RU'", "country='UK'"]
        domains: ['.*\.ru']
        static: 198.51.100.0/24
      - {interface: wg_uk, static: [0.0.0.0/0]}
  services: {firezone: [wg-firezone]}
  firezone:
    fz_admin_password: hush-password
    fz_oidc: {google: {client_id: x, client_secret: hush-oidc}}
  something: else
"""
INVENTORY = """
all:
  children:
    vpn:
      vars: {ansible_user: root}
      hosts:
        out-mrvpn-uk: {ansible_host: 192.0.2.20}
        mrvpn-entry: {ansible_host: 192.0.2.10}
        out-mrvpn-us:
    routers:
      vars: {ansible_network_os: community.routeros.routeros, ansible_ssh_pass: hush-router}
      hosts:
        mikrotik_router: {ansible_host: 192.0.2.30, ansible_ssh_user: admin}
"""


def tree(files: dict[str, str]) -> Any:
    found: dict[str, Any] = {}
    for text in files.values():
        found |= yaml.safe_load(text)["mrvpn"]
    return found


def test_all_of_it() -> None:
    found = import_config(CONFIG, INVENTORY)
    described = tree(found.files)
    assert described["hosts"] == {
        "out-mrvpn-uk": {"endpoint": "192.0.2.20"},
        "mrvpn-entry": {"endpoint": "192.0.2.10"},
        "mikrotik_router": {"os": "routeros"},
    }
    uk = described["tunnels"]["wg_uk"]["hosts"]
    assert uk["out-mrvpn-uk"]["psk"] == {"secret": "psk_wg_uk_out_mrvpn_uk"}
    assert uk["mrvpn-entry"] == {"allowed_nets": ["0.0.0.0/0"], "compose_service": "firezone"}
    assert described["tunnels"]["wg_tik"]["hosts"]["mrvpn-entry"]["expose"] == 55825
    first, second = described["routing"]["routes"]
    assert first == {
        "interface": "_DEFAULT",
        "metric": 100,
        "country": ["RU", "GB"],
        "domain": r".*\.ru",
        "net": "198.51.100.0/24",
    }
    assert second == {"interface": "wg_uk", "net": "0.0.0.0/0"}
    assert "db" not in described["routing"]
    assert found.secrets == {
        "psk_wg_uk_out_mrvpn_uk": "hush-psk",
        "psk_wg_us_mrvpn_entry": "",
        "fz_admin_password": "hush-password",
        "oidc_google": "hush-oidc",
    }
    assert "hush" not in "".join((*found.files.values(), *found.notes))


@pytest.mark.parametrize(
    "told",
    [
        "something: is no key of MRVPN2: left out",
        "routing.db: has no meaning here",
        "wg_uk.hosts.mrvpn-entry.private: is not copied",
        "wg_uk.hosts.mrvpn-entry.autostart: is left out",
        "wg_us.hosts.out-mrvpn-us.expose: is an expression ({{ us_port }})",
        "wg_us.hosts.mrvpn-entry.psk: Ansible's vault holds it",
        "routing.routes[0]: UK is written GB",
        "routing.routes[0]: a prefix now wins over a country",
        "domain: MRVPN2 matched the beginning of a name",
        "masquerade: hides only",
        "mikrotik_router: its user and password are not copied",
        "their ids become minion ids",
    ],
)
def test_what_a_person_is_told(told: str) -> None:
    notes = import_config(CONFIG, INVENTORY).notes
    assert [note for note in notes if told in note], notes


def test_without_an_inventory() -> None:
    found = import_config(CONFIG)
    assert tree(found.files)["hosts"] == {"mikrotik_router": {"os": "routeros"}}
    assert any("hosts.out-mrvpn-uk.endpoint: is not known" in note for note in found.notes)


@pytest.mark.parametrize("name", ["mrvpn2-readme", "mrvpn2-schema", "spellings"])
def test_what_is_imported_means_the_same(name: str, tmp_path: Path) -> None:
    """The golden cases imported: every host's view as before, but for what has no meaning here."""
    found = import_config((GOLDEN / name / "mrvpn.yaml").read_text().replace("!vault", ""))
    for file, text in found.files.items():
        (tmp_path / file).write_text(text)
    compiled = compiler.compile_path(tmp_path)
    before = compiler.compile_path(GOLDEN / name)
    assert compiled.network is not None, compiled.problems
    assert before.network is not None
    for host in before.network.hosts:
        old, new = (
            views.view(network, host, {}, lambda name: base64.b64encode(name[:32].rjust(32).encode()).decode())
            for network in (before.network, compiled.network)
        )
        assert new == old


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yml").write_text(CONFIG.replace('"{{ us_port }}"', "55824"))
    (tmp_path / "inventory.yml").write_text(
        INVENTORY.replace("out-mrvpn-us:", "out-mrvpn-us: {ansible_host: 192.0.2.40}")
    )
    output, secrets = tmp_path / "network", tmp_path / "secrets.yaml"
    command = ["import", str(tmp_path / "config.yml"), "--inventory", str(tmp_path / "inventory.yml")]
    command += ["--output", str(output), "--secrets", str(secrets)]
    assert main(command) == 0
    out = capsys.readouterr()
    assert "hush" not in out.out + out.err + "".join(path.read_text() for path in output.iterdir())
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    values = yaml.safe_load(secrets.read_text())
    assert values["fz_admin_password"] == "hush-password"
    assert len(values["psk_root"]) >= 40
    assert sorted(path.name for path in output.iterdir()) == [
        "gateway.yaml",
        "lock.yaml",
        "network.yaml",
        "routing.yaml",
        "tunnels.yaml",
    ]
    assert main(["check", str(output)]) == 0
    assert main(command) == 1  # never written over
    assert "is there already" in capsys.readouterr().err


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/moving-from-mrvpn2.md, as it stands."""
    page = (Path(__file__).parents[3] / "docs" / "moving-from-mrvpn2.md").read_text()
    (block,) = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "mrvpn.yml").write_text(CONFIG.replace('"{{ us_port }}"', "55824"))
    (tmp_path / "hosts.yml").write_text(INVENTORY.replace("out-mrvpn-us:", "out-mrvpn-us: {ansible_host: 192.0.2.40}"))
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["mrvpn", verb] for verb in ("import", "check", "plan", "graph")]
    assert [main(line[1:]) for line in lines] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tunnels: [", "is not YAML: line 1"),
        ("- a", "holds no map"),
        ("a: 1", "there is no map `tunnels`"),
        ("tunnels: !ruby/object {}", "the tag !ruby/object is not read"),
        ("tunnels: !!python/object/apply:os.system [id]", "is not YAML"),
        (
            "a: &a [x, x, x, x, x, x, x, x]\n"
            + "\n".join(f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]" for b, c in itertools.pairwise("abcdefghi")),
            "more than",
        ),
    ],
)
def test_what_is_no_configuration(text: str, told: str) -> None:
    with pytest.raises(NotImportable, match=told.replace("(", r"\(")):
        import_config(text)


leaves = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["{{ x }}", "10.9.0.0/24", "UK"])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["hosts", "subnet", "routes", "geo", "domains", "fz_oidc", "psk", "expose", "a", "wg"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({"tunnels": values, "routing": values, "firezone": values, "hosts": values}), values)
def test_never_a_traceback(config: dict[str, Any], inventory: Any) -> None:
    try:
        found = import_config(yaml.safe_dump(config), yaml.safe_dump(inventory))
    except NotImportable:
        return
    for text in found.files.values():
        yaml.safe_load(text)
