"""Country databases: the walk of the tree, csv with overlaps, sets, what cannot be used, the cache."""

from __future__ import annotations

import gzip
import ipaddress
import random
from pathlib import Path

import maxminddb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipt_build import build, rule
from ipt_databases import WORLD, ranges, write_mmdb

from ipt_server import daemon
from ipt_server.core.intervals import Intervals
from ipt_server.geo import DatabaseRefused, Ranges, csv, mmdb
from ipt_server.geo.database import Compiled, countries, country, digest

REAL = Path(__file__).parents[3] / ".cache" / "country" / "country.mmdb"


def by_library(path: Path, wanted: set[str]) -> Ranges:
    """What maxminddb's own iterator finds, neighbours joined."""
    found: Ranges = {name: {4: [], 6: []} for name in wanted}
    with maxminddb.open_database(path) as database:
        for network, record in database:
            if (name := mmdb.code(record)) in found:
                out = found[name][network.version]
                first, last = int(network.network_address), int(network.broadcast_address)
                if out and out[-1][1] == first - 1:
                    first = out.pop()[0]
                out.append((first, last))
    return found


@pytest.mark.parametrize("maxmind", [True, False])
def test_both_record_shapes(tmp_path: Path, maxmind: bool) -> None:
    path = write_mmdb(tmp_path / "c.mmdb", maxmind=maxmind)
    found = countries(path, {"GB", "RU"})
    assert found["RU"] == {family: ranges(WORLD["RU"], family) for family in (4, 6)}
    assert country(path, "81.2.69.160") == "GB" and country(path, "9.9.9.9") is None


def random_world(dice: random.Random) -> dict[str, list[str]]:
    world: dict[str, list[str]] = {code: [] for code in ("AA", "BB", "CC")}
    for _ in range(300):
        if dice.random() < 0.5:
            network = ipaddress.ip_network((dice.getrandbits(32), dice.randrange(6, 33)), strict=False)
        else:
            base = ipaddress.IPv6Address(0x2 << 124 | dice.getrandbits(60) << 64)
            network = ipaddress.ip_network((base, dice.randrange(12, 65)), strict=False)
        world[dice.choice(sorted(world))].append(str(network))
    return world


@pytest.mark.parametrize("size", [24, 28, 32])
def test_the_walk_finds_what_the_library_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    import mmdb_writer

    # the writer takes the smallest size that fits; the larger ones are for databases of gigabytes
    monkeypatch.setattr(mmdb_writer.TreeWriter, "record_size", property(lambda self: size, lambda self, v: None), False)
    path = write_mmdb(tmp_path / "c.mmdb", random_world(random.Random(size)))
    with maxminddb.open_database(path) as database:
        assert database.metadata().record_size == size
    assert countries(path, {"AA", "BB", "CC"}) == by_library(path, {"AA", "BB", "CC"})


@pytest.mark.skipif(not REAL.exists(), reason="no country database (lab/setup fetches it)")
def test_the_walk_finds_what_the_library_finds_in_a_real_database() -> None:
    wanted = {"GB", "RU", "US", "DE", "VA"}
    assert countries(REAL, wanted) == by_library(REAL, wanted)


