"""Connections of the namespace, by ctnetlink: what runs by which exit, and the end of what must not go on.

Knows: the wire format of CTNETLINK (linux/netfilter/nfnetlink_conntrack.h). Must not know: rules, exits' names.
"""

from __future__ import annotations

import ipaddress
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ipt_server.core.rules import Address
from ipt_server.kernel.netlink import KernelRefused, Socket, attribute, attributes
from mrvpn import marks

_SUBSYSTEM, _GET, _DELETE = 1, 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _MARK, _COUNTERS_ORIG, _COUNTERS_REPLY, _ID, _MARK_MASK = 1, 2, 8, 9, 10, 12, 21
_AF = {4: 2, 6: 10}
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


@dataclass(frozen=True)
class Flow:
    """A connection as its first packet saw it; packets and bytes of both directions, 0 where they are not counted."""

    family: int
    protocol: int
    source: Address
    destination: Address
    source_port: int
    destination_port: int
    mark: int
    packets: int
    octets: int
    handle: bytes  # what deletes it

    def as_json(self) -> dict[str, object]:
        """The flow for people."""
        return {
            "protocol": PROTOCOLS.get(self.protocol, str(self.protocol)),
            "source": str(self.source),
            "source_port": self.source_port,
            "destination": str(self.destination),
            "destination_port": self.destination_port,
            "mark": self.mark,
            "packets": self.packets,
            "bytes": self.octets,
        }


def _flow(family: int, body: bytes) -> Flow | None:
    found = attributes(body)
    origin = attributes(found.get(_TUPLE_ORIG, b""))
    ip, protocol = attributes(origin.get(1, b"")), attributes(origin.get(2, b""))
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    source, destination = ip.get(1 if family == 4 else 3), ip.get(2 if family == 4 else 4)
    if source is None or destination is None:
        return None
    counters = [attributes(found.get(direction, b"")) for direction in (_COUNTERS_ORIG, _COUNTERS_REPLY)]
    handle = attribute(0x8000 | _TUPLE_ORIG, found[_TUPLE_ORIG]) + attribute(_ID, found.get(_ID, bytes(4)))
    return Flow(
        family,
        protocol.get(1, b"\0")[0],
        kind(source),
        kind(destination),
        int.from_bytes(protocol.get(2, b""), "big"),
        int.from_bytes(protocol.get(3, b""), "big"),
        int.from_bytes(found.get(_MARK, b""), "big"),
        sum(int.from_bytes(c.get(1, b""), "big") for c in counters),
        sum(int.from_bytes(c.get(2, b""), "big") for c in counters),
        handle,
    )


class Conntrack:
    """The table of connections."""

    def __init__(self) -> None:
        self._socket = Socket()

    def flows(self, mark: int | None = None) -> Iterator[Flow]:
        """The marked connections of both families, or those of one mark. Raises KernelRefused."""
        for family in (4, 6):
            payload = _marked(mark, marks.MASK) if mark is not None else b""
            for body in self._socket.request(_SUBSYSTEM, _GET, _AF[family], payload, dump=True):
                flow = _flow(family, body)
                if flow is not None and flow.mark and (mark is None or flow.mark == mark):
                    yield flow

    def delete(self, flow: Flow) -> bool:
        """Ends a connection: its next packet is looked up anew. False where it was gone."""
        try:
            self._socket.request(_SUBSYSTEM, _DELETE, _AF[flow.family], flow.handle)
        except KernelRefused as error:
            if error.differs:
                return False
            raise
        return True

    def cut(self, unwanted: Callable[[Flow], bool]) -> int:
        """Ends the marked connections that are not wanted; returns their number."""
        return sum(self.delete(flow) for flow in list(self.flows()) if unwanted(flow))

    def cut_marks(self, marked: Iterable[int]) -> None:
        """Ends every connection of these marks: of exits that are down, or whose mark means another exit now."""
        for mark, family in itertools.product(marked, (4, 6)):
            self._socket.request(_SUBSYSTEM, _DELETE, _AF[family], _marked(mark, marks.MASK))

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def _marked(mark: int, mask: int) -> bytes:
    return attribute(_MARK, struct.pack("!I", mark)) + attribute(_MARK_MASK, struct.pack("!I", mask))
