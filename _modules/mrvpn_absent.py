"""Taking MRVPN off a host: what of it there is, and bringing it away.

Knows: the marks that MRVPN leaves on a host (its compose project, its manifest, its rules). Must not know: the
description, the pillar: it works from what it finds, also where nothing describes this host any more.

Docker itself stays, and forwarding with it: other programs may live on them. What MRVPN has changed of daemon.json and
of the kernel's parameters goes back to what mrvpn_before has noted, where nobody has changed it since.
"""

import json
import shutil
from pathlib import Path

from salt.exceptions import CommandExecutionError, SaltException

SYSCTLS = Path("/etc/sysctl.d/60-mrvpn.conf")
DAEMON = "/etc/docker/daemon.json"
OURS = (".mrvpn", "build")  # beside what the manifest names
MINE = ("mrvpn_public_keys", "mrvpn_address")


def _manifest(root):
    try:
        return json.loads((Path(root) / ".mrvpn" / "manifest.json").read_text())
    except (FileNotFoundError, ValueError):
        return []


def _keys(root):
    try:
        return json.loads((Path(root) / ".mrvpn" / "keys.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _docker(root):
    """Containers by service, networks, volumes; nothing of each where Docker is not installed at all."""
    try:
        return (
            __salt__["mrvpn_docker.containers"](),
            __salt__["mrvpn_docker.networks"](),
            __salt__["mrvpn_docker.volumes"](),
        )
    except CommandExecutionError:
        if shutil.which("dockerd") and (Path(root) / "docker-compose.yml").exists():
            raise  # its containers could not be taken away
        return {}, [], []


def _given_back(root, write=False):
    """What goes back to what it was, as text."""
    before = __salt__["mrvpn_before.told"](root)
    text = before.get("daemon text", {}).get(DAEMON, {}).get("old")
    daemon = __salt__["mrvpn_docker.daemon_restore"](before.get("daemon", {}), text, DAEMON, write=write)
    docker = bool(shutil.which("dockerd"))
    sysctls = __salt__["mrvpn_host.sysctls_restore"](before.get("sysctl", {}), docker, write=write)
    told = {f"daemon.json: {key}": change for key, change in daemon.items()} | sysctls
    return [f"{what} = {change['new'] if change['new'] is not None else '(none)'}" for what, change in told.items()]


def _mine():
    """What the master's mine has of this host."""
    try:
        return [name for name in MINE if (__salt__["mine.get"](__opts__["id"], name) or {}).get(__opts__["id"])]
    except SaltException:
        return []  # no master to ask


def _images(leaving):
    try:
        return __salt__["mrvpn_docker.unused"](leaving)
    except CommandExecutionError:
        return []


def _tunnels(root, containers):
    """Tunnels that may have left something in the host's own namespace."""
    hosts = {service for service, container in containers.items() if container["network_mode"] == "host"}
    return sorted(hosts | {name for name in _keys(root) if __salt__["mrvpn_host.tunnel_parts"](name)})


def _paths(root, purge):
    """What is to go below the root: with ``purge`` whole folders, else the files that we wrote."""
    manifest = _manifest(root)
    if purge:
        tops = {target.split("/")[0] for target in [*manifest, *_keys(root).values()]}
        return sorted(name for name in tops | set(OURS) if (Path(root) / name).exists())
    return sorted([*manifest, *(name for name in OURS if (Path(root) / name).exists())])


def found(root, purge=False):
    """
    What of MRVPN is on this host and would go, by kind; empty when nothing is.

    CLI Example:

    .. code-block:: bash

        salt uk mrvpn_absent.found /opt/mrvpn
    """
    containers, networks, volumes = _docker(root)
    rules = [*__salt__["mrvpn_host.guard_parts"](), *__salt__["mrvpn_host.forward_rules"]()]
    rules += __salt__["mrvpn_host.boot_parts"]()
    for name in _tunnels(root, containers):
        rules += __salt__["mrvpn_host.tunnel_parts"](name)
    kinds = {
        "containers": sorted(containers),
        "networks": networks,
        "volumes": volumes if purge else [],
        "rules": rules,
        "given back": _given_back(root),
        "mine": _mine() if purge else [],
        "files": _paths(root, purge) + ([str(SYSCTLS)] if SYSCTLS.exists() else []),
    }
    kinds["images"] = _images([container["id"] for container in containers.values()]) if purge else []
    return {kind: names for kind, names in kinds.items() if names}


def take_off(root, purge=False):
    """
    Takes MRVPN off this host and returns what went, in the shape of ``found``.

    Containers first, rules after them: nothing forwards without the rules that stood over it.

    CLI Example:

    .. code-block:: bash

        salt uk mrvpn_absent.take_off /opt/mrvpn
    """
    gone = found(root, purge)
    containers, networks, volumes = _docker(root)
    tunnels = _tunnels(root, containers)
    ids = [container["id"] for container in containers.values()]
    __salt__["mrvpn_docker.take_away"](ids, networks, volumes if purge else [])
    for name in tunnels:
        __salt__["mrvpn_host.tunnel_off"](name)
    __salt__["mrvpn_host.forward_rules_off"]()
    __salt__["mrvpn_host.guard_off"]()
    __salt__["mrvpn_host.boot_off"]()
    SYSCTLS.unlink(missing_ok=True)
    _given_back(root, write=True)
    for name in gone.get("images", []):
        __salt__["mrvpn_docker.command"]("rmi", name)
    for name in gone.get("mine", []):
        __salt__["mine.delete"](name)
    base = Path(root)
    for name in [name for name in _paths(root, purge) if name not in OURS]:
        _remove(base, name)
    for name in OURS:
        _remove(base, name)
    if base.is_dir() and not any(base.iterdir()):
        base.rmdir()
    return gone


def _remove(base, name):
    path = base / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == base or not folder.is_dir() or any(folder.iterdir()):
            break
        folder.rmdir()
