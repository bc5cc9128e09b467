"""A gateway, its client and its exits as network namespaces on this machine, joined by veth; nothing leads outside.

    client 10.11.0.2 --- wg-firezone [gateway] wg_uk ------ uk      any address, answers with its own name
                                               wg_us ------ us      likewise
                                               wg_office -- office  10.77.0.0/24, declared mesh
                                               eth0 ------- default any address: the default exit

Knows: namespaces, packets. Must not know: what is right. The tunnels stand for WireGuard: they resolve no neighbours
(both ends have one MAC address), so that `default dev wg_uk` reaches every address, as a tunnel does.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ipt_server.control import client
from ipt_server.settings import Settings, parse

REPO = Path(__file__).parents[2]
TUNNELS = ("wg_uk", "wg_us", "wg_office")
EXITS = ("wg_uk", "wg_us", "eth0")
CLIENT = {4: "10.11.0.2", 6: "fd6d:7276:11::2"}
GATEWAY = {4: "10.11.0.1", 6: "fd6d:7276:11::1"}
OFFICE = {4: "10.77.0.10", 6: "fd6d:7276:77::10"}
UPLINK = {4: "192.0.2.2", 6: "2001:db8:f::2"}
PORT = 7007
# how a connection that has no way out ends; the kernel limits the rate of its errors, so that one may stay silent
NOWHERE = ("No route to host", "Network is unreachable", "Permission denied", "TimeoutError")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def sh(*argv: str, text: str | None = None) -> str:
    """The output of a command; raises AssertionError with what it said when it fails."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout


def until(what: str, probe: Callable[[], Any], seconds: float = 20) -> Any:
    """The first true value of `probe`; raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True)
class Namespace:
    """One network namespace of ours."""

    name: str

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, the sockets it makes and the programs it starts are inside."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(there)
            os.close(home)

    def run(self, *argv: str, text: str | None = None) -> str:
        """The output of a command run inside."""
        return sh("ip", "netns", "exec", self.name, *argv, text=text)

    def ip(self, *argv: str) -> str:
        """The output of ip(8) inside."""
        return sh("ip", "-n", self.name, *argv)


class Answerer:
    """What stands behind an exit: it has every address, says the exit's name, and remembers who sent what to whom."""

    def __init__(self, name: str, namespace: Namespace) -> None:
        self.name = name
        self.seen: Counter[tuple[str, str]] = Counter()  # (source, destination) of datagrams
        self._stop = threading.Event()
        with namespace.inside():
            self._tcp = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
            self._udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self._udp.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT: it answers from any address
            self._udp.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
            self._udp.bind(("::", PORT))
        self._udp.settimeout(0.1)
        self._tcp.settimeout(0.1)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._streams, self._datagrams)]
        for thread in self._threads:
            thread.start()

    def _streams(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                peer, _ = self._tcp.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.sendall(self.name.encode() + b"\n")
            while data := peer.recv(100):
                peer.sendall(self.name.encode() + b" " + data)

    def _datagrams(self) -> None:
        while not self._stop.is_set():
            try:
                data, ancillary, _, peer = self._udp.recvmsg(2048, 256)
            except OSError:
                continue
            info = next(value for _, kind, value in ancillary if kind == socket.IPV6_PKTINFO)
            destination = socket.inet_ntop(socket.AF_INET6, info[:16]).removeprefix("::ffff:")
            self.seen[peer[0].removeprefix("::ffff:"), destination] += 1
            with contextlib.suppress(OSError):
                # from the address that was asked, whatever it was
                back = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info[:16] + b"\0" * 4)]
                self._udp.sendmsg([self.name.encode() + b" " + data[:16]], back, 0, peer)

    def stop(self) -> None:
        """Ends the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._tcp.close()
        self._udp.close()


@dataclass
class Rig:
    """The namespaces and what answers in them."""

    client: Namespace
    gateway: Namespace
    behind: dict[str, Namespace]  # by the gateway's interface
    answerers: dict[str, Answerer] = field(default_factory=dict)

    # --- the client's side

    def nowhere(self, address: str) -> bool:
        """Whether a new connection from the client has no way out."""
        return self.exit_of(address, timeout=1) in NOWHERE

    def exit_of(self, address: str, timeout: float = 3) -> str:
        """By which interface a new TCP connection from the client leaves: the answerer's name, or why it got none."""
        try:
            with self.connect(address, timeout) as s:
                return s.recv(100).decode().strip()
        except OSError as error:
            return type(error).__name__ if error.errno is None else os.strerror(error.errno)

    def connect(self, address: str, timeout: float = 3) -> socket.socket:
        """A TCP connection from the client."""
        with self.client.inside():
            s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            s.settimeout(timeout)
            try:
                s.connect((address, PORT))
            except OSError:
                s.close()
                raise
            return s

    def udp(self, address: str, port: int = 0) -> socket.socket:
        """A connected UDP socket of the client."""
        with self.client.inside():
            s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            s.bind(("", port))
            s.connect((address, PORT))
            s.settimeout(3)
            return s

    # --- the gateway's side

    def settings(self, *rules: dict[str, Any], **over: Any) -> Settings:
        """Settings of the gateway with these rules."""
        return parse(self.raw(*rules, **over))

    def raw(self, *rules: dict[str, Any], **over: Any) -> dict[str, Any]:
        """Settings of the gateway as the file holds them."""
        return {
            "version": "0123456789abcdef",
            "ingress": ["wg-firezone"],
            "tunnels": [
                {"interface": "wg_uk", "sources": ["10.9.20.0/24", "fd6d:7276:20::/64"]},
                {"interface": "wg_us", "sources": []},
                {"interface": "wg_office", "sources": ["10.77.0.0/24", "fd6d:7276:77::/64"]},
            ],
            "mesh": {
                "ipv4": ["10.9.20.0/24", "10.11.0.0/24", "10.77.0.0/24", "10.78.0.0/24"],
                "ipv6": ["fd6d:7276:11::/64", "fd6d:7276:20::/64", "fd6d:7276:77::/64"],
            },
            "exits": [
                {"name": "_DEFAULT", "interface": None, "mark": 200, "table": 254},
                {"name": "wg_uk", "interface": "wg_uk", "mark": 201, "table": 201},
                {"name": "wg_us", "interface": "wg_us", "mark": 202, "table": 202},
            ],
            "rules": list(rules),
            "own": [*GATEWAY.values(), "203.0.113.20"],
            "recursor": {"port": 5301, "interfaces": ["wg-firezone"], "uid": 0, "control": "/nonexistent"},
            **over,
        }

    def counter(self, name: str) -> int:
        """The packets that a named counter of `inet mrvpn` has seen."""
        text = self.gateway.run("nft", "list", "counter", "inet", "mrvpn", name)
        return int(text.split("packets ")[1].split()[0])


