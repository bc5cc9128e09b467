"""Routers: an apply that changes nothing (writes, prints, seconds), and what many proxies cost in time and memory.

One master on loopback, `mrvpn-salt-proxy` processes, simulated routers of the newest version with five tunnels each.
How many is told by MRVPN_BENCH_PROXIES (processes, "1,5,10,20") and MRVPN_BENCH_DELTA (routers in one process,
"10,50,100").
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from bench.figure import Figure, seconds
from mrvpn import compiler, views
from mrvpn.routeros import PATHS
from mrvpn.routeros.transaction import Order, reconcile
from tests.simulators.routeros import Router, Simulator
from tests.simulators.routeros.certs import Authority, Pair

REPO = Path(__file__).parents[1]
TUNNELS = 5
PASSWORD = "s3cret"


def _counts(name: str, default: str) -> list[int]:
    return [int(part) for part in os.environ.get(name, default).split(",") if part]


def _key(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def describe(routers: int) -> dict[str, Any]:
    """A description of so many routers with five tunnels to the entrypoint each."""
    tunnels = {}
    for n in range(routers):
        for t in range(TUNNELS):
            number = n * TUNNELS + t
            tunnels[f"wg{n}x{t}"] = {
                "subnet": [f"10.{100 + number // 256}.{number % 256}.0/24", f"fd6d:7276:{number:x}::/64"],
                "hosts": {
                    f"router{n}": {"public_key": _key(f"r{number}")},
                    "entry": {"expose": 20000 + number, "allowed_nets": ["0.0.0.0/0"], "compose_service": "firezone",
                              "public_key": _key(f"e{number}")},
                },
            }  # fmt: skip
    hosts = {f"router{n}": {"os": "routeros", "lan": [f"192.168.{n}.0/24"]} for n in range(routers)}
    return {
        "mrvpn": {
            "entrypoint": "entry",
            "gateway": "wireguard",
            "port_range": None,
            "hosts": {"entry": {"endpoint": "203.0.113.10"}, **hosts},
            "tunnels": tunnels,
            "routing": {"routes": [{"interface": "_DEFAULT", "net": "0.0.0.0/0"}]},
            "services": {"firezone": ["wg-firezone"]},
        }
    }


def _proxy_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_proxy_routeros", REPO / "_proxy" / "routeros.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Site:
    """A master and proxies, in a folder; everything ends with it."""

    def __init__(self, folder: Path, routers: int, authority: Authority) -> None:
        self.folder, self.authority = folder, authority
        self.started: list[subprocess.Popen[bytes]] = []
        self.env = {**os.environ, "PYTHONPATH": f"{REPO}:{os.environ.get('PYTHONPATH', '')}"}
        for name in ("network", "pillar", "master"):
            (folder / name).mkdir()
        (folder / "network" / "network.yaml").write_text(yaml.safe_dump(describe(routers)))
        (folder / "pillar" / "top.sls").write_text("{}\n")
        self.port = _free_port()
        config = {
            "interface": "127.0.0.1", "publish_port": _free_port(), "ret_port": self.port, "open_mode": True,
            "user": "root", "root_dir": str(folder / "master"), "worker_threads": 3, "log_level": "quiet",
            "pki_dir": str(folder / "master" / "pki"), "cachedir": str(folder / "master" / "cache"),
            "sock_dir": str(folder / "master" / "sock"), "log_file": str(folder / "master" / "log"),
            "pidfile": str(folder / "master" / "pid"), "log_level_logfile": "error",
            "file_roots": {"base": [str(REPO / "salt"), str(REPO / "ext")]},
            "pillar_roots": {"base": [str(folder / "pillar")]}, "pillar_dirs": [str(REPO / "_pillar")],
            "ext_pillar": [{"mrvpn": {"path": str(folder / "network")}}], "max_minions": 0,
        }  # fmt: skip
        (folder / "master" / "master").write_text(json.dumps(config))
        self._start([self._salt("salt-master"), "-c", str(folder / "master")], folder / "master")

    def _salt(self, name: str) -> str:
        return str(Path(sys.executable).parent / name)

    def _start(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *command], env=self.env, cwd=REPO, stdout=out, stderr=out, start_new_session=True
            )
        self.started.append(process)
        return process

    def pillar(self, settings: dict[str, dict[str, Any]]) -> None:
        """The proxy settings of each id."""
        for ident, proxy in settings.items():
            (self.folder / "pillar" / f"{ident}.sls").write_text(yaml.safe_dump({"proxy": proxy}))
        (self.folder / "pillar" / "top.sls").write_text(yaml.safe_dump({"base": {i: [i] for i in settings}}))

    def proxy(self, ident: str, **options: Any) -> subprocess.Popen[bytes]:
        folder = self.folder / ident
        folder.mkdir()
        config = {
            "master": "127.0.0.1", "master_port": self.port, "root_dir": str(folder), "user": "root",
            "pki_dir": str(folder / "pki"), "cachedir": str(folder / "cache"), "sock_dir": str(folder / "sock"),
            "log_file": str(folder / "log"), "pidfile": str(folder / "pid"), "log_level_logfile": "error",
            "log_level": "quiet", "acceptance_wait_time": 1, "random_startup_delay": 0,
            "extension_modules": str(folder / "extmods"), "autoload_dynamic_modules": False, **options,
        }  # fmt: skip
        (folder / "proxy").write_text(json.dumps(config))
        program = str(REPO / "bin" / "mrvpn-salt-proxy")
        return self._start([program, "-c", str(folder), f"--proxyid={ident}"], folder)

    def salt(self, target: str, *arguments: str, timeout: int = 60) -> dict[str, Any]:
        """The answers by id, of those that gave one."""
        command = [sys.executable, self._salt("salt"), "-c", str(self.folder / "master"), "--out=json", "--static"]
        command += ["-t", str(timeout), "-L", target, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env, cwd=REPO)
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {}
        return found

    def wait(self, idents: list[str], limit: float = 900) -> float:
        """Seconds until every router answers test.ping through its proxy."""
        start = time.monotonic()
        missing = idents
        while True:
            # each is asked until it has answered once: a question is a fork, and those in vain would pile up
            answers = self.salt(",".join(missing), "test.ping", timeout=15 + 2 * len(missing))
            missing = [ident for ident in missing if answers.get(ident) is not True]
            if not missing:
                return time.monotonic() - start
            if time.monotonic() - start > limit:
                raise RuntimeError(f"{len(missing)} of {len(idents)} proxies did not come up in {limit:.0f} s")
            time.sleep(0.5)

    def stop(self) -> None:
        for process in reversed(self.started):
            end(process)
        folder = self.folder
        # a job puts itself into a session of its own: what still names our folder is ours
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"--proxyid=" in (text := line.read_bytes()) and str(folder).encode() in text:
                    os.kill(int(line.parent.name), signal.SIGKILL)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and the jobs it forked."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


def memory(processes: Iterable[subprocess.Popen[bytes]]) -> float:
    """MB (PSS) of the process groups."""
    groups, total = {process.pid for process in processes}, 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[2]) in groups:
                lines = (status.parent / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, ValueError, IndexError):
            continue
    return total / 1024


@contextlib.contextmanager
def _simulators(count: int, pair: Pair) -> Iterator[list[Simulator]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Simulator(Router(identity=f"router{n}"), pair)) for n in range(count)]


class _Scaling:
    """Figures of ever more routers, in all and for each one: a ratio of 1 for each one is linear growth."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._fewest: dict[str, tuple[int, float]] = {}

    def figures(self, routers: int, what: str, total: float, unit: str) -> Iterator[Figure]:
        """What so many routers took together; and each, beside what each of the fewest took."""
        fewest, least = self._fewest.setdefault(what, (routers, total / routers))
        name = f"{self.kind}, {routers}: {what}"
        yield Figure(name, total, unit)
        if routers != fewest:
            yield Figure(f"{name}, each", total / routers, unit, f"each of {fewest}", least)


