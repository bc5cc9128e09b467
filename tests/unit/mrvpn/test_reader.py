"""YAML as the description's reader takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mrvpn.schema.source import dotted, read


def tree(folder: Path, text: str) -> Any:
    (folder / "a.yaml").write_text(text)
    source = read(folder)
    assert source.problems == []
    return source.tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("'5'", "5"),
        ("0x10", 16),
        ("1.5", 1.5),
        ("yes", True),
        ("off", False),
        ("'off'", "off"),
        ("NO", "NO"),  # Norway
        ("no", False),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("a: b", {"a": "b"}),
        ("|\n    two\n    lines\n", "two\nlines\n"),
    ],
)
def test_scalars(tmp_path: Path, text: str, value: object) -> None:
    if text == "a: b":
        text = "{a: b}"
    assert tree(tmp_path, f"mrvpn:\n  x: {text}\n") == {"x": value}


def test_places(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mrvpn:\n  a:\n    - x\n    - {b: 1}\n")
    (tmp_path / "b.yaml").write_text("\n# more\nmrvpn:\n  c: 1\n")
    source = read(tmp_path)
    assert source.place(("a", 1, "b")) == ("a.yaml", 4)
    assert source.place(("a", 1, "unknown")) == ("a.yaml", 4)
    assert source.place(("c",)) == ("b.yaml", 4)
    assert source.place(("nowhere",)) == ("a.yaml", 0)
    assert source.files == ["a.yaml", "b.yaml"]


def test_the_lock_is_no_part_of_the_description(tmp_path: Path) -> None:
    (tmp_path / "lock.yaml").write_text("whatever: 1\n")
    assert tree(tmp_path, "mrvpn: {a: 1}\n") == {"a": 1}


def test_files_merge_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("mrvpn: {tunnels: {z: {}}}\n")
    assert list(tree(tmp_path, "mrvpn: {tunnels: {y: {}, x: {}}}\n")["tunnels"]) == ["y", "x", "z"]


def test_dotted() -> None:
    assert dotted(("routing", "routes", 0, "interface")) == "routing.routes[0].interface"
    assert dotted((0,)) == "[0]"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(st.characters(codec="utf-8"), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), plain, max_size=4))
def test_as_pyyaml_reads_it(value: dict[str, Any]) -> None:
    """Dumped and read again: the same values (PyYAML's own loader is the reference)."""
    import tempfile

    class NoAlias(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    text = yaml.dump({"mrvpn": value}, Dumper=NoAlias, allow_unicode=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(text, encoding="utf-8", newline="")
        assert read(path).tree == yaml.safe_load(text)["mrvpn"]