def _veth(a: Namespace, a_name: str, b: Namespace, b_name: str, tunnel: bool) -> None:
    sh("ip", "link", "add", a_name, "netns", a.name, "type", "veth", "peer", "name", b_name, "netns", b.name)
    for namespace, name in ((a, a_name), (b, b_name)):
        namespace.ip("link", "set", name, "addrgenmode", "none")
        if tunnel:
            namespace.ip("link", "set", name, "address", "02:00:00:00:00:01", "arp", "off")
        namespace.ip("link", "set", name, "up")


def _address(namespace: Namespace, name: str, *addresses: str) -> None:
    for address in addresses:
        namespace.ip("addr", "add", address, "dev", name, *(["nodad"] if ":" in address else []))


def ingress(rig: Rig) -> None:
    """Makes the clients' interface: at first, and when it came back."""
    _veth(rig.client, "cl", rig.gateway, "wg-firezone", tunnel=True)
    _address(rig.client, "cl", f"{CLIENT[4]}/24", f"{CLIENT[6]}/64")
    _address(rig.gateway, "wg-firezone", f"{GATEWAY[4]}/24", f"{GATEWAY[6]}/64")
    rig.client.ip("route", "add", "default", "via", GATEWAY[4])
    rig.client.ip("-6", "route", "add", "default", "via", GATEWAY[6])


def tunnel(rig: Rig, name: str) -> None:
    """Makes the tunnel to what stands behind an interface: at first, and when it came back after a failure."""
    far = rig.behind[name]
    _veth(rig.gateway, name, far, "tun", tunnel=True)
    number = 20 + TUNNELS.index(name)
    _address(rig.gateway, name, f"10.9.{number}.2/24", f"fd6d:7276:{number}::2/64")
    _address(far, "tun", f"10.9.{number}.1/24", f"fd6d:7276:{number}::1/64")
    for prefix in ("10.0.0.0/8", "fd00::/8"):
        far.ip("route", "replace", prefix, "dev", "tun")
    if name == "wg_office":
        for prefix in ("10.77.0.0/24", "fd6d:7276:77::/64"):
            rig.gateway.ip("route", "add", prefix, "dev", name)


