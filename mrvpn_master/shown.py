"""The runner's answers as people read them: tables of a status, a plan's lines in colour.

Knows: the shapes of those answers, rich. Must not know: Salt, terminals, how anything was found out. Text that came
from hosts is shown as it is: nothing in it is markup.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

STYLES = {"critical": "bold red", "warning": "yellow", "notice": "dim", "+": "green", "-": "red", "~": "yellow"}
SHORT = 12  # digits of a commit that people compare


def text(answer: Mapping[str, Any], *, width: int, colour: bool) -> str:
    """An answer as text of that width, with ANSI colours or without."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=colour, no_color=not colour, highlight=False,
                      color_system="standard" if colour else None)  # fmt: skip
    for part in (status if "exits" in answer else change)(answer):
        console.print(part)
    return stream.getvalue().rstrip("\n")


def status(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What `mrvpn.status` tells: hosts, tunnels, OSPF, exits, the entrypoint's rules, the deployment; problems last."""
    hosts = dict(sorted(found["hosts"].items()))
    titles = ("host", "", "version", "deployed", "Salt", "Docker")
    yield _table("hosts", titles, [_host(name, host) for name, host in hosts.items()])
    figures = ("handshake", "received", "sent", "loss", "latency")
    rows = [row for name, host in hosts.items() for row in _tunnels(name, host)]
    rows.sort(key=lambda row: (str(row[0]), str(row[1])))
    yield _table("tunnels", ("tunnel", "host", "peer", "endpoint", *figures), rows, right=figures)
    yield _table("OSPF", ("host", "tunnel", "neighbour", "state"), [r for n, h in hosts.items() for r in _ospf(n, h)])
    yield _table("exits", ("exit", "", "why"), [_exit(name, told) for name, told in found["exits"].items()])
    yield Group(Text(), *_lines(found))
    problems = found["problems"]
    yield Group(*(_problem(line) for line in problems)) if problems else Text("no problems", "green")


def change(answer: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What a change, a plan or a deployment came to: what was done, the plan, each host, what is to be known."""
    if answer.get("error"):
        yield Text(str(answer["error"]), STYLES["critical"])
        yield from (Text(f"  {line}") for line in answer.get("problems") or [])
        answer = answer.get("stands") or {}
    for key in ("done", "result"):
        if answer.get(key):
            commit = f" (commit {answer['commit'][:SHORT]})" if answer.get("commit") else ""
            yield Text(f"{answer[key]}{commit}", "bold")
            break
    yield from (_plan_line(line) for line in answer.get("plan") or [])
    for host, told in (answer.get("hosts") or {}).items():
        style = "green" if told["result"] == "applied" else STYLES["critical"]
        yield Text(f"{host}: ") + Text(told["result"], style)
        yield from (Text(f"  {line}") for line in told.get("why") or [])
    applied = answer.get("applied") or {}
    yield from (Text(f"{name}: generation {told['generation']}") for name, told in applied.items())
    if answer.get("flows"):
        flows = answer["flows"]
        yield Text(f"traffic can flow: {flows['up']}" if isinstance(flows, Mapping) else str(flows))
    notes = [*(answer.get("notes") or []), *(answer.get("warnings") or []), answer.get("note")]
    yield from (Text(str(line), STYLES["warning"]) for line in notes if line)
    if "seconds" in answer:
        yield Text(f"{answer['seconds']} s", "dim")


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]], right: tuple[str, ...] = ()) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", header_style="dim", box=box.SIMPLE_HEAD,
                  show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return table


def _host(name: str, host: Mapping[str, Any]) -> tuple[Any, ...]:
    if not host["reachable"]:
        return name, Text("away", STYLES["critical"]), None, None, None, None
    have, wanted = host["version"], host["deployed"]
    state = Text("up", "green") if wanted in (None, have) else Text("not as deployed", STYLES["warning"])
    software = host.get("software", {})
    return name, state, have or "never applied", wanted, software.get("salt"), software.get("docker")


def _tunnels(name: str, host: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for tunnel, peers in host.get("tunnels", {}).items():
        if isinstance(peers, Mapping):
            yield tunnel, name, Text(str(peers.get("error")), STYLES["critical"]), *[None] * 6
            continue
        for peer in peers:
            age = peer["handshake"]
            handshake = Text("never", STYLES["critical"]) if age is None else f"{duration(age)} ago"
            loss, latency = peer.get("loss"), peer.get("latency")
            lost = None if loss is None else Text(f"{loss:.0%}", STYLES["warning"] if loss else "green")
            took = None if latency is None else f"{latency:.1f} ms"
            figures = handshake, size(peer["rx"]), size(peer["tx"]), lost, took
            yield tunnel, name, peer.get("host"), peer["endpoint"], *figures


def _ospf(name: str, host: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for tunnel, neighbours in host.get("ospf", {}).items():
        for router, state in neighbours.items():
            full = str(state).startswith("Full")
            yield name, tunnel, router, Text(str(state), "green" if full else STYLES["warning"])


def _exit(name: str, told: Mapping[str, Any]) -> tuple[Any, ...]:
    health = told.get("health") or {}
    up = told.get("up", True)
    since = f" for {duration(health['seconds'])}" if health.get("seconds") is not None else ""
    why = health.get("reason") or ("its interface is up" if up else "its interface is not there")
    return name, Text("up", "green") if up else Text("down", STYLES["critical"]), f"{why}{since}"


def _lines(found: Mapping[str, Any]) -> Iterator[Text]:
    for name, host in found["hosts"].items():
        if host.get("generation") is not None:
            age = host.get("database_age_days")
            database = "" if age is None else f", country database {age:g} days old"
            yield Text(f"{name}: generation {host['generation']}, {host.get('learned')} addresses learned{database}")
    deployed = found.get("deployment")
    if deployed:
        commit = deployed.get("commit")
        checked = deployed.get("checked")
        when = f", the branch was looked at {_date(checked['time'])}" if checked else ""
        yield Text(f"deployed: {commit[:SHORT] if commit else 'nothing yet'}{when}")
    for host, states in (found.get("drift") or {}).items():
        yield Text(f"drift: {host}: {', '.join(states)}", STYLES["warning"])


def _problem(line: str) -> Text:
    severity, _, rest = line.partition(": ")
    return Text(f"{severity}: ", STYLES.get(severity, "")) + Text(rest)


def _plan_line(line: str) -> Text:
    return Text(f"  {line}", STYLES.get(line.lstrip()[:1], ""))


def size(count: int) -> str:
    """Bytes in the unit that people read."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds in the two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2])


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
