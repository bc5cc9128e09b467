"""Security updates: an image made anew is taken over only where it differs, and nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rig
from test_project import PROJECT, Managed

from tests.salt.conftest import DockerHost, load_view

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
NAME = "mrvpn:0.1.0"


def test_only_what_differs_moves(tmp_path: Path, docker_host: DockerHost) -> None:
    docker_host.docker("tag", NAME, "mrvpn:base")
    original = docker_host.docker("image", "inspect", "--format", "{{.Id}}", NAME).stdout.strip()
    context = tmp_path / "context"
    (context / "image").mkdir(parents=True)
    # no chmod in the image the tests act: the file is copied with its mode
    (context / "dpkg-query").write_text("#!/bin/sh\nexec cat /packages\n")
    (context / "dpkg-query").chmod(0o755)
    (context / "image" / "Dockerfile").write_text(
        "FROM mrvpn:base\nCOPY packages /packages\nCOPY dpkg-query /bin/dpkg-query\n"
    )

    def packages(frr: str) -> None:
        (context / "packages").write_text(f"bash\t5.2\nfrr\t{frr}\n")

    rig.prepare(tmp_path, "uk", load_view("uk"))

    def rebuilt() -> dict[str, Any]:
        call = (
            "state.single",
            "mrvpn_docker.rebuilt",
            "fresh",
            f'image="{NAME}"',
            'source="build"',
            f'context="{context}"',
            "pull=false",
        )
        answer = rig.sealed(tmp_path, docker_host.netns, *call, docker=docker_host.socket)
        (result,) = rig.by_state(answer).values()
        assert result["result"] is True, result["comment"]
        return dict(result["changes"])

    uk = Managed(tmp_path, {**load_view("uk"), "root": str(tmp_path / "opt" / "mrvpn")}, docker_host)
    try:
        # the image that runs is one that was built
        packages("10.3")
        docker_host.docker("build", "--quiet", "--tag", NAME, "--file", f"{context}/image/Dockerfile", str(context))
        uk.good("mrvpn.compose")
        before = docker_host.ids()
        packages("10.4")
        changes = rebuilt()
        assert changes["frr"] == {"old": "10.3", "new": "10.4"} and changes.keys() == {"frr", "MRVPN"}
        assert docker_host.ids() == before, "built aside, nothing moved yet"
        assert uk.good("mrvpn.compose")[PROJECT]["recreated"].keys() == {"wg_uk", "wg_uk_frr"}
        running = docker_host.ids()
        assert rebuilt() == {}
        assert uk.good("mrvpn.compose") == {} and docker_host.ids() == running
        assert "next" not in docker_host.docker("images", "--format", "{{.Tag}}").stdout
    finally:
        docker_host.clear()
        docker_host.docker("tag", original, NAME)
