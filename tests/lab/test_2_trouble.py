"""Bad descriptions and half-dead labs: clear words, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import salt, up
from lab.__main__ import main
from lab.checks.apply import containers, recreated
from lab.state import Trouble
from lab.topology import MANAGED, MINIONS

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.usefixtures("lab")]
MISTAKES = """
mrvpn:
  tunnels:
    wg_a_name_too_lon:
      subnet: 10.9.20.128/25
      hosts:
        uk: {expose: 55850}
        entry: {compose_service: firezone}
"""


@pytest.fixture
def routing() -> Iterator[Path]:
    path = salt.DESCRIPTION / "routing.yaml"
    text = path.read_text()
    yield path
    path.write_text(text)
    (salt.DESCRIPTION / "zz_mistakes.yaml").unlink(missing_ok=True)


def test_three_mistakes_are_all_told_to_every_host_and_nothing_changes(routing: Path) -> None:
    routing.write_text(routing.read_text().replace("interface: wg_ru", "interface: wg_rv"))
    (salt.DESCRIPTION / "zz_mistakes.yaml").write_text(MISTAKES)
    before = containers()
    answers = salt.salt("*", "state.apply", timeout=120)
    assert set(answers) == {host.name for host in MINIONS}
    for name, answer in answers.items():
        said = str(answer)
        assert "wg_rv is no tunnel: did you mean `wg_ru`?" in said, (name, said)
        assert "overlaps 10.9.20.0/24 of tunnels.wg_uk.subnet" in said, (name, said)
        assert "wg_a_name_too_lon" in said and "17 characters" in said, (name, said)
        assert isinstance(answer, list), "no state may have run"
    assert recreated(before) == []


def test_the_description_mended_applies_again_without_a_change() -> None:
    assert salt.changes(salt.apply()) == {}


def test_up_says_what_is_left_over_and_what_to_do() -> None:
    with pytest.raises(Trouble, match=r"a lab is left over .* run `python -m lab down` first"):
        up.up()


def test_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert main(["exec", "master", "--", "salt", "*", "test.ping", "--out=json", "--static"]) == 0
    said = capfd.readouterr().out
    assert all(f"dockerd-{host.name}" in said for host in MANAGED)
    assert all(f'"{host.name}": true' in said for host in MINIONS)
    assert main(["logs", "entry"]) == 0
    assert "dockerd-entry.log" in capfd.readouterr().out
    assert main(["exec", "nowhere", "--", "true"]) == 1
    assert "no host nowhere" in capfd.readouterr().err
