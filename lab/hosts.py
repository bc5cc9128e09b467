"""A host of the lab: a network namespace, and one mount and UTS namespace whose root is an overlay of the machine's.

Knows: namespaces, mounts, overlays, addresses. Must not know: Docker, Salt, what runs there. Programs in a host use
their default paths (/etc/salt, /opt/mrvpn, /run/docker.sock); nothing of it appears on the machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab import topology
from lab.state import LAB, REPO, Trouble, sh, stop
from lab.topology import Host, Lan

HOSTS = LAB / "hosts"


def folder(host: Host) -> Path:
    """Where this host's pins and writable layers lie."""
    return HOSTS / host.name


def enter(host: Host) -> list[str]:
    """The command prefix that runs a program in the host (its cwd becomes /)."""
    if not host.root:
        return into(host.netns)
    pins = folder(host) / "ns"
    return [*into(host.netns)[:-1], f"--mount={pins}/mnt", f"--uts={pins}/uts", "--"]


def into(netns: str) -> list[str]:
    """The command prefix that runs a program in a network namespace, with the machine's files."""
    return ["nsenter", f"--net=/run/netns/{netns}", "--"]


def run(host: Host, *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> str:
    """Runs a command in the host and returns its output."""
    return sh(*enter(host), *argv, stdin=stdin, check=check, timeout=timeout)


def put(host: Host, path: str, text: str, mode: str = "0644") -> None:
    """Writes a file of the host's; never readable by others on the way."""
    run(host, "sh", "-c", f"umask 077; mkdir -p {Path(path).parent}; cat > {path}; chmod {mode} {path}", stdin=text)


def make_network(hosts: Sequence[Host]) -> None:
    """Makes the internet's namespace and each host's, linked by one veth each, default-routed to the internet."""
    internet = topology.PREFIX + topology.INTERNET
    _add_netns(internet)
    _sysctl(internet, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratelimit=0")
    for host in hosts:
        link(host)


def link(host: Host) -> None:
    """Makes a host's namespace and its veth to the internet."""
    internet = topology.PREFIX + topology.INTERNET
    _add_netns(host.netns)
    _sysctl(host.netns, "net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1")
    sh(
        "ip",
        "link",
        "add",
        f"v-{host.name}",
        "netns",
        internet,
        "type",
        "veth",
        "peer",
        "eth0",
        "netns",
        host.netns,
    )
    for ns, device in ((internet, f"v-{host.name}"), (host.netns, "eth0")):
        _sysctl(ns, f"net.ipv6.conf.{device}.accept_dad=0", f"net.ipv6.conf.{device}.accept_ra=0")
    out, inside = ["ip", "-n", internet], ["ip", "-n", host.netns]
    sh(*out, "link", "set", f"v-{host.name}", "up", "addrgenmode", "none")
    sh(*out, "address", "add", f"{topology.ROUTER4}/32", "dev", f"v-{host.name}")
    sh(*out, "address", "add", f"{topology.ROUTER6}/64", "dev", f"v-{host.name}", "nodad")
    sh(*out, "route", "add", f"{host.ipv4}/32", "dev", f"v-{host.name}")
    sh(*out, "route", "add", f"{host.ipv6}/128", "dev", f"v-{host.name}")
    sh(*inside, "link", "set", "eth0", "up")
    sh(*inside, "address", "add", f"{host.ipv4}/32", "dev", "eth0")
    sh(*inside, "address", "add", f"{host.ipv6}/128", "dev", "eth0", "nodad")
    sh(*inside, "route", "add", f"{topology.ROUTER4}/32", "dev", "eth0")
    sh(*inside, "route", "add", "default", "via", topology.ROUTER4, "dev", "eth0", "src", host.ipv4)
    sh(*inside, "route", "add", "default", "via", topology.ROUTER6, "dev", "eth0", "src", host.ipv6)


def _add_netns(name: str) -> None:
    if Path(f"/run/netns/{name}").exists():
        raise Trouble(f"the network namespace {name} is left over: run `python -m lab down` first")
    sh("ip", "netns", "add", name)
    sh("ip", "-n", name, "link", "set", "lo", "up")


def _sysctl(netns: str, *settings: str) -> None:
    sh("ip", "netns", "exec", netns, "sysctl", "-qw", *settings)


_ROOT_SCRIPT = r"""
hostname "$NAME"
mount -t overlay overlay -o "lowerdir=/,upperdir=$R/u,workdir=$R/w,index=off,xino=off" "$R/m"
M=$R/m
mount --rbind /proc "$M/proc"; mount --rbind /sys "$M/sys"; mount --rbind /dev "$M/dev"
mount -t tmpfs -o mode=755 run "$M/run"; mount -t tmpfs -o mode=1777 tmp "$M/tmp"
mkdir -p "$M/run/lock" "$M$LAB" "$M$REPO" "$M/var/lib/docker" "$M/var/lib/containerd" "$M/opt/mrvpn" "$M/run/netns"
mount --rbind "$LAB" "$M$LAB"
mount --bind "$REPO" "$M$REPO"
mount --bind "$R/docker" "$M/var/lib/docker"; mount --bind "$R/containerd" "$M/var/lib/containerd"
mount --bind "$R/opt" "$M/opt/mrvpn"
rm -f "$M/etc/machine-id" "$M/etc/resolv.conf" "$M/etc/hosts" "$M/etc/hostname"
od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > "$M/etc/machine-id"
echo "nameserver $DNS" > "$M/etc/resolv.conf"
echo "$NAME" > "$M/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n%s %s\n%s salt\n' "$ADDRESS" "$NAME" "$MASTER" > "$M/etc/hosts"
rm -rf "$M/etc/salt" "$M/var/cache/salt" "$M/etc/docker/daemon.json"
mkdir -p "$M/etc/salt" "$M/etc/docker"
cd "$M"; mkdir -p .old; pivot_root . .old; umount -l /.old; rmdir /.old
"""


def make_root(host: Host) -> None:
    """Gives the host its own root: an overlay of the machine's root, pinned by one mount and one UTS namespace."""
    base = folder(host)
    for name in ("ns", "u", "w", "m", "docker", "containerd", "opt"):
        (base / name).mkdir(parents=True, exist_ok=True)
    pins = base / "ns"
    if subprocess.run(["mountpoint", "-q", str(pins)]).returncode:
        sh("mount", "--bind", str(pins), str(pins))
        sh("mount", "--make-private", str(pins))
    for pin in ("mnt", "uts"):
        (pins / pin).touch()
    sh(
        "nsenter", f"--net=/run/netns/{host.netns}",
        "unshare", f"--mount={pins}/mnt", f"--uts={pins}/uts", "--propagation", "private",
        "env", f"NAME={host.name}", f"R={base}", f"LAB={LAB}", f"REPO={REPO}", f"DNS={topology.DNS}",
        f"ADDRESS={host.ipv4}", f"MASTER={topology.MASTER.ipv4}",
        "sh", "-ec", _ROOT_SCRIPT,
    )  # fmt: skip


_FORGET_SCRIPT = r"""
for link in $(ip -oneline link | cut -d: -f2 | cut -d@ -f1); do
    case $link in lo|eth0|lan0) ;; *) ip link del "$link" 2>/dev/null || true ;; esac
done
nft flush ruleset
conntrack -F 2>/dev/null || true
cut -d" " -f2 /proc/self/mounts | grep -E '^/run/|^/var/lib/docker/' | grep -v -e "^$LAB" -e "^$REPO" | sort -r |
    xargs -r umount -l
# no /tmp, and nothing that is mounted: the checkout or the lab's own folder may lie there
find /run -xdev -mindepth 1 -delete 2>/dev/null || true
mkdir -p /run/lock /run/netns
"""


def forget(host: Host) -> None:
    """Takes away what no boot keeps: interfaces but the wired ones, rules, connections, mounts, /run."""
    assert host.root, f"{host.name} has the machine's files"
    run(host, "env", f"LAB={LAB}", f"REPO={REPO}", "sh", "-ec", _FORGET_SCRIPT)


def processes(host: Host) -> list[int]:
    """PIDs of what runs in the host's own mount namespace: daemons and their helpers, not what is in containers."""
    pinned = folder(host) / "ns" / "mnt"
    if not pinned.exists():
        return []
    pin = pinned.stat()
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/mnt"):
        with contextlib.suppress(OSError):
            seen = path.stat()
            if (seen.st_dev, seen.st_ino) == (pin.st_dev, pin.st_ino):
                found.append(int(path.parts[2]))
    return found


def remove(host: Host) -> None:
    """Takes one host away: what runs in it, its root, its namespaces."""
    stop(processes(host))
    for path in reversed([path for path in mounts() if path.startswith(f"{folder(host)}/")]):
        sh("umount", "-l", path, check=False)
    sh("ip", "netns", "del", host.netns)
    shutil.rmtree(folder(host))


def make_lan(lan: Lan) -> None:
    """A LAN: a veth of its host's own namespace, and behind it the namespace of its machine."""
    _add_netns(lan.netns)
    sh("ip", "link", "add", "lan0", "netns", lan.host.netns, "type", "veth", "peer", "eth0", "netns", lan.netns)
    machine = (f"{lan.server[0]}/24", f"{lan.server[1]}/64")
    for ns, device, addresses in ((lan.host.netns, "lan0", lan.router), (lan.netns, "eth0", machine)):
        for address in addresses:
            sh("ip", "-n", ns, "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        sh("ip", "-n", ns, "link", "set", device, "up")
    for address in lan.router:
        sh("ip", "-n", lan.netns, "route", "add", "default", "via", address.split("/")[0])


def mounts() -> list[str]:
    """Everything mounted below the lab's folder, in the order in which it was mounted."""
    fields = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [words[1] for words in fields if words[1].startswith(f"{LAB}/")]


def unmake() -> None:
    """Takes every mount and network namespace of the lab away, in that order, whatever is left of it."""
    for path in reversed(mounts()):
        sh("umount", "-l", path, check=False)
    listed = sh("ip", "netns", "list", check=False)
    for name in (line.split()[0] for line in listed.splitlines() if line.strip()):
        if name.startswith(topology.PREFIX):
            sh("ip", "netns", "del", name, check=False)
    shutil.rmtree(HOSTS, ignore_errors=True)
    if HOSTS.exists() and any(os.scandir(HOSTS)):
        raise Trouble(f"{HOSTS} could not be removed: something still uses it (fuser -m {HOSTS})")