def _applies(scaling: _Scaling, site: Site, idents: list[str], simulators: list[Simulator]) -> Iterator[Figure]:
    """state.apply on all of them at once, of routers as they were bought, and again when there is nothing to change."""
    for simulator in simulators:
        simulator.router.rows = Router().rows
    for what in ("first state.apply", "no-change state.apply"):
        start = time.monotonic()
        answers = site.salt(",".join(idents), "state.apply", timeout=600)
        taken = time.monotonic() - start
        good = [isinstance(a, dict) and all(state["result"] for state in a.values()) for a in answers.values()]
        held = [len(simulator.router.rows["/interface/wireguard"]) == TUNNELS for simulator in simulators]
        if (sum(good), sum(held)) != (len(idents), len(idents)):
            raise RuntimeError(f"{what} went well on {sum(good)} of {len(idents)} routers, {sum(held)} hold its rows")
        yield from scaling.figures(len(idents), what, taken, "s")


def _settings(simulator: Simulator, authority: Authority) -> dict[str, Any]:
    return {
        "proxytype": "routeros", "host": "127.0.0.1", "port": simulator.port, "username": "salt",
        "password": PASSWORD, "tls": {"ca": authority.file.read_text()},
    }  # fmt: skip


def _alone(folder: Path, authority: Authority, pair: Pair) -> Iterator[Figure]:
    """The transaction without Salt around it."""
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump(describe(1)))
    compiled = compiler.compile_path(path)
    assert compiled.network is not None, compiled.errors
    section = views.view(compiled.network, "router0", {}, {"psk_root": "x" * 40}.get)["routeros"]
    order = Order(declared=section["rows"], pings=tuple(section["pings"]), hooks=section["hooks"])
    with _simulators(1, pair) as (simulator,):
        session = _proxy_module().Session(_settings(simulator, authority))
        start = time.perf_counter()
        first = reconcile(session, order)
        yield Figure(
            f"first apply, {TUNNELS} tunnels, {first.writes} writes, no Salt", time.perf_counter() - start, "s"
        )
        simulator.router.writes = 0
        simulator.router.prints.clear()
        taken = seconds(lambda: reconcile(session, order))
        yield Figure("no-change apply, the transaction alone", taken * 1000, "ms")


