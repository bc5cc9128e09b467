"""A real master and real salt-proxy processes, started as an operator starts them, beside simulated routers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pytestshellutils.exceptions import FactoryTimeout

REPO = Path(__file__).parents[2]
DISABLED = [
    "cmdmod",
    "cp",
    "file",
    "archive",
    "rsync",
    "ssh",
    "status",
    "system",
    "user",
    "useradd",
    "groupadd",
    "service",
]


@dataclass
class Proxy:
    """One `mrvpn-salt-proxy` process."""

    ident: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """Ends the process and the jobs it forked."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        # a job puts itself into a session of its own: what still names our folder is ours
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"--proxyid=" in (text := line.read_bytes()) and str(self.folder).encode() in text:
                    os.kill(int(line.parent.name), signal.SIGKILL)

    def memory(self) -> float:
        """MB (PSS) of the process and its children."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(status.read_text().rpartition(")")[2].split()[2]) == self.process.pid:
                    lines = (status.parent / "smaps_rollup").read_text().splitlines()
                    total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except (OSError, ValueError, IndexError):
                continue
        return total / 1024


@dataclass
class Site:
    """The master, its folders, and the proxies that were started."""

    master: Any
    folder: Path
    proxies: dict[str, Proxy] = field(default_factory=dict)

    def proxy(self, ident: str, settings: dict[str, Any], **options: Any) -> Proxy:
        """Puts the router's settings into its pillar and starts its proxy; returns when it answers."""
        self.pillar(ident, settings)
        started = self.start(ident, **options)
        self.wait(ident)
        return started

    def pillar(self, ident: str, settings: dict[str, Any]) -> None:
        roots = self.folder / "pillar"
        roots.mkdir(exist_ok=True)
        proxy = settings if "proxytype" in settings else {"proxytype": "routeros", **settings}
        (roots / f"{ident}.sls").write_text(yaml.safe_dump({"proxy": proxy}))
        idents = sorted(path.stem for path in roots.glob("*.sls") if path.stem != "top")
        (roots / "top.sls").write_text(yaml.safe_dump({"base": {name: [name] for name in idents}}))

    def start(self, ident: str, **options: Any) -> Proxy:
        folder = self.folder / ident
        folder.mkdir(exist_ok=True)
        config = {
            "master": "127.0.0.1", "master_port": self.master.config["ret_port"], "root_dir": str(folder),
            "user": "root", "pki_dir": str(folder / "pki"), "cachedir": str(folder / "cache"),
            "sock_dir": str(folder / "sock"),
            "log_file": str(folder / "log"), "pidfile": str(folder / "pid"), "log_level_logfile": "debug",
            "log_level": "quiet", "disable_modules": DISABLED, "mine_interval": 60, "acceptance_wait_time": 1,
            "extension_modules": str(folder / "extmods"), "random_startup_delay": 0, "loop_interval": 1, **options,
        }  # fmt: skip
        (folder / "proxy").write_text(json.dumps(config))
        command = [sys.executable, str(REPO / "bin" / "mrvpn-salt-proxy"), "-c", str(folder), f"--proxyid={ident}"]
        env = {**os.environ, "PYTHONPATH": f"{REPO}:{os.environ.get('PYTHONPATH', '')}"}
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen(command, env=env, cwd=REPO, stdout=out, stderr=out, start_new_session=True)
        self.proxies[ident] = Proxy(ident, folder, process)
        return self.proxies[ident]

    def wait(self, ident: str, seconds: float = 180) -> None:
        """Until the proxy takes jobs, whether its router answers or not."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.master.salt_cli(timeout=5).run("test.echo", "up", minion_tgt=ident, _timeout=30).data == "up":
                    return
            except FactoryTimeout:
                pass
            told = self.proxies[ident].log[-3000:] if ident in self.proxies else ""
            assert time.monotonic() < deadline, f"{ident} does not come up: {told}"

    def salt(self, ident: str, *arguments: str, **kwargs: Any) -> Any:
        """One job on one proxy: what it returned."""
        return self.master.salt_cli(timeout=60).run(*arguments, minion_tgt=ident, **kwargs).data

    def states(self, ident: str, *arguments: str) -> dict[str, dict[str, Any]]:
        """A state.apply: the results by `module.function name`."""
        answer = self.salt(ident, *(arguments or ("state.apply",)))
        assert isinstance(answer, dict), answer
        found = {}
        for key, result in answer.items():
            module, _, name, function = key.split("_|-")
            found[f"{module}.{function} {name}"] = result
        return found

    def run(self, *arguments: str) -> Any:
        return self.master.salt_run_cli(timeout=120).run(*arguments)

    def stop(self) -> None:
        for proxy in self.proxies.values():
            proxy.stop()


def master(salt_factories: Any, folder: Path, description: str, **overrides: Any) -> Any:
    """A master with the project's roots and ext_pillar; the description and a psk_root in `folder`."""
    for name in ("network", "pillar", "data"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "network" / "network.yaml").write_text(description)
    (folder / "secrets.yaml").write_text("psk_root: made-for-the-tests-long-enough-to-be-one\n")
    (folder / "secrets.yaml").chmod(0o600)
    (folder / "pillar" / "top.sls").write_text("{}\n")
    return salt_factories.salt_master_daemon(
        "mrvpn-routeros-master",
        overrides={
            "interface": "127.0.0.1",
            "open_mode": True,
            "worker_threads": 3,
            "file_roots": {"base": [str(REPO / "salt"), str(REPO / "ext"), str(folder / "data")]},
            "pillar_roots": {"base": [str(folder / "pillar")]},
            "pillar_dirs": [str(REPO / "_pillar")],
            "runner_dirs": [str(REPO / "_runners")],
            "ext_pillar": [{"mrvpn": {"path": str(folder / "network"), "secrets": str(folder / "secrets.yaml")}}],
            **overrides,
        },
    )
