"""nf_tables set elements by raw netlink: whole interval maps replaced at once, and single learned addresses.

Knows: the wire format of NFT_MSG_NEWSETELEM/DELSETELEM (linux/netfilter/nf_tables.h). Must not know: what marks mean.
`nft` itself dumps every interval map of the namespace on each command, so that elements never go through it.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

from ipt_server.core.intervals import SIZE, Intervals
from ipt_server.kernel import KernelProblem

NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES = 10
_NEWSETELEM = _NFNL_SUBSYS_NFTABLES << 8 | 12
_DELSETELEM = _NFNL_SUBSYS_NFTABLES << 8 | 14
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_F_REQUEST, _F_ACK, _F_EXCL, _F_CREATE = 1, 4, 0x200, 0x400
_F_DUMP = 0x300
_NLMSG_DONE = 3
_NLMSG_ERROR = 2  # an acknowledgement is one with code 0
_NFPROTO_INET = 1
_NESTED = 0x8000
MESSAGE = 60_000  # bytes of elements; an attribute holds 64 kB at most
LONGEST_NAME = 127  # of a comment, to nft
TABLE_NAME = b"mrvpn\0"
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=IHHIIi")
_FAMILY = struct.Struct("!BBH")
_NEST = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_U64 = struct.Struct(">Q")  # as the kernel has milliseconds
_ANSWER = 8192  # bytes; each error has a datagram of its own, without what it is about
_ONE_SEQUENCE = 1 << 31  # apart from the batches'


class KernelRefused(KernelProblem, OSError):
    """The kernel refused a batch; `errno` says why. Nothing of the batch is in force."""

    @property
    def differs(self) -> bool:
        """Whether the kernel's elements are not what the sender thought: one is missing, one is there, or unknown."""
        return self.errno in (errno.ENOENT, errno.EEXIST, errno.ENOBUFS)


def attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return _NEST.pack(length, kind) + data + b"\0" * (-length % 4)


def _message(kind: int, flags: int, sequence: int, family: int, resource: int, payload: bytes = b"") -> bytes:
    return _HEADER.pack(20 + len(payload), kind, flags, sequence, 0) + _FAMILY.pack(family, 0, resource) + payload


def _value(kind: int, data: bytes) -> bytes:
    """A key (1) or the data (2) of an element, as a plain value."""
    return attribute(_NESTED | kind, attribute(1, data))


def _element(*attributes: bytes) -> bytes:
    return attribute(_NESTED | 1, b"".join(attributes))


def carries(name: str) -> bool:
    """Whether an element can carry a name beside its mark: what nft shows as its comment."""
    return len(name) <= LONGEST_NAME and '"' not in name


def _comment(name: str) -> bytes:
    """The user data of an element; none where it cannot carry the name, or there is none."""
    text = name.encode() + b"\0"
    return attribute(6, bytes([0, len(text)]) + text) if name and carries(name) else b""


def _mark(mark: int) -> bytes:
    return _U32.pack(mark)


_INTERVAL_END = attribute(3, b"\0\0\0\1")
_JUMP = struct.pack("!i", -3)


def _jump(chain: str) -> bytes:
    """The data of an element that jumps to a chain."""
    verdict = attribute(1, _JUMP) + attribute(2, chain.encode() + b"\0")
    return attribute(_NESTED | 2, attribute(_NESTED | 2, verdict))


