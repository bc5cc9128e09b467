"""The formats of lists: what each line means, what is passed over, what is refused and where."""

from __future__ import annotations

import pytest

from ipt_server.core.names import NameIndex
from ipt_server.lists.formats import ListRefused, guess, parse

PLAIN = """# a comment
example.com
*.Example.NET   # with a comment
.example.org
||ads.example^
пример.рф
192.0.2.1
2001:db8::/32
"""
HOSTS = """127.0.0.1 localhost
::1 ip6-localhost ip6-loopback
0.0.0.0 ads.example.com tracker.example.com # two
:: six.example.com
"""
DNSMASQ = """# a comment
server=/example.com/192.0.2.1
address=/ads.example.net/tracker.example.net/0.0.0.0
nftset=/example.org/4#inet#fw#set
local=/lan/
server=/#/192.0.2.1
no-resolv
cache-size=1000
"""
CLASH_DOMAINS = """payload:
  - '+.example.com'
  - ".example.net"   # below only
  - '*.example.org'
  - www.example.de
"""
CLASH_CLASSICAL = """payload:
  - DOMAIN,www.example.com
  - DOMAIN-SUFFIX,example.net
  - DOMAIN-KEYWORD,tracker
  - DOMAIN-REGEX,^ads[0-9]+\\.
  - DOMAIN-WILDCARD,a*.example.de
  - IP-CIDR,192.0.2.0/24,no-resolve
  - IP-CIDR6,2001:db8::/32,no-resolve
  - PROCESS-NAME,curl
  - GEOIP,CN
"""
GEOSITE = """# a comment
domain:example.com
full:www.example.net @cn
keyword:tracker @ads
regexp:^ads[0-9]+\\.example\\.org$ # with a comment
example.de @cn @ads &more
domain:example.fr:@ads
"""


def test_plain() -> None:
    found = parse(PLAIN)
    assert found.suffixes == ["example.com", "example.net", "example.org", "ads.example", "xn--e1afmkfd.xn--p1ai"]
    assert (found.names, found.addresses) == (5, ["192.0.2.1", "2001:db8::/32"])
    assert (len(found), found.other, found.strange) == (7, 0, 0)


def test_hosts() -> None:
    found = parse(HOSTS)
    assert found.exact == ["ads.example.com", "tracker.example.com", "six.example.com"]
    assert (len(found), found.other, found.strange) == (3, 3, 0)


def test_dnsmasq() -> None:
    found = parse(DNSMASQ)
    assert found.suffixes == ["example.com", "ads.example.net", "tracker.example.net", "example.org", "lan"]
    assert (len(found), found.other, found.strange) == (5, 3, 0)


def test_clash() -> None:
    found = parse(CLASH_DOMAINS)
    assert (found.suffixes, found.below, found.exact) == (
        ["example.com"],
        ["example.net", "example.org"],
        ["www.example.de"],
    )
    found = parse(CLASH_CLASSICAL)
    assert (found.exact, found.suffixes, found.keywords) == (["www.example.com"], ["example.net"], ["tracker"])
    assert found.regexes == [r"^ads[0-9]+\.", r"^a.*\.example\.de$"] and (found.other, found.strange) == (2, 0)
    assert found.addresses == ["192.0.2.0/24", "2001:db8::/32"] and (len(found), found.names) == (7, 5)
    assert len(parse("+.example.com\nDOMAIN,a.example.net\n")) == 2, "the text form, without payload"


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ((), ["example.com", "example.de", "example.fr", "www.example.net", "tracker", r"^ads[0-9]+\.example\.org$"]),
        (("cn",), ["example.de", "www.example.net"]),
        (("ads",), ["example.de", "example.fr", "tracker"]),
        (("!ads",), ["example.com", "www.example.net", r"^ads[0-9]+\.example\.org$"]),
        (("cn", "!ads"), ["www.example.net"]),
    ],
)
def test_geosite(attributes: tuple[str, ...], names: list[str]) -> None:
    found = parse(GEOSITE, attributes=attributes)
    assert [*found.suffixes, *found.exact, *found.keywords, *found.regexes] == names and not found.strange


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (PLAIN, "plain"),
        ("192.0.2.1  # dns.example.com\n2001:db8::1 # the same\n", "plain"),
        (HOSTS, "hosts"),
        (DNSMASQ, "dnsmasq"),
        (CLASH_DOMAINS, "clash"),
        (CLASH_CLASSICAL, "clash"),
        (GEOSITE, "geosite"),
    ],
)
def test_formats_are_told_apart(text: str, kind: str) -> None:
    assert guess(text) == kind


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("", "auto", "holds no names"),
        ("# nothing\n\n", "auto", "holds no names"),
        ("# 192.0.2.1\n", "plain", "holds no names or addresses"),
        (
            "<!DOCTYPE html>\n<html><body>Not Found</body></html>\n",
            "auto",
            "line 1: '<!DOCTYPE html>' is no name; 2 of 2 lines",
        ),
        ("\x00\x01\x02\xff\n" * 9, "auto", "line 1: "),
        ("a" * 5000 + "\n", "auto", "line 1: "),
        ("x." * 200 + "com\n", "plain", "a name has at most 253"),
        ("1.2.3\n", "plain", "looks like an address"),
        ("a.*.com\n", "clash", "a star may only stand"),
        ("NONSENSE WORD,x\n", "clash", "is no rule of a rule-set"),
        ("DOMAIN-REGEX,(?=x)\n", "clash", "linear time"),
        ("DOMAIN-REGEX,\n", "clash", "is empty"),
        ("regexp:\n", "geosite", "is empty"),
        ("include:other\n", "geosite", "has other files beside it"),
        ("regexp:(((\n", "geosite", "linear time"),
        ("other:x.com\n", "geosite", "is none of full, domain, keyword, regexp"),
        ("keyword:a\n", "geosite", "at least two characters"),
        ("domain:x.com y\n", "geosite", "is an attribute"),
        ("@cn\n", "geosite", "an attribute without a name"),
        ("example.com\n", "hosts", "is no address"),
        ("0.0.0.0\n", "hosts", "stands alone"),
        ("?? example.com\n", "dnsmasq", "is no line of dnsmasq"),
    ],
)
def test_what_is_refused(text: str, kind: str, told: str) -> None:
    with pytest.raises(ListRefused) as refused:
        parse(text, kind)
    assert told in str(refused.value) and len(str(refused.value)) < 300


def test_a_slip_is_passed_over_and_counted_but_not_many() -> None:
    good = [f"n{n}.example.com" for n in range(20)]
    found = parse("\n".join([*good, "no name at all"]))
    assert (len(found), found.strange) == (20, 1)
    with pytest.raises(ListRefused, match="3 of 23 lines are no entries of a plain list"):
        parse("\n".join([*good, "no name", "at all", "in here", ""]).replace("at all", "at all "))


def test_what_a_list_covers() -> None:
    index = NameIndex()
    index.add_listed(1, parse(CLASH_DOMAINS))
    index.add_listed(2, parse(GEOSITE))
    index.finish()
    hits = {
        "example.com": {1, 2}, "a.example.com": {1, 2}, "example.net": set(), "a.example.net": {1},
        "www.example.net": {1, 2},
        "www.example.de": {1, 2}, "x.www.example.de": {2}, "ads7.example.org": {1, 2}, "ads.example.org": {1},
        "my-tracker.test": {2}, "other.test": set(),
    }  # fmt: skip
    assert {name: index.match(name) for name in hits} == hits
    assert index.asks_for_all, "a keyword may be in any name"
