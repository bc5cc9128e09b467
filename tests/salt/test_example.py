"""The example network through the real ext_pillar: every host's states compile, the real parsers take what it gets."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rig
import yaml

from mrvpn import compiler
from mrvpn.render import files
from tests.conftest import IMAGE_ROOT

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "pillar" / "network"
HOSTS = ("entry", "uk", "ru", "us", "office")  # and a RouterOS host, `router`: it gets rows, no files
PHONE = {"public_key": "cGhvbmUgcGhvbmUgcGhvbmUgcGhvbmUgcGhvbmUgcGg=", "addresses": ["10.11.0.2"]}


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """A copy of the example, with one client."""
    folder = tmp_path / "network"
    shutil.copytree(EXAMPLE, folder)
    (folder / "clients.yaml").write_text(yaml.safe_dump({"mrvpn": {"clients": {"phone": PHONE}}}))
    return folder


@pytest.fixture
def minion_of(tmp_path: Path, description: Path) -> Callable[[str], Any]:
    """A masterless minion whose pillar is made by _pillar/mrvpn.py, as on the master."""

    def make(host: str, **extra: Any) -> Any:
        rig.prepare(tmp_path, host, None)
        secrets = tmp_path / "secrets.yaml"
        secrets.write_text("psk_root: not-a-real-one-but-long-enough-for-a-test\n")
        secrets.chmod(0o600)
        settings = {"path": str(description), "secrets": str(secrets)}
        options = {"pillar_dirs": [str(REPO / "_pillar")], "ext_pillar": [{"mrvpn": settings}]}
        return rig.caller(tmp_path, **(options | extra))

    return make


@pytest.mark.parametrize("host", HOSTS)
def test_states_compile_and_the_parsers_agree(minion_of: Callable[..., Any], host: str, tmp_path: Path) -> None:
    caller = minion_of(host)
    low = caller.cmd("state.show_lowstate")
    assert all(isinstance(chunk, dict) for chunk in low), low
    view = caller.cmd("pillar.items", unmask=True)["mrvpn"]
    assert (view["host"], view["member"]) == (host, True)
    # no key is known yet: the far ends are named, by name
    (far_ends,) = [chunk for chunk in low if chunk["fun"] == "far_ends"]
    wanted = [f"{name}: {peer['host']}" for name, tunnel in view["tunnels"].items() for peer in tunnel["peers"]]
    assert far_ends["unknown"] == wanted and wanted

    view["root"] = str(tmp_path / "root")
    for file in files(view, REPO / "salt"):
        path = tmp_path / "root" / file.target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
    command = ["docker", "compose", "--file", str(tmp_path / "root" / "docker-compose.yml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "root").rglob("*.yaml"):
        yaml.safe_load(path.read_text())
    for script in (tmp_path / "root").rglob("bin/*"):
        assert subprocess.run(["sh", "-n", str(script)]).returncode == 0


@pytest.mark.root
@pytest.mark.image
@pytest.mark.parametrize("host", HOSTS)
def test_frr_takes_its_configuration(minion_of: Callable[..., Any], host: str) -> None:
    view = minion_of(host).cmd("pillar.items", unmask=True)["mrvpn"]
    configurations = [file.text for file in files(view, REPO / "salt") if file.target.endswith("/frr.conf")]
    assert configurations
    assert vtysh_check("router ospf\n nonsense 3\n") != 0, "vtysh takes anything: this test says nothing"
    for text in configurations:
        assert vtysh_check(text) == 0


def vtysh_check(text: str) -> int:
    script = "file=$(mktemp); cat > $file; vtysh --dryrun --inputfile $file; code=$?; rm $file; exit $code"
    return subprocess.run(["chroot", str(IMAGE_ROOT), "sh", "-c", script], input=text, text=True).returncode


def test_a_bad_description_refuses_on_every_host_with_all_problems(
    minion_of: Callable[..., Any], description: Path
) -> None:
    tunnels = yaml.safe_load((description / "tunnels.yaml").read_text())
    tunnels["mrvpn"]["tunnels"]["a_name_of_17_char"] = copy.deepcopy(tunnels["mrvpn"]["tunnels"]["wg_us"])  # overlaps
    (description / "tunnels.yaml").write_text(yaml.safe_dump(tunnels))
    routing = yaml.safe_load((description / "routing.yaml").read_text())
    routing["mrvpn"]["routing"]["routes"][0]["interface"] = "wg_nowhere"
    (description / "routing.yaml").write_text(yaml.safe_dump(routing))
    problems = [str(problem) for problem in compiler.compile_path(description).errors]
    assert len(problems) >= 3
    for host in ("entry", "office", "stranger"):
        answer = minion_of(host).cmd("state.apply")
        assert isinstance(answer, list), f"{host}: applied something"
        for problem in problems:
            assert problem in "\n".join(answer)


def test_a_minion_that_is_not_described_gets_nothing(minion_of: Callable[..., Any]) -> None:
    results = rig.by_state(minion_of("stranger").cmd("state.apply"))
    assert list(results) == ["mrvpn.guard mrvpn guard"]
    assert results["mrvpn.guard mrvpn guard"]["result"] is True


def test_an_ext_pillar_that_is_not_there_fails_the_apply(minion_of: Callable[..., Any], tmp_path: Path) -> None:
    answer = minion_of("uk", pillar_dirs=[str(tmp_path / "nothing")]).cmd("state.apply")
    assert isinstance(answer, list) and "no view in this minion's pillar" in answer[0]


def test_a_package_that_is_not_there_fails_the_apply(minion_of: Callable[..., Any], tmp_path: Path) -> None:
    """The ext_pillar without its package, as on a master where it was not installed."""
    folder = tmp_path / "broken"
    folder.mkdir()
    text = (REPO / "_pillar" / "mrvpn.py").read_text()
    (folder / "mrvpn.py").write_text(text.replace("from mrvpn import", "from mrvpn_not_installed import"))
    answer = minion_of("uk", pillar_dirs=[str(folder)]).cmd("state.apply")
    assert isinstance(answer, list), "applied without its package"
    assert "not installed" in json.dumps(answer)


def test_no_host_gets_another_hosts_keys(minion_of: Callable[..., Any]) -> None:
    secrets: dict[str, set[str]] = {}
    for host in (*HOSTS, "router"):
        view = minion_of(host).cmd("pillar.items", unmask=True)["mrvpn"]
        own = {peer["preshared_key"] for tunnel in view["tunnels"].values() for peer in tunnel["peers"]}
        assert None not in own
        secrets[host] = own
    for one in secrets:
        for other in secrets:
            if "entry" not in (one, other) and one != other:
                assert not secrets[one] & secrets[other]
