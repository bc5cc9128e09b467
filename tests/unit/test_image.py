"""The image's packages, told twice: in its Dockerfile, and in the module that knows which command runs on which."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPO = Path(__file__).parents[2]
FOR_PEOPLE = {"bind9-dnsutils", "iputils-ping"}


def test_every_package_of_the_image_is_some_commands() -> None:
    """One that is left out would never move a container: a security update of it would do nothing."""
    text = (REPO / "image" / "Dockerfile").read_text()
    (listed,) = re.findall(r"apt-get install -y --no-install-recommends \\\n(.*?)\n &&", text, re.DOTALL)
    installed = set(listed.replace("\\", " ").split())
    tree = ast.parse((REPO / "_modules" / "mrvpn_image.py").read_text())
    (needs,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEEDS"
    ]
    assert {package for packages in needs.values() for package in packages} == installed - FOR_PEOPLE
    commands = {path.name for path in (REPO / "image" / "rootfs" / "usr" / "local" / "bin").iterdir()}
    assert commands <= needs.keys()
