"""What this host had before MRVPN changed it: noted once, given back when MRVPN leaves.

Knows: one small file below MRVPN's root. Must not know: what the things are that were changed.
"""

import json
import os
from pathlib import Path

NOTES = ".mrvpn/before.json"


def told(root):
    """
    What was noted: ``{kind: {key: {"old", "new"}}}``.

    CLI Example:

    .. code-block:: bash

        salt uk mrvpn_before.told /opt/mrvpn
    """
    try:
        return json.loads((Path(root) / NOTES).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def note(root, kind, changes):
    """
    Notes changes that are about to be made, ``{key: {"old", "new"}}``; what was there first stays noted.

    CLI Example:

    .. code-block:: bash

        salt uk mrvpn_before.note /opt/mrvpn sysctl '{"net.ipv4.ip_forward": {"old": "0", "new": "1"}}'
    """
    notes = told(root)
    known = notes.setdefault(kind, {})
    for key, change in changes.items():
        known[key] = {"old": known[key]["old"] if key in known else change["old"], "new": change["new"]}
    path = Path(root) / NOTES
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    following = path.with_suffix(".next")
    following.touch(mode=0o600)  # daemon.json may name a proxy with its password
    following.write_text(json.dumps(notes, sort_keys=True) + "\n")
    os.replace(following, path)
    return True
