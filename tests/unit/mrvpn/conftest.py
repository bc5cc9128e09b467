"""A small network as text, changed by each test, compiled through the real reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

from mrvpn import compiler
from mrvpn.topology import Network

# examples are the same in every run, and a busy machine is no failure
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")

SMALL: dict[str, Any] = {
    "entrypoint": "entry",
    "gateway": "wireguard",
    "hosts": {"entry": {"endpoint": "203.0.113.10"}, "uk": {"endpoint": "203.0.113.20"}},
    "tunnels": {
        "wg_uk": {
            "subnet": ["10.9.20.0/24", "fd6d:7276:20::/64"],
            "hosts": {
                "uk": {"expose": 55824, "allowed_nets": ["0.0.0.0/0", "::/0"], "masquerade": True},
                "entry": {"allowed_nets": ["0.0.0.0/0", "::/0"], "compose_service": "firezone"},
            },
        }
    },
    "routing": {"pbr_mark": 200, "table": 200, "routes": [{"interface": "wg_uk", "country": "GB"}]},
}


def merged(base: Any, change: Any) -> Any:
    """`base` with the keys of `change`; maps merge, None takes a key out."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    found = dict(base)
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


Compile = Callable[..., compiler.Compiled]


@pytest.fixture
def compile_text(tmp_path: Path) -> Compile:
    """Compiles a description given as text, or as a change of the small network; `lock` stands beside it."""

    def make(change: str | dict[str, Any] | None = None, *, lock: dict[str, Any] | None = None) -> compiler.Compiled:
        text = (
            change
            if isinstance(change, str)
            else yaml.safe_dump({"mrvpn": merged(SMALL, change or {})}, sort_keys=False)
        )
        folder = tmp_path / "description"
        folder.mkdir(exist_ok=True)
        (folder / "network.yaml").write_text(text)
        (folder / "lock.yaml").unlink(missing_ok=True)
        if lock is not None:
            (folder / "lock.yaml").write_text(yaml.safe_dump(lock, sort_keys=False))
        return compiler.compile_path(folder)

    return make


@pytest.fixture
def network(compile_text: Compile) -> Callable[..., Network]:
    """The network of a description that must be good."""

    def make(change: str | dict[str, Any] | None = None, *, lock: dict[str, Any] | None = None) -> Network:
        compiled = compile_text(change, lock=lock)
        assert compiled.network is not None, "\n".join(map(str, compiled.problems))
        return compiled.network

    return make
