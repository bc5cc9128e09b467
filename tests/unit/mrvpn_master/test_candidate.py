"""Texts are checked before they are put in place, and taken back when they cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mrvpn import compiler, topology
from mrvpn.schema.source import LOCK
from mrvpn.topology import lock as locks
from mrvpn_master import Trouble, candidate
from tests.disk import fill, small_disk
from tests.unit.mrvpn_master.conftest import EXAMPLE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "network"
    shutil.copytree(EXAMPLE, folder)
    return folder


def test_a_good_change_is_put_in_place_and_can_be_taken_back(path: Path, add_rule) -> None:
    before = candidate.read(path)
    (path / "routing.yaml").chmod(0o640)
    found = candidate.check(add_rule("198.51.100.0/24")(before, candidate.network_of(path)))
    candidate.replace(path, before, found.texts)
    assert candidate.differing(before, candidate.read(path)) == ["routing.yaml"]
    assert (path / "routing.yaml").stat().st_mode & 0o777 == 0o640
    candidate.take_back(path, before, ["routing.yaml"])
    assert candidate.read(path) == before
    assert not list(path.glob(".*"))


def test_a_bad_change_touches_nothing(path: Path) -> None:
    before = candidate.read(path)
    bad = before["routing.yaml"].replace("country: GB", "country: ZZ").replace("interface: wg_ru", "interface: wg_xx")
    with pytest.raises(Trouble, match="nothing was changed") as caught:
        candidate.check({**before, "routing.yaml": bad})
    assert len(caught.value.problems) >= 2 and "routing.yaml:8" in caught.value.problems[0]
    assert candidate.read(path) == before


def test_a_lock_pins_what_comes(path: Path, add_rule) -> None:
    network = compiler.compile_path(path).network
    assert network is not None
    (path / LOCK).write_text(locks.dump(topology.lock_of(network)))
    found = candidate.check(add_rule("198.51.100.0/24")(candidate.read(path), network))
    assert "198.51.100.0/24" in found.texts[LOCK] and found.warnings == []


def test_somebody_else_was_quicker(path: Path, add_rule) -> None:
    before = candidate.read(path)
    found = candidate.check(add_rule("198.51.100.0/24")(before, candidate.network_of(path)))
    (path / "hosts.yaml").write_text(before["hosts.yaml"] + "# by hand\n")
    with pytest.raises(Trouble, match="somebody else"):
        candidate.replace(path, before, found.texts)
    assert "198.51.100.0" not in (path / "routing.yaml").read_text()


@pytest.mark.root
def test_a_full_disk_leaves_the_description_as_it_was(path: Path, tmp_path: Path, add_rule) -> None:
    small = tmp_path / "small"
    with small_disk(small, "64k"):
        shutil.copytree(path, small / "network")
        fill(small)
        before = candidate.read(small / "network")
        found = candidate.check(add_rule("198.51.100.0/24")(before, candidate.network_of(small / "network")))
        with pytest.raises(Trouble, match="No space left on device"):
            candidate.replace(small / "network", before, found.texts)
        assert candidate.read(small / "network") == before
        assert not list((small / "network").glob(".*"))
