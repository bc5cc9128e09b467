"""What on this host would keep its view from working, one clear sentence each, found before anything is changed.

Knows: sockets, addresses and firewalls of the host's own network namespace, the kernel's tunnels. Must not know: the
pillar, what is rendered, Docker's containers.
"""

import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

# they hold the ports of containers; whose container it is, Docker itself tells
DOCKERS = ("dockerd", "docker-proxy", "rootlessport")
OURS = ("wireguard-go",)


def _run(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


# -- ports -------------------------------------------------------------------------------------------------------------


def _wanted_ports(view):
    """``{(protocol, port): where it is described}`` of everything that must be free on the host."""
    found = {}
    for name, tunnel in view["tunnels"].items():
        if tunnel["listen_port"] is not None:
            found["udp", tunnel["listen_port"]] = f"tunnels.{name}.hosts.{view['host']}.expose"
    gateway = view["gateway"]
    if gateway is not None:
        found["udp", gateway["listen_port"]] = "firezone.fz_wireguard_port"
        if gateway["kind"] == "firezone":
            found["tcp", 80] = "the web interface of Firezone (Caddy)"
            if gateway["firezone"]["https"]:
                found["tcp", 443] = "the web interface of Firezone (Caddy)"
    return found


def _taken(proc="/proc"):
    """``{(protocol, port): inode}`` of the host's own bound sockets, without the kernel's, whose inode is 0."""
    found = {}
    for protocol, listening in (("udp", "07"), ("tcp", "0A")):  # TCP_CLOSE, which a socket of UDP is in, and TCP_LISTEN
        for family in ("", "6"):
            path = Path(proc) / "net" / f"{protocol}{family}"
            for line in path.read_text().splitlines()[1:] if path.exists() else ():
                fields = line.split()
                if fields[3] == listening and fields[9] != "0":
                    found[protocol, int(fields[1].rpartition(":")[2], 16)] = fields[9]
    return found


def _opened(process):
    """What a process has open, as the links of its folder say; nothing of one that has ended."""
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed since it was listed
                yield os.readlink(link)


def _owners(inodes, proc="/proc"):
    """The programs that have these sockets open, ``{inode: (name, pid)}``; those of nobody are not in it."""
    wanted, found = {f"socket:[{inode}]": inode for inode in inodes}, {}
    for pid in filter(str.isdigit, os.listdir(proc)):
        if len(found) == len(wanted):
            break
        for link in wanted.keys() & set(_opened(Path(proc, pid))):
            with contextlib.suppress(OSError):
                found.setdefault(wanted[link], (Path(proc, pid, "comm").read_text().strip(), pid))
    return found


def _wireguards(view):
    """``{port: interface}`` of kernel interfaces that are not this view's."""
    ours = {tunnel["interface"] for tunnel in view["tunnels"].values()}
    pairs = (line.split() for line in _run("wg", "show", "all", "listen-port").splitlines())
    return {int(pair[1]): pair[0] for pair in pairs if len(pair) == 2 and pair[0] not in ours}


def _ports(view):
    wanted, taken, wireguards = _wanted_ports(view), _taken(), _wireguards(view)
    owners = _owners({taken[port] for port in wanted if port in taken})
    for (protocol, port), where in sorted(wanted.items()):
        inode = taken.get((protocol, port))
        owner = owners.get(inode)
        if inode and owner is None and _taken().get((protocol, port)) != inode:
            inode = None  # it ended while it was looked for
        program, pid = owner or ("another program", "unknown")
        if inode and program not in (*DOCKERS, *OURS):
            yield f"port {port}/{protocol} is taken by {program} (process {pid}): stop it, or change {where}"
        elif protocol == "udp" and port in wireguards:
            interface = wireguards[port]
            yield f"port {port}/udp is taken by the WireGuard interface {interface}: remove it, or change {where}"


# -- subnets -----------------------------------------------------------------------------------------------------------


def _wanted_subnets(view):
    for name, tunnel in view["tunnels"].items():
        for address in tunnel["addresses"]:
            yield str(ipaddress.ip_interface(address).network), f"tunnels.{name}.subnet"
    gateway = view["gateway"]
    if gateway is not None:
        for address in gateway["addresses"]:
            yield str(ipaddress.ip_interface(address).network), "firezone.fz_client_subnet"
        for subnet in gateway["network"]["subnets"]:
            yield subnet, "firezone.fz_mgmt_subnet"


def _addresses(view):
    """The host's own prefixes by interface, but those of MRVPN's own interfaces."""
    ours = {tunnel["interface"] for tunnel in view["tunnels"].values()}
    if view["gateway"] is not None:
        ours.add(view["gateway"]["network"]["bridge"])
    for link in json.loads(_run("ip", "-json", "address") or "[]"):
        if link.get("ifname") in ours or "LOOPBACK" in link.get("flags", ()):
            continue
        for info in link.get("addr_info", []):
            if info.get("scope") != "link":
                yield ipaddress.ip_interface(f"{info['local']}/{info['prefixlen']}"), link["ifname"]


def _subnets(view):
    have = list(_addresses(view))
    for subnet, where in dict.fromkeys(_wanted_subnets(view)):
        network = ipaddress.ip_network(subnet)
        for interface, name in have:
            if interface.version == network.version and network.overlaps(interface.network):
                yield (
                    f"{subnet} overlaps {interface.network}, this host's own network on {name}: "
                    f"choose another prefix for {where}"
                )


# -- the kernel --------------------------------------------------------------------------------------------------------


def tun(device="/dev/net/tun"):
    """
    Why this kernel makes no TUN interfaces, None when it does.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_preflight.tun
    """
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        return (
            f"{device} cannot be opened ({error.strerror}): load the kernel's module (modprobe tun); on a rented "
            "container ask its provider for it"
        )
    return None


def wireguard():
    """
    Whether the kernel has WireGuard: Firezone's gateway needs it, tunnels do not.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_preflight.wireguard
    """
    if Path("/sys/module/wireguard").exists():
        return True
    probe = "mrvpn-probe"
    if subprocess.run(["ip", "link", "add", probe, "type", "wireguard"], capture_output=True).returncode:
        return False
    subprocess.run(["ip", "link", "del", probe], capture_output=True)
    return True


def problems(view, device="/dev/net/tun"):
    """
    Everything on this host that keeps the view from working, as sentences; an empty list when nothing does.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_preflight.problems "$(salt-call --local --out=json pillar.get mrvpn)"
    """
    found = [*_ports(view)]
    if not shutil.which("ip"):
        found.append("the program `ip`, which shows this host's networks, is missing: install iproute2")
        return found
    found += _subnets(view)
    missing = tun(device) if view["tunnels"] or view["gateway"] is not None else None
    if missing:
        found.append(missing)
    if view["gateway"] is not None and view["gateway"]["kind"] == "firezone" and not wireguard():
        found.append(
            "this kernel has no WireGuard, which Firezone needs: load its module (modprobe wireguard) or boot a kernel "
            "that has it; `gateway: wireguard` works without"
        )
    return found


# -- an existing firewall ----------------------------------------------------------------------------------------------


def _host_ports(view):
    """Ports that the host itself must let in: of tunnels in its own namespace (Docker publishes the others)."""
    ports = {t["listen_port"] for t in view["tunnels"].values() if t["namespace"] == "host" and t["listen_port"]}
    return sorted(ports)


def _host_tunnels(view):
    return sorted(t["interface"] for t in view["tunnels"].values() if t["namespace"] == "host")


def _ufw(view, etc):
    conf = etc / "ufw" / "ufw.conf"
    if not conf.is_file() or not re.search(r"^\s*ENABLED\s*=\s*yes", conf.read_text(), re.MULTILINE | re.IGNORECASE):
        return
    needed = [f"ufw allow {port}/udp" for port in _host_ports(view)]
    for name in _host_tunnels(view):
        needed += [f"ufw allow in on {name} proto ospf", f"ufw allow in on {name} to any port 3784 proto udp"]
    told = f"needed: {'; '.join(needed)}" if needed else "nothing is needed"
    yield f"ufw is on: it does not see what Docker publishes; {told}"


def _firewalld(view, etc):
    if not (etc / "firewalld").is_dir() or not _run("firewall-cmd", "--state").startswith("running"):
        return
    needed = [f"firewall-cmd --permanent --add-port={port}/udp" for port in _host_ports(view)]
    needed += [f"firewall-cmd --permanent --zone=trusted --add-interface={name}" for name in _host_tunnels(view)]
    told = f"needed: {'; '.join([*needed, 'firewall-cmd --reload'])}; " if needed else ""
    yield f"firewalld runs: {told}after each reload of it restart Docker, whose rules it may have taken away"


def _nftables(view, etc):
    conf = etc / "nftables.conf"
    enabled = any((etc / "systemd" / "system").glob("*.wants/nftables.service"))
    if enabled and conf.is_file() and re.search(r"^\s*flush\s+ruleset", conf.read_text(), re.MULTILINE):
        yield (
            f"nftables.service is on and {conf} has `flush ruleset`: each start or reload of it takes Docker's "
            "and MRVPN's rules away. Write `table inet filter` + `delete table inet filter` for your own tables instead"
        )


def _drops(view):
    """Chains of somebody's own that drop what is forwarded: no accept of Docker's can undo that."""
    tables = json.loads(_run("nft", "--json", "list", "chains") or '{"nftables": []}')["nftables"]
    for chain in (entry["chain"] for entry in tables if "chain" in entry):
        if chain.get("hook") != "forward" or chain.get("policy") != "drop":
            continue
        iptables = chain["table"] == "filter" and chain["family"] in ("ip", "ip6")
        if iptables or chain["table"].startswith("mrvpn"):
            continue  # Docker's accepts stand in iptables' own tables
        names = _host_tunnels(view)
        if view["gateway"] is not None:
            names.append(view["gateway"]["network"]["bridge"])
        if names:
            pair = ", ".join(names)
            yield (
                f"the chain {chain['family']} {chain['table']} {chain['name']} drops what is forwarded: accept iifname "
                f"and oifname {{ {pair} }} in it"
            )


def firewalls(view, etc="/etc"):
    """
    What the host's own firewall needs so that MRVPN's traffic passes, as sentences; an empty list without a firewall.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_preflight.firewalls "$(salt-call --local --out=json pillar.get mrvpn)"
    """
    base = Path(etc)
    return [*_ufw(view, base), *_firewalld(view, base), *_nftables(view, base), *_drops(view)]
