"""Preshared keys, derived per pair of hosts from one root that only the master has (HKDF, RFC 5869)."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(root: str, tunnel: str, one: str, other: str) -> str:
    """The preshared key of a pair in a tunnel, in base64; the same from both ends."""
    low, high = sorted((one, other))
    info = b"\0".join(part.encode() for part in ("mrvpn psk 1", tunnel, low, high))
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(root.encode())
    return base64.b64encode(key).decode()
