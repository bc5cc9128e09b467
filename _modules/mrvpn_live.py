"""What runs on this host right now: tunnels, OSPF, exits, the version of the view that was applied last.

Knows: which containers are MRVPN's, and what `wg`, `vtysh` and `ipt-server` say in them. Must not know: the pillar, the
description, what should run. A part that does not answer is told as an error of that part; the others are answered.
"""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from salt.exceptions import CommandExecutionError

REGISTRY = ".mrvpn/keys.json"  # interface -> path of its key, written by mrvpn_wireguard
APPLIED = ".mrvpn/view.json"
GATEWAY = "firezone"
HANDSHAKE = 180  # seconds: WireGuard renews a session within them, see section 6.2 of its paper
PING = ("ping", "-n", "-q", "-c", "10", "-W", "1", "-i")  # followed by the seconds between two
BURST, STEADY = "0.05", "0.2"  # half a second; two seconds where the burst lost some: see `tunnels`
AT_ONCE = 8  # questions to containers: each waits for Docker rather than works


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


def _out(done):
    """What a command printed; its last line as an error where it failed."""
    if done["code"]:
        lines = (done["err"] or done["out"]).strip().splitlines()
        raise CommandExecutionError(lines[-1][-300:] if lines else f"exit code {done['code']}")
    return done["out"]


def _told(service, *command):
    return _out(__salt__["mrvpn_docker.exec_in"](service, *command, timeout=10))


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


def _interfaces(root):
    """This host's WireGuard interfaces: ``{interface: (its container, the folder of its files)}``."""
    found = {}
    for interface, path in sorted(_read(Path(root) / REGISTRY).items()):
        parts = Path(path).parts
        found[interface] = (parts[1] if parts[0] == "wg_tunnels" else GATEWAY, Path(root) / Path(path).parent)
    return found


def _names(folder):
    """Whose public key is whose, from the peers' files: ``{key: host or client}``."""
    found = {}
    for file in folder.glob("live/peers/*.conf"):
        key = re.search(r"^PublicKey *= *(\S+)", file.read_text(), re.M)
        if key:
            found[key.group(1)] = file.stem
    return found


def tunnels(root="/opt/mrvpn", far_ends=None):
    """
    Each WireGuard interface of this host with its peers; ``{"error": text}`` for one that does not answer.

    far_ends
        ``{interface: {host: address}}`` in the tunnel: those of other hosts are pinged, and their peers get ``loss`` (0
        to 1) and ``latency`` (ms, None where nothing answered)

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_live.tunnels
        salt entry mrvpn_live.tunnels far_ends='{"wg_uk": {"uk": "10.9.20.1"}}'
    """
    interfaces = _interfaces(root)
    ask = __salt__["mrvpn_docker.exec_in"]  # looked up here: a thread has no loader of its own

    def peers(item):
        interface, (service, folder) = item
        try:
            found = dump(_out(ask(service, "wg", "show", interface, "dump", timeout=10)), time.time())
        except CommandExecutionError as error:
            return {"error": str(error)}
        names = _names(folder)
        return {"peers": [{"host": names.get(peer["public_key"]), **peer} for peer in found]}

    def ping(item):
        interface, address = item
        container = interfaces[interface][0]
        try:
            return _reached(lambda *command: ask(container, *command, timeout=10)["out"], address)
        except CommandExecutionError:  # its container is told by others
            return {}

    own = __opts__["id"]
    wanted = {
        (interface, host): address
        for interface, ends in (far_ends or {}).items()
        if interface in interfaces
        for host, address in ends.items()
        if host != own
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pings = pool.map(ping, [(interface, address) for (interface, _), address in wanted.items()])
        found = dict(zip(interfaces, pool.map(peers, interfaces.items()), strict=True))
        figures = dict(zip(wanted, pings, strict=True))
    for interface, told in found.items():
        for peer in told.get("peers", []):
            peer.update(figures.get((interface, peer["host"]), {}))
    return found


def _reached(run, address):
    """
    What pings of an address by ``run(*command)``, which answers their output, count: as `pinged`.

    ping waits two round trips for the last answers: on a host that is busy for a moment a burst "loses" some that only
    come late. So what a burst lost is asked again, steadily, and that decides.
    """
    found = pinged(run(*PING, BURST, address))
    return pinged(run(*PING, STEADY, address)) if found["loss"] else found


def pinged(text):
    """
    What `ping -q` counted: ``loss`` from 0 to 1 and ``latency``, the mean in ms, None where nothing answered.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_live.pinged "$(ping -q -c 3 10.9.20.1)"
    """
    counted = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    mean = re.search(r"= [\d.]+/([\d.]+)/", text)
    sent, received = (int(number) for number in counted.groups()) if counted else (0, 0)
    return {"loss": round(1 - received / sent, 3) if sent else 1.0, "latency": float(mean.group(1)) if mean else None}


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


def status(root="/opt/mrvpn", far_ends=None):
    """
    All of it: ``{"applied", "containers", "tunnels", "ospf", "rules", "software"}``, in one job.

    far_ends
        as of ``tunnels``: what is pinged

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_live.status
    """
    found = {"applied": applied(root), "containers": {}, "tunnels": {}, "ospf": {}, "rules": {}}
    found["software"] = {"salt": __grains__["saltversion"]}
    try:
        running = __salt__["mrvpn_docker.containers"]()
        found["software"]["docker"] = __salt__["mrvpn_docker.version"]()
    except CommandExecutionError as error:
        return {**found, "error": str(error)}
    found["containers"] = {
        name: "running" if c["running"] and c["health"] in (None, "healthy", "starting") else c["health"] or "stopped"
        for name, c in sorted(running.items())
    }
    mine = __salt__  # a thread has no loader of its own: functions are looked up here
    asked = {"_frr": ("ospf", mine["mrvpn_live.neighbors"]), "_ipt": ("rules", mine["mrvpn_ipt.status"])}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        interfaces = pool.submit(mine["mrvpn_live.tunnels"], root, far_ends)
        parts = {
            (asked[ending][0], service): pool.submit(asked[ending][1], service)
            for service, container in sorted(running.items())
            for ending in asked
            if container["running"] and service.endswith(ending)
        }
        found["tunnels"] = interfaces.result()
        for (part, service), answer in parts.items():
            try:
                found[part][service] = answer.result()
            except (CommandExecutionError, ValueError) as error:
                found[part][service] = {"error": str(error)}
    return found


def flows(tunnel, root="/opt/mrvpn", seconds=60):
    """
    Waits until traffic can flow by a tunnel: a handshake, OSPF's neighbour in state Full where OSPF speaks there, and
    ipt_server's word that it is up where it is an exit: until then its fallback stands in.

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
        deciding = [s for s, c in containers.items() if s.endswith("_ipt") and c["running"]]
        exits = {e["name"]: e for s in deciding for e in __salt__["mrvpn_ipt.status"](s).get("exits", [])}
    except (CommandExecutionError, ValueError) as error:
        return f"OSPF or rules: {error}"
    states = speaking.get(tunnel, {})
    if services and not any(str(state).startswith("Full") for state in states.values()):
        return f"{tunnel}: OSPF has no neighbour in state Full ({', '.join(map(str, states.values())) or 'none seen'})"
    if exits.get(tunnel, {}).get("up") is False:
        return f"{tunnel}: as an exit it is still down: {(exits[tunnel].get('health') or {}).get('reason')}"
    return None
