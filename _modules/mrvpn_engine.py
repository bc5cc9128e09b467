"""Installing what is missing of Docker's Engine and Compose, from the distribution or from the vendor's repository.

Knows: packages of Debian and Ubuntu, apt's sources and preferences. Must not know: containers, the description, the
pillar. Installs only what is missing; what is there and too old is the operator's to raise, but for Compose, which a
release without Compose v2 takes from the next one: that one package, pinned.
"""

import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

from salt.exceptions import CommandExecutionError

# (distribution, from which release on): the packages of the distribution itself
ENGINE = {("Debian", 13): ["docker.io", "docker-cli"], ("Debian", 12): ["docker.io"], ("Ubuntu", 24): ["docker.io"]}
COMPOSE = {("Debian", 13): ["docker-compose"], ("Ubuntu", 24): ["docker-compose-v2"]}
# releases without Compose v2: the package, and the release that has it
NEXT = {("Debian", 12): ("docker-compose", "trixie")}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
VENDOR = "https://download.docker.com/linux"
VENDOR_KEY = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
VENDOR_ENGINE, VENDOR_COMPOSE = ["docker-ce", "docker-ce-cli", "containerd.io"], ["docker-compose-plugin"]


def _system():
    return __grains__["os"], int(__grains__["osmajorrelease"])


def _newest(table, system):
    """The entry of the newest release that is not newer than this host's, None where there is none."""
    found = [release for name, release in table if name == system[0] and release <= system[1]]
    return table[system[0], max(found)] if found else None


def lacking(min_compose):
    """
    Which parts are missing, ``{"engine"|"compose": why}``; a Compose that is too old counts as missing.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_engine.lacking 2.20
    """
    found = {}
    if not (shutil.which("dockerd") and shutil.which("docker")):
        found["engine"] = "Docker is not installed"
    try:
        have = __salt__["mrvpn_docker.compose_version"]()
        if _numbers(have) < _numbers(min_compose):
            found["compose"] = f"Docker Compose {have} is older than {min_compose}"
    except CommandExecutionError as error:
        found["compose"] = str(error)
    return found


def _numbers(text):
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def plan(parts, source="distribution"):
    """
    How these parts would be installed: ``{"packages": [...], "next": (package, release) or None, "vendor": bool}``; an
    error where this release is not known.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_engine.plan '[engine, compose]'
    """
    if source == "vendor":
        packages = (VENDOR_ENGINE if "engine" in parts else []) + (VENDOR_COMPOSE if "compose" in parts else [])
        return {"packages": packages, "next": None, "vendor": True}
    system = _system()
    engine, compose = _newest(ENGINE, system), _newest(COMPOSE, system)
    borrowed = None if compose else NEXT.get(system)
    if engine is None or not (compose or borrowed):
        raise CommandExecutionError(
            f"no packages of Docker and Compose v2 are known for {system[0]} {system[1]}: install Engine 20.10 and "
            "Compose 2.20 or newer by hand, or set docker.source to vendor"
        )
    packages = (engine if "engine" in parts else []) + ((compose or [borrowed[0]]) if "compose" in parts else [])
    return {"packages": packages, "next": borrowed if "compose" in parts else None, "vendor": False}


def install(parts, source="distribution"):
    """
    Installs these parts (``engine``, ``compose``) and returns pkg.install's changes.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_engine.install '[engine, compose]'
    """
    how = plan(parts, source)
    if how["vendor"]:
        vendor_source()
    if how["next"]:
        borrow(*how["next"])
    return __salt__["pkg.install"](pkgs=how["packages"], refresh=True, install_recommends=False)


# -- apt ---------------------------------------------------------------------------------------------------------------


def _stanzas(text):
    """The entries of a deb822 file, keys in small letters."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
        joined = re.sub(r"\n\s+", " ", "\n".join(lines))
        yield {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in joined.splitlines())}


def _lines(text):
    """The entries of a one-line-style file, in the shape of deb822's."""
    for line in text.splitlines():
        found = re.match(r"\s*(deb)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*(.*)", line)
        if found:
            options = dict(word.partition("=")[::2] for word in (found[2] or "").split())
            entry = {"types": found[1], "uris": found[3], "suites": found[4], "components": found[5]}
            yield entry | {key.lower(): value for key, value in options.items()}


