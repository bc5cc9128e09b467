"""One namespace with an authoritative server, the image's recursor with the rendered configuration, and the daemon.

    test's sockets --127.0.0.1:5301--> pdns_recursor (uid 953) --127.0.0.2:53--> nsd
                                          | hook, 127.0.0.1:5310-5325
                                       the daemon --> nftables of the namespace

Knows: processes, mounts, sockets. Must not know: what is tested.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import dns.flags
import dns.message
import dns.query
import yaml
from dnszones import SERVER, ZONES, write

from ipt_server.kernel.skeleton import untagged
from lab import image
from mrvpn.render import environment

REPO = Path(__file__).parents[2]
IMAGE_ROOT = os.environ.get("MRVPN_IMAGE_ROOT", str(image.ROOT))
NETNS = f"mrvpn-t-dns-{os.getpid()}"
PORT, HOOK_PORT, PORTS = 5301, 5310, 16
CLIENT = "127.0.0.1"
HOOK = {"address": CLIENT, "port": HOOK_PORT, "ports": PORTS, "tries": 2, "timeout_ms": 300, "fail": "closed"}
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def sh(*argv: str, check: bool = True) -> str:
    """Runs a command; its output."""
    done = subprocess.run(argv, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def until(what: str, probe: Callable[[], Any], seconds: float = 30) -> Any:
    """Polls until the probe is true; what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that the tests started."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def entered(netns: str, work: Callable[[], T]) -> T:
    """What work returns in a namespace; a socket made there stays there."""
    made: list[T] = []
    problems: list[Exception] = []

    def enter() -> None:
        try:
            with Path(f"/run/netns/{netns}").open("rb") as handle:
                if _libc.setns(handle.fileno(), 0x40000000):  # CLONE_NEWNET
                    raise OSError(ctypes.get_errno(), f"{netns} could not be entered")
            made.append(work())
        except Exception as problem:
            problems.append(problem)

    thread = threading.Thread(target=enter)  # a thread of its own: it stays in the namespace until it ends
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return made[0]


def connected(server: tuple[str, int], kind: socket.SocketKind) -> socket.socket:
    """A socket of the tests' namespace to a server there, for a process that lives in another."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    s = entered(NETNS, lambda: socket.socket(family, kind))
    s.settimeout(5)
    try:
        s.connect(server)
    except OSError:
        s.close()
        raise
    s.setblocking(False)
    return s


@contextlib.contextmanager
def namespace(folder: Path, served: Mapping[str, Iterable[str]] = ZONES) -> Iterator[str]:
    """The namespace with its interfaces and the authoritative server; yields the root's DS record."""
    sh("ip", "netns", "add", NETNS)
    nsd = None
    try:
        inside = ["ip", "netns", "exec", NETNS]
        sh("ip", "-n", NETNS, "link", "set", "lo", "up")
        for name in ("wg-firezone", "wg_ru", "wg_us"):
            sh("ip", "-n", NETNS, "link", "add", name, "type", "veth", "peer", "name", f"p-{name}")
            sh("ip", "-n", NETNS, "link", "set", name, "up")
            sh("ip", "-n", NETNS, "link", "set", f"p-{name}", "up")
        ds = write(folder, served)
        zones = "".join(f'zone:\n  name: "{z}"\n  zonefile: "{z}.zone"\n' for z in served)
        (folder / "nsd.conf").write_text(
            f'server:\n  ip-address: {SERVER}\n  zonesdir: "{folder}"\n  username: ""\n  chroot: ""\n  pidfile: ""\n'
            f'  zonelistfile: "{folder}/zone.list"\n  xfrdfile: "{folder}/xfrd"\n  xfrdir: "{folder}"\n  database: ""\n'
            "  server-count: 1\n  tcp-count: 200\n  rrl-ratelimit: 0\nremote-control:\n  control-enable: no\n"
            f'zone:\n  name: "."\n  zonefile: "root.zone"\n{zones}'
        )
        with (folder / "nsd.log").open("wb") as log:
            nsd = subprocess.Popen(
                [*inside, "/usr/sbin/nsd", "-d", "-c", str(folder / "nsd.conf")], stdout=log, stderr=log
            )
        until("nsd answers", lambda: ask(".", "SOA", server=(SERVER, 53), tries=1).answer)
        yield ds
    finally:
        if nsd is not None:
            stop(nsd)
        subprocess.run(["ip", "netns", "del", NETNS])


