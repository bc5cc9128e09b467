"""What the kernel has counted: the nft table's named counters and the interfaces' own.

Knows: NFT_MSG_GETOBJ, /proc/net/dev. Must not know: what is counted. Named counters are read by netlink: nft would
ask for every map first.
"""

from __future__ import annotations

from pathlib import Path

from ipt_server.kernel.netlink import TABLE_NAME, KernelRefused, Socket, attribute, attributes

_NFTABLES, _GETOBJ, _INET = 10, 19, 1
_NAME, _TYPE, _DATA, _COUNTER = 2, 3, 4, 1


def read() -> dict[str, tuple[int, int]]:
    """(packets, bytes) of every named counter of our table; empty where there is none. Raises KernelRefused."""
    socket = Socket()
    found = {}
    try:
        payload = attribute(1, TABLE_NAME) + attribute(_TYPE, _COUNTER.to_bytes(4, "big"))
        for body in socket.request(_NFTABLES, _GETOBJ, _INET, payload, dump=True):
            fields = attributes(body)
            if fields.get(1) == TABLE_NAME and int.from_bytes(fields.get(_TYPE, b""), "big") == _COUNTER:
                data = attributes(fields.get(_DATA, b""))
                name = fields.get(_NAME, b"").rstrip(b"\0").decode()
                found[name] = (int.from_bytes(data.get(2, b""), "big"), int.from_bytes(data.get(1, b""), "big"))
    except KernelRefused as error:
        if not error.differs:
            raise
    finally:
        socket.close()
    return found


def interfaces() -> dict[str, tuple[int, int]]:
    """(packets, bytes) that each interface of the namespace received and sent."""
    found = {}
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
        name, _, rest = line.partition(":")
        n = [int(word) for word in rest.split()]
        found[name.strip()] = (n[1] + n[9], n[0] + n[8])
    return found
