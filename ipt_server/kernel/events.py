"""Link and default-route events of the namespace, by rtnetlink multicast.

Knows: the groups. Must not know: what is done about an event: any of them means "look again".
"""

from __future__ import annotations

import socket

_GROUPS = 0x1 | 0x40 | 0x400  # RTMGRP_LINK, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE


def listen() -> socket.socket:
    """A non-blocking socket that becomes readable when a link or a route changes."""
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    s.bind((0, _GROUPS))
    return s


def drain(s: socket.socket) -> bool:
    """Reads all pending events away; True when there was one (or the kernel dropped some: look again all the same)."""
    seen = False
    while True:
        try:
            s.recv(1 << 16)
            seen = True
        except BlockingIOError:
            return seen
        except OSError:  # ENOBUFS: events were lost
            seen = True
