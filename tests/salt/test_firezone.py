"""The gateway `firezone`: its files, its secrets, and its API through the real loaders against a strict stand-in."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rig
import yaml

from mrvpn import compiler, views
from mrvpn.render import files
from mrvpn.views.images import PINNED

REPO = Path(__file__).parents[2]
SIMULATOR = REPO / "tests" / "simulators" / "firezone"
GOLDEN = REPO / "tests" / "golden" / "firezone"
sys.path.insert(0, str(SIMULATOR))
from firezone_standin import Standin  # noqa: E402

SECRETS = {"oidc": "a-client-secret-of-google", "admin": "correct-horse-battery"}
EMAIL = "admin@example.net"
FZ = {
    "fz_client_subnet": "10.11.0.0/24",
    "fz_client_subnet6": "fd6d:7276:11::/64",
    "fz_server_url": "https://vpn.example.net",
    "fz_admin": EMAIL,
    "fz_admin_password": {"secret": "admin"},
    "fz_custom_labels": ["team=network", {"site": "one"}],
    "fz_oidc": {"google": {"client_id": "x", "client_secret": {"secret": "oidc"}}},
}
MakeCaller = Callable[..., Any]


def make_view(folder: Path, secrets: dict[str, str] = SECRETS, **fz: Any) -> dict[str, Any]:
    """The entrypoint's view of the example network with Firezone as its gateway."""
    network = folder / "network"
    shutil.copytree(REPO / "pillar" / "network", network, dirs_exist_ok=True)
    gateway = yaml.safe_load((network / "gateway.yaml").read_text())
    gateway["mrvpn"]["gateway"] = "firezone"
    gateway["mrvpn"]["firezone"] = {**FZ, **fz}
    (network / "gateway.yaml").write_text(yaml.safe_dump(gateway))
    compiled = compiler.compile_path(network)
    assert compiled.network is not None, compiled.errors
    return views.view(compiled.network, "entry", {}, secrets.get)


