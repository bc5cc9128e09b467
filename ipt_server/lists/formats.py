"""The text of a list of names -> what it covers: plain, hosts, dnsmasq, Clash/mihomo rule-sets, v2fly's geosite.

Knows: the formats. Must not know: files, rules. Text from elsewhere is hostile: lines that are no names are counted,
and a text that is mostly such lines, or holds no name at all, is refused with the place of the first.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import re2

from ipt_server.core.idn import to_ascii

FORMATS = ("plain", "hosts", "dnsmasq", "clash", "geosite")
TOLERATED = 0.1  # part of the lines that may be no names: lists carry slips
LOOKED_AT = 400  # lines, for guessing the format
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.)*[a-z0-9_][a-z0-9_-]{0,62}")
_QUIET = re2.Options()
_QUIET.log_errors = False


class ListRefused(Exception):
    """A list that cannot be used; the text says where and why."""


@dataclass
class Names:
    """What a list covers: names themselves, names with all below, what is below, parts of names, regexes; addresses.

    Its length counts all of them. `strange`: lines that were no entries; `other`: well-formed ones of no concern.
    """

    exact: list[str] = field(default_factory=list)
    suffixes: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)
    regexes: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)  # and prefixes; rules match names, the bypass guard both
    strange: int = 0
    other: int = 0

    def __len__(self) -> int:
        return self.names + len(self.addresses)

    @property
    def names(self) -> int:
        """How many of the entries are about names."""
        return sum(map(len, (self.exact, self.suffixes, self.below, self.keywords, self.regexes)))


class _Strange(ValueError):
    """A line that is no entry; the text says why."""


def parse(text: str, kind: str = "auto", attributes: Iterable[str] = ()) -> Names:
    """What a list's text covers; `kind` is one of FORMATS or auto. Raises ListRefused.

    `attributes`: of geosite, `cn` takes only the entries with `@cn`, `!ads` all but those with `@ads`.
    """
    kind = guess(text) if kind == "auto" else kind
    found, lines = _read(entries(text), kind, frozenset(attributes))
    if not len(found):
        raise ListRefused(f"holds no names or addresses ({lines} lines read as a {kind} list)")
    return found


def checked(text: str) -> None:
    """Refuses a text that is no list of geosite; it may include others, and hold nothing else. Raises ListRefused."""
    _read(((n, line) for n, line in entries(text) if not line.startswith("include:")), "geosite", frozenset())


def _read(lines: Iterable[tuple[int, str]], kind: str, wanted: frozenset[str]) -> tuple[Names, int]:
    """What the lines cover, and their number. Raises ListRefused."""
    line_of, found, first, count = _LINES[kind], Names(), "", 0
    for number, line in lines:
        count += 1
        try:
            line_of(line, found, wanted)
        except ValueError as error:
            found.strange += 1
            first = first or f"line {number}: {error}"
    if found.strange > TOLERATED * count:
        raise ListRefused(f"{first}; {found.strange} of {count} lines are no entries of a {kind} list")
    return found, count


def entries(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are no comment, with their numbers."""
    # a few kB at a time: whatever takes a long text in one go holds up every other thread
    data = io.BytesIO(text.encode(errors="surrogatepass"))
    for number, line in enumerate(io.TextIOWrapper(data, "utf-8", "surrogatepass"), 1):
        line = line.strip().removeprefix("\ufeff")
        if line and line[0] not in "#!;" and not line.startswith("//"):
            yield number, line


def guess(text: str) -> str:
    """The format that a text most likely has."""
    votes = dict.fromkeys(FORMATS, 0)
    for line in text[: LOOKED_AT * 200].splitlines()[:LOOKED_AT]:
        line = line.strip()
        for kind, shape in _SHAPES:
            if shape.match(line):
                votes[kind] += 1
                break
    best = max(votes, key=lambda kind: votes[kind])
    return best if votes[best] else "plain"


