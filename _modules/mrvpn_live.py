"""What runs on this host right now: tunnels, OSPF, exits, the version of the view that was applied last.

Knows: which containers are MRVPN's, and what `wg`, `vtysh` and `ipt-server` say in them. Must not know: the pillar, the
description, what should run. A part that does not answer is told as an error of that part; the others are answered.
"""

import json
import os
import time
from pathlib import Path

from salt.exceptions import CommandExecutionError

REGISTRY = ".mrvpn/keys.json"  # interface -> path of its key, written by mrvpn_wireguard
APPLIED = ".mrvpn/view.json"
GATEWAY = "firezone"
HANDSHAKE = 180  # seconds: WireGuard renews a session within them, see section 6.2 of its paper


def _read(path):
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def applied(root="/opt/mrvpn", version=None):
    """
    The version of the view that an apply brought last, ``{"version", "time"}``; with ``version`` that one is noted.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_live.applied
    """
    path = Path(root) / APPLIED
    if version is None:
        return _read(path)
    found = {"version": version, "time": time.time()}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    following = path.with_suffix(".next")
    following.write_text(json.dumps(found) + "\n")
    os.replace(following, path)
    return found


def _told(service, *command):
    done = __salt__["mrvpn_docker.exec_in"](service, *command, timeout=10)
    if done["code"]:
        lines = (done["err"] or done["out"]).strip().splitlines()
        raise CommandExecutionError(lines[-1][-300:] if lines else f"exit code {done['code']}")
    return done["out"]


def dump(text, now):
    """
    ``wg show INTERFACE dump`` as peers: public key, endpoint, seconds since the handshake (None: never), rx, tx.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_live.dump "$(wg show wg_uk dump)" 1700000000
    """
    peers = []
    for line in text.splitlines()[1:]:  # the first line is the interface's own, its private key among it
        key, _, endpoint, _, handshake, received, sent, _ = line.split("\t")
        at = int(handshake)
        peers.append(
            {
                "public_key": key,
                "endpoint": None if endpoint == "(none)" else endpoint,
                "handshake": max(0, int(now - at)) if at else None,
                "rx": int(received),
                "tx": int(sent),
            }
        )
    return peers


def tunnels(root="/opt/mrvpn"):
    """
    Each WireGuard interface of this host with its peers; ``{"error": text}`` for one that does not answer.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_live.tunnels
    """
    found = {}
    for interface, path in sorted(_read(Path(root) / REGISTRY).items()):
        parts = Path(path).parts
        service = parts[1] if parts[0] == "wg_tunnels" else GATEWAY
        try:
            found[interface] = {"peers": dump(_told(service, "wg", "show", interface, "dump"), time.time())}
        except CommandExecutionError as error:
            found[interface] = {"error": str(error)}
    return found


def _vtysh(service, command):
    """FRR's JSON answer; empty where the daemon of that family does not run: vtysh says so in words."""
    try:
        return json.loads(_told(service, "vtysh", "-c", command))
    except ValueError:
        return {}


def neighbors(service):
    """
    OSPF's neighbours of one FRR, both families: ``{interface: {router id: state}}``.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_live.neighbors firezone_frr
    """
    found = {}
    four = _vtysh(service, "show ip ospf neighbor json")
    for router, entries in four.get("neighbors", {}).items():
        for entry in entries if isinstance(entries, list) else [entries]:
            interface = entry.get("ifaceName", "").split(":")[0]
            found.setdefault(interface, {})[router] = entry.get("nbrState") or entry.get("state")
    six = _vtysh(service, "show ipv6 ospf6 neighbor json")
    for entry in six.get("neighbors", []):
        found.setdefault(entry.get("interfaceName", ""), {})[f"{entry['neighborId']} (IPv6)"] = entry.get("state")
    return found


def database(root="/opt/mrvpn", path="mrvpn/country/country.mmdb"):
    """
    When this host's country database was built, ``{"built": Unix seconds}``; empty where there is none.

    The figure stands in the metadata at the file's end (MaxMind DB file format 2.0: a key, then an extended uint64).

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_live.database
    """
    try:
        with (Path(root) / path).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - (128 << 10)))
            tail = stream.read()
    except FileNotFoundError:
        return {}
    at = tail.rfind(b"build_epoch")
    if at < 0:
        return {}
    at += len(b"build_epoch")
    size = tail[at] & 0x1F
    return {"built": int.from_bytes(tail[at + 2 : at + 2 + size], "big")}


def status(root="/opt/mrvpn"):
    """
    All of it: ``{"applied", "containers", "tunnels", "ospf", "rules", "database"}``, in one job.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_live.status
    """
    found = {"applied": applied(root), "containers": {}, "tunnels": {}, "ospf": {}, "rules": {}}
    try:
        running = __salt__["mrvpn_docker.containers"]()
    except CommandExecutionError as error:
        return {**found, "error": str(error)}
    found["containers"] = {
        name: "running" if c["running"] and c["health"] in (None, "healthy", "starting") else c["health"] or "stopped"
        for name, c in sorted(running.items())
    }
    found["tunnels"] = tunnels(root)
    found["database"] = database(root)
    for service, container in sorted(running.items()):
        if not container["running"]:
            continue
        ask = {"_frr": ("ospf", neighbors), "_ipt": ("rules", __salt__["mrvpn_ipt.status"])}
        for ending, (part, function) in ask.items():
            if service.endswith(ending):
                try:
                    found[part][service] = function(service)
                except (CommandExecutionError, ValueError) as error:
                    found[part][service] = {"error": str(error)}
    return found


def flows(tunnel, root="/opt/mrvpn", seconds=60):
    """
    Waits until traffic can flow by a tunnel: a handshake, and OSPF's neighbour in state Full where OSPF speaks there.

    Returns ``{"up": bool, "after": seconds, "why": what is still missing}``.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_live.flows wg_uk
    """
    begin = time.monotonic()
    while True:
        why = _missing(tunnel, root)
        after = round(time.monotonic() - begin, 1)
        if why is None or after > float(seconds):
            return {"up": why is None, "after": after, "why": why}
        time.sleep(0.5)


def _missing(tunnel, root):
    """What a tunnel lacks, or None."""
    found = tunnels(root).get(tunnel)
    if found is None:
        return f"{tunnel} has no key on this host: was it applied?"
    if "error" in found:
        return f"{tunnel}: {found['error']}"
    silent = [p for p in found["peers"] if p["handshake"] is None or p["handshake"] > HANDSHAKE]
    if silent or not found["peers"]:
        where = ", ".join(peer["endpoint"] or "a peer that dials in" for peer in silent) or "nobody"
        return f"{tunnel}: no handshake with {where}"
    try:
        containers = __salt__["mrvpn_docker.containers"]()
        services = [s for s, c in containers.items() if s.endswith("_frr") and c["running"]]
        speaking = {name: states for s in services for name, states in neighbors(s).items()}
    except (CommandExecutionError, ValueError) as error:
        return f"OSPF: {error}"
    states = speaking.get(tunnel, {})
    if services and not any(str(state).startswith("Full") for state in states.values()):
        return f"{tunnel}: OSPF has no neighbour in state Full ({', '.join(map(str, states.values())) or 'none seen'})"
    return None
