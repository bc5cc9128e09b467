"""A network namespace that does what a simulated router's rows say: WireGuard, addresses, OSPF, pings.

    namespace of the router            files: the image's root (chroot), one private mount namespace
      wg_x  (wireguard-go)  <- /interface/wireguard, peers, /ip/address, /ipv6/address
      frr   (mrvpn-frr run) <- /routing/ospf/{instance,area,interface-template}, bfd; one process for all instances
      eth0, lan0, ...       the lab's own, untouched

Not realised: firewall, NAT, routing tables of `table`. Knows: rows, Linux's tools. Must not know: the API, MRVPN.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.simulators.routeros import values
from tests.simulators.routeros.router import Router, Row

DAEMONS = "bfdd=yes\nospfd=yes\nospf6d=yes\nzebra_options='-A 127.0.0.1'\nvtysh_enable=yes\n"
HOLD = """
mount -t tmpfs t {root}/run
mkdir -p {root}/run/frr {root}/run/wireguard
chroot {root} chown frr:frr /run/frr
mount --bind {folder}/frr {root}/etc/frr
mount --bind /dev {root}/dev
mount -t proc p {root}/proc
mount -t sysfs s {root}/sys || mount --bind /sys {root}/sys
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
ip link set lo up
touch {root}/run/ready
exec sleep infinity
"""


class Realised:
    """`with Realised(router, netns, image_root, folder)`: follows the router's rows until the end."""

    def __init__(self, router: Router, netns: str, root: Path, folder: Path) -> None:
        self.router, self.netns, self.root, self.folder = router, netns, root, folder
        self.errors: list[str] = []
        self._changed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._holder: subprocess.Popen[bytes] | None = None
        self._tunnels: dict[str, subprocess.Popen[bytes]] = {}
        self._frr: subprocess.Popen[bytes] | None = None
        self._told = ""

    def __enter__(self) -> Realised:
        (self.folder / "frr").mkdir(parents=True, exist_ok=True)
        script = HOLD.format(root=self.root, folder=self.folder)
        # nothing in there outlives this process, however it ends
        command = ["ip", "netns", "exec", self.netns, "setpriv", "--pdeathsig", "KILL"]
        command += ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        command += ["--propagation", "private", "sh", "-ec", script]
        self._holder = subprocess.Popen(command, start_new_session=True)
        deadline = time.monotonic() + 30
        while self.inside("test", "-e", "/run/ready", check=False).returncode:
            assert self._holder.poll() is None, "the namespace's holder ended"
            assert time.monotonic() < deadline, "the namespace's holder does not come up"
            time.sleep(0.05)
        self.router.observers.append(self._changed.set)
        self.router.pinger, self.router.seen, self.router.neighbors = self.ping, self.seen, self.neighbors
        self._changed.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.router.observers.remove(self._changed.set)
        self.router.pinger = self.router.seen = self.router.neighbors = None
        self._ended = True
        self._changed.set()
        self._thread.join(30)
        if self._holder is not None:
            # it is the first process of its pid namespace: with it everything in there ends
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._holder.pid, signal.SIGKILL)
            self._holder.wait(20)

    # -- inside the namespace

    def enter(self) -> list[str]:
        """The prefix of a command that runs in there, with the image's files."""
        assert self._holder is not None
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        inner = children[0] if children else str(self._holder.pid)
        return ["nsenter", "--target", inner, "--mount", "--net", "--pid", "chroot", str(self.root)]

    def inside(self, *command: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a tool of the image in the router's namespace."""
        done = subprocess.run([*self.enter(), *command], capture_output=True, text=True, input=stdin)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done

    def ping(self, address: str) -> bool:
        """Whether the address answers one ping from there."""
        return not self.inside("ping", "-n", "-c", "1", "-W", "1", address, check=False).returncode

    def seen(self, peer: Row) -> Row:
        """What WireGuard tells of a peer's row, as the router prints it; nothing before its interface is there."""
        for line in self.inside("wg", "show", peer["interface"], "dump", check=False).stdout.splitlines()[1:]:
            key, _, endpoint, _, handshake, received, sent, _ = line.split("\t")
            if key == peer["public-key"]:
                host, _, port = endpoint.rpartition(":")
                told = {"rx": received, "tx": sent}
                if host:
                    told |= {"current-endpoint-address": host.strip("[]"), "current-endpoint-port": port}
                if handshake != "0":
                    told["last-handshake"] = values.duration(max(0, int(time.time()) - int(handshake)))
                return told
        return {}

    def neighbors(self) -> list[Row]:
        """OSPF's neighbours, as the router prints them."""

        def told(command: str) -> Any:
            done = self.inside("vtysh", "-c", command, check=False)
            with contextlib.suppress(ValueError):
                return json.loads(done.stdout).get("neighbors", {})
            return {}

        names = {row.get("version", "2"): row["name"] for row in self._rows("/routing/ospf/instance")}
        found = []
        for router, entries in dict(told("show ip ospf neighbor json")).items():
            for entry in entries if isinstance(entries, list) else [entries]:
                row = {"instance": names.get("2", ""), "router-id": router, "address": entry["ifaceAddress"]}
                row |= {"interface": entry["ifaceName"].split(":")[0], "state": entry["nbrState"].split("/")[0]}
                found.append(row)
        for entry in told("show ipv6 ospf6 neighbor json") or []:
            row = {"instance": names.get("3", ""), "router-id": entry["neighborId"], "address": "fe80::1"}
            found.append(row | {"interface": entry["interfaceName"], "state": entry["state"].split("/")[0]})
        return found

    # -- following

    def _follow(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._ended:
                return
            # a transaction is many writes: take them together
            while self._changed.wait(0.1):
                self._changed.clear()
                if self._ended:
                    return
            try:
                self._tunnels_now()
                self._ospf_now()
            except (RuntimeError, OSError) as error:
                self.errors.append(str(error))

    def _rows(self, path: str) -> list[Row]:
        return [dict(row) for row in list(self.router.rows[path]) if row.get("disabled") != "true"]

    def _tunnels_now(self) -> None:
        wanted = {row["name"]: row for row in self._rows("/interface/wireguard")}
        for name in [name for name in self._tunnels if name not in wanted]:
            self.inside("ip", "link", "del", name, check=False)
            self._tunnels.pop(name).wait(10)
        for name, row in wanted.items():
            if name not in self._tunnels:
                command = [*self.enter(), "wireguard-go", "--foreground", name]
                self._tunnels[name] = subprocess.Popen(command, env={**os.environ, "LOG_LEVEL": "error"})
                deadline = time.monotonic() + 20
                while self.inside("wg", "show", name, check=False).returncode:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"wireguard-go did not make {name}")
                    time.sleep(0.05)
            self.inside("wg", "syncconf", name, "/dev/stdin", stdin=self._conf(row))
            self.inside("ip", "link", "set", name, "mtu", row.get("mtu", "1420"), "up")
            self._addresses_now(name)

    def _conf(self, row: Row) -> str:
        lines = ["[Interface]", f"PrivateKey = {row['private-key']}"]
        lines += [f"ListenPort = {row['listen-port']}"] if row.get("listen-port") else []
        for peer in self._rows("/interface/wireguard/peers"):
            if peer["interface"] != row["name"]:
                continue
            lines += ["[Peer]", f"PublicKey = {peer['public-key']}", f"AllowedIPs = {peer['allowed-address']}"]
            if peer.get("preshared-key"):
                lines.append(f"PresharedKey = {peer['preshared-key']}")
            if peer.get("endpoint-address"):
                host = peer["endpoint-address"]
                lines.append(f"Endpoint = {f'[{host}]' if ':' in host else host}:{peer['endpoint-port']}")
            if peer.get("persistent-keepalive"):
                lines.append(f"PersistentKeepalive = {peer['persistent-keepalive'].removesuffix('s')}")
        return "\n".join(lines) + "\n"

    def _addresses_now(self, name: str) -> None:
        rows = [*self._rows("/ip/address"), *self._rows("/ipv6/address")]
        wanted = {row["address"] for row in rows if row["interface"] == name}
        words = self.inside("ip", "-o", "address", "show", "dev", name).stdout.split()
        have = {words[n + 1] for n, word in enumerate(words) if word in ("inet", "inet6")}
        for address in wanted - have:
            # its network is the kernel's own route: in one that a command made, FRR may find no next hop
            self.inside("ip", "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        for address in have - wanted:
            self.inside("ip", "address", "del", address, "dev", name, check=False)

    def _ospf_now(self) -> None:
        text = self._frr_conf()
        if text == self._told:
            return
        self._told = text
        folder = self.folder / "frr"
        (folder / "daemons").write_text(DAEMONS)
        (folder / "vtysh.conf").write_text("service integrated-vtysh-config\n")
        (folder / "frr.conf").write_text(text)
        if self._frr is None:
            with (self.folder / "frr.log").open("wb") as log:
                self._frr = subprocess.Popen([*self.enter(), "mrvpn-frr", "run"], stdout=log, stderr=log)
        else:
            self.inside("mrvpn-frr", "reload")

    def _filter(self, chain: str, family: str, protocol: str) -> list[str]:
        """A chain of routing filter rules as the route map of a protocol; what no rule accepts is rejected."""
        lines = []
        rules = [row["rule"] for row in self._rows("/routing/filter/rule") if row["chain"] == chain]
        for number, rule in enumerate(rules, 1):
            if rule == "reject":
                break
            accepted = re.fullmatch(r"if \(dst in (\S+)\) \{accept\}", rule)
            if not accepted:
                raise RuntimeError(f"/routing/filter/rule: {rule!r} is not realised")
            longest = ipaddress.ip_network(accepted[1]).max_prefixlen
            longer = f" le {longest}" if ipaddress.ip_network(accepted[1]).prefixlen < longest else ""
            lines.append(f"{family} prefix-list {chain} seq {number} permit {accepted[1]}{longer}")
        if lines:
            lines += [f"route-map {chain} permit 10", f" match {family} address prefix-list {chain}", "exit"]
        return [*lines, f"route-map {chain} deny 20", "exit", f"{family} protocol {protocol} route-map {chain}"]

    def _frr_conf(self) -> str:
        instances = {row["name"]: row for row in self._rows("/routing/ospf/instance")}
        areas = {row["name"]: row for row in self._rows("/routing/ospf/area")}
        lines = ["frr defaults traditional", f"hostname {self.router.identity}", "service integrated-vtysh-config"]
        speaking: dict[str, Row] = {}
        for row in self._rows("/routing/ospf/interface-template"):
            area = areas.get(row["area"])
            instance = instances.get(area["instance"]) if area else None
            if area is None or instance is None:
                continue
            version = instance.get("version", "2")
            speaking.setdefault(version, instance)
            ospf = "ip ospf" if version == "2" else "ipv6 ospf6"
            for interface in row.get("interfaces", "").split(","):
                lines += [f"interface {interface}", f" {ospf} area {area.get('area-id', '0.0.0.0')}"]
                lines += [f" {ospf} bfd"] if row.get("use-bfd") == "true" else []
                lines.append(f" {ospf} dead-interval {row.get('dead-interval', '40s').removesuffix('s')}")
                lines.append(f" {ospf} hello-interval {row.get('hello-interval', '10s').removesuffix('s')}")
                lines += [f" {ospf} network point-to-point"] if row.get("type") == "ptp" else []
                lines.append("exit")
        for version, instance in speaking.items():
            kind, word = ("ospf", "ospf") if version == "2" else ("ospf6", "ospf6")
            lines += [f"router {kind}", f" {word} router-id {instance['router-id']}"]
            lines += [f" redistribute {what}" for what in instance.get("redistribute", "").split(",") if what]
            lines.append("exit")
            if instance.get("in-filter-chain"):
                lines += self._filter(instance["in-filter-chain"], "ip" if version == "2" else "ipv6", kind)
        return "\n".join([*lines, "end", ""])
