"""A masterless minion in a temporary folder: real loaders, real states, the view handed in as its pillar.

Run as a program (`python tests/salt/rig.py FOLDER FUNCTION [ARGUMENT ...]`) it prints the answer as JSON; `sealed`
runs it in a mount namespace whose /etc folders are the test's own, so that a real apply touches nothing of this
machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

REPO = Path(__file__).parents[2]
OWN_ETC = ("/etc/docker", "/etc/sysctl.d", "/etc/systemd/system")


def module(name: str) -> ModuleType:
    """An execution module of the project by itself, without Salt's loader: for what is private to it."""
    spec = importlib.util.spec_from_file_location(f"{name}_by_itself", REPO / "_modules" / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def options(folder: Path, **extra: Any) -> dict[str, Any]:
    """The configuration of the minion that lives in the folder; `<folder>/pillar` and `<folder>/data` are its roots."""
    import salt.config
    import salt.loader

    for name in ("pillar", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    opts = salt.config.minion_config(None)
    opts.update(
        salt.config.apply_minion_config(
            {
                "id": (folder / "id").read_text(),
                "root_dir": str(folder),
                "conf_file": str(folder / "minion"),
                "cachedir": str(folder / "cache"),
                "pki_dir": str(folder / "pki"),
                "sock_dir": str(folder / "sock"),
                "extension_modules": str(folder / "cache" / "extmods"),
                "log_file": str(folder / "log"),
                "file_client": "local",
                "master_type": "disable",
                "file_roots": {"base": [str(REPO / "salt"), str(REPO / "ext"), str(folder / "data")]},
                "pillar_roots": {"base": [str(folder / "pillar")]},
                **extra,
            }
        )
    )
    opts["grains"] = salt.loader.grains(opts)
    return opts


def prepare(folder: Path, host: str, view: dict[str, Any] | None) -> None:
    """Gives the minion its id and its view."""
    (folder / "pillar").mkdir(parents=True, exist_ok=True)
    (folder / "id").write_text(host)
    (folder / "pillar" / "top.sls").write_text("base: {'*': [view]}\n" if view is not None else "{}\n")
    (folder / "pillar" / "view.sls").write_text("#!json\n" + json.dumps({"mrvpn": view}))


def caller(folder: Path, **extra: Any) -> Any:
    """An in-process salt-call with the project's modules and states synced."""
    import salt.client

    it = salt.client.Caller(mopts=options(folder, **extra))
    it.cmd("saltutil.sync_all", refresh=False)
    return salt.client.Caller(mopts=it.opts)


def sealed(folder: Path, netns: str, *call: str, docker: Path | None = None, path: Path | str = "") -> Any:
    """
    Runs one function of the minion with its own /etc folders, in a network namespace; returns the parsed answer.

    ``path``: the minion's PATH, where it is not the test's own.
    """
    script = ""
    for number, etc in enumerate(OWN_ETC):
        own = folder / f"etc{number}"
        own.mkdir(exist_ok=True)
        Path(etc).mkdir(parents=True, exist_ok=True)
        script += f"mount --bind {own} {etc}; "
    command = ["nsenter", f"--net=/run/netns/{netns}", "unshare", "--mount", "--propagation", "private", "sh", "-ec"]
    script += f"export PATH={path}; " if path else ""
    command += [script + 'exec "$@"', "sh", sys.executable, __file__, str(folder), *call]
    env = {**os.environ, "DOCKER_HOST": f"unix://{docker}" if docker else "unix:///nonexistent/docker.sock"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=env, timeout=300)
    assert done.stdout, f"{call}: {done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def by_state(answer: Any) -> dict[str, dict[str, Any]]:
    """The results of an apply by `module.function name-of-the-id`, in the order they ran."""
    assert isinstance(answer, dict), answer
    ordered = sorted(answer.items(), key=lambda item: item[1]["__run_num__"])
    found = {}
    for key, result in ordered:
        module, ident, _, function = key.split("_|-")
        found[f"{module}.{function} {ident}"] = result
    return found


if __name__ == "__main__":
    arguments, keywords = [], {}
    for text in sys.argv[3:]:
        key, equals, value = text.partition("=")
        if equals:
            keywords[key] = json.loads(value)
        else:
            arguments.append(text)
    print(json.dumps(caller(Path(sys.argv[1])).cmd(sys.argv[2], *arguments, **keywords), default=str))
