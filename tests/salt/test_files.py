"""What a host gets on disk: the compose tree as MRVPN2's README prints it, real `docker compose config`, modes,
order.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrvpn.render import File, files

REPO = Path(__file__).parents[2]
STATES = REPO / "salt"
GOLDEN = REPO / "tests" / "golden" / "compose"
HOSTS = ("entry", "uk", "office")
View = Callable[[str], dict[str, Any]]
Rendered = Callable[[dict[str, Any]], dict[str, File]]


@pytest.fixture
def rendered() -> Callable[[dict[str, Any]], dict[str, File]]:
    return lambda view: {file.target: file for file in files(view, STATES)}


def put(view: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tree on disk below the folder; what compose makes of it."""
    view["root"] = str(folder)
    for file in files(view, STATES):
        path = folder / file.target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
    done = subprocess.run(
        ["docker", "compose", "--file", str(folder / "docker-compose.yml"), "config", "--format", "json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def additions(mine: Any, theirs: Any, where: str) -> None:
    """Fails unless `mine` holds all of `theirs` in its order, with nothing but additions."""
    if isinstance(theirs, dict):
        assert isinstance(mine, dict), where
        for key, value in theirs.items():
            assert key in mine, f"{where}.{key} is missing"
            additions(mine[key], value, f"{where}.{key}")
    elif isinstance(theirs, list) and isinstance(theirs[0], dict):
        for number, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            additions(one, other, f"{where}[{number}]")
    elif isinstance(theirs, list):
        positions = [mine.index(item) for item in theirs]
        assert positions == sorted(positions), f"{where}: another order"
    else:
        assert mine == theirs, where


def test_the_readmes_wg_tik_is_kept_as_printed(view: View, rendered: Rendered) -> None:
    it = view("entry")
    tik = copy.deepcopy(it["tunnels"].pop("wg_office"))
    it["tunnels"] = {"wg_tik": {**tik, "interface": "wg_tik", "addresses": ["10.9.22.2/24"]}}
    it["recursor"][0]["interfaces"] = ["wg-firezone", "wg_uk", "wg_tik"]
    tree = rendered(it)
    for target, golden in (
        ("docker-compose.yml", "docker-compose.yml"),
        ("wg_tunnels/wg_tik/docker-compose.yml", "wg_tik.yml"),
        ("mrvpn/compose_firezone_svc.yml", "compose_firezone_svc.yml"),
    ):
        printed = yaml.safe_load((GOLDEN / golden).read_text())
        mine = yaml.safe_load(tree[target].text)
        additions(mine, printed, target)


def test_what_is_added_to_the_readme_is_listed_in_the_adr(view: View, rendered: Rendered) -> None:
    adr = (REPO / "docs" / "adr" / "0010-additions-to-the-compose-files.md").read_text()
    tunnel = yaml.safe_load(rendered(view("entry"))["wg_tunnels/wg_office/docker-compose.yml"].text)
    printed = yaml.safe_load((GOLDEN / "wg_tik.yml").read_text())
    services = yaml.safe_load(rendered(view("entry"))["mrvpn/compose_firezone_svc.yml"].text)["services"]
    known = yaml.safe_load((GOLDEN / "compose_firezone_svc.yml").read_text())["services"]
    pairs = [(tunnel["services"]["wg_office"], printed["services"]["wg_tik"])]
    pairs += [(services[name], known[name]) for name in known]
    for mine, theirs in pairs:
        for key in mine.keys() - theirs.keys():
            assert f"`{key}`" in adr, f"{key} is added but not listed"


@pytest.mark.parametrize("host", HOSTS)
def test_compose_takes_every_hosts_tree(view: View, host: str, tmp_path: Path) -> None:
    config = put(view(host), tmp_path)
    for name, service in config["services"].items():
        assert service["container_name"] == name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("privileged"), name
        assert service["healthcheck"]["test"], name
        assert service["restart"] in ("always", "unless-stopped"), name
    names = {"entry": {"firezone", "wg_uk", "wg_office", "firezone_pdns", "firezone_ipt", "firezone_frr"}}
    names |= {"uk": {"wg_uk", "wg_uk_frr"}, "office": {"wg_office", "mrvpn_frr"}}
    assert config["services"].keys() == names[host]


def test_the_gateways_namespace(view: View, tmp_path: Path) -> None:
    config = put(view("entry"), tmp_path)
    gateway = config["services"]["firezone"]
    for name, service in config["services"].items():
        if name == "firezone":
            continue
        assert service["network_mode"] == "service:firezone"
        assert service["depends_on"]["firezone"] == {"condition": "service_healthy", "restart": True, "required": True}
        assert "/sys/class/net/eth0" in str(service["healthcheck"]["test"]), f"{name} would not notice an old namespace"
    wanted = {"net.ipv4.ip_forward": "1", "net.ipv4.fwmark_reflect": "1", "net.ipv6.fwmark_reflect": "1"}
    wanted |= {
        "net.ipv4.conf.all.src_valid_mark": "1",
        "net.ipv4.conf.all.rp_filter": "0",
        "net.ipv4.conf.all.accept_local": "1",
        "net.ipv4.ip_early_demux": "0",
        "net.ipv6.conf.all.forwarding": "1",
        "net.ipv6.conf.all.disable_ipv6": "0",
    }
    assert wanted.items() <= gateway["sysctls"].items()
    assert gateway["networks"]["mrvpn"] == {"ipv4_address": "172.30.55.2", "ipv6_address": "fd6d:7276:0:55::2"}
    network = config["networks"]["mrvpn"]
    assert network["enable_ipv6"] and network["driver_opts"]["com.docker.network.bridge.name"] == "br-mrvpn"


def hash_of(view: dict[str, Any], folder: Path) -> str:
    put(view, folder)
    command = ["docker", "compose", "--file", str(folder / "docker-compose.yml"), "config", "--hash", "firezone"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_tunnel_in_the_reserved_range_leaves_the_gateway_alone(view: View, tmp_path: Path) -> None:
    with_it = view("entry")
    without = view("entry")
    del without["tunnels"]["wg_office"]
    beyond = view("entry")
    beyond["tunnels"]["wg_office"]["listen_port"] = 55900
    hashes = {hash_of(it, tmp_path) for it in (with_it, without)}
    assert len(hashes) == 1, "adding a tunnel would recreate the gateway and drop every client"
    assert hash_of(beyond, tmp_path) not in hashes


@pytest.mark.parametrize("host", HOSTS)
def test_keys_are_only_in_files_that_others_cannot_read(view: View, host: str, rendered: Rendered) -> None:
    it = view(host)
    secrets = set(re.findall(r"[A-Za-z0-9+/]{43}=", json.dumps([t["peers"] for t in it["tunnels"].values()])))
    publics = {peer["public_key"] for t in it["tunnels"].values() for peer in t["peers"]}
    found = False
    for file in rendered(it).values():
        for secret in secrets - publics:
            if secret in file.text:
                found = True
                assert file.mode == "0600", file.target
    assert found or not secrets - publics, "the preshared key is in no file at all"


def test_live_files_are_what_was_mounted(view: View, rendered: Rendered) -> None:
    tree = rendered(view("entry"))
    folder = "wg_tunnels/wg_uk"
    assert tree[f"{folder}/live/interface.conf"].text == tree[f"{folder}/interface/interface.conf"].text
    assert tree[f"{folder}/live/peers/uk.conf"].text == tree[f"{folder}/peers/uk.conf"].text
    assert tree["mrvpn/live/settings.yaml"].text == tree["mrvpn/ipt-server-config.yml"].text
    assert yaml.safe_load(tree["mrvpn/live/settings.yaml"].text) == view("entry")["routing"][0]["settings"]


def test_a_host_that_is_no_member_gets_nothing() -> None:
    stranger = {"version": "0", "host": "x", "member": False, "root": "/opt/mrvpn"}
    assert list(files(stranger, STATES)) == []


@pytest.mark.parametrize("host", HOSTS)
def test_the_states_module_renders_the_same_text(view: View, host: str, make_caller: Callable[..., Any]) -> None:
    it = view(host)
    caller = make_caller(host, it)
    through_salt = caller.cmd("mrvpn_tree.render", it)
    offline = [vars(file) for file in files(it, STATES)]
    assert [{k: v for k, v in file.items() if k != "reload"} for file in through_salt] == offline


def test_a_view_that_lacks_a_key_names_the_template(view: View, make_caller: Callable[..., Any]) -> None:
    from salt.exceptions import CommandExecutionError

    it = view("uk")
    caller = make_caller("uk", it)
    del it["tunnels"]["wg_uk"]["mtu"]
    with pytest.raises(CommandExecutionError, match=r"salt://mrvpn/.*mtu.*different versions"):
        caller.cmd("mrvpn_tree.render", it)
