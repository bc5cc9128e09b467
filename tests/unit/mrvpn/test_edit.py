"""Edits of a description's text: only what was meant changes, and the result is a good description."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mrvpn import changes, compiler, edit

EXAMPLE = Path(__file__).parents[3] / "pillar" / "network"


def delta(before: str, after: str) -> list[str]:
    """The changed lines alone, with their sign."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---"))]


TEXT = """\
# the network
mrvpn:
  tunnels:
    # to London
    wg_uk:   # aligned by hand
      subnet:   10.9.20.0/24
      hosts: {uk: {expose: 55824}, entry: {}}

    # to Moscow
    wg_ru:
      subnet: '10.9.21.0/24'

  routing:
    routes:
    - interface: wg_uk
      country: GB   # and its islands
    # the default
    - {interface: _DEFAULT, net: 0.0.0.0/0}
  exits:
"""


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        (("tunnels", "wg_de"), {"subnet": "10.9.22.0/24"}, ["+    wg_de: {subnet: 10.9.22.0/24}"]),
        (
            ("tunnels", "wg_uk", "hosts", "de"),
            {"expose": 1},
            [
                "-      hosts: {uk: {expose: 55824}, entry: {}}",
                "+      hosts: {uk: {expose: 55824}, entry: {}, de: {expose: 1}}",
            ],
        ),
        (
            ("tunnels", "wg_uk", "subnet"),
            "10.0.0.0/24",
            ["-      subnet:   10.9.20.0/24", "+      subnet:   10.0.0.0/24"],
        ),
        (
            ("routing", "routes", 0, "country"),
            ["GB", "NO"],
            ["-      country: GB   # and its islands", '+      country: [GB, "NO"]   # and its islands'],
        ),
        (("exits", "wg_uk", "on_down"), "default", ["+    wg_uk: {on_down: default}"]),
        (("hosts", "uk", "endpoint"), "192.0.2.1", ["+  hosts:", "+    uk: {endpoint: 192.0.2.1}"]),
        (
            ("tunnels", "wg_ru", "hosts"),
            {"ru": {"table": "off"}, "entry": {}},
            ["+      hosts:", '+        ru: {table: "off"}', "+        entry: {}"],
        ),
    ],
)
def test_put_changes_these_lines_alone(path: edit.Path, value: object, wanted: list[str]) -> None:
    assert delta(TEXT, edit.put(TEXT, path, value)) == wanted


@pytest.mark.parametrize(
    ("path", "at", "wanted"),
    [
        (("routing", "routes"), None, ["+    - {interface: wg_ru}"]),
        (("routing", "routes"), 0, ["+    - {interface: wg_ru}"]),
        (("routing", "interfaces"), None, ["+    interfaces: [{interface: wg_ru}]"]),
    ],
)
def test_append(path: edit.Path, at: int | None, wanted: list[str]) -> None:
    assert delta(TEXT, edit.append(TEXT, path, {"interface": "wg_ru"}, at)) == wanted


def test_an_item_goes_before_the_comment_of_the_next() -> None:
    lines = edit.append(TEXT, ("routing", "routes"), {"interface": "wg_ru"}, 1).splitlines()
    assert lines[lines.index("    - {interface: wg_ru}") + 1] == "    # the default"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        # the comment that introduces the neighbour stays with the neighbour
        (("tunnels", "wg_uk"), ["-    wg_uk:   # aligned by hand", "-      subnet:   10.9.20.0/24",
                                "-      hosts: {uk: {expose: 55824}, entry: {}}"]),
        (("tunnels", "wg_ru"), ["-    # to Moscow", "-    wg_ru:", "-      subnet: '10.9.21.0/24'"]),
        (("routing", "routes", 0), ["-    - interface: wg_uk", "-      country: GB   # and its islands"]),
        (("routing", "routes", 1), ["-    # the default", "-    - {interface: _DEFAULT, net: 0.0.0.0/0}"]),
        (("tunnels", "wg_uk", "hosts", "uk"), ["-      hosts: {uk: {expose: 55824}, entry: {}}",
                                               "+      hosts: {entry: {}}"]),
        (("tunnels", "wg_uk", "hosts", "entry"), ["-      hosts: {uk: {expose: 55824}, entry: {}}",
                                                  "+      hosts: {uk: {expose: 55824}}"]),
    ],
)  # fmt: skip
def test_drop_takes_these_lines_alone(path: edit.Path, wanted: list[str]) -> None:
    assert delta(TEXT, edit.drop(TEXT, path)) == wanted


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("mrvpn: {a: {b: 1}}\n", ("routing", "routes", 3), "does not stand"),
        ("mrvpn: [\n", ("a",), "line 2: not YAML"),
        ("- 1\n", ("a",), "no `mrvpn:`"),
        ("mrvpn:\n  a: &x {b: 1}\n  c: *x\n", ("c", "b"), "edit it by hand"),
    ],
)
def test_what_cannot_be_edited_is_refused(text: str, path: edit.Path, message: str) -> None:
    with pytest.raises(edit.CannotEdit, match=message):
        edit.drop(text, path)


