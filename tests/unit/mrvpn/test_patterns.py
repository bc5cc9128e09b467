"""What a regex of a domain rule means: the look-up and RE2 say the same, the whole name or nothing."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from mrvpn.patterns import Shape, compile_pattern, is_name, normal, problem


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        (r".*\.ru", Shape("ru", False, True)),
        (r"^.*\.ru$", Shape("ru", False, True)),
        (r".+\.co\.uk", Shape("co.uk", False, True)),
        (r"(.*\.)?example\.com", Shape("example.com", True, True)),
        (r"(?:.*\.)?example\.com", Shape("example.com", True, True)),
        (r"(^|.*\.)example\.com$", Shape("example.com", True, True)),
        (r"example\.com", Shape("example.com", True, False)),
        (r"EXAMPLE\.com", Shape("example.com", True, False)),
        ("localhost", Shape("localhost", True, False)),
    ],
)
def test_shapes(pattern: str, shape: Shape) -> None:
    assert compile_pattern(pattern) == shape


@pytest.mark.parametrize(
    "pattern", [r".*ru", r".*\.r.", r"www\..*", r"a|b", r".*\.(ru|su)", r"[a-z]+\.ru", "example.com"]
)
def test_the_rest_is_for_re2(pattern: str) -> None:
    """Among them example.com, whose dot is any character."""
    assert compile_pattern(pattern).regex == f"(?i:{pattern})"


LABEL = st.text("abru-_0", min_size=1, max_size=3)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
BEFORE = st.sampled_from(["", r".*\.", r".+\.", r"(.*\.)?", r"(.+\.)?", r"(?:.*\.)?", r"(^|.*\.)"])


@given(BEFORE, NAME, st.sampled_from(["", "$"]), NAME, st.booleans())
def test_a_look_up_says_what_the_regex_says(before: str, name: str, after: str, asked: str, below: bool) -> None:
    pattern = before + name.replace(".", r"\.") + after
    shape = compile_pattern(pattern)
    assert shape.name == name
    asked = f"{asked}.{name}" if below else asked
    by_look_up = (shape.itself and asked == name) or (shape.below and asked.endswith(f".{name}"))
    assert by_look_up == bool(re2.fullmatch(f"(?i:{pattern})", asked))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(", "is no regular expression"),
        (r"(?!www).*\.uk", r"such as '.*\\.uk'"),
        (r"(?<=x)a", "such as 'a'"),
        (r"(a)\1", "needs what RE2 has not"),
        ("a{2000}", "needs what RE2 has not"),
        ("", "is empty"),
    ],
)
def test_problems(pattern: str, told: str) -> None:
    found = problem(pattern)
    assert found is not None
    assert told in found


@given(st.text(max_size=12))
def test_a_problem_or_a_shape(pattern: str) -> None:
    """Never a traceback: what has no problem compiles."""
    if problem(pattern) is None:
        shape = compile_pattern(pattern)
        if shape.regex is not None:
            re2.compile(shape.regex)


@pytest.mark.parametrize("name", ["ru", "example.com", "xn--p1ai", "рф", "_dmarc.example.com", "a" * 63])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "*.ru", r"a\.b", "a b", "a" * 64, ".".join(["a" * 60] * 5), "1.2.3.0/24", "a\nb"]
)
def test_no_names(name: str) -> None:
    assert not is_name(name)


def test_normal() -> None:
    assert normal("WWW.Example.COM.") == "www.example.com"
