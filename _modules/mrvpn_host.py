"""Kernel parameters and the rules of the host itself.

Knows: /proc/sys, sysctl.d, the script mrvpn-host-guard. Must not know: containers, the description, the pillar.
"""

import os
import re
import subprocess
from pathlib import Path

from salt.exceptions import CommandExecutionError

RESERVED = "net.ipv4.ip_local_reserved_ports"


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
