"""The index of names against a reference that tries every rule on every name."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipt_server.core import names as names_module
from ipt_server.core.idn import to_ascii, to_unicode
from ipt_server.core.names import NameIndex, TooManyRegexes

label = st.sampled_from(["a", "b", "www", "shop", "ru", "com", "xn--p1ai", "x-y", "_q", "a\\.b", "c\\\\", "\\032"])
name = st.lists(label, min_size=1, max_size=5).map(".".join)
suffix = st.lists(st.sampled_from(["a", "b", "www", "shop", "ru", "com", "xn--p1ai"]), min_size=1, max_size=3).map(
    ".".join
)


def labels(text: str) -> list[str]:
    return re.findall(r"(?:\\.|[^.\\])+", text)


@given(
    st.lists(st.tuples(st.integers(0, 9), suffix, st.booleans(), st.booleans()), max_size=12),
    st.lists(name, max_size=6),
)
def test_look_ups_are_those_of_a_reference(rules: list[tuple[int, str, bool, bool]], asked: list[str]) -> None:
    index = NameIndex()
    for number, text, itself, below in rules:
        index.add(number, [text], itself, below)
    index.finish()
    assert not index.asks_for_all and set(index.suffixes()) == {text for _, text, _, _ in rules}
    for one in asked:
        have = labels(one)
        expected = set()
        for number, text, itself, below in rules:
            want = text.split(".")
            if have[-len(want) :] == want and (below if len(have) > len(want) else itself):
                expected.add(number)
        assert index.match(one) == expected, one


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        (r".*\.ru", ["a.ru", "b.a.ru"], ["ru", "a.rust", "ru.a"]),
        (r"(.*\.)?shop\.ru", ["shop.ru", "www.shop.ru"], ["workshop.ru"]),
        (r"(^|.*\.)shop\.ru$", ["shop.ru", "www.shop.ru"], ["workshop.ru"]),
        (r"Shop\.RU", ["shop.ru"], ["www.shop.ru"]),
        (r"ads?[0-9]*\..*", ["ad.x", "ads12.a.b"], ["bad.x"]),
        (r".*", ["a.ru", "x"], []),
        (r".*\.рф", ["xn--80ak6aa92e.xn--p1ai"], ["xn--p1ai", "a.ru"]),
        (r"(.*\.)?пример\.рф", ["xn--e1afmkfd.xn--p1ai", "www.xn--e1afmkfd.xn--p1ai"], ["xn--p1ai"]),
        (r".*при.*\.рф", ["xn--e1afmkfd.xn--p1ai"], ["xn--80ak6aa92e.xn--p1ai"]),
        (r".*\.xn--p1ai", ["xn--e1afmkfd.xn--p1ai"], []),
    ],
)
def test_patterns(pattern: str, hits: list[str], misses: list[str]) -> None:
    index = NameIndex()
    index.add_pattern(1, pattern)
    index.finish()
    assert [n for n in hits if index.match(n) != {1}] == []
    assert [n for n in misses if index.match(n)] == []


def test_suffixes_in_both_spellings() -> None:
    index = NameIndex()
    index.add(1, ["пример.рф"])
    index.add(2, ["xn--e1afmkfd.xn--p1ai"])
    index.finish()
    assert index.match("www.xn--e1afmkfd.xn--p1ai") == {1, 2}
    assert to_ascii("Straße.DE.") == "xn--strae-oqa.de" and to_unicode("xn--strae-oqa.de") == "straße.de"
    assert to_unicode("xn--zzzzzz99999.de") == "xn--zzzzzz99999.de"
    with pytest.raises(ValueError, match="is no name"):
        to_ascii("а" * 80 + ".рф")


def test_a_thousand_regexes_and_half_a_million_suffixes_stay_small() -> None:
    tracemalloc.start()
    index = NameIndex()
    index.add(1, (f"n{n}.shop{n % 7919}.example{n % 13}.com" for n in range(500_000)))
    for n in range(1000):
        index.add_regex(2 + n, rf"ads{n}[0-9]+\.")
    index.finish()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 100 << 20
    assert index.match("www.n499999.shop1102.example6.com") == {1}
    assert index.match("x.ads7123.test") == {2 + 7, 2 + 71, 2 + 712}
    assert index.match("www.heise.de") == set()


def test_regexes_that_do_not_fit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "REGEX_MEMORY", 1 << 16)
    index = NameIndex()
    for n in range(300):
        index.add_regex(n, rf"ads{n}[0-9]{{1,9}}x+y*\.")
    with pytest.raises(TooManyRegexes, match="300 regular expressions"):
        index.finish()


@pytest.mark.parametrize(
    ("pattern", "tail"),
    [
        (r"ads?[0-9]*\..*\.ru", "ru"),
        (r"(a|b)+\.shop\.example\.com$", "shop.example.com"),
        (r"[^|]+\.Shop\.ru", "shop.ru"),
        (r".*\.при.*\.рф", "xn--p1ai"),
        (r"\|.*\.ru", "ru"),
        (r"foo|.*\.ru", ""),
        (r".*\.(ru|de)", ""),
        (r".*\.ru?", ""),
        (r".*\.ru.*", ""),
        (r".*shop.*", ""),
        (r".*[\.]ru", ""),
        (r".*x\\.ru", ""),
        (r".*ru", ""),
    ],
)
def test_what_a_regex_ends_in_tells_which_names_to_ask_about(pattern: str, tail: str) -> None:
    index = NameIndex()
    index.add_pattern(1, pattern)
    index.finish()
    assert index.asks_for_all == (not tail)
    if tail:
        assert list(index.suffixes()) == [tail]


def test_one_regex_of_any_name_is_enough_to_ask_about_all() -> None:
    index = NameIndex()
    index.add_pattern(1, r"ads?[0-9]*\..*\.ru")
    index.add_regex(2, r"ads[0-9]+\.example$")
    assert not index.asks_for_all and set(index.suffixes()) == {"ru", "example"}
    index.add_regex(3, r"ads")
    assert index.asks_for_all
