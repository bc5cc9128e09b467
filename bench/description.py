"""The description at scale: `mrvpn check` in time and memory, its growth, ext_pillar per minion, the share of YAML.

A network of N hosts is N/2 exits and N/2 offices around one entrypoint, one tunnel each, two route rules a tunnel.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from bench.figure import Figure

REPO = Path(__file__).parents[1]
SIZES = (10, 100, 1_000, 10_000)
SIZE = 1_000
COUNTRIES = ("DE", "FR", "GB", "IT", "JP", "NL", "PL", "SE", "UA", "US")


def describe(hosts: int) -> Iterator[str]:
    """The lines of a description of so many hosts, as many tunnels, and twice as many route rules."""
    yield "mrvpn:"
    yield "  entrypoint: entry"
    yield "  gateway: wireguard"
    yield "  firezone: {fz_client_subnet: 172.20.0.0/16}"
    yield "  hosts:"
    for n in range(hosts):
        lan = f", lan: [192.{168 + n // 65536}.{n // 256 % 256}.{n % 256}/32]" if n % 2 else ""
        yield f"    host{n}: {{endpoint: 198.{18 + n // 65536}.{n // 256 % 256}.{n % 256}{lan}}}"
    yield "  tunnels:"
    for n in range(hosts):
        yield f"    wg{n}:"
        yield f"      subnet: [10.{n // 4096}.{n // 16 % 256}.{n % 16 * 16}/28, 'fd6d:7276:{n:x}::/64']"
        yield "      hosts:"
        yield f"        host{n}: {{expose: 55824, allowed_nets: [0.0.0.0/0, '::/0'], masquerade: true, table: 'off'}}"
        yield "        entry: {allowed_nets: [0.0.0.0/0, '::/0'], compose_service: firezone, table: 'off'}"
    yield "  routing:"
    yield "    routes:"
    for n in range(hosts):
        yield f"      - {{interface: wg{n}, domain: '.*\\.n{n}\\.example', weight: 1}}"
        yield f"      - {{interface: wg{n}, net: 203.{n // 65536}.{n // 256 % 256}.{n % 256}/32}}"


CHILD = """
import json, resource, sys
from bench.peak import peak
from mrvpn.__main__ import main
code = main(["check", sys.argv[1], "--format", "json"])
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, peak() * 1024]), file=sys.stderr)
"""


def cpu(work: Callable[[], object], runs: int) -> float:
    """Median seconds of CPU of some work: beside other figures of CPU, on a machine that does other things too."""
    taken = []
    for _ in range(runs):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def check(path: Path) -> tuple[float, float]:
    """Seconds of CPU and megabytes of `mrvpn check` in a process of its own, its start included.

    Raises where it finds errors. It waits for nothing: its CPU is its time on a machine that does nothing else.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={"PYTHONPATH": str(REPO)},
    )
    code, taken, peak = json.loads(done.stderr)
    if code:
        raise RuntimeError(f"the generated description is refused: {done.stdout[:500]}")
    return taken, peak / 1e6


def ext_pillar(cache: Path, hosts: list[str]) -> ModuleType:
    """_pillar/mrvpn.py as Salt's loader has it on a master, with every host's public key in the mine."""
    import salt.config

    spec = importlib.util.spec_from_file_location("mrvpn_ext_pillar", REPO / "_pillar" / "mrvpn.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = {**salt.config.DEFAULT_MASTER_OPTS, "cachedir": str(cache)}
    module.__dict__["__opts__"] = options
    for number, host in enumerate(hosts):
        tell(module, number, host, "k")
    return module


def tell(module: ModuleType, number: int, host: str, letter: str) -> None:
    """A host's public key into the mine."""
    import salt.cache

    told = {"mrvpn_public_keys": {f"wg{number}": letter * 43 + "="}, "mrvpn_address": "192.0.2.1"}
    salt.cache.factory(module.__dict__["__opts__"]).store("mine", host, told)


def pillars(path: Path, hosts: list[str]) -> tuple[list[float], dict[str, Any]]:
    """Seconds of CPU of each host's ext_pillar, one after the other, as a worker makes them; the last answer."""
    secrets = path.with_suffix(".secrets")
    secrets.write_text("psk_root: not-a-real-one-but-long-enough\n")
    secrets.chmod(0o600)
    module = ext_pillar(path.with_suffix(".cache"), hosts[:SIZE])
    taken: list[float] = []
    answer: dict[str, Any] = {}
    for host in (*hosts, None, hosts[-1]):
        if host is None:  # a host tells another key: what was made of the old one is made again
            tell(module, 0, hosts[0], "K")
            continue
        start = time.process_time()
        answer = module.ext_pillar(host, {}, path=str(path), secrets=str(secrets))
        taken.append(time.process_time() - start)
        if "_errors" in answer:
            raise RuntimeError(answer["_errors"][0])
    return taken, answer


def measure() -> Iterable[Figure]:
    """The figures of the description."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: Path(folder) / f"{size}.yaml" for size in SIZES}
        for size, path in paths.items():
            path.write_text("\n".join(describe(size)) + "\n")
        path = paths[SIZE]
        text = path.read_text()
        yaml_alone = cpu(lambda: [None for _ in yaml.parse(text, Loader=yaml.CSafeLoader)], runs=3)
        runs = [check(path) for _ in range(3)]
        taken, peak = sorted(runs)[1]
        what = f"{SIZE:,} hosts, {SIZE:,} tunnels, {2 * SIZE:,} rules"
        figures.append(Figure(f"check: {what}", taken, "s", "libyaml's events alone", yaml_alone, "<= 3 s", taken <= 3))
        figures.append(Figure(f"check: {what}, memory", peak, "MB", None, None, "<= 300 MB", peak <= 300))
        figures.append(Figure("check: share that is YAML", 100 * yaml_alone / taken, "%"))
        grown = {size: check(other) for size, other in paths.items()}
        # what 10 hosts cost is the start of the program
        start = grown[SIZES[0]][0]
        for size, (used_time, used) in grown.items():
            line = start + (taken - start) * size / SIZE
            figures.append(
                Figure(f"growth: {size:,} hosts, checked ({used:.0f} MB)", used_time, "s", "on one line", line)
            )
        made, entry = pillars(path, [*(f"host{n}" for n in range(SIZE)), "entry", "entry"])
        figures.append(Figure("ext_pillar: first minion (parses)", 1000 * made[0], "ms"))
        worst = 1000 * max(made[1:SIZE])
        figures.append(
            Figure("ext_pillar: worst of the 2nd to 1,000th", worst, "ms", None, None, "<= 20 ms", worst <= 20)
        )
        mean = 1000 * sum(made[1:SIZE]) / (SIZE - 1)
        figures.append(Figure("ext_pillar: mean of the 2nd to 1,000th", mean, "ms", None, None, "<= 20 ms", mean <= 20))
        # its view is a thousand tunnels and two thousand rules, made when the first minion had it compiled
        floor = 1000 * cpu(lambda: json.loads(json.dumps(entry)), runs=5)
        for which, taken in (("first", made[-3]), ("again", made[-2])):
            what, beside = f"ext_pillar: entrypoint of {SIZE:,} tunnels, {which}", "its JSON, there and back"
            figures.append(Figure(what, 1000 * taken, "ms", beside, floor, "<= 20 ms", taken <= 0.02))
        figures.append(Figure("ext_pillar: the same, when one host's key changed", 1000 * made[-1], "ms"))
    return figures
