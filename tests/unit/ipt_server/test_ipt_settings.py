"""Settings: what is wrong is told whole, each problem with its place and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ipt_build import build, exits, raw, rule

from ipt_server.settings import Refused, load, parse


def problems(value: Any) -> list[str]:
    with pytest.raises(Refused) as refused:
        parse(value)
    return refused.value.problems


def test_five_mistakes_are_told_at_once() -> None:
    found = problems(
        raw(
            rule(0, "wg_nowhere", countries=["GB"]),
            rule(1, "wg_uk", patterns=["(?=x)y"]),
            rule(2, "wg_uk", prefixes=["10.0.0.1/8"]),
            exits=exits(wg_us={"table": 254}),
            hints="lern",
        )
    )
    assert len(found) == 5
    told = "\n".join(found)
    assert "routing.routes[0].country: there is no exit wg_nowhere; there are: _DEFAULT, wg_uk, wg_us, wg_de" in told
    assert "rules.1.patterns.0" in told and "without look-around" in told
    assert "rules.2.prefixes.0: 10.0.0.1/8 has host bits set" in told
    assert "exits.wg_us.table: 254 is the kernel's own" in told
    assert "hints: Input should be 'learn' or 'strip'" in told


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"exits": exits()[1:]}, "exits: the first must be _DEFAULT"),
        ({"exits": exits(wg_us={"mark": 201})}, "exits: mark 201 is taken 2 times"),
        ({"exits": exits(wg_us={"table": 201})}, "exits: table 201 is taken 2 times"),
        ({"exits": exits(wg_us={"fallback": ["wg_fr"]})}, "exits.wg_us.fallback: wg_fr is no other exit"),
        ({"exits": exits(wg_us={"fallback": ["wg_us"]})}, "exits.wg_us.fallback: wg_us is no other exit"),
        ({"country_database": None, "rules": [rule(0, "wg_uk", countries=["GB"])]}, "needs country_database"),
        ({"ingress": ['x"; flush ruleset']}, "ingress.0: String should match pattern"),
        ({"own": ["10.0.0.0/8"]}, "own.0: '10.0.0.0/8' does not appear to be an IPv4 or IPv6 address"),
        ({"mesh": {"ipv4": ["x"]}}, "mesh.ipv4.0"),
        ({"rules": [rule(0, "wg_uk", suffixes=["a"]), rule(0, "wg_us", suffixes=["b"])]}, "rules: mark 65536 is taken"),
        ({"learned_max": 0}, "learned_max: Input should be greater than or equal to 1"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_one_mistake_is_told(over: dict[str, Any], told: str) -> None:
    assert any(told in line for line in problems(raw(**over)))


@pytest.mark.parametrize("value", [None, [], "x", 5, {}, {"exits": 3, "rules": [None, 7]}])
def test_what_is_no_settings_at_all_is_refused(value: Any) -> None:
    assert problems(value)


KEYS = st.sampled_from(
    ("exits", "rules", "name", "mark", "exit", "fallback", "table", "interface", "id", "countries", "prefixes")
)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)


@settings(max_examples=200)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5)))
def test_garbage_is_refused_and_nothing_else_happens(value: Any) -> None:
    assert problems(value)


def test_a_file_that_is_missing_no_yaml_or_no_text(tmp_path: Path) -> None:
    for content in (b"a: [", b"\xff\xfe\x00", b""):
        path = tmp_path / "settings.yaml"
        path.write_bytes(content)
        with pytest.raises(Refused):
            load(path)
    with pytest.raises(Refused, match="No such file"):
        load(tmp_path / "missing.yaml")


def test_a_good_file_is_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(raw(rule(0, "wg_uk", suffixes=["x"]))))
    assert load(path) == build(rule(0, "wg_uk", suffixes=["x"]))
