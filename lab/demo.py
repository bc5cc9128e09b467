"""`make demo`: the lab up, `salt '*' state.apply`, the proof; where no lab can be, what can be shown without.

Knows: the order, what a machine must have, the times that are aimed at. Must not know: how a step or a check is done.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from lab import checks, dump, salt, up
from lab.state import REPO, locked

console = Console()
SETUP = REPO / ".cache" / "setup.json"  # written by `make venv`: {"seconds": n} of the last set-up
AIMS = {"from a fresh machine to the table": 12 * 60, "with the set-up done": 3 * 60}
DESTINATIONS = (
    "81.2.69.160", "77.88.55.60", "208.80.154.224", "46.4.84.1", "2a02:6b8::2:242",
    "2620:0:861:ed1a::1", "www.bbc.co.uk", "www.shop.ru", "www.example.com", "www.heise.de",
)  # fmt: skip


def missing() -> list[str]:
    """What this machine lacks for a lab, each with what to do; empty where it has all."""
    found = []
    if os.geteuid() != 0:
        found.append("root: network namespaces and dockerd need it; run `sudo make demo`")
    if not Path("/dev/net/tun").exists():
        found.append("/dev/net/tun: `modprobe tun`; in a container, run it with --device /dev/net/tun and --privileged")
    tools = [tool for tool in ("ip", "nft", "dockerd", "wg", "nsenter") if not shutil.which(tool, path=_path())]
    if tools:
        found.append(f"{', '.join(tools)}: `make venv` as root installs them")
    elif os.geteuid() == 0 and not _namespaces():
        found.append(
            "network namespaces with nf_tables: a machine or a virtual machine has them, a plain container not"
        )
    return found


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _namespaces() -> bool:
    """Whether a namespace can be made and nftables works in one."""
    probe = ["unshare", "--net", "nft", "add", "table", "inet", "probe"]
    return subprocess.run(probe, capture_output=True, env={**os.environ, "PATH": _path()}).returncode == 0


def main() -> int:
    """Runs the main job to its table; exit code 1 where a row does not hold or nothing could be built."""
    lacking = missing()
    if lacking:
        console.print("[bold]The VPN cannot be built on this machine.[/] It needs:")
        for line in lacking:
            console.print(f"  • {line}")
        without()
        return 1
    start = time.monotonic()
    with locked():
        try:
            if up.is_up() and not up.is_current():
                console.print("the lab that is up runs other code than the checkout's: taking it down")
                up.down()
            if up.is_up():
                console.print("the lab is up already: using it (`python -m lab down` takes it away)")
            else:
                up.up()
            with up.step("salt '*' state.apply: six hosts brought to the description"):
                salt.apply()
        except Exception:
            dump.everything()
            raise
        code = checks.main(console=console)
    figures(time.monotonic() - start)
    console.print(
        "The lab stays up: `.venv/bin/python -m lab exec client -- curl http://www.shop.ru/`; "
        "`.venv/bin/python -m lab down` takes it away."
    )
    return code


def figures(seconds: float) -> None:
    """Prints the times beside what is aimed at."""
    times = json.loads(up.TIMES.read_text())
    image = sum(taken for what, taken in times.items() if what.startswith("image"))
    setup = json.loads(SETUP.read_text())["seconds"] if SETUP.exists() else None
    table = Table("figure", "measured", "aim", "", title="times")
    measured = {"with the set-up done": seconds - image}
    if setup is not None:
        measured = {"from a fresh machine to the table": seconds + setup, **measured}
    for what, taken in measured.items():
        met = "[green]met[/]" if taken <= AIMS[what] else "[red]not met[/]"
        table.add_row(what, f"{taken:.0f} s", f"{AIMS[what]} s", met)
    for what, taken in times.items():
        table.add_row(f"[dim]{what}", f"[dim]{taken:.1f} s", "", "")
    console.print(table)


def without() -> None:
    """What can be shown on any machine: the check, every host's files, the exits of ten destinations."""
    from ipt_server import settings
    from ipt_server.daemon import compile_rules, explain
    from mrvpn import compiler, render, views

    compiled = compiler.compile_path(salt.EXAMPLE)
    console.print(f"\n[bold]What can be shown without.[/] `mrvpn check {salt.EXAMPLE.relative_to(REPO)}`:")
    for problem in compiled.problems:
        console.print(f"  {problem}", markup=False)
    if compiled.network is None:
        return
    console.print("  nothing is wrong with it" if not compiled.problems else "")
    folder = REPO / ".cache" / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    tree = Tree(f"every host's files, in {folder.relative_to(REPO)}/")
    for host in sorted(compiled.network.hosts):
        branch = tree.add(f"[bold]{host}")
        for file in render.files(views.view(compiled.network, host, {}, lambda _: None), REPO / "salt"):
            path = folder / host / file.target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
            branch.add(f"{file.target} [dim]{file.text.count(chr(10))} lines")
    console.print(tree)
    database = REPO / ".cache" / "country" / "country.mmdb"
    if not database.exists():
        console.print("without the country database (`make venv` fetches it) no exits can be told")
        return
    entry = views.view(compiled.network, compiled.network.description.entrypoint or "", {}, lambda _: None)
    told = {**entry["routing"][0]["settings"], "country_database": str(database)}
    rules = compile_rules(settings.parse(told), REPO / ".cache" / "rules")
    table = Table("destination", "exit", "why", title="by which exit a connection leaves")
    for destination in DESTINATIONS:
        answer = explain(destination, rules)
        table.add_row(destination, answer["exit"] or "by its address", answer["rule"] or answer["reason"])
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
