"""A request that asks for a deployment: genuine, or not."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from mrvpn_master.webhook import MAX_BODY, genuine

SECRET = b"sixteen-bytes-or-more"
BODY = b'{"ref": "refs/heads/main"}'
GOOD = hmac.new(SECRET, BODY, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("secret", "headers", "body", "wanted"),
    [
        (SECRET, {"X-Hub-Signature-256": f"sha256={GOOD}"}, BODY, True),
        (SECRET, {"x-gitea-signature": GOOD}, BODY, True),
        (SECRET, {"X-Hub-Signature-256": f"sha256={GOOD}"}, BODY + b" ", False),
        (b"another-secret-of-this-length", {"X-Hub-Signature-256": f"sha256={GOOD}"}, BODY, False),
        (SECRET, {"X-Hub-Signature-256": f"sha256={GOOD[:-1]}"}, BODY, False),
        (SECRET, {"X-Hub-Signature-256": "sha256=é"}, BODY, False),
        (SECRET, {"X-Gitlab-Token": SECRET.decode()}, BODY, False),
        (SECRET, {}, BODY, False),
        (b"", {"X-Gitea-Signature": hmac.new(b"", BODY, hashlib.sha256).hexdigest()}, BODY, False),
    ],
)
def test_genuine(secret: bytes, headers: dict[str, str], body: bytes, wanted: bool) -> None:
    assert genuine(secret, headers, body) is wanted


def test_a_large_body_is_refused_even_when_signed() -> None:
    body = b"x" * (MAX_BODY + 1)
    assert not genuine(SECRET, {"X-Gitea-Signature": hmac.new(SECRET, body, hashlib.sha256).hexdigest()}, body)
