"""What the DNS path costs: beside a bare recursor, and beside the mechanism's floor, a daemon in C that only answers.

Knows: the tests' namespace with the image's recursor and daemon, the load generator dns_load.c. Both run by the image's
own interpreter and libraries, as they are deployed. Figures that are compared are measured in turns within one run; a
figure is the median of its turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.figure import Figure

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / "tests" / "dns"))

COLD, COLD_TURNS = 3000, 15  # names a turn; turns
PACED, PACED_TURNS = 500, 20  # questions a turn, at 1,000 a second; turns, short since the machine's own pace drifts
FRESH = 24_000  # names with an address of their own
BARE, FLOOR, IDLE = 5302, 5303, 5304  # ports of the recursors beside the real one
FLOOR_HOOK = 5410
SWAPPED = 500_000


def measure() -> Iterable[Figure]:
    """Yields the figures of the DNS path; raises where this machine cannot measure them."""
    yield from matching()
    if os.geteuid() != 0 or not shutil.which("cc"):
        raise RuntimeError("needs root and a C compiler (Debian: gcc libc6-dev)")
    with tempfile.TemporaryDirectory(prefix="mrvpn-bench-dns-") as folder:
        yield from path(Path(folder))


# --- in process


MATCHING = """
import statistics, time
from pathlib import Path
from tempfile import TemporaryDirectory
from bench.peak import peak
from ipt_server.core.names import NameIndex
from ipt_server.dns.filter import Filter
start = time.perf_counter()
index = NameIndex()
index.add(1, (f"n{n}.shop{n % 7919}.example{n % 13}.com" for n in range(500_000)))
for n in range(1000):
    index.add_pattern(2 + n, rf"ads{n}-[0-9]+\\..*\\.example{n % 13}\\.net")
index.finish()
built = time.perf_counter() - start
with TemporaryDirectory() as folder:
    start = time.perf_counter()
    Filter(Path(folder)).write(index.suffixes(), index.asks_for_all)
    filtered = time.perf_counter() - start
names = [f"www.n{n * 997 % 1_000_000}.shop{n * 997 % 7919}.example{n % 13}.com" for n in range(20_000)]
names += [f"ads{n % 1000}-7.x{n}.example{n % 13}.net" for n in range(2_000)]
took = []
for name in names:
    start = time.perf_counter()
    index.match(name)
    took.append(time.perf_counter() - start)
memory = peak() / 1024
print(statistics.median(took) * 1e6, memory, built, filtered)
"""


def matching() -> Iterator[Figure]:
    """1,000 regexes and 500,000 suffixes in one process of their own."""
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", MATCHING], capture_output=True, text=True, env=env, check=True)
    took, memory, built, filtered = map(float, done.stdout.split())
    what = "1,000 regex + 500,000 suffix rules"
    yield Figure(f"{what}: match, p50", took, "us", bar="<= 15 us", met=took <= 15)
    yield Figure(f"{what}: memory of the process", memory, "MB", bar="<= 200 MB", met=memory <= 200)
    yield Figure(f"{what}: index built", built, "s")
    yield Figure(f"{what}: filter written", filtered, "s")


IN_PROCESS = """
import asyncio, statistics, sys, time
from ipaddress import IPv4Address
from pathlib import Path
from ipt_server.core.learned import Change
from ipt_server.daemon import Daemon, Paths
settings, folder = map(Path, sys.argv[1:])
async def main():
    daemon = Daemon(Paths(settings, settings, folder / "state", folder / "control.sock"))
    await daemon.start()
    def timed(works):
        took = []
        for work in works:
            start = time.perf_counter()
            work()
            took.append(time.perf_counter() - start)
        return statistics.median(took) * 1e6
    def question(n):
        address = IPv4Address((46 << 24 | 64 << 16) + n)
        return f"7f-{n} 1 127.0.0.1 n{n}.fresh.\\n1 60 n{n}.fresh. {address}".encode()
    asked = [question(n) for n in range(5000)]
    first = timed([lambda q=q: daemon.server.verdict(q) for q in asked])
    known = timed([lambda q=q: daemon.server.verdict(q) for q in asked])
    changes = [[Change(IPv4Address(0x2E800000 + n), 0x10000, 600, False)] for n in range(5000)]
    raw = timed([lambda c=c: daemon.kernel.learn(c) for c in changes])
    daemon.server.stop()
    print(first, known, raw)
