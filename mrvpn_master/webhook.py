"""Whether a request that asks for a deployment is genuine.

Knows: HMAC-SHA-256 as GitHub, Gitea, Forgejo and Gogs send it. Must not know: HTTP servers, Salt. Nothing is read from
the body: it is authenticated as a whole, and then thrown away.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

MAX_BODY = 64 * 1024
HEADERS = ("x-hub-signature-256", "x-gitea-signature", "x-forgejo-signature", "x-gogs-signature")
SHORTEST_SECRET = 16


def genuine(secret: bytes, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a body carries the HMAC of the secret; compared in constant time."""
    if len(secret) < SHORTEST_SECRET or len(body) > MAX_BODY:
        return False
    wanted = hmac.new(secret, body, hashlib.sha256).hexdigest()
    lowered = {name.lower(): value for name, value in headers.items()}
    # every header is compared: how long it takes tells nothing of which one was there
    found = [lowered.get(name, "").removeprefix("sha256=").encode(errors="replace") for name in HEADERS]
    matching = [hmac.compare_digest(given, wanted.encode()) for given in found]
    return any(matching)
