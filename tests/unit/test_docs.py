"""The documentation's commands and settings: each names what is there, with arguments that it takes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
import yaml

from lab import router
from mrvpn.__main__ import parser

REPO = Path(__file__).parents[2]
DOCS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.M | re.S)
OTHER_RUNNERS = {"state.orchestrate", "state.event", "event.send"}
SALTS_OWN = {"state.apply", "key.finger", "event.send", "test.ping", "cmd.run", "saltutil.sync_all"}


def blocks(path: Path, *kinds: str) -> Iterator[str]:
    for indent, kind, text in BLOCK.findall(path.read_text()):
        if kind in kinds:
            yield "\n".join(line.removeprefix(indent) for line in text.splitlines())


def commands() -> list[tuple[str, str]]:
    found = []
    for path in DOCS:
        for block in blocks(path, "sh", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.split(" #")[0].strip()
                if line:
                    found.append((path.name, line))
    return found


COMMANDS = commands()


def functions(path: Path) -> dict[str, ast.arguments]:
    """The public functions of a Salt module and their arguments."""
    tree = ast.parse(path.read_text())
    aliases = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__func_alias__":
            aliases = ast.literal_eval(node.value)
    return {
        aliases.get(node.name, node.name): node.args
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


RUNNERS = {name: functions(REPO / "_runners" / f"{name}.py") for name in ("mrvpn", "mrvpn_reactor")}


def wrong_arguments(arguments: ast.arguments, given: list[str]) -> list[str]:
    """Those of `given` that the function does not take, and those that it misses."""
    names = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
    keywords = [word.split("=")[0] for word in given if re.match(r"[a-z_]+=", word)]
    positional = len(given) - len(keywords)
    wrong = [word for word in keywords if word not in names and arguments.kwarg is None]
    required = [a.arg for a in arguments.args[: len(arguments.args) - len(arguments.defaults)]]
    missing = [name for name in required[positional:] if name not in keywords]
    too_many = ["too many"] if positional > len(arguments.args) and arguments.vararg is None else []
    return wrong + missing + too_many


def words_of(line: str) -> list[str]:
    words = shlex.split(line)
    return [w for n, w in enumerate(words) if not w.startswith("--") and (n == 0 or words[n - 1] != "--out")]


@pytest.mark.parametrize(("page", "line"), [c for c in COMMANDS if c[1].startswith("salt-run ")])
def test_runner_commands(page: str, line: str) -> None:
    _, function, *given = words_of(line)
    if function == "state.orchestrate":
        assert (REPO / "salt" / f"{given[0].replace('.', '/')}.sls").is_file(), f"{page}: {line}"
        return
    if function in OTHER_RUNNERS:
        return
    module, _, name = function.partition(".")
    assert name in RUNNERS.get(module, {}), f"{page}: {line}"
    assert wrong_arguments(RUNNERS[module][name], given) == [], f"{page}: {line}"


@pytest.mark.parametrize(("page", "line"), [c for c in COMMANDS if re.match(r"salt(-call)? ", c[1])])
def test_execution_commands(page: str, line: str) -> None:
    words = words_of(line)
    words = words[1:] if words[0] == "salt-call" else words[3:] if words[1] in ("-L", "-C", "-E") else words[2:]
    function, given = words[0], words[1:]
    if function == "state.apply" and given and "=" not in given[0]:
        sls = REPO / "salt" / given[0].replace(".", "/")
        assert sls.with_suffix(".sls").is_file() or (sls / "init.sls").is_file(), f"{page}: {line}"
    if function in SALTS_OWN:
        return
    module, _, name = function.partition(".")
    file = REPO / "_modules" / f"{module}.py"
    assert file.is_file(), f"{page}: {line}: no module {module}"
    assert name in functions(file), f"{page}: {line}: no function {name}"
    assert wrong_arguments(functions(file)[name], given) == [], f"{page}: {line}"


@pytest.mark.parametrize(("page", "line"), [c for c in COMMANDS if re.match(r"mrvpn [a-z]", c[1])])
def test_cli_commands(page: str, line: str) -> None:
    parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_yaml_blocks_are_yaml(path: Path) -> None:
    for block in blocks(path, "yaml"):
        yaml.safe_load(block)


def test_inline_commands_name_what_is_there() -> None:
    for path in DOCS:
        for module, name in re.findall(r"salt-run (mrvpn\w*)\.(\w+)", path.read_text()):
            assert name in RUNNERS[module], f"{path.name}: {module}.{name}"


def settings_of_the_master(**told: object) -> dict[str, object]:
    """What the state mrvpn.master writes."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["json"] = environment.filters["tojson"]
    template = environment.from_string((REPO / "salt/mrvpn/master/files/mrvpn.conf.j2").read_text())
    same = {"checkout": "/srv/mrvpn", "files": "/srv/mrvpn-files", "secrets": "/etc/salt/mrvpn/secrets.yaml"}
    return dict(yaml.safe_load(template.render(**same, **told)))


def test_the_masters_settings_of_the_docs_are_those_that_the_state_writes() -> None:
    page = REPO / "docs" / "operations.md"
    shown = next(block for block in blocks(page, "yaml") if block.startswith("# /etc/salt/master.d/mrvpn.conf"))
    written = settings_of_the_master(
        description="/var/lib/mrvpn/current/network",
        deploy={
            "repository": "git@git.example.net:ops/network.git", "branch": "main", "folder": "network",
            "store": "/var/lib/mrvpn", "signed": False, "share": 0.25, "apply": False,
        },
        webhook={"port": 8015, "secret": "/etc/salt/mrvpn/webhook.secret"},
        poll=60,
    )  # fmt: skip
    assert written == yaml.safe_load(shown)
    for files in (tag for entry in written["reactor"] for tag in entry.values()):  # type: ignore[attr-defined]
        assert all((REPO / file.removeprefix("/srv/mrvpn/")).is_file() for file in files)


def test_the_proxys_settings_of_the_docs_are_those_that_the_lab_tries() -> None:
    page = REPO / "docs" / "routeros.md"
    shown = next(block for block in blocks(page, "yaml") if block.startswith("# /etc/salt/proxy.d/mrvpn.conf"))
    told = yaml.safe_load(shown)
    assert told.pop("master")
    assert told == router.PROXY


def test_the_masters_settings_of_a_new_repository_are_those_that_the_state_writes() -> None:
    text = (REPO / "mrvpn" / "scaffold" / "master.yaml.j2").read_text()
    written = settings_of_the_master(description="/srv/network/network", deploy=None, webhook=None, poll=None)
    assert written == yaml.safe_load(text)


def test_every_event_that_is_sent_is_documented() -> None:
    page = (REPO / "docs" / "events.md").read_text()
    sources = [*(REPO / "_runners").glob("*.py"), *(REPO / "_engines").glob("*.py")]
    kinds = "schema|deploy|plan|routing|exit|host"
    tags = {tag for file in sources for tag in re.findall(rf'"(mrvpn/(?:{kinds})(?:/[^"]*)?)"', file.read_text())}
    assert {"mrvpn/schema/changed", "mrvpn/deploy/wanted", "mrvpn/host/exits"} <= tags
    for tag in tags:
        assert f"`{tag.split('{')[0]}" in page, tag
