"""WireGuard's keys on this host, and telling a running tunnel that its files changed.

Knows: X25519 keys in files of their own, `mrvpn-wireguard` in the tunnel's container. Must not know: the description,
the pillar, who the peers are. A private key is never returned, logged or put into any other file.
"""

import base64
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from salt.exceptions import CommandExecutionError

REGISTRY = ".mrvpn/keys.json"


def _public(path):
    try:
        raw = base64.b64decode(path.read_text().strip(), validate=True)
        key = X25519PrivateKey.from_private_bytes(raw)
    except ValueError:
        raise CommandExecutionError(
            f"{path} holds no WireGuard key: move it away, the next apply makes a new one"
        ) from None
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b64encode(public).decode()


def _registry(root):
    try:
        return json.loads((Path(root) / REGISTRY).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def missing_keys(root, names):
    """
    What is to be done for the keys of these interfaces, ``{interface: what}``; ``names``: ``{interface: path below
    root}``.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_wireguard.missing_keys /opt/mrvpn '{"wg_uk": "wg_tunnels/wg_uk/private.key"}'
    """
    todo = {}
    for interface, relative in sorted(names.items()):
        path = Path(root) / relative
        if not path.is_file():
            todo[interface] = "made"
        elif path.stat().st_mode & 0o7777 != 0o600:
            todo[interface] = f"mode {path.stat().st_mode & 0o7777:04o} -> 0600"
        else:
            _public(path)
    if not todo and _registry(root) != names:
        todo["list of keys"] = "written"
    return todo


def make_keys(root, names):
    """
    Makes the keys that are missing, each 0600 in its own file, and returns what was done in the shape of
    ``missing_keys``.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_wireguard.make_keys /opt/mrvpn '{"wg_uk": "wg_tunnels/wg_uk/private.key"}'
    """
    todo = missing_keys(root, names)
    for interface, what in todo.items():
        if interface not in names:
            continue
        path = Path(root) / names[interface]
        if what == "made":
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = X25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
            # never a moment in which others could read it, never half a key under its name
            new = path.with_name(path.name + ".next")
            new.unlink(missing_ok=True)
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(base64.b64encode(raw) + b"\n")
            os.replace(new, path)
        else:
            path.chmod(0o600)
    registry = Path(root) / REGISTRY
    if todo or _registry(root) != names:
        registry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = registry.with_suffix(".next")
        new.write_text(json.dumps(names, sort_keys=True) + "\n")
        os.replace(new, registry)
    return todo


def public_keys(root="/opt/mrvpn"):
    """
    The public keys of this host's ends, ``{interface: key}``; only of keys that exist.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_wireguard.public_keys
    """
    found = {}
    for interface, relative in sorted(_registry(root).items()):
        path = Path(root) / relative
        if path.is_file():
            found[interface] = _public(path)
    return found


def reload(service):
    """
    Tells the tunnel's container to take over its changed files; sessions of unchanged peers go on.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_wireguard.reload wg_uk
    """
    done = __salt__["mrvpn_docker.exec_in"](service, "mrvpn-wireguard", "reload")
    if done["code"]:
        raise CommandExecutionError(f"{service}: mrvpn-wireguard reload: {(done['err'] or done['out']).strip()[-500:]}")
    return True
