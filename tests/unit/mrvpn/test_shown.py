"""What is shown of a description: the schema for editors, the reference, the drawing, a new repository."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mrvpn import compiler, graph, scaffold
from mrvpn.__main__ import main
from mrvpn.errors import CODES
from mrvpn.schema import model, reference

REPO = Path(__file__).parents[3]
GOLDEN = REPO / "tests" / "golden" / "descriptions"
FILES = [
    path
    for folder in (*sorted(GOLDEN.iterdir()), REPO / "pillar" / "network", REPO / "tests" / "bad" / "good")
    for path in sorted(folder.glob("*.yaml"))
    if path.name != "lock.yaml"
]
VALIDATOR = jsonschema.Draft202012Validator(reference.json_schema())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(reference.json_schema())


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.name}" for path in FILES])
def test_editors_take_what_is_good(path: Path) -> None:
    tree = yaml.safe_load(path.read_text().replace("country: NO,", "country: 'NO',"))  # PyYAML's, not editors', trouble
    assert [error.message for error in VALIDATOR.iter_errors(tree)] == []


@pytest.mark.parametrize(
    "body",
    [
        {"tunels": {}},
        {"gateway": "openvpn"},
        {"tunnels": {"wg": {"hosts": {"a": {"exposed": 1}}}}},
        {"tunnels": {"wg": {"a": {"exposed": 1}}}},
        {"routing": {"routes": {"interface": "x"}}},
        {"routing": {"pbr_mark": "x"}},
        {"hosts": {"a": {"os": "windows"}}},
    ],
)
def test_editors_mark_what_is_bad(body: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors({"mrvpn": body}))


def test_the_readmes_example_is_good(tmp_path: Path) -> None:
    text = (REPO / "README.md").read_text()
    (example,) = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    (tmp_path / "network.yaml").write_text(example)
    assert [problem.code for problem in compiler.compile_path(tmp_path).problems] == ["no-endpoint"]


def test_every_key_is_told() -> None:
    models = [getattr(model, name) for name in (*reference.PLACES, "Secret", "Expose")]
    known = {f"{m.__name__}.{field}" for m in models for field in m.model_fields}
    assert known == set(reference.DOCS)


def test_the_reference_is_up_to_date() -> None:
    assert (REPO / "docs" / "description.md").read_text() == reference.markdown()


def test_the_problems_are_up_to_date() -> None:
    text = (REPO / "docs" / "problems.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `")] == [
        f"| `{code}` | {what} |" for code, what in sorted(CODES.items())
    ]


def test_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(reference.json_schema()))
    assert main(["schema", "--format", "markdown"]) == 0
    assert capsys.readouterr().out == reference.markdown()
    example = str(REPO / "pillar" / "network")
    assert main(["graph", example]) == 0
    assert capsys.readouterr().out.startswith("graph LR\n")
    assert main(["graph", example, "--format", "svg"]) == 0
    ET.fromstring(capsys.readouterr().out)


def drawn(folder: Path) -> graph.Graph:
    network = compiler.compile_path(folder).network
    assert network is not None
    return graph.graph(network)


def test_the_example_as_it_is_drawn() -> None:
    found = drawn(REPO / "pillar" / "network")
    kinds = {node.id: node.kind for node in found.nodes}
    assert kinds == {
        "clients": "clients",
        "entry": "entrypoint",
        "uk": "exit",
        "ru": "exit",
        "us": "exit",
        "office": "office",
        "router": "office",
        "internet": "internet",
    }
    edges = {(edge.one, edge.other): edge.lines for edge in found.edges}
    assert edges["entry", "uk"] == ("wg_uk", "GB", "*.uk")
    assert edges["entry", "office"] == ("wg_office",)
    assert edges["entry", "internet"] == ("anything else",)
    assert ("uk", "internet") in edges
    assert ("office", "internet") not in edges


@pytest.mark.parametrize("name", sorted(folder.name for folder in GOLDEN.iterdir()))
def test_everything_is_drawn(name: str) -> None:
    found = drawn(GOLDEN / name)
    root = ET.fromstring(graph.svg(found))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    for node in found.nodes:
        assert set(node.lines) <= texts
    for edge in found.edges:
        assert set(edge.lines) <= texts
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        if "x" in box.attrib:
            assert float(box.attrib["x"]) >= 0 and float(box.attrib["x"]) + float(box.attrib["width"]) <= width
            assert float(box.attrib["y"]) >= 0 and float(box.attrib["y"]) + float(box.attrib["height"]) <= height


def test_text_cannot_leave_its_label(tmp_path: Path) -> None:
    text = (REPO / "tests" / "bad" / "good" / "network.yaml").read_text()
    (tmp_path / "a.yaml").write_text(text.replace(r"'.*\.uk'", """'<b>"x"|`y`</b>'"""))
    found = drawn(tmp_path)
    ET.fromstring(graph.svg(found))
    (label,) = [line for line in graph.mermaid(found).splitlines() if "wg_uk" in line]
    assert label.count('"') == 2
    assert "<b>" not in label


def test_a_new_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "net"
    assert main(["init", str(folder), "--entrypoint", "gate", "--exit", "london"]) == 0
    assert "good: 2 hosts, 1 tunnels, 2 route rules" in capsys.readouterr().out
    assert compiler.compile_path(folder / "network").problems == ()
    for name in scaffold.FILES:
        if name.endswith((".yaml", ".yml", ".conf")):
            assert isinstance(yaml.safe_load((folder / name).read_text()), dict)
    assert main(["init", str(folder)]) == 1
    assert main(["init", str(tmp_path / "other"), "--entrypoint", "a", "--exit", "a"]) == 1
    assert not (tmp_path / "other").exists()
    capsys.readouterr()


def test_its_workflow_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps of the workflow's own, as GitHub would run them, on a change of the new repository."""
    folder = tmp_path / "net"
    main(["init", str(folder)])
    capsys.readouterr()
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    subprocess.run([*git, "update-ref", "refs/remotes/origin/main", "HEAD"], check=True)
    routing = folder / "network" / "routing.yaml"
    routing.write_text(routing.read_text().replace("country: GB", "country: [GB, IE]"))
    steps = yaml.safe_load((folder / ".github/workflows/network.yml").read_text())["jobs"]["check"]["steps"]
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "mrvpn").write_text(f'#!/bin/sh\nexec {REPO}/.venv/bin/python -m mrvpn "$@"\n')
    (bin_ / "mrvpn").chmod(0o755)
    summary = tmp_path / "summary.md"
    environment = {
        "PATH": f"{bin_}:/usr/bin:/bin",
        "PYTHONPATH": str(REPO),
        "GITHUB_BASE_REF": "main",
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    for step in steps:
        if step.get("name") in ("check", "lock", "plan"):
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
    assert "+ country IE -> wg_uk" in summary.read_text()
