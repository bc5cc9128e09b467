"""The MikroTik: a simulated RouterOS that drives the namespace `router`, and its proxy minion on the master.

Knows: the simulator's options, a salt-proxy's configuration as docs/routeros.md has it. Must not know: the rows that
the router gets.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from lab import hosts, image
from lab.deadline import until
from lab.state import REPO, RUN, Trouble, alive, spawn
from lab.topology import MASTER, ROUTER, ROUTER_LAN

FOLDER = RUN / "router"
CONTROL = FOLDER / "control"
PASSWORD = FOLDER / "password"  # 0600; the simulator has it by its environment, the proxy by its pillar
PILLAR = "/srv/pillar"  # on the master
PORT = 8729
USER = "salt-proxy"
HOME = f"/var/lib/{USER}"
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "env", f"HOME={HOME}")
# nothing of the host that the proxy runs on is within reach of a job, and nothing is written outside of its own folders
PROXY = {
    "user": USER,
    "append_minionid_config_dirs": ["pki_dir", "cachedir", "extension_modules", "pidfile"],
    "pki_dir": f"{HOME}/pki",
    "cachedir": f"{HOME}/cache",
    "extension_modules": f"{HOME}/extmods",
    "sock_dir": f"{HOME}/run",
    "pidfile": f"{HOME}/run/pid",
    "log_file": f"/var/log/{USER}/proxy.log",
    "autoload_dynamic_modules": False,
    "disable_modules": [
        *("cmdmod", "file", "cp", "archive", "rsync", "ssh", "status", "system", "user", "useradd", "groupadd"),
        "service",
    ],
}
# what a lab of one machine needs to be quick
_LAB = {
    "log_level_logfile": "warning", "acceptance_wait_time": 1, "random_startup_delay": 0, "recon_default": 200,
    "recon_max": 1000, "auth_timeout": 5, "auth_tries": 20, "master_alive_interval": 0,
}  # fmt: skip


def start() -> None:
    """Starts the router: WireGuard and OSPF of its rows are real in its namespace, its LAN is there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    PASSWORD.touch(mode=0o600)
    PASSWORD.write_text(secrets.token_urlsafe(24))
    own = {f"{ROUTER.ipv4}/32": "ether1", f"{ROUTER.ipv6}/128": "ether1"}
    own |= dict.fromkeys(ROUTER_LAN.router, "bridge")
    pid = spawn(
        "router",
        [*hosts.into(ROUTER.netns), sys.executable, "-m", "tests.simulators.routeros", "--identity", ROUTER.name,
         "--host", ROUTER.ipv4, "--port", str(PORT), "--tls", str(FOLDER / "tls"), "--control", str(CONTROL),
         "--netns", ROUTER.netns, "--image", str(image.ROOT), "--folder", str(FOLDER),
         *(word for address, interface in own.items() for word in ("--address", f"{address}={interface}"))],
        env={"MRVPN_ROUTEROS_PASSWORD": PASSWORD.read_text()}, cwd=REPO,
    )  # fmt: skip
    until("the router takes commands", lambda: alive(pid) and CONTROL.exists() and ask(show="/ip/address"), 30)


def ask(**command: Any) -> Any:
    """The simulator's answer to one command."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(20)
        control.connect(str(CONTROL))
        with control.makefile("rw") as lines:
            print(json.dumps(command), file=lines, flush=True)
            return json.loads(lines.readline())


def enter() -> list[str]:
    """The command prefix that runs a tool of the image beside the router's WireGuard and FRR."""
    found: list[str] = ask(realised=True)["enter"]
    return found


def configure_proxy(keys: Path) -> None:
    """On the master: the proxy's user, its configuration, its key of `keys`, and the router's pillar."""
    _readable()
    hosts.run(MASTER, "useradd", "--system", "--home-dir", HOME, "--shell", "/usr/sbin/nologin", USER)
    hosts.put(MASTER, "/etc/salt/proxy.d/mrvpn.conf", yaml.safe_dump({"master": MASTER.ipv4, **PROXY}))
    hosts.put(MASTER, "/etc/salt/proxy", yaml.safe_dump(_LAB))
    hosts.run(MASTER, "chmod", "755", "/etc/salt", "/etc/salt/proxy.d")
    pki = f"{HOME}/pki/{ROUTER.name}"
    hosts.put(MASTER, f"{pki}/minion.pem", (keys / f"{ROUTER.name}.pem").read_text(), "0400")
    hosts.put(MASTER, f"{pki}/minion.pub", (keys / f"{ROUTER.name}.pub").read_text())
    hosts.put(MASTER, f"{pki}/minion_master.pub", (keys / "master.pub").read_text())
    for folder in (HOME, f"/var/log/{USER}"):
        hosts.run(MASTER, "mkdir", "-p", folder)
        hosts.run(MASTER, "chown", "-R", f"{USER}:{USER}", folder)
    settings = {
        "proxytype": "routeros",
        "host": ROUTER.ipv4,
        "username": "salt",
        "password": PASSWORD.read_text(),
        "tls": {"ca": (FOLDER / "tls" / "ca.crt").read_text(), "name": "router.test"},
    }
    hosts.put(MASTER, f"{PILLAR}/top.sls", yaml.safe_dump({"base": {ROUTER.name: [ROUTER.name]}}), "0600")
    hosts.put(MASTER, f"{PILLAR}/{ROUTER.name}.sls", yaml.safe_dump({"proxy": settings}), "0600")


def _readable() -> None:
    """Lets the proxy's user come to the checkout and its Python, in the master's own view of the file system alone."""
    for path in (REPO, (REPO / ".venv").resolve(), Path(sys.executable).resolve()):
        for parent in list(path.parents)[:-1]:
            hosts.run(MASTER, "chmod", "a+x", str(parent))


def start_proxy() -> None:
    """Starts the router's proxy minion as its own user."""
    python = str(REPO / ".venv" / "bin" / "python")
    probe = hosts.run(MASTER, *AS_USER, python, "-c", "import mrvpn.routeros, librouteros; print('good')", check=False)
    if probe.strip() != "good":
        raise Trouble(f"the router's proxy runs as the user {USER}, who must be able to read {REPO}: chmod -R a+rX it")
    command = [python, str(REPO / "bin" / "mrvpn-salt-proxy"), f"--proxyid={ROUTER.name}", "-l", "warning"]
    spawn("proxy-router", [*hosts.enter(MASTER), *AS_USER, *command])