def interval_records(intervals: Intervals, tag: int = 0) -> tuple[bytes, int]:
    """The element records of intervals and the size of one interval's: a start with its mark, the end past its last.

    Packed columns are copied a byte of all intervals at a time, which takes milliseconds where packing each by itself
    takes a second for a whole world. An interval that reaches the last address of its family has no end. `tag`: a bit
    that every mark gets.
    """
    size, stride = SIZE[intervals.family], intervals.stride
    start = _element(_value(1, bytes(size)), _value(2, bytes(4)))
    end = _element(_value(1, bytes(size)), _INTERVAL_END)
    record = len(start) + len(end)
    out = bytearray((start + end) * len(intervals))
    key = 12  # past the headers of element, key and value
    places = [key + n for n in range(size)]  # first address, the one after the last, mark
    places += [len(start) + key + n for n in range(size)]
    places += [key + size + 8 + n for n in range(4)]
    tags = bytes(2 * size) + tag.to_bytes(4, sys.byteorder)
    for column, place in enumerate(places):
        values = intervals.packed[column::stride]
        if bit := tags[column]:
            values = values.translate(bytes(value ^ bit for value in range(256)))
        out[place::record] = values
    if len(intervals) and not any(intervals.packed[-4 - size : -4]):
        del out[-len(end) :]
    return bytes(out), record


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = _NEST.unpack_from(data, at)
        if length < 4:
            break
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message or of a nest, by their kind; of one kind the last."""
    return dict(_attributes(data))


class Batch:
    """Messages that take effect together or not at all."""

    def __init__(self, table: str) -> None:
        self._table = attribute(1, table.encode() + b"\0")
        self._plan: list[tuple[int, int, bytes]] = []  # message type, flags, payload

    def flush(self, name: str) -> Batch:
        """Removes every element of a set."""
        self._plan.append((_DELSETELEM, 0, self._table + attribute(2, name.encode() + b"\0")))
        return self

    def _add(self, kind: int, flags: int, name: str, body: bytes) -> None:
        head = self._table + attribute(2, name.encode() + b"\0")
        self._plan.append((kind, flags, head + attribute(_NESTED | 3, body)))

    def _elements(self, kind: int, name: str, records: Sequence[bytes], flags: int = 0) -> Batch:
        start = size = 0
        for at, record in enumerate(records):
            if size + len(record) > MESSAGE:
                self._add(kind, flags, name, b"".join(records[start:at]))
                start, size = at, 0
            size += len(record)
        if records:
            self._add(kind, flags, name, b"".join(records[start:]))
        return self

    def add_records(self, name: str, records: bytes) -> Batch:
        """Adds records that `interval_records` made, as many as a message holds."""
        self._add(_NEWSETELEM, _F_CREATE, name, records)
        return self

    def replace_verdicts(self, name: str, jumps: Iterable[tuple[bytes, str]]) -> Batch:
        """Makes a map of verdicts hold exactly (key, chain to jump to)."""
        records = [_element(_value(1, key), _jump(chain)) for key, chain in jumps]
        return self.flush(name)._elements(_NEWSETELEM, name, records, _F_CREATE)

    def replace_jumps(self, name: str, family: int, jumps: Sequence[tuple[int, int, str]]) -> Batch:
        """Makes an interval map of verdicts hold exactly (first, last, chain to jump to)."""
        size = SIZE[family]
        records = []
        for first, last, chain in jumps:
            records.append(_element(_value(1, first.to_bytes(size, "big")), _jump(chain)))
            if last + 1 < 1 << 8 * size:
                records.append(_element(_value(1, (last + 1).to_bytes(size, "big")), _INTERVAL_END))
        return self.flush(name)._elements(_NEWSETELEM, name, records, _F_CREATE)

    def replace_marks(self, name: str, pairs: Iterable[tuple[int, int]]) -> Batch:
        """Makes a map hold exactly these (mark, mark)."""
        records = [_element(_value(1, _mark(key)), _value(2, _mark(mark))) for key, mark in pairs]
        return self.flush(name)._elements(_NEWSETELEM, name, records, _F_CREATE)

    def replace_elements(
        self, name: str, elements: Iterable[tuple[bytes, bytes | None, int | None]], ends: bool = False
    ) -> Batch:
        """Makes a small set or map hold exactly these (first key, last key, mark).

        The last key is for ranges: with `ends` as an element past it, as a set of plain ranges has it, else as the
        second key of a set of several fields. The mark is a map's.
        """
        records = []
        for key, last, mark in elements:
            parts = [_value(1, key)]
            if last is not None and not ends:
                parts.append(_value(10, last))
            if mark is not None:
                parts.append(_value(2, _mark(mark)))
            records.append(_element(*parts))
            if last is not None and ends and last != b"\xff" * len(last):
                after = (int.from_bytes(last, "big") + 1).to_bytes(len(last), "big")
                records.append(_element(_value(1, after), _INTERVAL_END))
        return self.flush(name)._elements(_NEWSETELEM, name, records, _F_CREATE)

    def set_timed(
        self, name: str, family: int, elements: Sequence[tuple[int, int, float, str]], wide: bool = False
    ) -> Batch:
        """Adds (key, mark, seconds, name) to a map with timeouts; one that is there already fails the batch."""
        size = SIZE[family] << wide
        blank = _element(_value(1, bytes(size)), _value(2, bytes(4)), attribute(4, bytes(8)))
        key_at = 12  # past the headers of element, key and value
        before, between, after = blank[4:key_at], blank[key_at + size :][:8], blank[-12:-8]
        records = []
        for key, mark, seconds, carried in elements:
            comment = _comment(carried)
            records.append(
                _NEST.pack(len(blank) + len(comment), _NESTED | 1)
                + before + key.to_bytes(size, "big") + between + _mark(mark) + after
                + max(1, int(seconds * 1000)).to_bytes(8, "big") + comment
            )  # fmt: skip
        # without EXCL an element of the same mark would be left as it is, with what is left of its life
        return self._elements(_NEWSETELEM, name, records, _F_CREATE | _F_EXCL)

    def delete(self, name: str, family: int, keys: Sequence[int], wide: bool = False) -> Batch:
        """Deletes elements; one that is not there fails the batch. `wide`: keys of two addresses."""
        records = [_element(_value(1, key.to_bytes(SIZE[family] << wide, "big"))) for key in keys]
        return self._elements(_DELSETELEM, name, records)

    def data(self, before: int = 0) -> tuple[bytes, int]:
        """The bytes of the batch and its number of messages, counted from `before` + 1; the last asks for an answer."""
        if not self._plan:
            return b"", 0
        parts = [_message(_BATCH_BEGIN, _F_REQUEST, before, 0, _NFNL_SUBSYS_NFTABLES)]
        for number, (kind, extra, payload) in enumerate(self._plan, 1):
            flags = _F_REQUEST | extra | (_F_ACK if number == len(self._plan) else 0)
            parts.append(_message(kind, flags, before + number, _NFPROTO_INET, 0, payload))
        last = before + len(self._plan) + 1
        parts.append(_message(_BATCH_END, _F_REQUEST, last, 0, _NFNL_SUBSYS_NFTABLES))
        return b"".join(parts), len(self._plan)


class _One:
    """The bytes of a batch that sets one learned element, and the places that differ from one to the next."""

    def __init__(self, family: int, replaces: bool, wide: bool, length: int) -> None:
        name, size = f"learned{family}", SIZE[family] << wide
        blank = (1 << 8 * size) - 0x0102  # a key that nothing else in the bytes looks like
        batch = Batch("mrvpn")
        if replaces:
            batch.delete(name, family, [blank], wide)
        batch.set_timed(name, family, [(blank, 0, 0.0, "." * length)], wide)
        data, self.count = batch.data(_ONE_SEQUENCE)
        self.data = bytearray(data)
        key = blank.to_bytes(size, "big")
        self.keys = [at for at in range(len(data)) if data.startswith(key, at)]
        self.mark = self.keys[-1] + size + 8  # past the headers of data and value
        self.timeout = self.mark + 4 + 4
        self.carried = self.timeout + 8 + 4 + 2  # past the header of the user data, and the comment's


_one = functools.cache(_One)  # by form and by the length of a name: some hundreds


class Socket:
    """A netlink socket to nf_tables; one batch at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(270, 11, 1)  # SOL_NETLINK, NETLINK_EXT_ACK
        self._socket.setsockopt(270, 10, 1)  # NETLINK_CAP_ACK: a refusal does not echo the batch
        self._socket.setblocking(False)  # the kernel answers a batch before `send` returns
        self._sequence = 0
        self._said = bytearray(_ANSWER)
        self._room = 0
        self._make_room(1 << 20)

    def _make_room(self, size: int) -> None:
        if size <= self._room:
            return
        for option, fallback in ((32, socket.SO_SNDBUF), (33, socket.SO_RCVBUF)):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, size)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, fallback, size)
        self._room = size

    def send(self, batch: Batch) -> None:
        """Puts a batch in force. Raises KernelRefused; then nothing of it is, but for ENOBUFS: its fate is unknown."""
        data, count = batch.data(self._sequence)
        if not count:
            return
        first, self._sequence = self._sequence, (self._sequence + count + 2) % (1 << 31)
        self._make_room(len(data) + (1 << 16))
        try:
            self._socket.send(data)
            failed = self._answer(first, first + count)
        except OSError as error:
            raise KernelRefused(error.errno or errno.EIO, f"netlink: {error.strerror or error}") from None
        if failed:
            raise KernelRefused(failed, os.strerror(failed))

    def learn(
        self, family: int, key: int, mark: int, seconds: float, replaces: bool, wide: bool = False, name: str = ""
    ) -> None:
        """Sets one element of `learned4` or `learned6`, as a batch would: the call that an answer waits for.

        Raises KernelRefused. The bytes are made once and filled in: half of what it takes is the kernel's.
        """
        text = name.encode() if carries(name) else b""
        one = _one(family, replaces, wide, len(text))
        data, size = one.data, SIZE[family] << wide
        packed = key.to_bytes(size, "big")
        for place in one.keys:
            data[place : place + size] = packed
        _U32.pack_into(data, one.mark, mark)
        _U64.pack_into(data, one.timeout, int(seconds * 1000) or 1)
        if text:
            data[one.carried : one.carried + len(text)] = text
        try:
            self._socket.send(data)
            failed = self._answer(_ONE_SEQUENCE, _ONE_SEQUENCE + one.count)
        except OSError as error:
            raise KernelRefused(error.errno or errno.EIO, f"netlink: {error.strerror or error}") from None
        if failed:
            raise KernelRefused(failed, os.strerror(failed))

    def _answer(self, first: int, last: int) -> int:
        """The first error among the answers to messages `first` to `last`, or 0 where the last was acknowledged.

        `first` is the one that begins the batch: EPERM, for one, is said of it. Answers of an earlier batch that nobody
        read are passed over by their numbers.
        """
        failed = 0
        while True:
            try:
                size = self._socket.recv_into(self._said)
            except BlockingIOError:
                return failed or errno.ENOBUFS
            at = 0
            while at < size:
                length, kind, _, sequence, _, code = _ERROR.unpack_from(self._said, at)
                if kind == _NLMSG_ERROR and first <= sequence <= last:
                    if code:
                        failed = failed or -code
                    elif sequence == last and not failed:
                        return 0
                at += (length + 3) & ~3

    def request(self, subsystem: int, kind: int, family: int, payload: bytes, dump: bool = False) -> list[bytes]:
        """The bodies (after their nfgenmsg) of the answers to one message. Raises KernelRefused.

        For a message without an answer the list is empty: it was acknowledged.
        """
        self._sequence += 1
        flags = _F_REQUEST | (_F_DUMP if dump else _F_ACK)
        self._make_room(1 << 21)
        self._socket.send(_message(subsystem << 8 | kind, flags, self._sequence, family, 0, payload))
        found: list[bytes] = []
        while True:
            try:
                reply = self._socket.recv(1 << 18)
            except OSError as error:  # nothing more where something must be, or ENOBUFS
                raise KernelRefused(error.errno or errno.EIO, os.strerror(error.errno or errno.EIO)) from None
            at = 0
            while at < len(reply):
                length, answer, _, sequence, _ = _HEADER.unpack_from(reply, at)
                if sequence == self._sequence:
                    if answer == _NLMSG_ERROR:
                        code = -int(struct.unpack_from("=i", reply, at + 16)[0])
                        if code:
                            raise KernelRefused(code, os.strerror(code))
                        return found
                    if answer == _NLMSG_DONE:
                        return found
                    found.append(reply[at + 20 : at + length])
                at += (length + 3) & ~3

    def _get(self, name: str, key: bytes) -> dict[int, bytes] | None:
        """The attributes of the element of a map that answers for a key, or None."""
        payload = attribute(1, TABLE_NAME) + attribute(2, name.encode() + b"\0")
        payload += attribute(_NESTED | 3, _element(_value(1, key)))
        try:
            bodies = self.request(_NFNL_SUBSYS_NFTABLES, 13, _NFPROTO_INET, payload)
        except KernelRefused as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        for body in bodies:
            for element in attributes(attributes(body).get(3, b"")).values():
                fields = attributes(element)
                if not int.from_bytes(fields.get(3, b""), "big") & 1:  # no interval's end
                    return fields
        return None

    def element(self, name: str, key: bytes) -> tuple[int, float | None] | None:
        """(mark, seconds left or None) of the element of a map that answers for a key, or None."""
        fields = self._get(name, key) or {}
        mark, left = attributes(fields.get(2, b"")).get(1), fields.get(5)
        if mark is None:
            return None
        return _U32.unpack(mark)[0], int.from_bytes(left, "big") / 1000 if left else None

    def timed(self, name: str) -> Iterator[tuple[bytes, int, float, str]]:
        """(key, mark, seconds left, name) of every element of a map with timeouts. Raises KernelRefused."""
        payload = attribute(1, TABLE_NAME) + attribute(2, name.encode() + b"\0")
        for body in self.request(_NFNL_SUBSYS_NFTABLES, 13, _NFPROTO_INET, payload, dump=True):
            for _, element in _attributes(attributes(body).get(3, b"")):
                fields = attributes(element)
                key, mark = attributes(fields[1])[1], _U32.unpack(attributes(fields[2])[1])[0]
                carried = fields.get(6, b"")[2:].split(b"\0")[0].decode()
                yield key, mark, int.from_bytes(fields[5], "big") / 1000, carried

    def jump(self, name: str, key: bytes) -> str | None:
        """The chain that a map of verdicts jumps to for a key, or None."""
        fields = self._get(name, key) or {}
        chain = attributes(attributes(fields.get(2, b"")).get(2, b"")).get(2)
        return chain.rstrip(b"\0").decode() if chain else None

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
