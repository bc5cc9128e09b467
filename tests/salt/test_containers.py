"""The real image under a real dockerd: read-only roots, the least capabilities, reloads and self-healing with them.

mrvpn-ts<pid> (netns): dockerd; uk: wg_uk (owner) <- wg_uk_frr
"""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from test_project import Managed, until

from tests.conftest import IMAGE_ROOT
from tests.salt.conftest import DockerHost, load_view

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(600)]
REPO = Path(__file__).parents[2]
FRR = {"NET_RAW", "NET_ADMIN", "SYS_ADMIN", "NET_BIND_SERVICE", "SETUID", "SETGID", "CHOWN", "FOWNER", "DAC_OVERRIDE"}
FRR |= {"KILL"}
TARBALL = IMAGE_ROOT.parent / "image.tar"
ACTED = "mrvpn:0.1.0"
REAL = "mrvpn:real"


@pytest.fixture
def real(docker_host: DockerHost) -> DockerHost:
    """The test's dockerd with the real image under a name of its own; the acted one keeps its."""
    if docker_host.docker("image", "inspect", REAL, check=False).returncode:
        assert TARBALL.is_file(), f"{TARBALL} is missing: `python -m lab` builds the image"
        acted = docker_host.docker("image", "inspect", "--format", "{{.Id}}", ACTED).stdout.strip()
        loaded = docker_host.docker("load", "--input", str(TARBALL)).stdout
        name = next(line.split(": ", 1)[1] for line in loaded.splitlines() if line.startswith("Loaded image: "))
        docker_host.docker("tag", name.strip(), "mrvpn:loaded")
        docker_host.docker("tag", acted, ACTED)
        # the commands as they stand in this checkout
        dockerfile = b"FROM mrvpn:loaded\nCOPY rootfs/ /\n"
        command = ("build", "--quiet", "--tag", REAL, "--file", "-", str(REPO / "image"))
        docker_host.docker(*command, stdin=dockerfile)
    return docker_host


def capabilities(it: DockerHost, name: str) -> set[str]:
    """What the first process of a container may do, by name."""
    status = Path(f"/proc/{it.pid(name)}/status").read_text()
    bits = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd")), 16)
    decoded = subprocess.run(["capsh", f"--decode={bits:x}"], capture_output=True, text=True).stdout
    return {word.removeprefix("cap_").upper() for word in decoded.strip().partition("=")[2].split(",")}


def execute(it: DockerHost, *words: str) -> subprocess.CompletedProcess[str]:
    return it.docker("exec", *words, check=False)


def healed(it: DockerHost, name: str) -> None:
    """Ends the first process as a health check does, and waits for the container to be healthy again."""
    before = it.started(name)
    execute(it, name, "sh", "-c", "kill 1")
    until(f"a new start of {name}", lambda: it.started(name) != before, 60)
    health = ("inspect", "--format", "{{.State.Health.Status}}", name)
    until(f"{name} healthy", lambda: it.docker(*health).stdout.strip() == "healthy", 90)


def test_an_exit_of_real_containers(tmp_path: Path, real: DockerHost) -> None:
    view = load_view("uk")
    view["root"], view["image"]["name"] = str(tmp_path / "opt" / "mrvpn"), REAL
    far = X25519PrivateKey.generate().public_key().public_bytes_raw()
    view["tunnels"]["wg_uk"]["peers"][0]["public_key"] = base64.b64encode(far).decode()
    view["tunnels"]["wg_uk"]["peers"][0]["preshared_key"] = base64.b64encode(os.urandom(32)).decode()
    uk = Managed(tmp_path, view, real)
    uk.good()

    for name in ("wg_uk", "wg_uk_frr"):
        assert "Read-only file system" in execute(real, name, "touch", "/usr/bin/x").stderr
        inspected = real.docker("inspect", "--format", "{{.HostConfig.Privileged}}", name).stdout
        assert inspected.strip() == "false"
    assert capabilities(real, "wg_uk") == {"NET_ADMIN"}
    assert capabilities(real, "wg_uk_frr") == FRR

    # a reload writes its files where it may
    uk.view["tunnels"]["wg_uk"]["mtu"] = 1300
    uk.view["frr"][0]["interfaces"][0]["cost"] = 77
    uk.good()
    assert "mtu 1300" in execute(real, "wg_uk", "ip", "link", "show", "wg_uk").stdout
    assert "cost 77" in execute(real, "wg_uk_frr", "vtysh", "-c", "show running-config").stdout

    # watchfrr starts a daemon that died anew
    assert execute(real, "wg_uk_frr", "sh", "-c", "kill -9 $(cat /run/frr/ospfd.pid)").returncode == 0
    ospf = ("wg_uk_frr", "vtysh", "-c", "show ip ospf interface json")
    until("ospfd again", lambda: "wg_uk" in execute(real, *ospf).stdout, 90)
    healed(real, "wg_uk_frr")
    assert uk.good() == {}