def tree(view: dict[str, Any]) -> dict[str, Any]:
    return {file.target: file for file in files(view, REPO / "salt")}


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["docker-compose.yml", ".env", "caddyfile/Caddyfile"])
def test_the_stacks_files(tmp_path: Path, target: str) -> None:
    """`MRVPN_GOLDEN=write` writes them anew, for a reviewed diff."""
    text = tree(make_view(tmp_path))[f"firezone/{target}"].text
    golden = GOLDEN / target.removeprefix(".").replace("/", "_")
    if os.environ.get("MRVPN_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("options", [{}, {"fz_autoheal": True, "fz_conntrack_log": True, "fz_firezone_https": False}])
def test_compose_takes_the_whole_tree(tmp_path: Path, options: dict[str, Any]) -> None:
    view = make_view(tmp_path, **options)
    view["root"] = str(tmp_path / "root")
    for file in files(view, REPO / "salt"):
        path = tmp_path / "root" / file.target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
    command = ["docker", "compose", "--file", str(tmp_path / "root" / "docker-compose.yml"), "config"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert {"caddy", "firezone", "postgres", "firezone_ipt", "firezone_pdns", "firezone_frr"} <= services.keys()
    assert ("autoheal" in services, "conntrack-log" in services) == (bool(options), bool(options))
    assert services["firezone"]["image"] == PINNED["firezone"] == "firezone/firezone:0.7.36"
    assert services["firezone"]["networks"]["mrvpn"]["ipv4_address"] == "172.30.55.2"
    published = {port["published"] for port in services["caddy"]["ports"]}
    assert published == ({"80"} if options else {"80", "443"})
    # the merge patch of a tunnel that listens in its namespace is a part of it
    assert "55825" in {port["published"] for port in services["firezone"]["ports"]}
    environment = services["firezone"]["environment"]
    assert environment["WIREGUARD_IPV4_MASQUERADE"] == environment["WIREGUARD_IPV6_MASQUERADE"] == "false"
    assert environment["TELEMETRY_ENABLED"] == environment["CONNECTIVITY_CHECKS_ENABLED"] == "false"
    assert not {"WIREGUARD_DNS", "WIREGUARD_ALLOWED_IPS", "FZ_PORT"} & environment.keys()
    with_socket = {name for name, it in services.items() if "docker.sock" in str(it.get("volumes"))}
    assert with_socket == ({"autoheal"} if options else set())
    assert not any(service.get("privileged") for service in services.values())


def test_no_secret_in_any_file_and_none_for_other_hosts(tmp_path: Path) -> None:
    view = make_view(tmp_path)
    for file in files(view, REPO / "salt"):
        assert not any(secret in file.text for secret in SECRETS.values()), file.target
    assert tree(view)["firezone/.env"].mode == "0600"
    compiled = compiler.compile_path(tmp_path / "network")
    assert compiled.network is not None
    other = json.dumps(views.view(compiled.network, "uk", {}, SECRETS.get))
    assert not any(secret in other for secret in SECRETS.values())


def test_what_follows_from_the_keys(tmp_path: Path) -> None:
    view = make_view(
        tmp_path,
        fz_client_gateway="10.11.0.254",
        fz_client_allowed_subnets="10.0.0.0/8, 192.168.0.0/16",
        fz_ospf=False,
        fz_cleanup=True,
        fz_firezone_dir="/srv/firezone",
        fz_configuration={"default_client_mtu": 1200, "local_auth_enabled": False},
        fz_images={"firezone": "registry.example/firezone:0.7.36-ours"},
    )
    fz = view["gateway"]["firezone"]
    assert view["gateway"]["addresses"][0] == "10.11.0.254/24"
    assert "10.11.0.254" in view["routing"][0]["settings"]["own"]
    assert fz["environment"]["WIREGUARD_IPV4_ADDRESS"] == "10.11.0.254"
    assert fz["environment"]["DEFAULT_CLIENT_DNS"].startswith("10.11.0.254,")
    assert fz["environment"]["DEFAULT_CLIENT_ALLOWED_IPS"] == "10.0.0.0/8,192.168.0.0/16"
    # left to the API: a variable of that name would forbid the change
    assert "DEFAULT_CLIENT_MTU" not in fz["environment"] and fz["configuration"]["default_client_mtu"] == 1200
    assert fz["images"]["firezone"].startswith("registry.example/")
    assert fz["labels"] == {"site": "one", "team": "network"}
    assert "wg-firezone" not in {i["name"] for entry in view["frr"] for i in entry["interfaces"]}
    assert any("fz_cleanup" in notice for notice in view["notices"])
    assert any("/srv/firezone" in notice for notice in view["notices"]) and fz["folder"] == "firezone"
    # the proxy's packets leave the bridge under its own address
    assert set(fz["addresses"]["caddy"]) < set(view["host_guard"]["addresses"])
    assert not set(fz["addresses"]["postgres"]) & set(view["host_guard"]["addresses"])


@pytest.mark.parametrize(
    ("secrets", "told"),
    [
        ({"admin": SECRETS["admin"]}, "client_secret: there is no secret `oidc`"),
        ({**SECRETS, "admin": "short"}, "12 char"),
    ],
)
def test_a_secret_that_cannot_work_refuses(tmp_path: Path, secrets: dict[str, str], told: str) -> None:
    with pytest.raises(views.Unfit, match=told) as caught:
        make_view(tmp_path, secrets)
    assert not any(secret in str(caught.value) for secret in secrets.values())


def test_pins_stand_in_one_place() -> None:
    dockerfile = (REPO / "image" / "Dockerfile").read_text()
    assert f"ARG BASE={PINNED['base']}\n" in dockerfile
    for path in (REPO / "salt").rglob("*"):
        text = path.read_text(errors="replace") if path.is_file() else ""
        assert not re.search(r"firezone/firezone:|postgres:\d|caddy:\d", text), f"{path} pins a version"


# -- secrets and the API ----------------------------------------------------------------------------------------------


class Site:
    """A minion of the entrypoint whose Firezone is the stand-in."""

    def __init__(self, caller: Any, view: dict[str, Any], standin: Standin) -> None:
        self.caller, self.view, self.standin = caller, view, standin
        self.firezone = standin.firezone
        self.folder = Path(view["root"]) / "firezone"

    def state(self, function: str, name: str, **more: Any) -> dict[str, Any]:
        answer = self.caller.cmd("state.single", f"firezone.{function}", name, **more)
        (result,) = rig.by_state(answer).values()
        assert not any(secret in json.dumps(result) for secret in (*SECRETS.values(), *self.secrets())), "a secret"
        return dict(result)

    def secrets(self) -> list[str]:
        found = []
        for name in ("credentials.env", "fz-api-token"):
            text = (self.folder / name).read_text() if (self.folder / name).exists() else ""
            found += [line.partition("=")[2] or line for line in text.splitlines() if line]
        return found

    def good(self, function: str, name: str, **more: Any) -> dict[str, Any]:
        """The changes of a state; foretold by test mode, gone in a second run."""
        foretold = self.state(function, name, test=True, **more)
        result = self.state(function, name, **more)
        assert result["result"] is True, result["comment"]
        assert foretold["changes"] == result["changes"]
        assert foretold["result"] is (None if result["changes"] else True)
        again = self.state(function, name, **more)
        assert (again["result"], again["changes"]) == (True, {})
        return dict(result["changes"])

    def ready(self) -> None:
        assert self.state("credentials", str(self.folder))["result"] is True
        result = self.state("admin", EMAIL)
        assert result["result"] is True, result["comment"]


@pytest.fixture
def site(tmp_path: Path, make_caller: MakeCaller, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    view = make_view(tmp_path)
    view["root"] = str(tmp_path / "opt" / "mrvpn")
    with Standin(view["gateway"]["firezone"]["environment"]) as standin:
        view["gateway"]["firezone"]["api"] = standin.url
        monkeypatch.setenv("FIREZONE_STANDIN", standin.url)
        monkeypatch.setenv("PATH", f"{SIMULATOR / 'bin'}:{os.environ['PATH']}")
        yield Site(make_caller("entry", view), view, standin)


def test_secrets_are_made_once_and_kept(site: Site) -> None:
    changes = site.good("credentials", str(site.folder))
    assert set(changes.values()) == {"made"} and "GUARDIAN_SECRET_KEY" in changes
    for name in ("credentials.env", "database.env"):
        assert stat.S_IMODE((site.folder / name).stat().st_mode) == 0o600
    before = (site.folder / "credentials.env").read_text()
    assert f"DEFAULT_ADMIN_PASSWORD={SECRETS['admin']}\n" in before
    (site.folder / "credentials.env").chmod(0o644)
    assert site.good("credentials", str(site.folder)) == {"credentials.env": "mode 0644 -> 0600"}
    assert (site.folder / "credentials.env").read_text() == before


def test_an_installation_of_mrvpn2_is_taken_over(site: Site) -> None:
    site.folder.mkdir(parents=True)
    theirs = "GUARDIAN_SECRET_KEY=theirs-abc\nDATABASE_PASSWORD='theirs-kept'\nTELEMETRY_ID=theirs-1\n"
    (site.folder / "credentials.env").write_text(theirs)
    site.good("credentials", str(site.folder))
    now = (site.folder / "credentials.env").read_text()
    assert now.startswith("GUARDIAN_SECRET_KEY=theirs-abc\nDATABASE_PASSWORD='theirs-kept'\nTELEMETRY_ID=theirs-1\n")
    assert (site.folder / "database.env").read_text() == "POSTGRES_PASSWORD='theirs-kept'\n"


def test_the_administrator_once_and_again_when_the_password_changed(site: Site) -> None:
    # test mode before anything runs tells that it would
    foretold = site.state("admin", EMAIL, test=True)
    assert (foretold["result"], bool(foretold["changes"])) == (None, True)
    site.ready()
    firezone = site.firezone
    assert list(firezone.passwords.values()) == [SECRETS["admin"]]
    assert site.good("admin", EMAIL) == {}
    assert firezone.commands.count("bin/create-or-reset-admin") == 1
    path = site.folder / "credentials.env"
    path.write_text(path.read_text().replace(SECRETS["admin"], "another-long-password"))
    site.caller.cmd("firezone.admin", EMAIL, site.standin.url, str(site.folder))
    assert list(firezone.passwords.values()) == ["another-long-password"]
    firezone.users.clear()
    assert site.caller.cmd("firezone.admin", EMAIL, site.standin.url, str(site.folder)) == "the account is gone"


def test_one_token_stored_and_made_anew_only_when_refused(site: Site) -> None:
    site.ready()
    firezone, token = site.firezone, site.folder / "fz-api-token"
    site.good("configuration", "fz")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    first = token.read_text()
    for _ in range(5):
        site.state("configuration", "fz")
    assert token.read_text() == first and firezone.commands.count("bin/create-api-token") == 1
    firezone.now += 31 * 86400
    assert site.state("configuration", "fz")["result"] is True
    assert token.read_text() != first and firezone.commands.count("bin/create-api-token") == 2


def test_the_cap_of_tokens_is_one_clear_sentence(site: Site) -> None:
    site.ready()
    while site.firezone.command("bin/create-api-token", {})[0] == 0:
        pass
    result = site.state("configuration", "fz")
    assert result["result"] is False
    assert "25 tokens at most" in result["comment"] and "MatchError" not in result["comment"]


def test_configuration_changes_only_what_is_ours(site: Site) -> None:
    site.ready()
    theirs = {
        "id": "okta", "label": "Okta", "client_id": "y", "client_secret": "z", "discovery_document_uri": "https://o.example",
        "redirect_uri": None, "response_type": "code", "scope": "openid", "auto_create_users": True,
    }  # fmt: skip
    site.firezone.configuration["openid_connect_providers"] = [theirs]
    assert site.good("configuration", "fz") == {"openid_connect_providers": {"google": "added"}}
    patches = [body for method, _, body in site.firezone.seen if method == "PATCH"]
    assert [list(body["configuration"]) for body in patches] == [["openid_connect_providers"]]
    ids = [provider["id"] for provider in site.firezone.configuration["openid_connect_providers"]]
    assert ids == ["okta", "google"]
    assert site.firezone.configuration["openid_connect_providers"][1]["client_secret"] == SECRETS["oidc"]
    # somebody changed ours by hand
    site.firezone.configuration["openid_connect_providers"][1]["scope"] = "openid"
    assert site.good("configuration", "fz") == {"openid_connect_providers": {"google": "changed: scope"}}
    # described no more: ours goes, theirs stays
    where = {"api": site.standin.url, "folder": str(site.folder)}
    gone = site.good("configuration", "fz", values={"vpn_session_duration": 3600}, **where)
    assert gone["openid_connect_providers"] == {"google": "removed"}
    assert gone["vpn_session_duration"] == {"old": 0, "new": 3600}
    assert site.firezone.configuration["openid_connect_providers"] == [theirs]


def test_a_secret_in_the_configuration_is_told_of_and_never_shown(site: Site) -> None:
    """`{secret: NAME}` at any depth reaches the API as its value, and nobody who reads the result."""
    site.ready()
    metadata = {"id": "corp", "metadata": {"secret": "oidc"}}
    view = make_view(site.folder.parent, fz_configuration={"saml_identity_providers": [metadata]})
    fz = view["gateway"]["firezone"]
    assert fz["secret_keys"] == ["openid_connect_providers", "saml_identity_providers"]
    wanted = {"values": json.loads(json.dumps(fz["configuration"])), "secret_keys": fz["secret_keys"]}
    where = {"api": site.standin.url, "folder": str(site.folder)}
    foretold = site.state("configuration", "fz", **wanted, test=True, **where)
    told = site.good("configuration", "fz", **wanted, **where)
    assert (
        told["saml_identity_providers"]
        == {"old": "***", "new": "***"}
        == foretold["changes"]["saml_identity_providers"]
    )
    assert SECRETS["oidc"] not in json.dumps([told, foretold])
    assert site.firezone.configuration["saml_identity_providers"][0]["metadata"] == SECRETS["oidc"]
    assert SECRETS["oidc"] not in json.dumps(views.masked(view))


def test_firezones_own_refusals_are_told(site: Site) -> None:
    site.ready()
    where = {"api": site.standin.url, "folder": str(site.folder)}
    result = site.state("configuration", "fz", values={"default_client_dns": ["9.9.9.9"]}, **where)
    assert result["result"] is False
    assert "422" in result["comment"] and "overridden by DEFAULT_CLIENT_DNS" in result["comment"]
    result = site.state("configuration", "fz", values={"no_such_key": 1}, **where)
    assert result["result"] is False and "no_such_key" in result["comment"]
    result = site.state("user_present", "someone@example.net", password="short")
    assert result["result"] is False and "at least 12" in result["comment"] and "short" not in result["comment"]


def test_a_firezone_that_does_not_answer(site: Site) -> None:
    site.ready()
    where = {"api": "http://127.0.0.1:9", "folder": str(site.folder)}
    (site.folder / "fz-api-token").write_text("eyJ.a.b")
    result = site.state("configuration", "fz", values={"local_auth_enabled": True}, **where)
    assert result["result"] is False and "does not answer on http://127.0.0.1:9" in result["comment"]
    foretold = site.state("configuration", "fz", values={"local_auth_enabled": True}, test=True, **where)
    assert foretold["result"] is None


def test_users_devices_and_rules(site: Site) -> None:
    site.ready()
    firezone = site.firezone
    key = "cGhvbmUgcGhvbmUgcGhvbmUgcGhvbmUgcGhvbmUgcGg="
    site.good("user_present", "someone@example.net", password="a-long-enough-one")
    assert site.good("user_present", "someone@example.net", role="admin") == {
        "role": {"old": "unprivileged", "new": "admin"}
    }
    device = {"user": "someone@example.net", "public_key": key}
    assert "created" in site.good("device_present", "phone", ipv4="10.11.0.9", **device)
    assert site.good("device_present", "telephone", ipv4="10.11.0.9", **device) == {
        "name": {"old": "phone", "new": "telephone"}
    }
    result = site.state("device_present", "phone", user="nobody@example.net", public_key=key)
    assert result["result"] is False and "no user nobody@example.net" in result["comment"]
    result = site.state("device_present", "x", user="someone@example.net", public_key="AAAA")
    assert result["result"] is False and "public_key" in result["comment"]
    rule = {"user": "someone@example.net", "port_type": "tcp", "port_range": "1 - 2"}
    site.good("rule_present", "10.77.0.0/24", action="drop", **rule)
    assert site.good("rule_present", "10.77.0.0/24", **rule) == {"action": {"old": "drop", "new": "accept"}}
    assert len(firezone.rules) == 1
    assert site.good("rule_absent", "10.77.0.0/24", **rule) == {"removed": "10.77.0.0/24"}
    assert site.good("device_absent", "telephone", public_key=key) == {"removed": "telephone"}
    assert site.good("user_absent", "someone@example.net") == {"removed": "someone@example.net"}
    assert (firezone.devices, firezone.rules, [user["email"] for user in firezone.users]) == ([], [], [EMAIL])


def test_the_states_compile_and_hold_no_secret(site: Site) -> None:
    low = site.caller.cmd("state.show_lowstate")
    assert all(isinstance(chunk, dict) for chunk in low), low
    order = [f"{chunk['state']}.{chunk['fun']}" for chunk in sorted(low, key=lambda chunk: chunk["order"])]
    wanted = ["mrvpn.guard", "mrvpn_docker.engine", "mrvpn_tree.host_files", "firezone.credentials"]
    wanted += ["mrvpn_compose.deployed", "firezone.admin", "firezone.configuration"]
    assert [order.index(name) for name in wanted] == sorted(order.index(name) for name in wanted), order
    assert not any(secret in json.dumps(low) for secret in SECRETS.values())
    keys = next(chunk for chunk in low if chunk["state"] == "mrvpn_wireguard")["keys"]
    assert keys["wg-firezone"] == "firezone/firezone/private_key"
