"""A lab whose master deploys from a repository: origin.git, its clone, the webhook behind TLS, a store on its own disk.

Knows: git, the settings of `mrvpn.master`, HTTPS. Must not know: what a deployment does.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lab import hosts, salt
from lab.deadline import TimedOut, until
from lab.state import RUN, sh
from lab.topology import ENTRY, MASTER, UK
from mrvpn import compiler, views

FOLDER = RUN / "reviewed"
ORIGIN, CLONE = FOLDER / "origin.git", FOLDER / "clone"
STORE = Path("/var/lib/mrvpn")
CERTIFICATE = FOLDER / "webhook.crt"
SECRET = "a-secret-of-some-length"
PORT = 8015
SALT_RUN = str(salt.BIN / "salt-run")
ON_RECEIVE = f"#!/bin/sh\n{SALT_RUN} event.send mrvpn/deploy/wanted\n"


def git(*arguments: str, folder: Path = CLONE) -> str:
    """What git says of the clone."""
    return sh("git", "-C", str(folder), *arguments).strip()


def make() -> None:
    """origin.git and a clone of it that hold the lab's description, and what the webhook needs on the master."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    sh("git", "init", "-q", "--bare", "--initial-branch=main", str(ORIGIN))
    sh("git", "clone", "-q", str(ORIGIN), str(CLONE))
    for key, value in (("user.name", "ann"), ("user.email", "ann@example.net")):
        git("config", key, value)
    git("checkout", "-q", "-b", "main")
    shutil.copytree(salt.DESCRIPTION, CLONE / "network")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    git("push", "-q", "origin", "main")
    key = "/etc/salt/mrvpn/webhook"
    subject = ["-subj", "/CN=master", "-addext", f"subjectAltName=IP:{MASTER.ipv4}"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    hosts.run(MASTER, *made, "-keyout", f"{key}.key", "-out", str(CERTIFICATE))
    hosts.run(MASTER, "sh", "-c", f"umask 077; cat > {key}.secret", stdin=SECRET)
    hosts.run(MASTER, "sh", "-c", f"mountpoint -q {STORE} || (mkdir -p {STORE}; mount -t tmpfs -o size=16m t {STORE})")


def settings(*, webhook: bool = True, poll: int | None = None) -> dict[str, Any]:
    """The pillar of `mrvpn.master` for such a master."""
    key = "/etc/salt/mrvpn/webhook"
    hook = {"port": PORT, "address": "0.0.0.0", "secret": f"{key}.secret"}
    hook |= {"certificate": str(CERTIFICATE), "key": f"{key}.key"}
    return {"repository": str(ORIGIN), "store": str(STORE), "webhook": hook if webhook else None, "poll": poll}


def restart(**told: Any) -> None:
    """Has the state write these settings, and starts the master with them."""
    salt.master_settings(**told)
    salt.stop_master()
    salt.start_master()
    salt.wait_minions()


def push(old: str, new: str, subject: str = "change", *, file: str = "routing.yaml") -> str:
    """Somebody's push to main, from the master: hooks of origin.git run there; its commit."""
    git("pull", "-q", "--rebase", "origin", "main")
    path = CLONE / "network" / file
    text = path.read_text()
    assert old in text, f"{file} has no {old}"
    path.write_text(text.replace(old, new))
    git("commit", "-q", "--allow-empty", "-am", subject)
    hosts.run(MASTER, "git", "-C", str(CLONE), "push", "-q", "origin", "main")
    return git("rev-parse", "HEAD")


def take_back(commit: str) -> None:
    """Makes the branch what it was, at the remote and in the clone."""
    for hook in ("pre-receive", "post-receive"):
        (ORIGIN / "hooks" / hook).unlink(missing_ok=True)
    git("fetch", "-q", "origin")
    git("checkout", "-q", "-f", "-B", "main", commit)
    git("push", "-q", "--force", "origin", "main")


def post(body: bytes = b"{}", secret: str = SECRET, *, tls: bool = True) -> int:
    """A forge's request, from another host, the certificate verified; its status, 0 where the connection was closed."""
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    (FOLDER / "body").write_bytes(body)
    url = f"{'https' if tls else 'http'}://{MASTER.ipv4}:{PORT}/mrvpn"
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", str(CERTIFICATE), "--max-time", "20"]
    command += ["-H", f"X-Hub-Signature-256: sha256={signature}", "-H", "Expect:", "--data-binary", f"@{FOLDER}/body"]
    return int(hosts.run(UK, *command, url, check=False) or 0)


def run(*argv: str, code: int = 0, timeout: float = 180) -> Any:
    """`salt-run --out=json ...` on the master: its answer; the exit code must be `code`."""
    command = [*hosts.enter(MASTER), SALT_RUN, "--out=json", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == code, f"{argv}: exit code {done.returncode}: {done.stdout[-3000:]}{done.stderr[-500:]}"
    return json.loads(done.stdout)


def current() -> str:
    """The commit in force."""
    return Path(hosts.run(MASTER, "readlink", f"{STORE}/current").strip()).name


def version() -> str:
    """The version of the entrypoint's rules that the clone's description comes to."""
    network = compiler.compile_path(CLONE / "network").network
    assert network is not None
    return str(views.view(network, ENTRY.name, {}, lambda _: None)["routing"][0]["settings"]["version"])


def head() -> str:
    """The commit that the branch has at the remote."""
    return git("rev-parse", "main", folder=ORIGIN)


_FIRE = """
import json, sys, salt.config, salt.utils.event
opts = salt.config.master_config("/etc/salt/master")
with salt.utils.event.get_event("master", opts=opts, listen=False) as bus:
    for tag, data in json.load(sys.stdin):
        bus.fire_event(data, tag)
"""
_LISTEN = """
import fnmatch, json, sys, salt.config, salt.utils.event
opts = salt.config.master_config("/etc/salt/master")
with salt.utils.event.get_event("master", opts=opts, listen=True) as bus:
    print("listening", flush=True)
    for event in bus.iter_events(full=True):
        if any(fnmatch.fnmatchcase(event["tag"], tag) for tag in sys.argv[1:]):
            print(json.dumps({"tag": event["tag"], **event["data"]}, default=str), flush=True)
"""


def fire(events: list[tuple[str, dict[str, Any]]]) -> None:
    """Puts events on the master's bus, one after another without a pause."""
    hosts.run(MASTER, str(salt.BIN / "python"), "-c", _FIRE, stdin=json.dumps(events))


class Bus:
    """The events of some tags since `listening` began: their data, with the tag beside it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._out = process.stdout
        self._left = b""
        self._seen: list[dict[str, Any]] = []

    def seen(self) -> list[dict[str, Any]]:
        """What came so far."""
        *lines, self._left = (self._left + (self._out.read() or b"")).split(b"\n")
        self._seen += [json.loads(line) for line in lines]
        return self._seen

    def wait(self, what: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
        """The first event that is wanted."""

        def look() -> dict[str, Any] | None:
            return next((event for event in self.seen() if wanted(event)), None)

        try:
            found = until(what, look, seconds, every=0.05)
        except TimedOut as error:
            raise AssertionError(f"{error}; seen: {self._seen}") from None
        assert found is not None
        return found


@contextlib.contextmanager
def listening(*tags: str) -> Iterator[Bus]:
    """The master's bus while the body runs."""
    command = [*hosts.enter(MASTER), str(salt.BIN / "python"), "-c", _LISTEN, *tags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"listening\n"
            os.set_blocking(process.stdout.fileno(), False)
            yield Bus(process)
        finally:
            process.kill()
