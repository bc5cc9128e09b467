"""Destinations that are nobody's public address: reached only where the mesh or a rule names them.

Sources: RFC 6890 and the IANA special-purpose registries. They hold cloud metadata, the Docker host, somebody's
printer.
"""

from __future__ import annotations

PRIVATE: dict[int, tuple[str, ...]] = {
    4: (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
    ),
    6: ("::/8", "fc00::/7", "fe80::/9", "ff00::/8"),
}