def _through_the_master(site: Site, simulator: Simulator) -> Iterator[Figure]:
    site.salt("router0", "state.apply")
    router = simulator.router
    router.writes = 0
    router.prints.clear()
    taken = seconds(lambda: site.salt("router0", "state.apply"), runs=3)
    ping = seconds(lambda: site.salt("router0", "test.ping"), runs=3)
    prints = max(router.prints[path] for path in PATHS) / 4
    name = f"no-change state.apply of a router, {TUNNELS} tunnels, through the master"
    yield Figure(name, taken, "s", "test.ping", ping, "<= 4 s", taken <= 4)
    yield Figure("writes of a no-change apply", router.writes, "writes", None, None, "0", router.writes == 0)
    yield Figure("prints per path of a no-change apply", prints, "prints", None, None, "1", prints == 1)


def _processes(site: Site, simulators: list[Simulator], authority: Authority) -> Iterator[Figure]:
    counts = [count for count in _counts("MRVPN_BENCH_PROXIES", "1,5,10,20") if count <= len(simulators)]
    site.pillar({f"router{n}": _settings(simulator, authority) for n, simulator in enumerate(simulators)})
    running: list[subprocess.Popen[bytes]] = []
    scaling = _Scaling("a process per router")
    for count in counts:
        fresh = range(len(running), count)
        running += [site.proxy(f"router{n}") for n in fresh]
        idents = [f"router{n}" for n in range(count)]
        up = site.wait(idents)
        yield Figure(f"a process per router, {len(fresh)} more at once: up after", up, "s")
        if count == counts[0]:
            yield from _through_the_master(site, simulators[0])
        yield from scaling.figures(count, "memory", memory(running), "MB")
        yield from _applies(scaling, site, idents, simulators[:count])
    for process in running:
        end(process)


def _delta(site: Site, simulators: list[Simulator], authority: Authority) -> Iterator[Figure]:
    scaling = _Scaling("a deltaproxy")
    for count in [count for count in _counts("MRVPN_BENCH_DELTA", "10,50,100") if count <= len(simulators)]:
        idents = [f"router{n}" for n in range(count)]
        control = f"control{count}"
        settings = {ident: _settings(simulators[n], authority) for n, ident in enumerate(idents)}
        delta = {"proxytype": "deltaproxy", "ids": idents}
        site.pillar({control: delta, **settings})
        process = site.proxy(control, metaproxy="deltaproxy")
        yield from scaling.figures(count, "up after", site.wait(idents), "s")
        yield from scaling.figures(count, "memory", memory([process]), "MB")
        yield from _applies(scaling, site, idents, simulators[:count])
        end(process)


def measure() -> Iterable[Figure]:
    """All of it; most of the time is Salt's start of the proxies."""
    one = _counts("MRVPN_BENCH_PROXIES", "1,5,10,20")
    delta = _counts("MRVPN_BENCH_DELTA", "10,50,100")
    most = max([*one, *delta, 1])
    with tempfile.TemporaryDirectory(prefix="mrvpn-b") as name:
        folder = Path(name)
        authority = Authority(folder)
        pair = authority.issue("router")
        yield from _alone(folder, authority, pair)
        with _simulators(most, pair) as simulators:
            site = Site(folder, most, authority)
            try:
                yield from _processes(site, simulators, authority)
                yield from _delta(site, simulators, authority)
            finally:
                site.stop()
