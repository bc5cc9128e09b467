"""The one place where versions of images are pinned: raise them here, apply, and every host follows.

Knows: names and tags. Must not know: where they run. The base of our own image stands in image/Dockerfile (ARG BASE); a
test holds both together.
"""

from __future__ import annotations

PINNED = {
    "base": "debian:trixie-slim",
    "firezone": "firezone/firezone:0.7.36",
    "caddy": "caddy:2",
    "postgres": "postgres:15",
    "autoheal": "willfarrell/autoheal:1.2.0",
}
