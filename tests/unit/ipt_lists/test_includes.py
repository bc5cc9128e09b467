"""v2fly's includes: which entries come in, what goes round in circles or too deep, and that each file is read once."""

from __future__ import annotations

import pytest

from ipt_server.lists import includes
from ipt_server.lists.formats import ListRefused, guess, parse
from ipt_server.lists.includes import whole

FILES = {
    "google": "google.com\nfull:ads.google.com @ads\ngoogle.cn @cn\ngoogle.cn.ads @cn @ads\ninclude:youtube\n",
    "youtube": "# more of it\nyoutube.com\nkeyword:ytimg @ads\nregexp:^yt[0-9]+\\.com$ @cn # a comment\n",
    "geolocation-!cn": "domain:example.org:@us\n",
}


def read(name: str) -> str:
    try:
        return FILES[name]
    except KeyError:
        raise ListRefused("is not there") from None


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("include:youtube", ["youtube.com", "ytimg", r"^yt[0-9]+\.com$"]),
        ("include:youtube @ads", ["ytimg"]),
        ("include:youtube @-ads", ["youtube.com", r"^yt[0-9]+\.com$"]),
        ("include:youtube @-ads @-cn # only what is neither", ["youtube.com"]),
        ("include:youtube\t@cn", [r"^yt[0-9]+\.com$"]),
        ("include:google @cn @ads", ["google.cn.ads"]),
        ("include:google @cn @-ads", ["google.cn", r"^yt[0-9]+\.com$"]),
        ("include:google @ads", ["ads.google.com", "google.cn.ads", "ytimg"]),
        ("include:geolocation-!cn @us", ["example.org"]),
        ("include:geolocation-!cn @cn", []),
    ],
)
def test_what_comes_in(line: str, values: list[str]) -> None:
    text = whole(f"mine.example\n{line}\n", "mine", read)
    assert guess(text) == "geosite", "still known for what it is"
    found = parse(text)
    assert not found.strange
    assert sorted([*found.suffixes, *found.exact, *found.keywords, *found.regexes]) == sorted(["mine.example", *values])


def test_a_lists_own_attributes_choose_among_what_came_in() -> None:
    text = whole("include:google\ninclude:geolocation-!cn\n", "mine", read)
    assert parse(text, attributes=["us"]).suffixes == ["example.org"]
    assert sorted(parse(text, attributes=["cn", "!ads"]).suffixes) == ["google.cn"]


def test_each_file_is_read_once_and_each_entry_taken_once() -> None:
    asked: list[str] = []

    def counted(name: str) -> str:
        asked.append(name)
        return read(name)

    text = whole("include:youtube\ninclude:google\ninclude:youtube @ads\nyoutube.com\n", "mine", counted)
    assert sorted(asked) == ["google", "youtube"]
    assert text.count("domain:youtube.com\n") == 1 and len(parse(text)) == 7


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a": "include:mine\n"}, "line 1: include:a: line 1: includes go round in a circle: mine -> a -> mine"),
        ({"a": "b.com\ninclude:b\n", "b": "include:a\n"}, "in a circle: a -> b -> a"),
        ({"a": "include:a @ads\n"}, "in a circle: a -> a"),
        ({"a": "include:gone\n"}, "line 1: include:a: line 1: include:gone: is not there"),
        ({"a": "x.com\ninclude:../secret\n"}, "line 2: 'include:../secret': wanted is a file's name"),
        ({"a": "include:\n"}, "'include:': wanted is a file's name"),
        ({"a": "include:.hidden\n"}, "wanted is a file's name"),
        ({"a": "include:b ads\n"}, "wanted is a file's name and attributes"),
        ({"a": "include:n1\n"} | {f"n{n}": f"include:n{n + 1}\n" for n in range(40)}, "more than 16 files"),
    ],
)
def test_what_is_refused(files: dict[str, str], told: str) -> None:
    def from_these(name: str) -> str:
        try:
            return files[name]
        except KeyError:
            raise ListRefused("is not there") from None

    with pytest.raises(ListRefused) as refused:
        whole("include:a\n", "mine", from_these)
    assert told in str(refused.value) and len(str(refused.value)) < 700


def test_lists_that_multiply_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(includes, "MOST", 1000)
    files = {"n9": "".join(f"n{n}.com\n" for n in range(300))} | {f"n{n}": f"include:n{n + 1}\n" for n in range(9)}
    with pytest.raises(ListRefused, match="more than 1,000 entries"):
        whole("include:n0\n", "mine", files.__getitem__)


def test_lines_that_are_no_entries_stay_to_be_counted() -> None:
    text = whole("good.com\nno entry at all\ninclude:youtube @ads\n", "mine", read)
    with pytest.raises(ListRefused, match="1 of 3 lines are no entries"):
        parse(text)
