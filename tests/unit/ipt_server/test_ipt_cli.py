"""The command, offline: check, compile and explain read a file and touch no kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ipt_build import raw, rule
from ipt_databases import write_mmdb

from ipt_server import cli


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    rules = (
        rule(0, "wg_uk", countries=["GB"]),
        rule(1, "wg_us", prefixes=["81.2.69.128/25"]),
        rule(2, "wg_de", suffixes=["bbc.co.uk"]),
        rule(3, "wg_us", patterns=[r".*\.co\.uk"]),
    )
    database = write_mmdb(tmp_path / "country.mmdb")
    path.write_text(yaml.safe_dump(raw(*rules, country_database=str(database))))
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    code, out, err = run(capsys, *argv)
    assert code == 0, err
    return json.loads(out)


def test_compile_prints_the_intervals(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "compile", "-c", str(config))
    assert found["geo4"] == [["81.2.69.0", "81.2.69.127", "wg_uk"], ["81.2.69.128", "81.2.69.255", "wg_us"]]
    assert found["geo6"] == [["2a00:1450::", "2a00:1450:ffff:ffff:ffff:ffff:ffff:ffff", "wg_uk"]]


def test_check_says_what_is_wrong(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", "-c", str(config))[0] == 0
    config.write_text(yaml.safe_dump(raw(rule(0, "wg_nowhere", countries=["GB"]), hints="x")))
    code, _, err = run(capsys, "check", "-c", str(config))
    assert code == 1 and len(err.splitlines()) == 2


def test_a_country_that_the_database_lacks_is_a_problem(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = yaml.safe_load(config.read_text())
    value["rules"][0]["countries"] = ["GB", "FR"]
    config.write_text(yaml.safe_dump(value))
    code, _, err = run(capsys, "check", "-c", str(config))
    assert code == 1 and "knows no address of FR" in err


@pytest.mark.parametrize(
    ("destination", "rule_id", "exit_"),
    [
        ("81.2.69.5", "routing.routes[0].country", "wg_uk"),
        ("81.2.69.200", "routing.routes[1].net", "wg_us"),
        ("9.9.9.9", None, "_DEFAULT"),
        ("2a00:1450::7", "routing.routes[0].country", "wg_uk"),
        ("www.bbc.co.uk", "routing.routes[2].suffix", "wg_de"),
        ("WWW.BBC.co.uk.", "routing.routes[2].suffix", "wg_de"),
        ("x.co.uk", "routing.routes[3].domain", "wg_us"),
        ("example.org", None, None),
    ],
)
def test_explain_offline(
    config: Path, capsys: pytest.CaptureFixture[str], destination: str, rule_id: str | None, exit_: str | None
) -> None:
    found = answer(capsys, "explain", "--json", "-c", str(config), destination)
    assert set(found) >= {"destination", "country", "rule", "exit", "reason", "losers"}
    assert (found["rule"], found["exit"]) == (rule_id, exit_)


def test_without_a_daemon_the_live_commands_say_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "control.sock")
    code, _, err = run(capsys, "status", "--control", missing)
    assert code == 1 and "does not answer" in err
