"""Security updates: an image made anew is taken over only by the containers that it concerns, one after another.

The image's packages are a table that a dpkg-query of the test's prints, dependencies among them, as dpkg does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rig
from test_project import ENTRY, PROJECT, Managed

from tests.salt.conftest import DockerHost, load_view

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
NAME = "mrvpn:0.1.0"
PACKAGES = {
    "libc6": ("2.41", ""), "dash": ("0.5", "libc6 (>= 2.40)"), "frr": ("10.3", "libc6 (>= 2.38), adduser | libc6"),
    "pdns-recursor": ("5.2.13", "libc6"), "conntrack": ("1.4", "libc6"),
    "python3": ("3.13", "libpython3-stdlib (= 3.13)"),
    "wireguard-tools": ("1.0", "libc6"), "stdlib-provider": ("3.13", "libc6"),
}  # fmt: skip


class Image:
    """The acted image with a table of packages, and the sources of one command, both of which a test changes."""

    def __init__(self, folder: Path, docker: DockerHost) -> None:
        self.folder, self.docker = folder, docker
        self.packages = dict(PACKAGES)
        docker.docker("tag", NAME, "mrvpn:base")
        self.original = docker.docker("image", "inspect", "--format", "{{.Id}}", NAME).stdout.strip()
        bin_ = folder / "image" / "rootfs" / "usr" / "local" / "bin"
        bin_.mkdir(parents=True)
        # no chmod in the image the tests act: files are copied with their modes
        (folder / "dpkg-query").write_text("#!/bin/sh\nexec cat /packages\n")
        (folder / "dpkg-query").chmod(0o755)
        (bin_ / "mrvpn-recursor").write_text((Path(__file__).parent / "actor.sh").read_text())
        (bin_ / "mrvpn-recursor").chmod(0o755)
        (folder / "image" / "Dockerfile").write_text(
            "FROM mrvpn:base\nCOPY packages /packages\nCOPY dpkg-query /bin/dpkg-query\n"
            "COPY image/rootfs/usr/local/bin/ /bin/\n"
        )
        self.write()
        dockerfile = str(folder / "image" / "Dockerfile")
        docker.docker("build", "--quiet", "--tag", NAME, "--file", dockerfile, str(folder))

    def write(self, **versions: str) -> None:
        for package, version in versions.items():
            self.packages[package] = (version, self.packages[package][1])
        provides = {"stdlib-provider": "libpython3-stdlib (= 3.13)"}
        lines = [f"{p}\t{v}\t, {needs}\t{provides.get(p, '')}" for p, (v, needs) in self.packages.items()]
        (self.folder / "packages").write_text("\n".join(lines) + "\n")

    @property
    def recursor(self) -> Path:
        return self.folder / "image" / "rootfs" / "usr" / "local" / "bin" / "mrvpn-recursor"


@pytest.fixture
def image(tmp_path: Path, docker_host: DockerHost) -> Iterator[Image]:
    it = Image(tmp_path / "context", docker_host)
    try:
        yield it
    finally:
        docker_host.clear()
        docker_host.docker("tag", it.original, NAME)


@pytest.fixture
def entry(tmp_path: Path, docker_host: DockerHost) -> Managed:
    view = load_view("entry")
    view["root"] = str(tmp_path / "opt" / "mrvpn")
    view["gateway"]["port_range"] = [55820, 55829]
    view["host_guard"]["reserved_ports"] = [55820, 55829]
    (tmp_path / "data" / "mrvpn" / "country").mkdir(parents=True)
    (tmp_path / "data" / "mrvpn" / "country" / "country.mmdb").write_bytes(os.urandom(1000))
    return Managed(tmp_path, view, docker_host)


@pytest.fixture
def rebuilt(tmp_path: Path, image: Image, docker_host: DockerHost) -> Callable[[], dict[str, Any]]:
    def build() -> dict[str, Any]:
        words = {"image": NAME, "source": "build", "context": str(image.folder), "pull": False}
        call = (
            "state.single",
            "mrvpn_docker.rebuilt",
            "fresh",
            *(f"{key}={json.dumps(v)}" for key, v in words.items()),
        )
        (result,) = rig.by_state(rig.sealed(tmp_path, docker_host.netns, *call, docker=docker_host.socket)).values()
        assert result["result"] is True, result["comment"]
        return dict(result["changes"])

    return build


def inspect(docker: DockerHost, name: str) -> dict[str, Any]:
    (found,) = json.loads(docker.docker("inspect", name).stdout)
    return dict(found)


def test_only_what_it_concerns_moves(image: Image, entry: Managed, rebuilt: Callable[[], dict[str, Any]]) -> None:
    docker = entry.docker
    rig.prepare(entry.folder, "entry", entry.view)
    rebuilt()  # the image that runs is one that was built, with its labels
    entry.good()
    entry.good()

    def moved(**versions: str) -> set[str]:
        before = docker.ids()
        image.write(**versions)
        changes = rebuilt()
        assert changes.keys() == versions.keys() and docker.ids() == before, "built aside, nothing moved yet"
        foretold = entry.good("test=true").get(PROJECT, {})
        done = entry.good().get(PROJECT, {})
        assert foretold == done and done.keys() <= {"recreated"}
        after = docker.ids()
        assert {name for name in before if after[name] != before[name]} == done.get("recreated", {}).keys()
        assert PROJECT not in entry.good(), "settled"
        return set(done.get("recreated", {}))

    assert moved(frr="10.4") == {"firezone_frr"}
    # a change of something else now: what stays on the older image is not recreated with it
    before = docker.ids()
    entry.view["recursor"][0]["interfaces"] = ["wg-firezone"]
    assert entry.good()[PROJECT]["recreated"].keys() == {"firezone_pdns"}
    assert {name: id_ for name, id_ in docker.ids().items() if name != "firezone_pdns"} == {
        name: id_ for name, id_ in before.items() if name != "firezone_pdns"
    }
    # two of them: the second only when the first is well
    packages = {"pdns-recursor": "5.2.14", "conntrack": "1.5"}
    assert moved(**packages) == {"firezone_ipt", "firezone_pdns"}
    first, second = inspect(docker, "firezone_ipt"), inspect(docker, "firezone_pdns")
    assert first["State"]["Health"]["Log"][0]["End"] < second["Created"]
    assert entry.namespace("firezone_pdns") == entry.namespace("firezone")
    # by way of what only provides a name: the gateway itself and all that share its namespace
    packages = {"stdlib-provider": "3.13.1"}
    assert moved(**packages) == ENTRY
    assert {entry.namespace(name) for name in ENTRY} == {entry.namespace("firezone")}
    assert rebuilt() == {}
    assert "next" not in docker.docker("images", "--format", "{{.Tag}}").stdout


def test_one_that_does_not_get_well_keeps_what_it_had(
    image: Image, entry: Managed, rebuilt: Callable[[], dict[str, Any]]
) -> None:
    docker = entry.docker
    rig.prepare(entry.folder, "entry", entry.view)
    rebuilt()
    entry.good()
    entry.good()
    before, old = docker.ids(), inspect(docker, "firezone_pdns")["Image"]
    image.recursor.write_text("#!/bin/sh\necho broken by its maker\nexit 1\n")
    assert rebuilt().keys() == {"MRVPN's mrvpn-recursor"}
    failed = entry.apply()[PROJECT]
    assert failed["result"] is False
    assert "broken by its maker" in failed["comment"] and f"{NAME}-refused" in failed["comment"]
    now = inspect(docker, "firezone_pdns")
    assert now["Image"] == old and now["State"]["Running"]
    after = docker.ids()
    assert {name for name in before if after[name] != before[name]} == {"firezone_pdns"}
    assert PROJECT not in entry.good()
