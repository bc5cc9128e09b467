"""The command `mrvpn`: exit codes, forms, and what is never printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mrvpn.__main__ import main

REPO = Path(__file__).parents[3]
GOOD = REPO / "tests" / "bad" / "good"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    text = (GOOD / "network.yaml").read_text()
    text = text.replace("subnet: 10.9.23.0/24", "subnet: 10.9.22.0/24").replace("country: GB", "country: UK")
    (tmp_path / "network.yaml").write_text(text)
    return tmp_path


def test_check_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(GOOD)]) == 0
    assert capsys.readouterr().out == "good: 4 hosts, 3 tunnels, 4 route rules\n"


def test_check_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(GOOD / "network.yaml")]) == 0
    capsys.readouterr()


def test_check_bad_as_text(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bad)]) == 1
    out = capsys.readouterr().out
    assert f"{bad}/network.yaml:22: error: tunnels.wg_office.subnet: 10.9.22.0/24 overlaps" in out
    assert "warning: routing.routes[0]: UK is read as GB" in out
    assert out.endswith("refused: 1 errors, 1 warnings; nothing is deployed\n")


def test_check_bad_as_json(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bad), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(p["severity"], p["code"], p["path"], p["line"]) for p in found] == [
        ("error", "overlap", "tunnels.wg_office.subnet", 22),
        ("warning", "country-alias", "routing.routes[0]", 38),
    ]
    assert all(Path(p["file"]) == bad / "network.yaml" for p in found)


def test_check_bad_for_a_pull_request(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bad), "--format", "github"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(
        f"::error file={bad}/network.yaml,line=22,title=mrvpn%3A overlap::tunnels.wg_office.subnet: "
    )
    assert second.startswith("::warning ")


def test_check_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "gone")]) == 1
    assert "no such file or folder" in capsys.readouterr().out


def test_view(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(REPO / "pillar" / "network"), "--host", "uk"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["tunnels"]["wg_uk"]["listen_port"] == 55824


def test_view_of_a_gateway_whose_secrets_are_the_masters(capsys: pytest.CaptureFixture[str]) -> None:
    firezone = REPO / "tests" / "golden" / "descriptions" / "firezone"
    assert main(["view", str(firezone), "--host", "entry"]) == 0
    said = capsys.readouterr().out
    assert "client_secret: '***'" in said and "oidc_google" not in said


def test_view_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(GOOD), "--host", "uc"]) == 1
    assert "there are: entry, office, uk, us" in capsys.readouterr().err


def test_wrong_arguments() -> None:
    with pytest.raises(SystemExit) as left:
        main(["chek"])
    assert left.value.code == 2


def test_as_a_module_and_into_a_closed_pipe() -> None:
    command = f"{sys.executable} -m mrvpn view {REPO / 'pillar' / 'network'} --host entry | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=REPO)
    assert done.stdout.startswith("version: ")
    assert "Traceback" not in done.stderr
