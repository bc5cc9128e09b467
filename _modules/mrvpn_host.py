"""Kernel parameters and the rules of the host itself.

Knows: /proc/sys, sysctl.d, the script mrvpn-host-guard. Must not know: containers, the description, the pillar.
"""

import os
import re
import subprocess
from pathlib import Path

from salt.exceptions import CommandExecutionError

RESERVED = "net.ipv4.ip_local_reserved_ports"
UNITS = Path("/etc/systemd/system")
GUARD_UNIT = UNITS / "mrvpn-host-guard.service"
GUARD_WANTED = UNITS / "docker.service.requires" / GUARD_UNIT.name
BOOT_UNIT = UNITS / "mrvpn-containers.service"
BOOT_WANTED = UNITS / "docker.service.wants" / BOOT_UNIT.name
# what mrvpn-wireguard puts in front of Docker's forward policy
FORWARD_MARK = "0x40000/0x40000"


def _proc(parameter):
    return Path("/proc/sys") / parameter.replace(".", "/")


def _ranges(text):
    return [tuple(int(n) for n in part.split("-")) for part in re.split(r"[,\s]+", text.strip()) if part]


def _with(have, wanted):
    """The kernel's list of reserved ports with one range more, in the kernel's own words."""
    ports = {port for r in [*_ranges(have), *_ranges(wanted)] for port in range(r[0], r[-1] + 1)}
    spans = []
    for port in sorted(ports):
        if spans and spans[-1][1] == port - 1:
            spans[-1][1] = port
        else:
            spans.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def sysctls(file, values, write=True):
    """
    What differs from these parameters, ``({parameter: {"old", "new"}}, {parameter: why it cannot be set})``, set with
    ``write``.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_host.sysctls /etc/sysctl.d/60-mrvpn.conf '{"net.ipv4.ip_forward": "1"}' write=False
    """
    changes, refused, lines = {}, {}, []
    for parameter, value in sorted(values.items()):
        path, value = _proc(parameter), str(value)
        try:
            have = path.read_text().strip()
        except OSError as error:
            refused[parameter] = f"not in this kernel ({error.strerror})"
            continue
        new = _with(have, value) if parameter == RESERVED else value
        lines.append(f"{parameter} = {new}")
        if have == new:
            continue
        if write:
            try:
                path.write_text(new)
            except OSError as error:
                refused[parameter] = f"cannot be set here ({error.strerror}); it is {have or 'empty'}"
                continue
        changes[parameter] = {"old": have, "new": new}
    text = "# kernel parameters that MRVPN needs\n" + "".join(line + "\n" for line in lines)
    path = Path(file)
    old = path.read_text() if path.exists() else None
    if old != text:
        changes[file] = {"old": old, "new": text}
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return changes, refused


def sysctls_restore(noted, docker, write=False):
    """
    Which kernel parameters go back to what they were, ``{parameter: {"old", "new"}}``; with ``write`` they do.
    ``noted``: what was changed, ``{parameter: {"old", "new"}}``; what somebody has changed since stays.

    docker
        whether Docker runs here: it forwards for its own containers

    CLI Example:

    .. code-block:: bash

        salt uk mrvpn_host.sysctls_restore '{"net.ipv4.ip_forward": {"old": "0", "new": "1"}}' docker=False
    """
    found = {}
    for parameter, change in sorted(noted.items()):
        path = _proc(parameter)
        if (docker and "forward" in parameter) or not path.exists() or path.read_text().strip() != change["new"]:
            continue
        found[parameter] = {"old": change["new"], "new": change["old"]}
        if write:
            path.write_text(change["old"] or "\n")
    return found


def guard_matches(script):
    """
    Whether the rules that the script makes are in force as it stands now.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_host.guard_matches /opt/mrvpn/bin/mrvpn-host-guard
    """
    if not Path(script).exists():
        return False
    return subprocess.run([script, "status"], capture_output=True).returncode == 0


