"""`python -m tests.fuzz [TARGET ...] [-runs=N]`: the targets guided by coverage (atheris), a process for each.

Ends with 1 where a target failed; what failed lies in .cache/fuzz/, and `python -m tests.fuzz TARGET FILE` runs it
again. Without atheris, which has wheels for some Pythons only, it says so and ends with 0: hypothesis has run by then.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FINDS = Path(__file__).parents[2] / ".cache" / "fuzz"
LARGEST = 4096  # bytes of a case; seeds that are longer stay whole


def main(argv: list[str]) -> int:
    """Runs the named targets, or all."""
    runs = int(next((a.removeprefix("-runs=") for a in argv if a.startswith("-runs=")), "20000"))
    files = [a for a in argv if Path(a).is_file()]
    asked = [a for a in argv if not a.startswith("-") and a not in files]
    if importlib.util.find_spec("atheris") is None:
        print(f"no coverage-guided fuzzing: atheris has no wheel for Python {sys.version.split()[0]} here")
        return 0
    # not imported here: only what is imported under instrumentation is guided
    known = ("datagram", "names", "included", "settings", "description", "remembered")
    if unknown := [name for name in asked if name not in known]:
        print(f"no such target: {', '.join(unknown)}; there are: {', '.join(known)}")
        return 2
    failed = []
    for name in asked or known:
        command = [sys.executable, "-m", "tests.fuzz", f"--one={name}", str(runs), *files]
        with tempfile.TemporaryDirectory(prefix="mrvpn-fuzz-") as folder:  # libFuzzer ends the process, no handler runs
            env = {**os.environ, "TMPDIR": folder}
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env)
        cases = re.search(r"number_of_executed_units: +(\d+)", done.stderr)
        print(f"{name}: {cases[1] if cases else 0} cases, {'a find' if done.returncode else 'none failed'}", flush=True)
        if done.returncode:
            print(done.stderr[-4000:])
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}; the cases lie in {FINDS}")
    return 1 if failed else 0


def one(name: str, runs: int, files: list[str]) -> None:
    """Fuzzes one target; never returns: libFuzzer ends the process, with a code other than 0 for a find."""
    import atheris

    with atheris.instrument_imports(include=["ipt_server", "mrvpn"]):
        targets = importlib.import_module("tests.fuzz.targets")
    target = targets.TARGETS[name]
    logging.disable()  # what is passed over is told once for each of thousands of cases
    FINDS.mkdir(parents=True, exist_ok=True)
    corpus = Path(tempfile.mkdtemp(prefix=f"mrvpn-fuzz-{name}-"))
    seeds = [text.encode() for text in target.seeds()]
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
        target.run(seed)  # a seed that fails is no find of chance
    longest = max(LARGEST, *map(len, seeds))
    options = [f"-runs={max(100, runs // target.cost)}", f"-max_len={longest}", f"-artifact_prefix={FINDS}/{name}-"]
    options += ["-timeout=20", "-rss_limit_mb=1024", "-verbosity=0", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, *(files or [str(corpus)])], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1].startswith("--one="):
        one(sys.argv[1].removeprefix("--one="), int(sys.argv[2]), sys.argv[3:])
    raise SystemExit(main(sys.argv[1:]))