asyncio.run(main())
"""


def deployed(folder: Path, *argv: str) -> list[str]:
    """The command that runs the image's program in the tests' namespace, with a folder of ours in its place."""
    from dnsrig import IMAGE_ROOT as ROOT
    from dnsrig import in_image

    return in_image(
        f"mount -t tmpfs t {ROOT}/tmp && mkdir -p {ROOT}{folder} && mount --bind {folder} {ROOT}{folder}",
        f"mount --rbind /proc {ROOT}/proc && mount --rbind /dev {ROOT}/dev",
        argv=argv,
    )


def in_process(settings: Path, folder: Path) -> Iterator[Figure]:
    """What an answer costs inside the daemon, without sockets: hot, the real nftables behind it."""
    folder.mkdir()
    wipe = "add table inet mrvpn; delete table inet mrvpn"  # a daemon takes over what another's elements say
    subprocess.run(deployed(folder.parent, "nft", wipe), check=True)
    command = deployed(folder.parent, "python3", "-c", IN_PROCESS, str(settings), str(folder))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    first, known, raw = map(float, done.stdout.split())
    yield Figure("learn one address, raw path, in process, p50", raw, "us", bar="<= 10 us", met=raw <= 10)
    yield Figure("verdict in process, first learning, p50", first, "us", "raw path", raw)
    yield Figure("verdict in process, address known, p50", known, "us", "raw path", raw)


# --- the real recursor, hook and daemon


class Bench:
    """The load generator, pointed at one recursor after another; every turn asks names that nobody asked before."""

    def __init__(self, tool: Path, netns: str, recursors: Sequence[Any]) -> None:
        self.tool, self.netns, self._recursors = tool, netns, recursors
        self._start = 0

    def ask(self, port: int, count: int, rate: int, *suffixes: str, window: int = 64, start: int | None = None) -> Any:
        """What the generator found."""
        if start is None:
            start = self._start
            self._start += count
        where = ["127.0.0.1", str(port), str(count), str(window), str(rate), str(start), *suffixes]
        command = ["ip", "netns", "exec", self.netns, str(self.tool), "ask", *where]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        if found["failed"] > count / 100:
            raise RuntimeError(f"{found['failed']} of {count} answers failed: {where}")
        return found

    def even(self) -> None:
        """Empties every recursor's caches: one that was asked more names would pay for its larger cache."""
        for recursor in self._recursors:
            recursor.wipe()

    def turns(self, key: str, works: dict[str, Callable[[], Any]], count: int, even: bool = False) -> dict[str, float]:
        """The median of each work's turns, which alternate; `even`: each begins with empty caches."""
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(count):
            for name, work in works.items():
                if even:
                    self.even()
                found[name].append(work()[key])
        return {name: statistics.median(values) for name, values in found.items()}


