"""The suffix filter's file: no name missed, swapped without a gap. tests/dns runs the hook's side of it."""

from __future__ import annotations

import errno
import mmap
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipt_server.dns.filter import FILE, HEADER_WORDS, MAGIC, SPARE, Filter


def slow_crc32(data: bytes) -> int:
    """CRC-32 bit by bit, as hook.lua's table is made."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Hook:
    """hook.lua's reading of the file, line by line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.map()

    def map(self) -> None:
        with self.path.open("rb") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)).cast("I")
        assert self.words[0] == MAGIC and len(self.words) == HEADER_WORDS + self.words[1] + 1

    def present(self, crc: int) -> bool:
        word = crc or 1
        slot = word & self.words[1]
        while seen := self.words[HEADER_WORDS + slot]:
            if seen == word:
                return True
            slot = slot + 1 & self.words[1]
        return False

    def concerned(self, name: str) -> bool:
        if self.words[3]:
            self.map()
        if self.words[4]:
            return True
        data = name.lower().encode()
        ends = [at + 1 for at, byte in enumerate(data) if byte == ord(".")]
        return any(self.present(slow_crc32(data[at:][::-1])) for at in [0, *ends])


def random_names(count: int) -> list[str]:
    r = random.Random(4)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-_"
    return [
        ".".join("".join(r.choices(letters, k=r.randint(1, 12))) for _ in range(r.randint(1, 4))) for _ in range(count)
    ]


def test_none_of_100_000_names_is_missed_and_few_others_are_found(tmp_path: Path) -> None:
    names = random_names(100_000)
    f = Filter(tmp_path)
    f.write(names, ask_for_all=False)
    missed = [name for name in names if name not in f or f"www.{name}" not in f]
    assert not missed
    others = [f"{name}.other-{n}.test" for n, name in enumerate(names[:20_000])]
    false = sum(name in f for name in others)
    assert false < 100, f"{false} of {len(others)}: each costs a question"


def test_the_hook_reads_what_is_written(tmp_path: Path) -> None:
    names = random_names(300)
    f = Filter(tmp_path)
    f.write(names, ask_for_all=False)
    hook = Hook(tmp_path)
    for name in names:
        assert hook.concerned(name) and hook.concerned(f"A.{name.upper()}")
    absent = [f"x{n}.absent.test" for n in range(300)]
    assert [hook.concerned(n) for n in absent] == [n in f for n in absent]


@given(st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=60))
def test_any_name_is_found_again(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("filter")
    f = Filter(folder)
    f.write([name.lower()], ask_for_all=False)
    assert Hook(folder).concerned(name)


def test_a_swap_is_seen_at_the_next_query(tmp_path: Path) -> None:
    f = Filter(tmp_path)
    f.write(["old.ru"], ask_for_all=False)
    hook = Hook(tmp_path)
    prepared = f.prepare(["new.ru"], ask_for_all=False)
    assert hook.concerned("old.ru") and not hook.concerned("new.ru"), "prepared is not yet in force"
    f.switch(prepared)
    assert hook.concerned("new.ru") and not hook.concerned("old.ru")
    f.write([], ask_for_all=True)
    assert hook.concerned("anything.test")


def test_another_life_of_the_daemon_supersedes_what_the_last_one_left(tmp_path: Path) -> None:
    Filter(tmp_path).write(["old.ru"], ask_for_all=False)
    hook = Hook(tmp_path)
    Filter(tmp_path).write(["new.ru"], ask_for_all=False)
    assert hook.concerned("new.ru") and not hook.concerned("old.ru")


@pytest.mark.parametrize("rubbish", [b"", b"x", b"x" * 8, b"x" * 10_000])
def test_a_file_of_rubbish_is_replaced(tmp_path: Path, rubbish: bytes) -> None:
    (tmp_path / FILE).write_bytes(rubbish)
    f = Filter(tmp_path)
    f.write(["new.ru"], ask_for_all=False)
    assert Hook(tmp_path).concerned("new.ru")


def test_names_added_in_place(tmp_path: Path) -> None:
    f = Filter(tmp_path)
    f.add("too.early.test")  # nothing is mapped: the hook asks about every name
    f.write(["a.ru"], ask_for_all=False)
    hook = Hook(tmp_path)
    for n in range(SPARE):
        f.add(f"n{n}.test")
    f.add("n1.test")
    assert all(hook.concerned(f"www.n{n}.test") for n in range(SPARE)) and not hook.concerned("b.test")
    f.add("one.more.test")
    assert hook.concerned("one.more.test") and hook.concerned("b.test"), "no room: every name is asked about"
    f.write(["a.ru"], ask_for_all=False)
    assert not hook.concerned("b.test")


def test_a_full_disk_leaves_the_filter_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = Filter(tmp_path)
    f.write(["old.ru"], ask_for_all=False)
    hook = Hook(tmp_path)
    with pytest.raises(OSError) as refused:
        resource_limited(lambda: f.write([f"n{n}.ru" for n in range(50_000)], ask_for_all=False))
    assert refused.value.errno == errno.EFBIG
    assert hook.concerned("old.ru") and not hook.concerned("n1.ru")
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    f.add("more.ru")
    assert hook.concerned("more.ru")


def resource_limited(work: object) -> None:
    """Runs with room for files of 64 kB at most."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        work()  # type: ignore[operator]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_layout_is_the_one_that_the_hook_knows(tmp_path: Path) -> None:
    f = Filter(tmp_path)
    f.write(["ru"], ask_for_all=False)
    data = f.path.read_bytes()
    assert struct.unpack("=5I", data[:20]) == (MAGIC, 16383, 1, 0, 0)
    slots = struct.unpack(f"={16384}I", data[64:])
    assert slots[slow_crc32(b"ur") & 16383] == slow_crc32(b"ur") and sum(map(bool, slots)) == 1
