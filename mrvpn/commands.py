"""What each command of `mrvpn` does: calls the core, prints its answer, gives the exit code.

Knows: how answers are shown. Must not know: arguments (__main__.py), how an answer is found.
"""

from __future__ import annotations

import json
import secrets as tokens
import sys
from pathlib import Path

import yaml
from rich.console import Console
from rich.text import Text

from mrvpn import compiler, importer, render, scaffold, topology, views
from mrvpn import graph as graphs
from mrvpn import plan as plans
from mrvpn.errors import Problem
from mrvpn.plan import moves
from mrvpn.plan import text as plan_text
from mrvpn.schema import reference
from mrvpn.schema.checks.names import ID
from mrvpn.topology import lock as locks


def check(path: Path, form: str) -> int:
    """Prints every problem; 1 when one of them is an error."""
    compiled = compiler.compile_path(path)
    if form == "json":
        print(json.dumps([_as_json(path, problem) for problem in compiled.problems], indent=1))
    elif form == "github":
        for problem in compiled.problems:
            print(_as_annotation(path, problem))
    else:
        _tell(path, compiled)
    return 1 if compiled.errors else 0


def view(path: Path, host: str) -> int:
    """Prints the view of a host as YAML, secrets masked; 1 when the description is bad or knows no such host."""
    network = _network(path)
    if network is None:
        return 1
    if host not in network.hosts:
        _error(f"{host} has no end of any tunnel; there are: {', '.join(sorted(network.hosts))}")
        return 1
    found = views.masked(views.view(network, host, {}, views.unresolved))
    yaml.safe_dump(found, sys.stdout, sort_keys=False, width=120, allow_unicode=True)
    return 0


def lock(path: Path, *, check_only: bool, prune: bool) -> int:
    """Writes lock.yaml beside the description; 1 when the description is bad, or the lock (`check_only`) not whole."""
    compiled = compiler.compile_path(path)
    if compiled.network is None:
        _tell(path, compiled, Console(stderr=True, soft_wrap=True))
        return 1
    old = compiled.lock
    new = topology.lock_of(compiled.network, topology.Lock() if prune else old)
    file = locks.place(path)
    if new == old:
        print(f"{file}: holds everything")
        return 0
    told = ", ".join(
        f"{len(getattr(new, kind))} {kind.replace('_', ' ')}" for kind in type(new).model_fields if kind != "version"
    )
    if check_only:
        _error(f"{file} does not hold everything: run `mrvpn lock {path}`")
        return 1
    # next file, then rename: a reader sees the old or the new one
    following = file.with_name(f".{file.name}.next")
    following.write_text(locks.dump(new), encoding="utf-8")
    following.replace(file)
    print(f"{file}: written ({told})")
    return 0


def plan(old: Path, new: Path, form: str, database: Path | None, states: Path | None) -> int:
    """Prints what changes; 0 when nothing does, 2 when something does, 1 when one of the two is bad."""
    networks = [_network(path) for path in (old, new)]
    if networks[0] is None or networks[1] is None:
        return 1
    try:
        ranges = moves.read_ranges(str(database)) if database else None
    except (ImportError, ValueError) as error:
        _error(str(error))
        return 1
    found = plans.plan(networks[0], networks[1], states=states or _states(), ranges=ranges)
    if form == "json":
        print(json.dumps(found.as_json(), indent=1))
    else:
        console = Console(soft_wrap=True, highlight=False)
        for line in plan_text.lines(found):
            console.print(line)
    return 2 if found.changed else 0


def import_(config: Path, inventory: Path | None, output: Path, secrets: Path) -> int:
    """Writes a description, its lock and its secrets; 1 when nothing was written, or what was written has errors."""
    for there in (output, secrets):
        if there.exists() and (not there.is_dir() or any(there.iterdir())):
            _error(f"{there} is there already: it is not written over")
            return 1
    try:
        texts = [path.read_text(encoding="utf-8") if path else None for path in (config, inventory)]
        found = importer.import_config(texts[0] or "", texts[1])
    except (OSError, UnicodeDecodeError, importer.NotImportable) as error:
        _error(str(error))
        return 1
    output.mkdir(parents=True, exist_ok=True)
    for name, text in found.files.items():
        (output / name).write_text(text, encoding="utf-8")
    values = {"psk_root": tokens.token_urlsafe(32), **found.secrets}
    head = "# Secrets of the description. Not for git: for the master's /etc/salt/mrvpn/secrets.yaml, mode 0600.\n"
    secrets.touch(mode=0o600, exist_ok=False)
    secrets.write_text(head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text("written: ", "green") + Text(f"{output}/{{{','.join(found.files)}}} and {secrets} (0600)"))
    for note in found.notes:
        console.print(Text("look at: ", "yellow") + Text(note))
    compiled = compiler.compile_path(output)
    _tell(output, compiled)
    return 1 if compiled.network is None else lock(output, check_only=False, prune=False)


