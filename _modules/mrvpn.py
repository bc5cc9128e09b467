"""What this host publishes to the mine, its public keys and the address that others see of it; and whether its modules
are the master's.

Knows: where mrvpn_wireguard keeps keys, ip(8), where Salt keeps modules. Must not know: the description.
"""

import hashlib
import json
import subprocess
from pathlib import Path

ELSEWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}  # RFC 5737, RFC 3849: only looked up, nothing is sent


def public_keys(root="/opt/mrvpn"):
    """
    The public keys of this host's tunnels and gateway, ``{interface: base64 key}``; the mine's `mrvpn_public_keys`.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn.public_keys
    """
    return __salt__["mrvpn_wireguard.public_keys"](root)


def address():
    """
    The source address of this host's default route (IPv4, else IPv6), or None; the mine's `mrvpn_address`. It is what
    far ends dial where the description gives the host no `endpoint`.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn.address
    """
    for family, destination in ELSEWHERE.items():
        command = ["ip", "-json", f"-{family}", "route", "get", destination]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return None
        if done.returncode == 0 and (routes := json.loads(done.stdout or "[]")):
            return routes[0].get("prefsrc")
    return None


def modules_behind(served):
    """
    Those of MRVPN's modules that this minion has otherwise than the master's checkout does, or not at all.

    served
        ``{"modules/mrvpn.py": 16 hex digits of its SHA-256}``: pillar['mrvpn_modules']

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn.modules_behind '{"modules/mrvpn.py": "0123456789abcdef"}'
    """
    folder = Path(__opts__["extension_modules"])
    found = []
    for name, digest in served.items():
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest()[:16] != digest:
            found.append(name)
    return found
