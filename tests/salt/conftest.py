"""Views, minions and Docker hosts for the tests of the Salt side."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rig
import yaml

VIEWS = Path(__file__).parent / "views"
Done = subprocess.CompletedProcess[str]
HOSTS = ("entry", "uk", "office")
# the commands of the image, acted by a shell script: these tests are about containers, not about what runs in them
ACTOR = Path(__file__).parent / "actor.sh"
ACTED = ("mrvpn-wireguard", "mrvpn-frr", "mrvpn-recursor", "ipt-server", "vtysh")
TOOLS = ("sh", "sleep", "ip", "grep", "cut", "touch", "mkdir", "cat")


def load_view(host: str) -> dict[str, Any]:
    view: dict[str, Any] = yaml.safe_load((VIEWS / f"{host}.yaml").read_text())
    return view


@pytest.fixture(scope="session")
def salt_factories_config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Masters and minions live below pytest's own folder; the name is short, for sockets' paths are."""
    return {"root_dir": tmp_path_factory.mktemp("s"), "log_server_level": "error"}


@pytest.fixture
def view() -> Callable[[str], dict[str, Any]]:
    """A view written by hand after docs/contracts.md, fresh for each test."""
    return lambda host: copy.deepcopy(load_view(host))


@pytest.fixture
def make_caller(tmp_path: Path) -> Callable[..., Any]:
    """`make_caller(host, view)`: an in-process minion of that host."""

    def make(host: str, its_view: dict[str, Any] | None, **extra: Any) -> Any:
        rig.prepare(tmp_path, host, its_view)
        return rig.caller(tmp_path, **extra)

    return make


@pytest.fixture(scope="session")
def minion_with_root() -> Callable[[Any, str, Path, Path], Any]:
    """`minion_with_root(master, name, folder, root)`: a minion that sees `folder/own/name` at `root`, as on a host."""

    def make(master: Any, name: str, folder: Path, root: Path) -> Any:
        own, python = folder / "own" / name, folder / f"python-{name}"
        own.mkdir(parents=True)
        root.mkdir(exist_ok=True)
        python.write_text(
            "#!/bin/sh\n"
            f'exec unshare --mount sh -c \'mount --bind {own} {root} && exec {sys.executable} "$@"\' python "$@"\n'
        )
        python.chmod(0o755)
        minion = master.salt_minion_daemon(name)
        minion.python_executable = str(python)
        return minion

    return make


def _actors_image(folder: Path) -> None:
    """A root file system with a shell, a few tools and the actor under the names of the image's commands."""
    root = folder / "rootfs"
    (root / "bin").mkdir(parents=True)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"{tool} is missing"
        shutil.copy(found, root / "bin" / tool)
        libraries = subprocess.run(["ldd", found], capture_output=True, text=True).stdout.split()
        for library in (word for word in libraries if word.startswith("/")):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    for name in ACTED:
        shutil.copy(ACTOR, root / "bin" / name)
        (root / "bin" / name).chmod(0o755)
    for name in ("tmp", "proc", "sys", "dev", "etc", "run"):
        (root / name).mkdir(exist_ok=True)


class DockerHost:
    """A dockerd of its own in a network namespace of its own, with the acted image loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.netns = f"mrvpn-ts{os.getpid()}"
        self.socket = folder / "docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        subprocess.run(["ip", "-n", self.netns, "link", "set", "lo", "up"], check=True)
        (self.folder / "daemon.json").write_text('{"experimental": true, "ip6tables": true, "userland-proxy": false}')
        command = ["nsenter", f"--net=/run/netns/{self.netns}", "dockerd"]
        for name, value in (
            ("config-file", self.folder / "daemon.json"),
            ("data-root", self.folder / "data"),
            ("exec-root", self.folder / "exec"),
            ("pidfile", self.folder / "dockerd.pid"),
            ("host", f"unix://{self.socket}"),
            ("cgroup-parent", f"/{self.netns}"),
        ):
            command += [f"--{name}", str(value)]
        with (self.folder / "dockerd.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while self.docker("version", check=False).returncode:
            assert self.process.poll() is None, (self.folder / "dockerd.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "dockerd does not answer"
            time.sleep(0.1)
        _actors_image(self.folder)
        self.load()

    def load(self) -> None:
        """Loads the acted image."""
        rootfs = str(self.folder / "rootfs")
        tar = subprocess.run(["tar", "-C", rootfs, "-c", "."], capture_output=True, check=True)
        self.docker("import", "-", "mrvpn:0.1.0", stdin=tar.stdout)

    def docker(self, *arguments: str, check: bool = True, stdin: bytes | None = None) -> Done:
        env = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}"}
        done = subprocess.run(["docker", *arguments], capture_output=True, env=env, input=stdin)
        text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not check or done.returncode == 0, f"docker {arguments}: {text.stderr}"
        return text

    def ids(self) -> dict[str, str]:
        """Container ids by name."""
        out = self.docker("ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}").stdout
        return dict(line.split() for line in out.splitlines())

    def started(self, name: str) -> str:
        return self.docker("inspect", "--format", "{{.State.StartedAt}}", name).stdout.strip()

    def pid(self, name: str) -> int:
        return int(self.docker("inspect", "--format", "{{.State.Pid}}", name).stdout)

    def clear(self) -> None:
        """Takes all containers, networks and volumes away."""
        ids = self.docker("ps", "--all", "--quiet").stdout.split()
        if ids:
            self.docker("rm", "--force", *ids)
        self.docker("network", "prune", "--force")
        self.docker("volume", "prune", "--force")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.clear()
            self.process.terminate()
            self.process.wait(60)
        subprocess.run(["ip", "netns", "del", self.netns])
        for mount in [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]:
            if mount.startswith(str(self.folder)):
                subprocess.run(["umount", mount], capture_output=True)
        for group in sorted(Path("/sys/fs/cgroup").glob(f"**/{self.netns}"), reverse=True):
            subprocess.run(
                ["find", str(group), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"], capture_output=True
            )


@pytest.fixture(scope="session")
def _docker_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    host = DockerHost(tmp_path_factory.mktemp("docker"))
    try:
        host.start()
        yield host
    finally:
        host.stop()


@pytest.fixture
def docker_host(_docker_host: DockerHost) -> Iterator[DockerHost]:
    """A real dockerd without containers; empty again afterwards."""
    _docker_host.clear()
    yield _docker_host
    _docker_host.clear()