_SHAPES = (
    ("clash", re.compile(r"payload:\s*$|(?:-\s*)?['\"]?(?:\+\.|(?:DOMAIN(?:-[A-Z]+)?|IP-CIDR6?|GEOIP|PROCESS-NAME),)")),
    ("geosite", re.compile(r"(?:full|domain|keyword|regexp|include):")),
    ("dnsmasq", re.compile(r"(?:server|address|local|ipset|nftset|rebind-domain-ok)=/")),
    ("hosts", re.compile(r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F:]*::[0-9a-fA-F:]*)\s+[^\s#]")),
)


def quoted(text: str) -> str:
    """The beginning of a text for a message: what does not print may take four characters, and is cut as well."""
    told = repr(text[:60])
    return told if len(told) <= 80 else f"{told[:80]}..."


def name(text: str) -> str:
    """A name of a list as the DNS carries it. Raises ValueError."""
    if not _NAME.fullmatch(text):
        written = text
        with contextlib.suppress(ValueError):  # its reason quotes the whole text
            text = to_ascii(text)
        if not _NAME.fullmatch(text):
            raise _Strange(f"{quoted(written)} is no name")
    if len(text) > 253:
        raise _Strange(f"{quoted(text)}... has {len(text)} characters; a name has at most 253")
    if text.rpartition(".")[2].isdigit():
        raise _Strange(f"{quoted(text)} is no name but looks like an address")
    return text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _wild(text: str, found: Names) -> None:
    """A name that may begin with `+.` (itself and below), `.` or `*.` (below)."""
    if text.startswith("+."):
        found.suffixes.append(name(text[2:]))
    elif text.startswith((".", "*.")):
        found.below.append(name(text.lstrip("*").removeprefix(".")))
    elif "*" in text or "+" in text:
        raise _Strange(f"{quoted(text)}: a star may only stand for what is before the first dot")
    else:
        found.exact.append(name(text))


def _plain(line: str, found: Names, _: frozenset[str]) -> None:
    """A name and everything below it; `*.` and `.` before it say the same, as does ||name^ of blockers."""
    text = line.partition("#")[0].strip()
    if text.startswith("||") and text.endswith("^"):
        text = text[2:-1]
    text = text.removeprefix("*").removeprefix(".")
    if ("." in text or ":" in text) and text[-1:].isalnum() and text[0] in "0123456789abcdef:" and _is_address(text):
        found.addresses.append(text)
        return
    found.suffixes.append(name(text))


_LOCAL = frozenset(
    {"localhost", "localhost.localdomain", "local", "broadcasthost", "0.0.0.0"}
    | {
        f"ip6-{what}"
        for what in ("localhost", "loopback", "localnet", "mcastprefix", "allnodes", "allrouters", "allhosts")
    }
)


def _hosts(line: str, found: Names, _: frozenset[str]) -> None:
    address, *names = line.partition("#")[0].split()
    if not _is_address(address.partition("%")[0]):
        raise _Strange(f"{quoted(address)} is no address: a line of hosts is `0.0.0.0 name`")
    if not names:
        raise _Strange(f"{quoted(address)} stands alone: a line of hosts is `0.0.0.0 name`")
    for text in names:
        if text.lower() in _LOCAL:
            found.other += 1
        else:
            found.exact.append(name(text))


_DNSMASQ = re.compile(r"(?:server|address|local|ipset|nftset|rebind-domain-ok)=/(.*)/[^/]*")


def _dnsmasq(line: str, found: Names, _: frozenset[str]) -> None:
    parts = _DNSMASQ.fullmatch(line)
    if not parts:
        if re.match(r"[a-z0-9-]+(?:=|$)", line):  # another option of dnsmasq
            found.other += 1
            return
        raise _Strange(f"{quoted(line)} is no line of dnsmasq, such as server=/example.com/192.0.2.1")
    for text in parts[1].split("/"):
        if text in ("#", ""):  # every name, unqualified names
            found.other += 1
        else:
            found.suffixes.append(name(text.removeprefix("*").removeprefix(".")))


_OTHER_CLASH = re.compile(r"[A-Z][A-Z0-9-]+,")


def _clash(line: str, found: Names, wanted: frozenset[str]) -> None:
    if line.startswith("payload:"):
        return
    text = line.removeprefix("-").strip()
    if text[:1] in "'\"" and text[:1]:
        text, _, rest = text[1:].partition(text[0])
        if rest.strip() and not rest.strip().startswith("#"):
            raise _Strange(f"{quoted(line)}: text after the quote")
    else:
        text = text.partition(" #")[0].strip()
    kind, comma, rest = text.partition(",")
    if not comma:
        if _is_address(text):
            found.addresses.append(text)
        else:
            _wild(text, found)
        return
    value = rest.partition(",")[0].strip()
    match kind.strip():
        case "DOMAIN":
            found.exact.append(name(value))
        case "DOMAIN-SUFFIX":
            found.suffixes.append(name(value.removeprefix("+").removeprefix(".")))
        case "DOMAIN-KEYWORD":
            found.keywords.append(_keyword(value))
        case "DOMAIN-REGEX":
            found.regexes.append(_regex(rest.strip()))
        case "DOMAIN-WILDCARD":
            found.regexes.append("^" + re.escape(value).replace(r"\*", ".*").replace(r"\?", ".") + "$")
        case "IP-CIDR" | "IP-CIDR6" if _is_address(value):
            found.addresses.append(value)
        case _ if _OTHER_CLASH.match(text):
            found.other += 1
        case _:
            raise _Strange(f"{quoted(line)} is no rule of a rule-set")


def entry(line: str) -> tuple[str, str, list[str]]:
    """Kind, value and marks (`@attribute`, `&list`) of a line of geosite. Raises ValueError."""
    text, *marks = re.split(r"\s+|:(?=@)", line.partition(" #")[0].strip())
    if text.startswith(("@", "&")):
        raise _Strange(f"{quoted(line)}: an attribute without a name")
    if any(not mark.startswith(("@", "&")) for mark in marks):
        raise _Strange(f"{quoted(line)}: what follows a name is an attribute, such as @cn")
    kind, colon, value = text.partition(":")
    return (kind, value, marks) if colon else ("domain", text, marks)


def _geosite(line: str, found: Names, wanted: frozenset[str]) -> None:
    kind, value, marks = entry(line)
    have = {mark[1:] for mark in marks if mark.startswith("@")}
    if kind == "include":
        raise _Strange(f"{quoted(line)}: only a list from a file or a URL has other files beside it")
    required = {w for w in wanted if not w.startswith("!")}
    if (required and not required & have) or any(w[1:] in have for w in wanted if w.startswith("!")):
        found.other += 1
        return
    match kind:
        case "domain":
            found.suffixes.append(name(value))
        case "full":
            found.exact.append(name(value))
        case "keyword":
            found.keywords.append(_keyword(value))
        case "regexp":
            found.regexes.append(_regex(value))
        case _:
            raise _Strange(f"{quoted(line)}: {kind[:20]!r} is none of full, domain, keyword, regexp")


def _keyword(text: str) -> str:
    if len(text) < 2 or not re.fullmatch(r"[\w.-]+", text):
        raise _Strange(f"{quoted(text)} is no part of a name of at least two characters")
    return text.lower()


def _regex(text: str) -> str:
    if not text:
        raise _Strange("a regular expression is empty: it would match every name")
    try:
        re2.compile(text, _QUIET)  # type: ignore[no-untyped-call]
    except re2.error:
        raise _Strange(f"{quoted(text)} is no regular expression that runs in linear time") from None
    return text


_LINES: dict[str, Callable[[str, Names, frozenset[str]], None]] = {
    "plain": _plain,
    "hosts": _hosts,
    "dnsmasq": _dnsmasq,
    "clash": _clash,
    "geosite": _geosite,
}