def mirror(codename, apt="/etc/apt"):
    """
    Where this machine gets that release from, as its own apt sources have it: ``{"uris", "signed-by"?, "trusted"?}``.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_engine.mirror bookworm
    """
    base = Path(apt)
    files = [base / "sources.list", *sorted((base / "sources.list.d").glob("*"))]
    for path in files:
        if not path.is_file() or path.suffix not in (".list", ".sources"):
            continue
        for entry in (_stanzas if path.suffix == ".sources" else _lines)(path.read_text()):
            enabled = entry.get("enabled", "yes").lower() not in ("no", "false")
            binary = "deb" in entry.get("types", "").split()
            wanted = codename in entry.get("suites", "").split() and "main" in entry.get("components", "").split()
            if enabled and binary and wanted:
                kept = {key: entry[key] for key in ("signed-by", "trusted") if key in entry}
                return {"uris": entry["uris"].split()[0], **kept}
    raise CommandExecutionError(
        f"no source of {codename} main in {apt}: the mirror to take Docker Compose from is unknown"
    )


def borrow(package, release, apt="/etc/apt", codename=None):
    """
    Lets apt take one package, and nothing else, from another release: a source on this machine's own mirror, a pin.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_engine.borrow docker-compose trixie
    """
    found = mirror(codename or __grains__["oscodename"], apt)
    lines = ["Types: deb", f"URIs: {found['uris']}", f"Suites: {release}", "Components: main"]
    lines.append(f"Signed-By: {found.get('signed-by', KEYRING)}")
    lines += [f"Trusted: {found['trusted']}"] if "trusted" in found else []
    pin = [
        f"# MRVPN: {package} alone comes from {release}",
        "Package: *",
        f"Pin: release n={release}",
        "Pin-Priority: -10",
        "",
        f"Package: {package}",
        f"Pin: release n={release}",
        "Pin-Priority: 500",
    ]
    changed = [
        _put(Path(apt) / "preferences.d" / "mrvpn-compose", pin),
        _put(Path(apt) / "sources.list.d" / "mrvpn-compose.sources", lines),
    ]
    return any(changed)


def _put(path, lines):
    text = "\n".join(lines) + "\n"
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return True


def vendor_source(apt="/etc/apt", url=VENDOR, fingerprint=VENDOR_KEY, system=None, codename=None):
    """
    Adds the vendor's repository, after its key has shown the fingerprint that is known.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_engine.vendor_source
    """
    base = f"{url}/{(system or __grains__['os']).lower()}"
    if not shutil.which("gpg"):
        __salt__["pkg.install"](pkgs=["gpg", "ca-certificates"], install_recommends=False)
    try:
        with urllib.request.urlopen(f"{base}/gpg", timeout=30) as answer:
            key = answer.read()
    except OSError as error:
        raise CommandExecutionError(f"{base}/gpg: {error}: is the vendor's site reachable from this host?") from None
    done = subprocess.run(["gpg", "--show-keys", "--with-colons"], input=key, capture_output=True)
    shown = re.search(rb"^fpr:+([0-9A-F]{40}):", done.stdout, re.MULTILINE)
    if not shown or shown[1].decode() != fingerprint:
        raise CommandExecutionError(
            f"{base}/gpg is not the key {fingerprint} that is known: nothing is installed from there"
        )
    keyring = Path(apt) / "keyrings" / "docker.asc"
    keyring.parent.mkdir(parents=True, exist_ok=True)
    keyring.write_bytes(key)
    keyring.chmod(0o644)
    lines = ["Types: deb", f"URIs: {base}", f"Suites: {codename or __grains__['oscodename']}", "Components: stable"]
    return _put(Path(apt) / "sources.list.d" / "docker.sources", [*lines, f"Signed-By: {keyring}"])