def daemon_of(folder: Path, run: Path, settings: dict[str, Any]) -> Any:
    """The image's daemon, as `dnsrig.Verdicts` is the one of this checkout."""
    import dnsrig

    class Daemon(dnsrig.Verdicts):
        def start(self) -> None:
            where = ["--settings", self.settings, "--state", self.folder / "state"]
            where += ["--control", self.folder / "control.sock"]
            command = ["python3", "-m", "ipt_server.cli", "run", *map(str, where)]
            with (self.folder / "daemon.log").open("ab") as log:
                command = deployed(self.folder.parent, *command)
                self.process = subprocess.Popen(command, stdout=log, stderr=log)
            dnsrig.until("the daemon is ready", lambda: self.call("GET", "/status", check=False).get("ready"))

    return Daemon(folder, run, settings)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Bench, Any]]:
    """Recursors with hook and daemon, bare, and with hook and the floor; authoritative server, generator, daemon."""
    import dnsrig

    from ipt_server.dns.filter import Filter
    from lab import image

    image.ensure()  # the recursor is the image's
    tool = folder / "dns_load"
    subprocess.run(["cc", "-O2", "-o", str(tool), str(Path(__file__).parent / "dns_load.c")], check=True)
    zones = {
        "cold": ["* 60 A 46.4.84.1"],
        "known": ["* 60 A 46.4.84.2"],
        "fresh": [f"n{n} 60 A 46.{64 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in range(FRESH)],
    }
    (folder / "many.txt").write_text("".join(f"n{n}.shop{n % 7919}.example{n % 13}.com\n" for n in range(100_000)))
    (folder / "nsd").mkdir()
    with contextlib.ExitStack() as stack:
        ds = stack.enter_context(dnsrig.namespace(folder / "nsd", zones))
        hooked = dnsrig.Recursor(folder / "hooked", ds)
        bare = dnsrig.Recursor(folder / "bare", ds, {"port": BARE}, bare=True)
        idle = dnsrig.Recursor(folder / "idle", ds, {"port": IDLE})
        (idle.etc / "hook.lua").write_text("function postresolve(dq) return false end\n")
        floor = dnsrig.Recursor(folder / "floor", ds, {"port": FLOOR}, port=FLOOR_HOOK)
        Filter(floor.run).write(["known", "fresh"], ask_for_all=False)
        for recursor in (hooked, bare, idle, floor):
            recursor.start()
            stack.callback(recursor.stop)
        rules = [{"id": "r", "mark": 0x10000, "exit": "wg_ru", "kind": "domain", "suffixes": ["known", "fresh"]}]
        rules.append({"id": "l", "mark": 0x10001, "exit": "wg_us", "kind": "domain", "lists": ["many"]})
        lists = {"many": {"path": str(folder / "many.txt")}}
        daemon = daemon_of(folder / "daemon", hooked.run, dnsrig.settings(hooked.run, rules, lists=lists))
        daemon.start()
        stack.callback(daemon.stop)
        echo = subprocess.Popen(["ip", "netns", "exec", dnsrig.NETNS, str(tool), "echo", str(FLOOR_HOOK), "16"])
        stack.callback(dnsrig.stop, echo)
        yield Bench(tool, dnsrig.NETNS, (hooked, bare, idle, floor)), daemon


def path(folder: Path) -> Iterator[Figure]:
    """The figures that need everything running."""
    with running(folder) as (bench, daemon):
        real = 5301
        for port in (real, BARE, IDLE, FLOOR):  # warm: the delegations, the interpreter, LuaJIT
            bench.ask(port, 3000, 0, "known")
        yield from latency(bench, real)
        yield from cold(bench, real)
        yield from asking(bench, daemon, real)
        yield from swapping(bench, daemon, real, folder)
        daemon.stop()  # the kernel is one daemon's
        yield from in_process(daemon.settings, folder / "process")


def latency(bench: Bench, real: int) -> Iterator[Figure]:
    """Added latency of a name that matches, at 1,000 questions a second."""
    fresh = iter(range(0, FRESH, PACED))
    found = bench.turns(
        "p50",
        {
            "bare": lambda: bench.ask(BARE, PACED, 1000, "known"),
            "floor": lambda: bench.ask(FLOOR, PACED, 1000, "known"),
            "known": lambda: bench.ask(real, PACED, 1000, "known"),
            "first": lambda: bench.ask(real, PACED, 1000, "fresh", start=next(fresh)),
            "unmatched": lambda: bench.ask(real, PACED, 1000, "cold"),
        },
        PACED_TURNS,
    )
    floor = found["floor"] - found["bare"]
    name = "added latency, p50 at 1,000/s: "
    for key, told, bar in (("known", "address known", 1.4), ("first", "first learning", 1.8)):
        added = found[key] - found["bare"]
        met = added <= bar * floor
        yield Figure(f"{name}{told}", added, "us", "C echo", floor, f"<= {bar} x the C-echo floor", met)
    yield Figure(f"{name}no rule", found["unmatched"] - found["bare"], "us", "bare answer", found["bare"])


def cold(bench: Bench, real: int) -> Iterator[Figure]:
    """Questions a second for names that no cache has."""
    found = bench.turns(
        "qps",
        {
            "bare": lambda: bench.ask(BARE, COLD, 0, "cold"),
            "idle": lambda: bench.ask(IDLE, COLD, 0, "cold"),
            "none": lambda: bench.ask(real, COLD, 0, "cold"),
            "tenth": lambda: bench.ask(real, COLD, 0, "cold", "known", "10"),
            "every": lambda: bench.ask(real, COLD, 0, "known"),
        },
        COLD_TURNS,
        even=True,
    )
    for key, told, bar in (
        ("idle", "a hook that does nothing", None),
        ("none", "no name matches", 0.9),
        ("tenth", "10 % match by suffix", 0.7),
        ("every", "all match", None),
    ):
        met = None if bar is None else found[key] >= bar * found["bare"]
        text = None if bar is None else f">= {bar:.2f} x bare"
        yield Figure(f"cold questions: {told}", found[key], "/s", "bare recursor", found["bare"], text, met)


def asking(bench: Bench, daemon: Any, real: int) -> Iterator[Figure]:
    """The same with one rule that no look-up can say: every name is asked about, none matches."""
    before = daemon.settings.read_text()
    settings = yaml.safe_load(before)
    rule = {"id": "re", "mark": 0x10002, "exit": "wg_us", "kind": "domain", "patterns": [r"ads[0-9]+\..*"]}
    settings["rules"].append(rule)
    _reload(daemon, yaml.safe_dump(settings))
    found = bench.turns(
        "qps",
        {"bare": lambda: bench.ask(BARE, COLD, 0, "cold"), "asked": lambda: bench.ask(real, COLD, 0, "cold")},
        COLD_TURNS,
        even=True,
    )
    _reload(daemon, before)
    yield Figure("cold questions: one RE2 rule, no name matches", found["asked"], "/s", "bare recursor", found["bare"])


def _reload(daemon: Any, settings: str | None = None) -> float:
    """Has the daemon take up its settings, these if given; returns the seconds."""
    if settings is not None:
        daemon.settings.write_text(settings)
    start = time.perf_counter()
    answer = daemon.call("POST", "/reload")
    if answer["result"] != "applied":
        raise RuntimeError(f"the reload was {answer}")
    return time.perf_counter() - start


def swapping(bench: Bench, daemon: Any, real: int, folder: Path) -> Iterator[Figure]:
    """The longest answer and what is lost while 500,000 suffixes come and go."""
    before = bench.ask(real, 4000, 1000, "cold")
    where = ["127.0.0.1", str(real), "10000", "4096", "1000", "90000000", "cold", "known", "10"]
    command = ["ip", "netns", "exec", bench.netns, str(bench.tool), "ask", *where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        reloads = []
        for count in (SWAPPED, SWAPPED // 2 + 1):
            lines = (f"n{n}.shop{n % 7919}.example{n % 13}.com\n" for n in range(count))
            (folder / "many.txt").write_text("".join(lines))
            reloads.append(_reload(daemon))
        found = json.loads(asking.communicate()[0])
    longest = found["max"] / 1000
    name = "500,000 suffixes swapped under 1,000 questions/s: "
    yield Figure(f"{name}longest answer", longest, "ms", "without", before["max"] / 1000, "<= 50 ms", longest <= 50)
    lost = found["lost"] + found["failed"]
    yield Figure(f"{name}lost or failed", lost, "answers", bar="0", met=lost == 0)
    yield Figure(f"{name}reload", max(reloads), "s")
