"""MRVPN's one image: built with a label per command that says what the command runs on, so that a newer image moves
only the containers that it concerns.

Knows: packages and their dependencies as dpkg in the image tells them, which packages a command starts from. Must not
know: containers, services, the description, the pillar.
"""

import hashlib
import re
from pathlib import Path

LABEL = "mrvpn.runs-on."
# what every command is started and looked after with
SHELL = ("dash", "coreutils", "grep", "sed")
# what each command of the image runs, all of image/Dockerfile's packages; on what those depend is their own word
NEEDS = {
    "mrvpn-wireguard": ("iproute2", "iptables", "nftables", "python3", "wireguard-go", "wireguard-tools"),
    "mrvpn-frr": ("frr", "frr-pythontools"),
    "mrvpn-recursor": ("pdns-recursor",),
    "ipt-server": (
        "conntrack", "iproute2", "nftables", "python3", "python3-aiohttp", "python3-cryptography", "python3-dnspython",
        "python3-jinja2", "python3-maxminddb", "python3-prometheus-client", "python3-pydantic", "python3-re2",
        "python3-rich", "python3-yaml", "wireguard-tools",
    ),
    "conntrack": ("conntrack",),
}  # fmt: skip
# what of the sources a command is; the others are one file each
SOURCES = {"ipt-server": ("image/rootfs/usr/local/bin/ipt-server", "mrvpn", "ipt_server"), "conntrack": ()}
QUERY = "${Package}\\t${Version}\\t${Pre-Depends}, ${Depends}\\t${Provides}\\n"


def _sources(context, command):
    """One hash over what a command is made from: paths and bytes, compiled Python left out."""
    digest = hashlib.sha256()
    for part in SOURCES.get(command, (f"image/rootfs/usr/local/bin/{command}",)):
        top = Path(context) / part
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(context)}\0{path.stat().st_mode & 0o111:o}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _ours(command):
    return f"MRVPN's {command}"


def _packages(name):
    """``({package: version}, {package: [[alternative, ...], ...]})`` of an image; a provided name leads on."""
    command = ("run", "--rm", "--network", "none", "--entrypoint", "dpkg-query", name, "--show", "--showformat", QUERY)
    versions, needs, provided = {}, {}, {}
    for line in __salt__["mrvpn_docker.command"](*command, timeout=120).splitlines():
        package, version, depends, provides = (*line.split("\t"), "", "")[:4]
        versions[package] = version
        needs[package] = [re.findall(r"(?:^|\|)\s*([a-z0-9.+-]+)", wish) for wish in depends.split(",")]
        for virtual in re.findall(r"(?:^|,)\s*([a-z0-9.+-]+)", provides):
            provided.setdefault(virtual, [[]])[0].append(package)
    return versions, {**provided, **needs}


def _closure(roots, needs):
    """These packages and all that they depend on; of alternatives all that are there."""
    found, todo = set(), list(roots)
    while todo:
        package = todo.pop()
        if package in needs and package not in found:
            found.add(package)
            todo += [alternative for wish in needs[package] for alternative in wish]
    return found


def parts(name, context=None):
    """
    What each command of an image runs on, ``{command: {part: version}}``; ``context``: the sources it was built from.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_image.parts mrvpn:0.1.0
    """
    versions, needs = _packages(name)
    labels = __salt__["mrvpn_docker.labels"](name)
    found = {}
    for command, roots in NEEDS.items():
        packages = _closure((*SHELL, *roots), needs)
        own = _sources(context, command) if context else labels.get(LABEL + command, "-").partition(" ")[2]
        found[command] = {p: versions[p] for p in sorted(packages) if p in versions} | {_ours(command): own}
    return found


def _labels(found):
    """Label and value of each command: a hash over all that it runs on, and its sources' own."""
    for command, runs_on in found.items():
        text = "".join(f"{part} {version}\n" for part, version in runs_on.items())
        yield LABEL + command, f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {runs_on[_ours(command)]}"


def _build(name, context, *options):
    """Builds ``name`` with its labels and returns its parts."""
    run = __salt__["mrvpn_docker.command"]
    run("build", "--quiet", *options, "--tag", name, "--file", f"{context}/image/Dockerfile", context)
    found = parts(name, context)
    labels = [word for label, value in _labels(found) for word in ("--label", f"{label}={value}")]
    run("build", "--quiet", *labels, "--tag", name, "-", stdin=f"FROM {name}\n")
    return found


def build(name, context):
    """
    Builds the image from ``<context>/image/Dockerfile``.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_image.build mrvpn:0.1.0 /opt/mrvpn/build
    """
    _build(name, context)
    return True


def rebuild(name, context, pull=True):
    """
    Builds the image anew from today's packages and returns what differs, ``{part: {"old", "new", "of"}}``, ``of``: the
    commands that run on it. Where nothing differs the image of before stays, and with it every container.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_image.rebuild mrvpn:0.1.0 /opt/mrvpn/build
    """
    run = __salt__["mrvpn_docker.command"]
    aside = f"{name}-next"
    new = _build(aside, context, "--no-cache", *(["--pull"] if pull else []))
    old = parts(name) if __salt__["mrvpn_docker.image"](name) else {}
    changes = {}
    for command, runs_on in new.items():
        before = old.get(command, {})
        for part in runs_on.keys() | before.keys():
            if runs_on.get(part) != before.get(part):
                told = {"old": before.get(part, ""), "new": runs_on.get(part, ""), "of": []}
                changes.setdefault(part, told)["of"].append(command)
    if changes:
        run("tag", aside, name)
    run("rmi", aside)
    return dict(sorted(changes.items()))


def refresh(name):
    """
    Pulls an image again and returns ``{"image": {"old", "new"}}`` where its tag leads to another one now.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_image.refresh caddy:2
    """
    old = __salt__["mrvpn_docker.image"](name)
    __salt__["mrvpn_docker.pull"](name)
    new = __salt__["mrvpn_docker.image"](name)
    return {} if old == new else {"image": {"old": old, "new": new}}


def as_good(command, have, wanted):
    """
    Whether a container that runs this command on the image ``have`` gains nothing by the image ``wanted`` (ids or
    names): both say that the command runs on the same.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_image.as_good mrvpn-frr mrvpn:kept mrvpn:0.1.0
    """
    told = [__salt__["mrvpn_docker.labels"](name).get(LABEL + str(command)) for name in (have, wanted)]
    return told[0] is not None and told[0] == told[1]