def _everything(namespace: Namespace) -> None:
    """Makes every address this namespace's own, unless a more specific route leads elsewhere."""
    namespace.ip("route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "main")
    namespace.ip("-6", "route", "add", "local", "::/0", "dev", "lo", "table", "main")


ROUTING = ("net.ipv4.conf.all.accept_local=1", "net.ipv4.ip_early_demux=0")  # as the gateway's namespace has it
PLAIN_ROUTING = ("net.ipv4.conf.all.accept_local=0", "net.ipv4.ip_early_demux=1")  # as the kernel has it


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """The namespaces, up; removed whatever happens."""
    stem = f"mrvpn-k{os.getpid()}-{next(_numbers)}"
    made = {name: Namespace(f"{stem}-{name}") for name in ("client", "gateway", *EXITS, "wg_office")}
    found = Rig(made["client"], made["gateway"], {name: made[name] for name in (*EXITS, "wg_office")})
    try:
        for namespace in made.values():
            sh("ip", "netns", "add", namespace.name)
            namespace.ip("link", "set", "lo", "up")
            sysctls = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0",
                       "net.ipv4.conf.default.rp_filter=0")  # fmt: skip
            namespace.run("sysctl", "-qw", *sysctls)
        found.gateway.run("sysctl", "-qw", "net.ipv4.fwmark_reflect=1", "net.ipv6.fwmark_reflect=1", *ROUTING)
        ingress(found)
        _veth(found.gateway, "eth0", found.behind["eth0"], "up0", tunnel=False)
        _address(found.gateway, "eth0", f"{UPLINK[4]}/24", f"{UPLINK[6]}/64")
        _address(found.behind["eth0"], "up0", "192.0.2.1/24", "2001:db8:f::1/64")
        found.gateway.ip("route", "add", "default", "via", "192.0.2.1")
        found.gateway.ip("-6", "route", "add", "default", "via", "2001:db8:f::1")
        for name in TUNNELS:
            tunnel(found, name)
        _address(found.behind["wg_office"], "lo", f"{OFFICE[4]}/24", f"{OFFICE[6]}/64")
        for name in EXITS:
            _everything(found.behind[name])
        for name, namespace in found.behind.items():
            found.answerers[name] = Answerer(name, namespace)
        yield found
    finally:
        for answerer in found.answerers.values():
            answerer.stop()
        for namespace in made.values():
            if Path("/run/netns", namespace.name).exists():
                sh("ip", "netns", "del", namespace.name)


class RunningDaemon:
    """A real ipt_server in the gateway's namespace, with its files in a folder of the test's."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self._rig = rig
        self.folder = folder
        self.settings = folder / "settings.yaml"
        self.control = folder / "run" / "control.sock"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, value: dict[str, Any]) -> None:
        """Writes the settings, as a deployment does: beside, then renamed."""
        new = self.settings.with_suffix(".new")
        new.write_text(yaml.safe_dump({"version": f"{next(_numbers):016x}", **value}))
        new.rename(self.settings)

    def start(self, ready: bool = True, under: Sequence[str] = ()) -> None:
        """Starts the process, by the command `under`; returns when it answers, or at once."""
        files = ("--settings", self.settings, "--control", self.control, "--state", self.folder / "state")
        run = [sys.executable, "-m", "ipt_server.cli", "run", *map(str, files)]
        argv = ["ip", "netns", "exec", self._rig.gateway.name, *under, *run]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        self.process = subprocess.Popen(argv, env=environment, stdout=self.log.open("ab"), stderr=subprocess.STDOUT)
        if ready:
            until("the daemon is ready", self._ready, 60)

    def _ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            status = self.ask("/status")
            assert not status["problems"] or status["generation"], status["problems"]
            return bool(status["ready"])
        except client.NotRunning:
            return False

    def ask(self, target: str, method: str = "GET") -> Any:
        """The decoded answer of the control socket."""
        return client.request(self.control, method, target)[1]

    def reload(self) -> Any:
        """The answer to `reload`."""
        return self.ask("/reload", "POST")

    def signal(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def hook(self, qname: str, *records: str, qtype: int = 1, client_: str = CLIENT[4], port: int = 5310) -> str:
        """What the hook would be told of an answer, without the nonce; "" for "let it go"."""
        with self._rig.gateway.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(5)
            s.connect(("127.0.0.1", port))
            s.send("\n".join([f"nonce {qtype} {client_} {qname}", *records]).encode())
            return s.recv(512).decode().removeprefix("nonce").strip()

    def stop(self) -> None:
        """Ends the process, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running(rig: Rig, folder: Path, *rules: dict[str, Any], **over: Any) -> Iterator[RunningDaemon]:
    """A daemon with these settings, not started; ended with the body, and its table with it."""
    found = RunningDaemon(rig, folder)
    found.write(rig.raw(*rules, **over))
    try:
        yield found
    finally:
        found.stop()
        rig.gateway.run("nft", "-f", "-", text="table inet mrvpn\ndelete table inet mrvpn\n")


@contextlib.contextmanager
def replies(namespace: Namespace) -> Iterator[None]:
    """An HTTP server on port 8099 and a resolver on port 53, of any address, that answer everything."""
    over = threading.Event()
    with namespace.inside():
        http = socket.create_server(("", 8099))
        dns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        dns.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        dns.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT
        dns.bind(("::", 53))
    http.settimeout(0.1)
    dns.settimeout(0.1)

    def pages() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                peer, _ = http.accept()
                with peer:
                    peer.recv(1000)
                    peer.sendall(b"HTTP/1.0 204 No Content\r\n\r\n")

    def answers() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                data, ancillary, _, peer = dns.recvmsg(600, 256)
                info = next(value for _, kind, value in ancillary if kind == socket.IPV6_PKTINFO)
                back = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info[:16] + b"\0" * 4)]
                dns.sendmsg([data[:2] + b"\x80" + data[3:]], back, 0, peer)

    threads = [threading.Thread(target=work, daemon=True) for work in (pages, answers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        http.close()
        dns.close()
