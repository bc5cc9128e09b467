"""The quick start's first section, run as it stands: what it makes is what a master deploys."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mrvpn_master.deployment import Config, Store

REPO = Path(__file__).parents[3]
SHOWN = "git@git.example.net:ops/network.git"
INSTALLED = "pip install mrvpn"


def test_the_repository_that_it_makes_is_deployed(tmp_path: Path) -> None:
    page = (REPO / "docs" / "quickstart.md").read_text()
    section = page[page.index("## 1.") : page.index("## 2.")]
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)).splitlines()
    assert lines[0] == INSTALLED and any(SHOWN in line for line in lines)
    remote = tmp_path / "origin.git"
    subprocess.run(["git", "init", "-q", "--bare", str(remote)], check=True)
    who = {f"GIT_{role}_{what}": "ann@example.net" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | who | {"PATH": path, "PYTHONPATH": str(REPO)}
    for line in lines[1:]:
        done = subprocess.run(
            ["sh", "-c", line.replace(SHOWN, str(remote))],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    store = Store(Config(str(remote), store=tmp_path / "store"))
    assert store.deploy().result == "deployed"
    assert {path.name for path in store.path.iterdir()} >= {"hosts.yaml", "tunnels.yaml", "routing.yaml"}