def ask(
    name: str,
    kind: str = "A",
    *,
    tcp: bool = False,
    flags: int = 0,
    dnssec: bool = False,
    server: tuple[str, int] = (CLIENT, PORT),
    tries: int = 5,
) -> dns.message.Message:
    """The answer to a question; `flags` on top of RD, `dnssec` sets DO. An answer with no records where none came."""
    query = dns.message.make_query(name, kind, use_edns=0, want_dnssec=dnssec, payload=1232)
    query.flags |= flags
    for _ in range(tries):
        try:
            with connected(server, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as s:
                if tcp:
                    return dns.query.tcp(query, server[0], timeout=10, sock=s)
                return dns.query.udp(query, server[0], port=server[1], timeout=4, sock=s)
        except (OSError, dns.exception.Timeout):
            time.sleep(0.05)
    return dns.message.make_response(query)


def ede(answer: dns.message.Message) -> list[int]:
    """The extended error codes of an answer."""
    return [int(option.code) for option in answer.options if option.otype == 15]


def records(answer: dns.message.Message, kind: str) -> list[str]:
    """What the answer's records of a type hold, in order."""
    return sorted(
        item.to_text() for rrset in answer.answer if rrset.rdtype == dns.rdatatype.from_text(kind) for item in rrset
    )


def view(**hook: Any) -> dict[str, Any]:
    """The recursor's part of a host's view, as in docs/contracts.md, 1."""
    return {
        "service": "firezone_pdns", "namespace": "firezone", "folder": "mrvpn/powerdns/etc",
        "interfaces": ["wg-firezone"], "port": PORT, "allow_from": ["127.0.0.0/8", "::1/128"], "upstream": [SERVER],
        "forward": {}, "bypass": True, "max_ttl": 300, "dnssec": "process", "threads": 2,
        "user": {"name": "pdns", "uid": 953},
        "hook": HOOK | hook,
    }  # fmt: skip


def rendered(r: dict[str, Any]) -> dict[str, str]:
    """The recursor's files of a view."""
    jinja = environment(REPO / "salt")
    pairs = {"recursor.yml.j2": "recursor.yml", "hook.lua": "hook.lua", "bypass.rpz": "bypass.rpz"}
    return {target: jinja.get_template(f"mrvpn/recursor/files/{name}").render(r=r) for name, target in pairs.items()}


def in_image(*mounts: str, argv: Sequence[str]) -> list[str]:
    """The command that runs the image's own program in the namespace, after what mounts into its root."""
    script = " && ".join([*mounts, f'exec chroot {IMAGE_ROOT} "$@"'])
    return ["ip", "netns", "exec", NETNS, "unshare", "--mount", "sh", "-c", script, "sh", *argv]


class Recursor:
    """The image's recursor, by the image's own script, in a chroot that sees the rendered configuration."""

    def __init__(
        self,
        folder: Path,
        ds: str | None = None,
        changes: dict[str, Any] | None = None,
        bare: bool = False,
        **hook: Any,
    ) -> None:
        self.folder, self.run, self.etc = folder, folder / "run", folder / "etc"
        for path in (self.run, self.etc):
            path.mkdir(parents=True, exist_ok=True)
        for name, text in rendered(view(**hook) | (changes or {})).items():
            if name == "recursor.yml" and (ds or bare):
                value = yaml.safe_load(text)
                if ds:  # a root of the tests' own
                    value["dnssec"]["trustanchors"] = [{"name": ".", "dsrecords": [ds]}]
                if bare:
                    del value["recursor"]["lua_dns_script"]
                text = yaml.safe_dump(value)
            (self.etc / name).write_text(text)
        self.process: subprocess.Popen[bytes] | None = None
        # for the daemon, which finds rec_control on its PATH in the image
        self.bin = folder / "bin"
        self.bin.mkdir(exist_ok=True)
        command = shlex.join(self._command("rec_control", "--socket-dir=/run/mrvpn-recursor"))
        (self.bin / "rec_control").write_text(f'#!/bin/sh\nshift\nexec {command} "$@"\n')
        (self.bin / "rec_control").chmod(0o755)

    def _command(self, *argv: str) -> list[str]:
        return in_image(
            f"mount -t tmpfs t {IMAGE_ROOT}/run && mkdir -p {IMAGE_ROOT}/run/mrvpn-recursor",
            f"mount --bind {self.run} {IMAGE_ROOT}/run/mrvpn-recursor",
            f"mount --bind {self.etc} {IMAGE_ROOT}/etc/powerdns",
            argv=argv,
        )

    def _script(self, verb: str) -> list[str]:
        script = (REPO / "image/rootfs/usr/local/bin/mrvpn-recursor").read_text()
        return self._command("sh", "-c", script, "sh", verb)

    def start(self) -> None:
        with (self.folder / "recursor.log").open("ab") as log:
            self.process = subprocess.Popen(self._script("run"), stdout=log, stderr=log)
        until("the recursor answers", lambda: "pong" in self.control("ping"))

    def reload(self) -> int:
        """The exit code of `mrvpn-recursor reload`."""
        return subprocess.run(self._script("reload"), capture_output=True).returncode

    def control(self, *argv: str) -> str:
        """What rec_control answers."""
        return sh(*self._command("rec_control", "--socket-dir=/run/mrvpn-recursor", *argv), check=False)

    def check(self) -> subprocess.CompletedProcess[str]:
        """`pdns_recursor --config=check` on the rendered configuration."""
        command = self._command("pdns_recursor", "--config-dir=/etc/powerdns", "--config=check")
        return subprocess.run(command, capture_output=True, text=True)

    def wipe(self) -> None:
        """Empties the caches."""
        assert "wiped" in self.control("wipe-cache", "$")

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)