def guard_present():
    """
    Whether the host has the rules' table at all.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_host.guard_present
    """
    try:
        return subprocess.run(["nft", "list", "table", "inet", "mrvpn_host"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def guard_set(script, running):
    """
    Puts the host's rules in force, or ends them.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_host.guard_set /opt/mrvpn/bin/mrvpn-host-guard True
    """
    command = [script, "start"] if running else ["nft", "delete", "table", "inet", "mrvpn_host"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise CommandExecutionError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return True


def _run(*command):
    """A tool's output, "" where the tool or what it asks for is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    except FileNotFoundError:
        return ""


def _must(*command):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise CommandExecutionError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")


def deployed(root):
    """
    Whether MRVPN has put files below this root.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_host.deployed /opt/mrvpn
    """
    return (Path(root) / ".mrvpn" / "manifest.json").exists()


def guard_parts():
    """
    What there is of the host's rules and of what starts them, as names.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_host.guard_parts
    """
    parts = _there(GUARD_UNIT, GUARD_WANTED)
    return ["nft table inet mrvpn_host", *parts] if guard_present() else parts


def boot_parts():
    """
    What there is of the unit that starts what Docker gave up, as names.

    CLI Example:

    .. code-block:: bash

        salt uk mrvpn_host.boot_parts
    """
    return _there(BOOT_UNIT, BOOT_WANTED)


def boot_off():
    """
    Takes that unit away.

    CLI Example:

    .. code-block:: bash

        salt uk mrvpn_host.boot_off
    """
    parts = boot_parts()
    _units_off(BOOT_UNIT, BOOT_WANTED)
    return parts


def _there(*paths):
    return [str(path) for path in paths if path.exists() or path.is_symlink()]


def _units_off(unit, wanted):
    there = _there(unit, wanted)
    for path in (wanted, unit):
        path.unlink(missing_ok=True)
    if wanted.parent.is_dir() and not any(wanted.parent.iterdir()):
        wanted.parent.rmdir()
    if there and Path("/run/systemd/system").is_dir():
        _run("systemctl", "daemon-reload")


def guard_off():
    """
    Ends the host's rules and takes away what starts them: a unit that Docker requires must not outlive its script.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_host.guard_off
    """
    parts = guard_parts()
    _units_off(GUARD_UNIT, GUARD_WANTED)
    if guard_present():
        _must("nft", "delete", "table", "inet", "mrvpn_host")
    return parts


def _table(interface):
    return f"mrvpn_{interface.replace('-', '_').replace('.', '_')}"


def tunnel_parts(interface):
    """
    What the host's own namespace holds of a tunnel: its link, its nft table.

    CLI Example:

    .. code-block:: bash

        salt office mrvpn_host.tunnel_parts wg_office
    """
    parts = [f"interface {interface}"] if _run("ip", "-oneline", "link", "show", "dev", interface) else []
    if f"table inet {_table(interface)}\n" in _run("nft", "list", "tables"):
        parts.append(f"nft table inet {_table(interface)}")
    return parts


def tunnel_off(interface):
    """
    Takes a tunnel's link and nft table out of the host's namespace: its container may have been killed before it
    could.

    CLI Example:

    .. code-block:: bash

        salt office mrvpn_host.tunnel_off wg_office
    """
    parts = tunnel_parts(interface)
    for part in parts:
        kind, *words = part.split()
        _must(*(["ip", "link", "del", "dev", *words] if kind == "interface" else ["nft", "delete", *words]))
    return parts


def forward_rules():
    """
    The rules that let mesh traffic pass Docker's forward policy, as ``iptables -S`` prints them, with their tool.

    CLI Example:

    .. code-block:: bash

        salt office mrvpn_host.forward_rules
    """
    found = []
    for tool in ("iptables", "ip6tables"):
        for line in _run(tool, "-w", "-S").splitlines():
            if f"--mark {FORWARD_MARK}" in line and line.startswith("-A"):
                found.append(f"{tool} {line}")
    return found


def forward_rules_off():
    """
    Takes those rules away.

    CLI Example:

    .. code-block:: bash

        salt office mrvpn_host.forward_rules_off
    """
    found = forward_rules()
    for line in found:
        tool, _, *rule = line.split()
        _must(tool, "-w", "-D", *rule)
    return found
