"""Growth of a subscribed list: reading and indexing it, what a look-up takes then, and memory; a process for each size.

Names are as long and as deep as those of the lists that people subscribe to, 1 in 50 is a part of a name (`keyword:`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.figure import Figure

REPO = Path(__file__).parents[1]
SIZES = (1_000, 10_000, 100_000, 1_000_000)

SIZE = """
import json, statistics, sys, time
from bench.peak import peak
from ipt_server.core.names import NameIndex
from ipt_server.lists.formats import parse
size = int(sys.argv[1])
def line(n):
    return f"keyword:track{n}er" if n % 50 == 0 else f"domain:n{n}.shop{n % 7919}.example{n % 13}.com"
text = "\\n".join(map(line, range(size)))
before = peak()
start = time.perf_counter()
index = NameIndex()
index.add_listed(1, parse(text, "geosite"))
index.finish()
ready = time.perf_counter() - start
took, hits = [], 0
for n in range(5_000):
    name = f"www.n{n * 997 % (2 * size)}.shop{n * 997 % (2 * size) % 7919}.example{n * 997 % (2 * size) % 13}.com"
    start = time.perf_counter()
    hits += bool(index.match(name))
    took.append(time.perf_counter() - start)
assert 1_000 < hits < 4_000, hits
memory = (peak() - before) / 1024
print(json.dumps([ready, statistics.median(took) * 1e6, memory]))
"""


def measure() -> Iterable[Figure]:
    """Three figures a size; each time stands beside the size before it: 10 is linear."""
    before: tuple[int, float] | None = None
    for size in SIZES:
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        command = [sys.executable, "-c", SIZE, str(size)]
        ready, match, memory = json.loads(
            subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
        )
        beside = (f"{before[0]:,}", before[1]) if before else (None, None)
        yield Figure(f"growth: {size:,} list entries, read and indexed", ready, "s", *beside)
        yield Figure(f"growth: {size:,} list entries, match, p50", match, "us")
        yield Figure(f"growth: {size:,} list entries, memory beside the text", memory, "MB")
        before = size, ready