names = st.text("abcdef:#-'\" й", min_size=1, max_size=6).filter(lambda name: name.strip() == name)
leaves = st.one_of(st.integers(), st.booleans(), names, st.lists(names, min_size=1, max_size=3))
trees = st.dictionaries(names, st.dictionaries(names, leaves, min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(trees, names, names, leaves, st.booleans())
def test_any_tree_survives_a_put_and_a_drop(tree: dict, first: str, second: str, value: object, flow: bool) -> None:
    text = "# kept\n" + yaml.safe_dump({"mrvpn": tree}, default_flow_style=flow, allow_unicode=True, sort_keys=False)
    try:
        once = edit.put(text, (first, second), value)
    except edit.CannotEdit:
        assert flow, "maps written in lines can always be edited"  # {a: b} with colons in its names: left to a person
        return
    assert edit.get(once, (first, second)) == value and once.startswith("# kept\n")
    if second not in tree.get(first, {}):
        gone = edit.drop(once, (first, second))
        assert {k: v for k, v in yaml.safe_load(gone)["mrvpn"].items() if v} == tree


# --- what an operator asks for


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {file.name: file.read_text() for file in EXAMPLE.glob("*.yaml") if file.name != "lock.yaml"}


@pytest.fixture(scope="module")
def network():
    return compiler.compile_path(EXAMPLE).network


def compiled(found: changes.Change, folder: Path) -> compiler.Compiled:
    for name, text in found.texts.items():
        (folder / name).write_text(text)
    result = compiler.compile_path(folder)
    assert result.errors == []
    return result


def test_an_exit_comes_with_all_that_belongs_to_it(texts, network, tmp_path) -> None:
    found = changes.add_exit(
        texts, network, "de", host="de", endpoint="203.0.113.50", fallback=["uk"],
        match={"country": ["DE", "AT"], "suffix": ["de"]},
    )  # fmt: skip
    new = compiled(found, tmp_path).network
    assert new is not None and found.tunnel == "wg_de" and set(found.hosts) == {"entry", "de"}
    assert new.addresses["wg_de"] == {
        "de": ("10.9.25.1/24", "fd6d:7276:25::1/64"),
        "entry": ("10.9.25.2/24", "fd6d:7276:25::2/64"),
    }
    assert delta(texts["routing.yaml"], found.texts["routing.yaml"]) == [
        "+      - {interface: wg_de, country: [DE, AT], suffix: [de]}",
        "+  exits:",
        "+    wg_de: {fallback: [wg_uk]}",
    ]
    assert found.texts["routing.yaml"].splitlines()[11].strip().startswith("- {interface: _DEFAULT")
    assert not [line for name in texts for line in delta(texts[name], found.texts[name]) if line[0] == "-"]
    # the recursor's interfaces are a part of its container: it would be made anew for everybody
    assert found.texts["gateway.yaml"] == texts["gateway.yaml"]


def test_an_exit_that_rules_need_does_not_go(texts, network, tmp_path) -> None:
    with pytest.raises(changes.CannotChange, match=r"wg_uk is needed by route rules \(0: country GB.*to=EXIT"):
        changes.remove_exit(texts, network, "uk")
    moved = compiled(changes.remove_exit(texts, network, "uk", to="us"), tmp_path).network
    assert moved is not None and "uk" not in moved.hosts and moved.description.routing.routes[0].interface == "wg_us"
    assert "wg_uk" not in "".join((tmp_path / name).read_text() for name in texts)


def test_what_was_added_goes_without_a_trace(texts, network, tmp_path) -> None:
    added = changes.add_exit(texts, network, "de", host="de", endpoint="203.0.113.50", match={"country": "DE"})
    between = compiled(added, tmp_path).network
    assert between is not None
    rule = changes.remove_rule(added.texts, between, 3, {"country": "DE"})
    between = compiled(rule, tmp_path).network
    assert between is not None
    assert changes.remove_exit(rule.texts, between, "wg_de").texts == texts


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, n: changes.add_exit(t, n, "uk", host="uk2"), "tunnel wg_uk is there already"),
        (lambda t, n: changes.add_exit(t, n, "me", host="entry"), "is the entrypoint"),
        (lambda t, n: changes.add_exit(t, n, "de", host="de", match={"contry": "DE"}), "contry: a rule has none"),
        (lambda t, n: changes.remove_exit(t, n, "fr"), "there is no tunnel fr; there are: wg_uk"),
        (lambda t, n: changes.remove_exit(t, n, "uk", to="uk"), "is to go"),
        (lambda t, n: changes.add_host(t, n, "office"), "host office is there already"),
        (lambda t, n: changes.add_rule(t, n, "uk", {}), "says what it matches"),
        (lambda t, n: changes.add_rule(t, n, "uk", {"geo": ["GB"], "domains": r".*\.uk"}), "there already"),
        (lambda t, n: changes.remove_rule(t, n, 9), "no rule 9: there are 4"),
        (lambda t, n: changes.remove_rule(t, n, 0, {"country": "RU"}), "its country is not"),
    ],
)
def test_what_makes_no_sense_is_refused(texts, network, call, message: str) -> None:
    with pytest.raises(changes.CannotChange, match=message):
        call(texts, network)


def test_an_office_dials_in(texts, network, tmp_path) -> None:
    new = compiled(changes.add_host(texts, network, "paris", lan=["10.79.0.0/24"]), tmp_path).network
    assert new is not None and "10.79.0.0/24" in new.mesh4 and new.description.services == network.description.services
    assert new.description.tunnels["wg_paris"].hosts["entry"].expose.port == 55800