def schema(form: str) -> int:
    """Prints the JSON Schema, or the reference in Markdown."""
    print(json.dumps(reference.json_schema(), indent=1) if form == "json" else reference.markdown().rstrip())
    if form == "json" and sys.stdout.isatty():
        _error_free(
            "for editors with a YAML language server: `mrvpn schema > mrvpn.schema.json`, and at the top of each file "
            "`# yaml-language-server: $schema=mrvpn.schema.json`"
        )
    return 0


def graph(path: Path, form: str) -> int:
    """Prints the drawing of the mesh; 1 when the description is bad."""
    network = _network(path)
    if network is None:
        return 1
    found = graphs.graph(network)
    print((graphs.svg(found) if form == "svg" else graphs.mermaid(found)).rstrip())
    return 0


def init(folder: Path, entrypoint: str, exit_: str) -> int:
    """Writes a deployment repository into a folder; 1 when a file of it is there already, or the ids cannot be."""
    found = scaffold.files(entrypoint, exit_)
    there = [str(folder / name) for name in found if (folder / name).exists()]
    if there:
        _error(f"{', '.join(there)}: there already, nothing is written")
        return 1
    if entrypoint == exit_ or not all(ID.fullmatch(name) for name in (entrypoint, exit_)) or len(exit_) > 12:
        _error(
            "the two ids must differ and be minion ids; the exit's, with wg_ before it, names an interface: 12 at most"
        )
        return 1
    for name, text in found.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(target)
    return check(folder / "network", "text")


def _states() -> Path | None:
    """The states beside this package, as in a checkout; None where it was installed alone."""
    folder = Path(__file__).parents[1] / "salt"
    return folder if (folder / render.FILES).is_file() else None


def _network(path: Path) -> topology.Network | None:
    """The network at a path, or None with its problems printed to stderr."""
    compiled = compiler.compile_path(path)
    if compiled.network is None:
        _tell(path, compiled, Console(stderr=True, soft_wrap=True))
    return compiled.network


def _error_free(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(Text(text, "dim"))


def _error(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(Text("error: ", "red") + Text(text))


def _tell(path: Path, compiled: compiler.Compiled, console: Console | None = None) -> None:
    console = console or Console(soft_wrap=True, highlight=False)
    for problem in compiled.problems:
        line = Text(f"{_file(path, problem)}{f':{problem.line}' if problem.line else ''}: ", "bold")
        line += Text(f"{problem.severity}: ", "red" if problem.severity == "error" else "yellow")
        line += Text(f"{problem.path}: ", "cyan") if problem.path else Text()
        console.print(line + Text(f"{problem.message} [{problem.code}]"))
    errors = len(compiled.errors)
    warnings = len(compiled.problems) - errors
    if compiled.network is not None and not errors:
        d = compiled.network.description
        size = f"{len(compiled.network.hosts)} hosts, {len(d.tunnels)} tunnels, {len(d.routing.routes)} route rules"
        console.print(Text("good: ", "green") + Text(f"{size}{f'; {warnings} warnings' if warnings else ''}"))
    else:
        console.print(Text("refused: ", "red") + Text(f"{errors} errors, {warnings} warnings; nothing is deployed"))


def _file(path: Path, problem: Problem) -> str:
    """The problem's file as the caller would open it."""
    return str(path / problem.file) if path.is_dir() and problem.file != str(path) else str(path)


def _as_json(path: Path, problem: Problem) -> dict[str, str | int]:
    return {
        "severity": problem.severity,
        "code": problem.code,
        "path": problem.path,
        "file": _file(path, problem),
        "line": problem.line,
        "message": problem.message,
    }


def _as_annotation(path: Path, problem: Problem) -> str:
    """A workflow command of GitHub Actions, which shows the problem beside its line in the pull request."""
    properties = {"file": _file(path, problem), "line": str(problem.line or 1), "title": f"mrvpn: {problem.code}"}
    told = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    text = f"{problem.path}: {problem.message}" if problem.path else problem.message
    return f"::{problem.severity} {told}::{_escaped(text)}"


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