def settings(run: Path, rules: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """Settings of the daemon: .ru and two suffixes by wg_ru, .us by wg_us, which has no IPv6."""
    return {
        "version": "v1",
        "ingress": ["wg-firezone"],
        "exits": [
            {"name": "_DEFAULT", "mark": 200, "table": 254},
            {"name": "wg_ru", "interface": "wg_ru", "mark": 201, "table": 201},
            {"name": "wg_us", "interface": "wg_us", "mark": 202, "table": 202, "ipv6": False},
        ],
        "rules": rules
        if rules is not None
        else [
            {"id": "ru", "mark": 0x10000, "exit": "wg_ru", "kind": "domain", "patterns": [r".*\.ru"], "ttl": 90},
            {"id": "us", "mark": 0x10001, "exit": "wg_us", "kind": "domain", "suffixes": ["us"]},
            {
                "id": "dnssec",
                "mark": 0x10002,
                "exit": "wg_ru",
                "kind": "domain",
                "suffixes": ["good.signed", "bad.bogus"],
            },
        ],
        "domain_route_ttl": 300,
        "recursor": {"port": PORT, "interfaces": ["wg-firezone"], "uid": 953, "control": str(run)},
        "hook": HOOK,
        **changes,
    }


class Verdicts:
    """The daemon's process."""

    def __init__(self, folder: Path, run: Path, value: dict[str, Any], delay: float = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.run, self.delay = folder, run, delay
        self.settings, self.log = folder / "settings.yaml", folder / "taught.jsonl"
        self.log.touch()
        self.settings.write_text(yaml.safe_dump(value))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        script = str(Path(__file__).parent / "verdict_process.py")
        env = {**os.environ, "PYTHONPATH": str(REPO), "PATH": f"{self.run.parent}/bin:{os.environ['PATH']}"}
        if not (self.folder / "state").exists():  # another one's elements carry names: it would take them over
            sh("ip", "netns", "exec", NETNS, "nft", "add table inet mrvpn; delete table inet mrvpn")
        arguments = [self.settings, self.folder / "state", self.folder / "control.sock", self.log, self.delay]
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", NETNS, sys.executable, script, *map(str, arguments)],
                stdout=log, stderr=log, env=env,
            )  # fmt: skip
        until("the daemon is ready", lambda: self.call("GET", "/status", check=False).get("ready"))

    def call(self, method: str, path: str, check: bool = True) -> dict[str, Any]:
        """What the daemon's control socket answers."""
        done = subprocess.run(
            ["curl", "-s", "-X", method, "--unix-socket", str(self.folder / "control.sock"), f"http://d{path}"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def taught(self) -> dict[str, float]:
        """When the kernel first had each address, by CLOCK_MONOTONIC."""
        found: dict[str, float] = {}
        for line in self.log.read_text().splitlines():
            at, addresses = json.loads(line)
            for address in addresses:
                found.setdefault(address, at)
        return found

    def elements(self) -> dict[str, tuple[int, float]]:
        """What the kernel has: {address: (mark, seconds left)}."""
        found = {}
        for family in (4, 6):
            text = sh("ip", "netns", "exec", NETNS, "nft", "-j", "list", "map", "inet", "mrvpn", f"learned{family}")
            for item in json.loads(text)["nftables"]:
                for key, mark in item.get("map", {}).get("elem", []):
                    found[key["elem"]["val"]] = (untagged(int(mark)), float(key["elem"]["expires"]))
        return found

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the daemon itself."""
        assert self.process is not None
        self.process.send_signal(number)
