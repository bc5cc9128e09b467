"""Bad input: every problem has a code, every code a case, every case its messages pinned; never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrvpn import compiler
from mrvpn.__main__ import main
from mrvpn.errors import CODES

HERE = Path(__file__).parent
GOOD = (HERE / "good" / "network.yaml").read_text()
CASES = yaml.safe_load((HERE / "cases.yaml").read_text())


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in compiler.compile_path(folder).problems]


def changed(changes: list[dict[str, str]]) -> str:
    text = GOOD
    for change in changes:
        if change["old"] == "ALL":
            text = change["new"]
            continue
        assert text.count(change["old"]) == 1, f"{change['old']!r} stands not once in the good description"
        text = text.replace(change["old"], change["new"])
    return text


def test_the_good_description_is_good() -> None:
    assert problems(HERE / "good") == []


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_case(case: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "network.yaml").write_text(changed(case["change"]))
    for name, text in case.get("beside", {}).items():
        (tmp_path / name).write_text(text)
    assert problems(tmp_path) == case["problems"]
    bad = any("warning: " not in problem for problem in case["problems"])
    assert (compiler.compile_path(tmp_path).network is None) == bad


# what is wrong by itself, whatever else is wrong; the other codes tell of relations, whose other end may be gone
BY_ITSELF = {"value", "unknown-key", "missing", "tunnel-name", "name", "unknown-country", "pattern", "suffix"}
BY_ITSELF |= {"password", "family", "plain-secret"}
NOTHING_TO_READ = {"syntax", "top", "alias", "depth", "encoding", "key", "tag", "duplicate-key", "missing"}
OTHERS = 20  # every so manieth of the other cases


def told_by_itself(case: dict[str, Any]) -> set[tuple[str, str]]:
    told = {(problem.split(": ")[-1], problem.rpartition("[")[2].rstrip("]")) for problem in case["problems"]}
    return {(message, code) for message, code in told if code in BY_ITSELF}


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case["case"] for case in CASES])
def test_two_mistakes_are_told_at_once(number: int, tmp_path: Path) -> None:
    """Each case together with some of the others: what is wrong with a value never hides behind another mistake."""
    one = CASES[number]
    codes = {problem.rpartition("[")[2].rstrip("]") for problem in one["problems"]}
    if codes & NOTHING_TO_READ or "ALL" in {change["old"] for change in one["change"]} or "beside" in one:
        return
    for other in CASES[number % OTHERS :: OTHERS]:
        both = [*one["change"], *other["change"]]
        text = GOOD
        for change in both:
            if text.count(change["old"]) == 1:
                text = text.replace(change["old"], change["new"])
        if len({change["old"] for change in both}) < len(both) or any(change["new"] not in text for change in both):
            continue  # both change one place
        if "tunnels as a list" in (one["case"], other["case"]):  # there is no tunnel to say anything of
            continue
        (tmp_path / "network.yaml").write_text(text)
        found = told_by_itself({"problems": problems(tmp_path)})
        whole = {problem.rpartition("[")[2].rstrip("]") for problem in other["problems"]}
        wanted = told_by_itself(one) | told_by_itself(other) if not whole & NOTHING_TO_READ else set()
        gone = {code for _, code in wanted - found}
        assert not gone, f"{one['case']} and {other['case']}: {wanted - found}"


def test_every_code_has_a_case(tmp_path: Path) -> None:
    told = {problem.rpartition("[")[2].rstrip("]") for case in CASES for problem in case["problems"]}
    # those that need more than text: the tests below
    told |= {"encoding", "no-files", "too-large", "unreadable"}
    assert told == set(CODES)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "network.yaml").write_bytes(b"mrvpn:\n  entrypoint: caf\xe9\n")
    assert problems(tmp_path) == ["network.yaml:2: is not UTF-8 (byte 24): save it as UTF-8 [encoding]"]


def test_utf16(tmp_path: Path) -> None:
    (tmp_path / "network.yaml").write_bytes(GOOD.encode("utf-16"))
    assert problems(tmp_path) == ["network.yaml:1: is not UTF-8 (byte 0): save it as UTF-8 [encoding]"]


def test_too_large(tmp_path: Path) -> None:
    (tmp_path / "network.yaml").write_text("mrvpn: {}\n#" + "x" * 10 * 2**20)
    told = "network.yaml: is 10485771 bytes; a description file has at most 10485760 [too-large]"
    assert problems(tmp_path) == [told]


def test_as_large_as_can_be(tmp_path: Path) -> None:
    (tmp_path / "network.yaml").write_text(GOOD + "#" + "x" * (10 * 2**20 - 2 - len(GOOD)) + "\n")
    assert problems(tmp_path) == []


def test_a_bomb_is_not_built(tmp_path: Path) -> None:
    lines = ["mrvpn:", "  a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  {b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)]
    (tmp_path / "network.yaml").write_text("\n".join(lines))
    assert problems(tmp_path) == ["network.yaml:3: aliases (*a) are not read: write the value out [alias]"]


def test_nothing_there(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"{tmp_path}: no *.yaml file here [no-files]"]
    assert problems(tmp_path / "gone") == [f"{tmp_path / 'gone'}: no such file or folder [no-files]"]


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "network.yaml").mkdir()
    assert problems(tmp_path) == ["network.yaml: cannot be read: Is a directory [unreadable]"]


def test_what_stands_in_another_file_is_not_missed_when_that_cannot_be_read(tmp_path: Path) -> None:
    """One syntax error, one problem: no rule seems to name an unknown tunnel because of it."""
    head, _, routing = GOOD.partition("  routing:\n")
    (tmp_path / "a.yaml").write_text(head + "  x: [\n")
    (tmp_path / "b.yaml").write_text("mrvpn:\n  routing:\n" + routing.replace("pbr_mark: 200", "pbr_mark: x"))
    found = problems(tmp_path)
    assert [problem.rpartition(" ")[2] for problem in found] == ["[syntax]", "[value]"]


def test_a_key_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("mrvpn:\n  hosts:\n    uk: {endpoint: 203.0.113.21}\n    de: {}\n")
    assert problems(tmp_path) == [
        "b.yaml:3: hosts.uk.endpoint: is set already in a.yaml:7: keep one [duplicate-key]",
        "b.yaml:4: warning: hosts.de: has no end of any tunnel; there are: entry, office, uk, us [unknown-host]",
    ]


def test_secrets_are_in_no_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "hush-hush-hush"
    values = (
        secret,
        f"[{secret}]",
        f"{{secret: [{secret}]}}",
        f"{{x: {secret}}}",
        f"!x {secret}",
        f"{{secret: {secret}x, y: 1}}",
    )
    for key in ("private", "psk"):
        for value in values:
            text = GOOD.replace("us: {expose: 55824,", f"us: {{{key}: {value}, expose: 55824,")
            (tmp_path / "network.yaml").write_text(text)
            assert secret not in "\n".join(problems(tmp_path))
            for form in ("text", "json", "github"):
                main(["check", str(tmp_path), "--format", form])
    for value in values:
        for key in ("fz_admin_password: ", "fz_oidc: {a: {client_id: x, client_secret: "):
            closing = "}" * key.count("{")
            (tmp_path / "network.yaml").write_text(f"{GOOD}\n  firezone: {{{key}{value}{closing}}}\n")
            assert secret not in "\n".join(problems(tmp_path))
            main(["check", str(tmp_path)])
    assert secret not in "".join(capsys.readouterr())


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["10.9.22.0/24", "fd00::/64", "0.0.0.0/0", "255.255.255.255/32", "55824", "GB", "wg_us", ".*", "off"]
    ),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def paths(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += paths(value, (*at, key))
    return found


TREE = yaml.safe_load(GOOD)
PATHS = paths(TREE)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.sampled_from(PATHS), values), min_size=1, max_size=3))
def test_wrong_types_at_every_level(changes: list[tuple[tuple[Any, ...], Any]], tmp_path: Path) -> None:
    tree = json.loads(json.dumps(TREE))
    for path, value in changes:
        if not path:
            tree = value
            continue
        try:
            node = tree
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = value
        except (KeyError, IndexError, TypeError):  # an earlier change took it away
            continue
    (tmp_path / "network.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True))
    compiled = compiler.compile_path(tmp_path)
    assert compiled.network is not None or compiled.errors
    assert all(problem.message and "\n" not in str(problem) for problem in compiled.problems)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda t: f"mrvpn:\n  {t}".encode(errors="replace"))
    )
)
def test_any_bytes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "network.yaml").write_bytes(data)
    compiled = compiler.compile_path(tmp_path)
    assert compiled.network is not None or compiled.errors


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, len(GOOD)), put=st.text(max_size=5), length=st.integers(0, 30))
def test_any_edit(cut: int, put: str, length: int, tmp_path: Path) -> None:
    (tmp_path / "network.yaml").write_text(GOOD[:cut] + put + GOOD[cut + length :], errors="replace")
    compiled = compiler.compile_path(tmp_path)
    assert compiled.network is not None or compiled.errors


@pytest.mark.parametrize(
    "line",
    [
        "      - {interface: wg_uc, country: ZZ, net: x}\n",
        "      - {unknown: 1, other: 2}\n",
        "      - 5\n",
        "      - {interface: wg_uk, country: GB}\n",
        "      - {domain: '(', suffix: '*'}\n",
    ],
)
def test_many_of_them_end(line: str, tmp_path: Path) -> None:
    """Five thousand bad rules are five thousand problems, not five thousand times five thousand."""
    (tmp_path / "network.yaml").write_text(GOOD + line * 5_000)
    compiled = compiler.compile_path(tmp_path)
    assert len(compiled.problems) >= 5_000


def test_many_tunnels_end(tmp_path: Path) -> None:
    head, _, tail = GOOD.partition("  clients:\n")
    tunnels = "".join(
        f"    t{n}: {{subnet: 10.200.0.0/24, hosts: {{uk: {{expose: x}}, us: {{}}}}}}\n" for n in range(5000)
    )
    (tmp_path / "network.yaml").write_text(f"{head}{tunnels}  clients:\n{tail}")
    found = problems(tmp_path)
    assert sum("is no port" in problem for problem in found) == 5000
    assert sum("overlaps" in problem for problem in found) == 4999


def test_a_bad_entry_of_a_list_takes_the_list_alone(tmp_path: Path) -> None:
    text = GOOD.replace("[wg-firezone, wg_uk]}", "[1, 2, 3, 4], other: [wg_nowhere]}")
    (tmp_path / "network.yaml").write_text(text)
    found = problems(tmp_path)
    assert sum("is no text" in problem for problem in found) == 4
    assert sum("services.other" in problem for problem in found) == 2  # its service and its interface


def test_a_tag_in_a_list_hides_nothing_else(tmp_path: Path) -> None:
    text = GOOD.replace("allowed_nets: [10.78.0.0/24]", "allowed_nets: [!x y]").replace("back: [wg_us]", "back: [wg_u]")
    (tmp_path / "network.yaml").write_text(text)
    assert [problem.rpartition(" ")[2] for problem in problems(tmp_path)] == ["[tag]", "[unknown-exit]"]
