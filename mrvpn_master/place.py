"""Where a master has its description, what it deploys to, and its own notes: by its configuration.

Knows: the settings of Salt's master that are read here, as a mapping. Must not know: Salt's clients, what a note says.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrvpn.topology import Network
from mrvpn_master import Trouble, candidate, deployment


class Place:
    """One master's."""

    def __init__(self, opts: Mapping[str, Any]) -> None:
        self._opts = opts

    @property
    def settings(self) -> Mapping[str, Any]:
        """The master's setting `mrvpn`."""
        found: Mapping[str, Any] = self._opts.get("mrvpn") or {}
        return found

    @property
    def path(self) -> Path:
        """The description that ext_pillar reads: a folder, or a single file."""
        for entry in self._opts.get("ext_pillar", []):
            if "mrvpn" in entry:
                return Path(entry["mrvpn"]["path"])
        raise Trouble("the master's configuration names no description: ext_pillar: [{mrvpn: {path: ...}}]")

    @property
    def folder(self) -> Path:
        """The folder that the description is in."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def single(self) -> str | None:
        """The name of the description's file where it is a single one."""
        return None if self.path.is_dir() else self.path.name

    def network(self) -> Network:
        """The description in force, compiled."""
        return candidate.network_of(self.path)

    def store(self) -> deployment.Store | None:
        """The store that the description is deployed to; None where ext_pillar reads somebody's folder."""
        config = deployment.Config.of(self.settings)
        if config is None:
            return None
        store = deployment.Store(config)
        if self.path != store.path:
            raise Trouble(f"ext_pillar reads {self.path}, deployments go to {store.path}: make ext_pillar's path that")
        return store

    def needed_store(self) -> deployment.Store:
        """The store; Trouble where there is none."""
        store = self.store()
        if store is None:
            raise Trouble(
                "nothing to deploy from: the master's configuration says no `mrvpn: {repository: URL, branch: main}`"
            )
        return store

    def own(self, name: str) -> Path:
        """A file or folder among the master's own notes, locks and wishes."""
        folder = Path(self._opts["cachedir"]) / "mrvpn"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def recall(self, name: str) -> dict[str, Any]:
        """What was noted under a name; empty where nothing was."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            found: dict[str, Any] = json.loads(self.own(f"{name}.json").read_text())
            return found
        return {}

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Notes something under a name, in place of what was there."""
        following = self.own(f"{name}.next")
        following.write_text(json.dumps(value))
        following.replace(self.own(f"{name}.json"))