CSV = """81.2.68.0,81.2.71.255,DE
81.2.69.0,81.2.69.255,GB
2a00:1450::,2a00:1450:ffff:ffff:ffff:ffff:ffff:ffff,"GB"
16777216,16777471,AU
"""


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_csv_ranges_that_overlap_are_told_apart(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"c{ending}"
    path.write_bytes(CSV.encode() if ending == ".csv" else gzip.compress(CSV.encode()))
    found = countries(path, {"GB", "DE", "AU"})
    assert found["GB"][4] == ranges(["81.2.69.0/24"], 4) and found["GB"][6] == ranges(["2a00:1450::/32"], 6)
    assert found["DE"][4] == ranges(["81.2.68.0/24", "81.2.70.0/23"], 4)
    assert found["AU"][4] == ranges(["1.0.0.0/24"], 4)
    assert countries(path, {"DE"})["DE"] == found["DE"], "an inner range counts though nobody asked for its country"


def test_a_set_of_countries_is_its_members(tmp_path: Path) -> None:
    path = write_mmdb(tmp_path / "c.mmdb", {"DE": ["5.1.0.0/16"], "FR": ["5.3.0.0/16"], "GB": ["81.2.69.0/24"]})
    assert sorted(countries(path, {"EU"})["EU"][4]) == ranges(["5.1.0.0/16", "5.3.0.0/16"], 4)


def test_what_cannot_be_used_is_refused_with_its_name(tmp_path: Path) -> None:
    good = write_mmdb(tmp_path / "good.mmdb").read_bytes()
    cases = {
        "empty.mmdb": b"",
        "text.mmdb": b"this is no database\n" * 100,
        "cut.mmdb": good[: len(good) // 2],
        "end-only.mmdb": good[-200:],
        "empty.csv": b"",
        "wrong.csv": b"name,colour\nx,red\n" * 50,
        "binary.csv": bytes(range(256)) * 40,
        "cut.csv.gz": gzip.compress(CSV.encode() * 50)[:-20],
        "no.csv.gz": CSV.encode(),
        "what.txt": CSV.encode(),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatabaseRefused, match=name.replace(".", r"\.")):
            countries(tmp_path / name, {"GB"})
    with pytest.raises(DatabaseRefused, match=r"missing\.mmdb"):
        countries(tmp_path / "missing.mmdb", {"GB"})
    with pytest.raises(DatabaseRefused, match="knows no address of FR"):
        countries(tmp_path / "good.mmdb", {"GB", "FR"})


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=12), st.data())
def test_a_damaged_database_is_refused_or_read_and_never_more(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "fuzz-good.mmdb"
    if not path.exists():
        write_mmdb(path, random_world(random.Random(1)))
    content = bytearray(path.read_bytes())
    for place, value in damage:
        content[place % len(content)] = value
    bad = folder / "fuzz-bad.mmdb"
    bad.write_bytes(content)
    try:
        countries(bad, {"AA"})
    except DatabaseRefused:
        return


@settings(max_examples=100)
@given(st.binary(max_size=400) | st.text(alphabet='0123456789.,:abcDEF\n"', max_size=400).map(str.encode))
def test_a_csv_of_garbage_is_refused_or_read_and_never_more(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(content)
    try:
        csv.countries(path, {"GB"})
    except DatabaseRefused:
        return


def test_what_was_compiled_is_kept_by_content(tmp_path: Path) -> None:
    database = write_mmdb(tmp_path / "c.mmdb")
    s = build(rule(0, "wg_uk", countries=["GB"]), rule(1, "wg_us", prefixes=["5.0.0.0/8"]),
              country_database=str(database))  # fmt: skip
    cache = tmp_path / "cache"
    first = daemon.compile_rules(s, cache)
    (kept,) = cache.glob("intervals-*.bin")
    content = kept.read_bytes()
    database_bytes = database.read_bytes()
    again = daemon.compile_rules(s, cache)
    assert again.intervals == first.intervals and len(list(first.intervals[4])) == 2

    kept.write_bytes(content[:-7])  # damaged: worked out again
    assert daemon.compile_rules(s, cache).intervals == first.intervals
    assert kept.read_bytes() == content

    write_mmdb(database, {"GB": ["9.0.0.0/8"]})
    assert database.read_bytes() != database_bytes
    assert daemon.compile_rules(s, cache).intervals != first.intervals, "another database, another result"
    for number in range(4):
        daemon.compile_rules(build(rule(0, "wg_uk", prefixes=[f"{number + 1}.0.0.0/8"])), cache)
    assert len(list(cache.glob("intervals-*.bin"))) == 2, "old ones go"


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    s = build(rule(0, "wg_uk", prefixes=["5.0.0.0/8"]))
    assert len(daemon.compile_rules(s, tmp_path / "cache").intervals[4]) == 1
    assert Compiled(tmp_path / "cache", 1).read() is None


def test_the_digest_of_a_missing_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseRefused, match="No such file"):
        digest(tmp_path / "x.mmdb")


def test_packed_intervals_are_what_they_were() -> None:
    top4, top6 = (1 << 32) - 1, (1 << 128) - 1
    for family, plain in ((4, [(0, 5, 1), (6, 6, 2), (top4, top4, 3)]), (6, [(1 << 100, top6, 9)])):
        packed = Intervals.of(family, plain)
        assert list(packed) == plain and packed[len(plain) - 1] == plain[-1]
        assert [packed.mark_of(n) for n in (plain[0][0], plain[-1][1])] == [plain[0][2], plain[-1][2]]
        assert packed.mark_of(7) is None
