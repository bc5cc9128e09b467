"""Docker taken off a host: an apply installs it from the host's own apt sources, and the rest goes on from there.

The sources are a folder of the host's, with the packages that this machine has installed. Init is us: what a package
asks of it (`invoke-rc.d docker start`) starts the host's dockerd as the lab does.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import docker, hosts, salt
from lab.checks.destinations import leaves_by
from lab.deadline import until
from lab.internet import SITES
from lab.state import RUN, sh
from lab.topology import US

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), pytest.mark.usefixtures("lab")]
ENGINE, COMPOSE = ("docker.io", "docker-cli", "containerd", "runc"), ("docker-compose-v2", "docker-compose")
ASKED = "/run/init-asked-for-docker"
INIT = f"""#!/bin/sh
case "$*" in *docker*start*) ;; *) exit 0 ;; esac
touch {ASKED}
until docker version >/dev/null 2>&1; do sleep 0.2; done
"""


def _installed(names: tuple[str, ...]) -> list[str]:
    """Those of the packages that this machine has."""
    form = "${db:Status-Status} ${Package}\n"
    listed = subprocess.run(["dpkg-query", "-W", f"-f={form}", *names], capture_output=True, text=True).stdout
    return [line.split()[1] for line in listed.splitlines() if line.startswith("installed ")]


def _archive(folder: Path, packages: list[str]) -> None:
    """An apt repository of installed packages, packed again as they are, for the release that each comes from here."""
    release = sh("sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME").strip()
    borrowed = {"docker-compose": "trixie"} if release == "bookworm" else {}
    architecture = sh("dpkg", "--print-architecture").strip()
    for package in packages:
        pool = folder / "pool" / borrowed.get(package, release)
        pool.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-repack", "--deb-option=-Znone", package], cwd=pool, check=True, capture_output=True)
    for pool in sorted((folder / "pool").iterdir()):
        dist = folder / "dists" / pool.name
        binary = dist / "main" / f"binary-{architecture}"
        binary.mkdir(parents=True)
        index = subprocess.run(["dpkg-scanpackages", f"pool/{pool.name}"], cwd=folder, capture_output=True, check=True)
        (binary / "Packages").write_bytes(index.stdout)
        digest, size = sh("sha256sum", str(binary / "Packages")).split()[0], len(index.stdout)
        (dist / "Release").write_text(
            f"Suite: {pool.name}\nCodename: {pool.name}\nArchitectures: {architecture}\nComponents: main\n"
            f"SHA256:\n {digest} {size} main/binary-{architecture}/Packages\n"
        )
    (folder / "sources.list").write_text(f"deb [trusted=yes] file:{folder} {release} main\n")


@pytest.fixture
def without_docker() -> Iterator[None]:
    """The host without Docker's packages, and an apt that finds them in a folder."""
    archive = RUN / "archive"
    _archive(archive, [*_installed(ENGINE), *_installed(COMPOSE)])
    docker.halt(US)
    hosts.run(US, "dpkg", "--remove", "--force-depends", *_installed(ENGINE), *_installed(COMPOSE))
    # a machine may have more of it, from elsewhere
    hosts.run(US, "find", "/usr/local", "-name", "docker*", "-delete")
    hosts.run(US, "sh", "-c", f"rm -rf /etc/apt/sources.list*; cp {archive}/sources.list /etc/apt/; rm -f {ASKED}")
    hosts.put(US, "/usr/sbin/invoke-rc.d", INIT, "0755")
    over = threading.Event()

    def init() -> None:
        while not over.wait(0.2):
            if hosts.run(US, "sh", "-c", f"[ ! -e {ASKED} ] || echo asked").strip():
                docker.start(US)
                return

    thread = threading.Thread(target=init)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shutil.rmtree(archive)


def test_docker_is_installed_where_it_is_missing(without_docker: None) -> None:
    assert "not found" in hosts.run(US, "sh", "-c", "docker version 2>&1", check=False)
    foretold = salt.salt(US.name, "state.apply", "test=True")[US.name]
    assert isinstance(foretold, dict)
    told = next(state for name, state in foretold.items() if "docker engine" in name)
    assert told["result"] is None and "would be installed" in told["comment"] and "docker.io" in told["changes"]

    done = salt.changes(salt.apply(US.name))[US.name]
    engine = next(changes for name, changes in done.items() if "docker engine" in name)
    assert isinstance(engine, dict) and {"docker.io"} <= engine.keys(), engine
    assert {name for name in engine if "compose" in name}, engine
    until("US leaves by its exit again", lambda: not leaves_by(US, SITES["US"]), 60)
    assert salt.changes(salt.apply(US.name)) == {}
