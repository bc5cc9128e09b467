"""Firezone's stack against a real Docker Engine: several images in one project, a changed variable foretold.

The images' programs are acted: an interface that comes up, health checks that say yes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_firezone import make_view
from test_project import PROJECT, Managed

from tests.salt.conftest import DockerHost

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
# the machine that tests may have no WireGuard in its kernel, which the state would tell
NO_WIREGUARD = 'exclude=[{"id": "this host"}]'
WAIT = "trap 'exit 0' TERM; {}while :; do sleep 0.2; done"
LINK = "ip link add wg-firezone type veth peer name vfz && ip link set wg-firezone up && ip link set vfz up || exit 1; "


def act_images(docker: DockerHost, folder: Path, images: dict[str, str]) -> None:
    """Loads a stand-in for each image of the stack."""
    root = folder / "stack"
    shutil.copytree(docker.folder / "rootfs", root, symlinks=True)
    for name in ("wget", "pg_isready", "caddy"):
        (root / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
        (root / "bin" / name).chmod(0o755)
    for role, image in images.items():
        (root / "etc" / "role").write_text(role + "\n")  # images of the same content would share an id
        script = WAIT.format(LINK if role == "firezone" else "")
        (root / "bin" / "serve").write_text(f"#!/bin/sh\n{script}\n")
        (root / "bin" / "serve").chmod(0o755)
        tar = subprocess.run(["tar", "-C", str(root), "-c", "."], capture_output=True, check=True).stdout
        docker.docker("import", "--change", 'CMD ["/bin/serve"]', "-", image, stdin=tar)


def test_the_stack_from_nothing_and_what_a_change_costs(tmp_path: Path, docker_host: DockerHost) -> None:
    def described(**fz: object) -> dict[str, object]:
        view = make_view(tmp_path, **fz)
        view["root"] = str(tmp_path / "opt" / "mrvpn")
        view["gateway"]["port_range"] = [55820, 55829]
        view["host_guard"]["reserved_ports"] = [55820, 55829]
        view["tunnels"] = {"wg_uk": view["tunnels"]["wg_uk"]}
        view["tunnels"]["wg_uk"]["peers"][0]["public_key"] = "cGhvbmUgcGhvbmUgcGhvbmUgcGhvbmUgcGhvbmUgcGg="
        view["frr"], view["recursor"] = [], []
        return view

    entry = Managed(tmp_path, described(), docker_host)
    images = entry.view["gateway"]["firezone"]["images"]
    act_images(docker_host, tmp_path, images)
    (tmp_path / "data" / "mrvpn" / "country").mkdir(parents=True)
    (tmp_path / "data" / "mrvpn" / "country" / "country.mmdb").write_bytes(os.urandom(1000))

    foretold = entry.good("mrvpn.compose", "test=true", NO_WIREGUARD)[PROJECT]
    assert not (entry.root / "firezone").exists()
    done = entry.good("mrvpn.compose", NO_WIREGUARD)[PROJECT]
    assert foretold == done
    dependents = {"wg_uk", "firezone_ipt"}
    assert done["created"].keys() == {"caddy", "firezone", "postgres", *dependents}
    assert entry.good("mrvpn.compose", NO_WIREGUARD) == {}
    environment = docker_host.docker("inspect", "--format", "{{.Config.Env}}", "firezone").stdout
    assert "GUARDIAN_SECRET_KEY=" in environment and "WIREGUARD_IPV4_MASQUERADE=false" in environment
    database = docker_host.docker("inspect", "--format", "{{.Config.Env}}", "mrvpn-postgres").stdout
    assert "POSTGRES_PASSWORD=" in database and "GUARDIAN_SECRET_KEY" not in database
    before = docker_host.ids()

    # a variable: the gateway and what shares its namespace, nothing else
    entry.view = described(fz_client_dns=["10.11.0.1"])
    foretold = entry.good("mrvpn.compose", "test=true", NO_WIREGUARD)[PROJECT]
    done = entry.good("mrvpn.compose", NO_WIREGUARD)[PROJECT]
    assert foretold["recreated"] == done["recreated"]
    assert done["recreated"].keys() == {"firezone", *dependents}
    after = docker_host.ids()
    assert {name for name in before if before[name] == after[name]} == {"mrvpn-caddy", "mrvpn-postgres"}

    # another image under a name: that container alone
    act_images(docker_host, tmp_path / "again", {"another": images["caddy"]})
    assert entry.good("mrvpn.compose", "test=true", NO_WIREGUARD)[PROJECT] == {
        "recreated": {"caddy": "its image changed"}
    }
    assert entry.good("mrvpn.compose", NO_WIREGUARD)[PROJECT]["recreated"].keys() == {"caddy"}
    assert entry.good("mrvpn.compose", NO_WIREGUARD) == {}
