"""nf_tables set elements by raw netlink: whole interval maps replaced at once, and single learned addresses.

Knows: the wire format of NFT_MSG_NEWSETELEM/DELSETELEM (linux/netfilter/nf_tables.h). Must not know: what marks mean.
`nft` itself dumps every interval map of the namespace on each command, so that elements never go through it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence

from ipt_server.core.intervals import Interval
from ipt_server.kernel import KernelProblem

NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES = 10
_NEWSETELEM = _NFNL_SUBSYS_NFTABLES << 8 | 12
_DELSETELEM = _NFNL_SUBSYS_NFTABLES << 8 | 14
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_F_REQUEST, _F_ACK, _F_EXCL, _F_CREATE = 1, 4, 0x200, 0x400
_NLMSG_ERROR = 2  # an acknowledgement is one with code 0
_NFPROTO_INET = 1
_NESTED = 0x8000
_ELEMENTS_A_MESSAGE = 1500  # an attribute holds 64 kB at most
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("!BBH")


class KernelRefused(KernelProblem, OSError):
    """The kernel refused a batch; `errno` says why. Nothing of the batch is in force."""

    @property
    def differs(self) -> bool:
        """Whether the kernel's elements are not what the sender thought: one is missing, one is there, or unknown."""
        return self.errno in (errno.ENOENT, errno.EEXIST, errno.ENOBUFS)


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + b"\0" * (-length % 4)


def _message(kind: int, flags: int, sequence: int, family: int, resource: int, payload: bytes = b"") -> bytes:
    return _HEADER.pack(20 + len(payload), kind, flags, sequence, 0) + _FAMILY.pack(family, 0, resource) + payload


class _Layout:
    """The fixed byte layouts of one family's elements: key, mark, interval end, timeout."""

    def __init__(self, size: int) -> None:
        self.size = size
        key = 8 + size  # NFTA_SET_ELEM_KEY { NFTA_DATA_VALUE key }
        self._start = struct.Struct(f"=HHHHHH{size}sHHHHI")
        self._end = struct.Struct(f"=HHHHHH{size}sHH4s")
        self._timed = struct.Struct(f"=HHHHHH{size}sHHHHIHH8s")
        self._bare = struct.Struct(f"=HHHHHH{size}s")
        self._key = (4 + key, _NESTED | 1, key, _NESTED | 1, 4 + size, 1)
        self._data = (12, _NESTED | 2, 8, 1)

    def _head(self, structure: struct.Struct) -> tuple[int, ...]:
        return (structure.size, _NESTED | 1, self.size + 8, _NESTED | 1, self.size + 4, 1)

    def start(self, key: int, mark: int) -> bytes:
        return self._start.pack(*self._head(self._start), key.to_bytes(self.size, "big"), *self._data, mark)

    def end(self, key: int) -> bytes:
        flags = b"\0\0\0\1"  # NFT_SET_ELEM_INTERVAL_END
        return self._end.pack(*self._head(self._end), key.to_bytes(self.size, "big"), 8, 3, flags)

    def timed(self, key: int, mark: int, milliseconds: int) -> bytes:
        timeout = milliseconds.to_bytes(8, "big")
        return self._timed.pack(
            *self._head(self._timed), key.to_bytes(self.size, "big"), *self._data, mark, 12, 4, timeout
        )

    def bare(self, key: int) -> bytes:
        return self._bare.pack(*self._head(self._bare), key.to_bytes(self.size, "big"))


_LAYOUT = {4: _Layout(4), 6: _Layout(16)}
_BITS = {4: 32, 6: 128}


def interval_records(intervals: Iterable[Interval], family: int) -> list[bytes]:
    """The element records of disjoint intervals: each a start with its mark, and an end one past the last address."""
    layout, top = _LAYOUT[family], 1 << _BITS[family]
    records = []
    for first, last, mark in intervals:
        records.append(layout.start(first, mark))
        if last + 1 < top:
            records.append(layout.end(last + 1))
    return records


class Batch:
    """Messages that take effect together or not at all."""

    def __init__(self, table: str) -> None:
        self._table = _attribute(1, table.encode() + b"\0")
        self._plan: list[tuple[int, int, bytes]] = []  # message type, flags, payload

    def flush(self, name: str) -> Batch:
        """Removes every element of a set."""
        self._plan.append((_DELSETELEM, 0, self._table + _attribute(2, name.encode() + b"\0")))
        return self

    def _elements(self, kind: int, name: str, records: Sequence[bytes], flags: int = 0) -> Batch:
        head = self._table + _attribute(2, name.encode() + b"\0")
        for at in range(0, len(records), _ELEMENTS_A_MESSAGE):
            body = b"".join(records[at : at + _ELEMENTS_A_MESSAGE])
            self._plan.append((kind, flags, head + _attribute(_NESTED | 3, body)))
        return self

    def replace_intervals(self, name: str, family: int, intervals: Sequence[Interval]) -> Batch:
        """Makes an interval map hold exactly these."""
        return self.flush(name)._elements(_NEWSETELEM, name, interval_records(intervals, family), _F_CREATE)

    def set_timed(self, name: str, family: int, elements: Sequence[tuple[int, int, float]]) -> Batch:
        """Adds (address, mark, seconds) elements to a map with timeouts; one that is there already fails the batch."""
        layout = _LAYOUT[family]
        records = [layout.timed(key, mark, max(1, int(seconds * 1000))) for key, mark, seconds in elements]
        # without EXCL an element of the same mark would be left as it is, with what is left of its life
        return self._elements(_NEWSETELEM, name, records, _F_CREATE | _F_EXCL)

    def delete(self, name: str, family: int, keys: Sequence[int]) -> Batch:
        """Deletes elements; one that is not there fails the batch."""
        return self._elements(_DELSETELEM, name, [_LAYOUT[family].bare(key) for key in keys])

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


class Socket:
    """A netlink socket to nf_tables; one batch at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(270, 11, 1)  # SOL_NETLINK, NETLINK_EXT_ACK
        self._socket.setsockopt(270, 10, 1)  # NETLINK_CAP_ACK: a refusal does not echo the batch
        self._socket.setblocking(False)  # the kernel answers a batch before `send` returns
        self._sequence = 0
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
            failed = self._answer(first + 1, first + count)
        except OSError as error:
            raise KernelRefused(error.errno or errno.EIO, f"netlink: {error.strerror or error}") from None
        if failed:
            raise KernelRefused(failed, os.strerror(failed))

    def _answer(self, first: int, last: int) -> int:
        """The first error among the answers to messages `first` to `last`, or 0 where the last was acknowledged.

        Answers of an earlier batch that nobody read are passed over by their numbers.
        """
        failed, acknowledged = 0, False
        while True:
            try:
                reply = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            at = 0
            while at < len(reply):
                length, kind, _, sequence, _ = _HEADER.unpack_from(reply, at)
                if kind == _NLMSG_ERROR and first <= sequence <= last:
                    code = -int(struct.unpack_from("=i", reply, at + 16)[0])
                    failed = failed or code
                    acknowledged = acknowledged or (code == 0 and sequence == last)
                at += (length + 3) & ~3
        return failed or (0 if acknowledged else errno.ENOBUFS)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
