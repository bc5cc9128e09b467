"""The image, built once outside the lab's hosts: base by debootstrap, then image/Dockerfile; kept by content hash.

Knows: debootstrap, apt sources, a dockerd of its own. Must not know: the lab's hosts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lab.deadline import until
from lab.state import CACHE, CGROUP, REPO, Trouble, alive, sh, spawn, stop

SUITE = "trixie"
BASE = f"debian:{SUITE}-slim"
SOCKET = CACHE / "docker.sock"
ROOT = CACHE / "root"  # the image's root file system, unpacked: tests run its tools by chroot
TARBALL = CACHE / "image.tar"
_ENV = {"DOCKER_HOST": f"unix://{SOCKET}", "DOCKER_BUILDKIT": "0"}
_SLIM = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt", "var/lib/apt/lists")


def name() -> str:
    """The image's name, `mrvpn:<version>`."""
    text = (REPO / "pyproject.toml").read_text()
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    if not found:
        raise Trouble("pyproject.toml names no version")
    return f"mrvpn:{found[1]}"


def content_hash() -> str:
    """SHA-256 of everything that goes into the image."""
    digest = hashlib.sha256()
    for folder in ("image", "mrvpn", "ipt_server"):
        for path in sorted((REPO / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(REPO)} {path.stat().st_mode & 0o111}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def mirror() -> str | None:
    """The Debian mirror of this machine's own apt sources; None where it has none, as on Ubuntu."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text()
        found = re.findall(r"^URIs:\s*(\S+)|^deb\s+(?:\[[^]]*\]\s+)?(\S+)", text, re.MULTILINE)
        for uri in (a or b for a, b in found):
            if "security" not in uri and "debian" in uri:
                return str(uri).rstrip("/")
    return None


def ensure() -> str:
    """Builds what is missing and returns the image's id; a second call with unchanged files does nothing.

    Of several processes one builds, the others wait for it.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _ensure()


def _ensure() -> str:
    stamp = CACHE / "stamp"
    wanted = content_hash()
    if stamp.exists() and TARBALL.exists() and ROOT.is_dir():
        have, image_id = stamp.read_text().split()
        if have == wanted:
            return image_id
    with _builder():
        if not _docker("images", "-q", BASE).strip():
            _base()
        _docker("build", "--network", "host", "-q", "-f", "image/Dockerfile", "-t", name(), ".", timeout=900)
        image_id = _docker("image", "inspect", "-f", "{{.Id}}", name()).strip()
        _docker("save", "-o", str(TARBALL) + ".new", name(), timeout=300)
        Path(str(TARBALL) + ".new").replace(TARBALL)
        _unpack()
        _docker("image", "prune", "-f")
    stamp.write_text(f"{wanted} {image_id}\n")
    return image_id


def _docker(*argv: str, timeout: float = 120) -> str:
    done = subprocess.run(
        ["docker", *argv], cwd=REPO, env={**os.environ, **_ENV}, capture_output=True, text=True, timeout=timeout
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-12:]
        raise Trouble(f"docker {argv[0]}: " + "\n".join(said))
    return done.stdout


@contextlib.contextmanager
def _builder() -> Iterator[None]:
    """A dockerd of the builder's own, on the machine's network but without touching its rules or bridges."""
    pid = spawn(
        "builder",
        ["dockerd", "--data-root", str(CACHE / "docker"), "--exec-root", str(CACHE / "exec"), "-H", f"unix://{SOCKET}",
         "-p", str(CACHE / "dockerd.pid"), "--iptables=false", "--ip6tables=false", "--bridge=none",
         "--cgroup-parent", f"/{CGROUP}/builder"],
    )  # fmt: skip
    try:
        until("the builder's dockerd answers", lambda: alive(pid) and _docker("version"), 30)
        yield
    finally:
        stop([pid])
        (CACHE / "dockerd.pid").unlink(missing_ok=True)


def _base() -> None:
    """A minimal Debian by the stock image's name: made from the machine's own mirror, else the stock image itself."""
    own = mirror()
    if own is None:
        try:
            _docker("pull", "-q", BASE, timeout=600)
        except Trouble as trouble:
            raise Trouble(
                f"no Debian mirror in /etc/apt, and the stock image cannot be had either: {trouble}"
            ) from None
        return
    work = CACHE / "base"
    shutil.rmtree(work, ignore_errors=True)
    sh("debootstrap", "--variant=minbase", SUITE, str(work), own, timeout=600)
    for extra in ("etc/apt/apt.conf.d",):
        for path in Path("/", extra).glob("*"):
            # what this machine needs to reach its mirror (proxies, dated archives), not its other habits
            if re.search(r"Acquire::", path.read_text(errors="replace")) and "docker" not in path.name:
                shutil.copy(path, work / extra / path.name)
    for folder in _SLIM:
        shutil.rmtree(work / folder, ignore_errors=True)
        (work / folder).mkdir(parents=True)
    tar = subprocess.Popen(["tar", "-C", str(work), "-c", "."], stdout=subprocess.PIPE)
    done = subprocess.run(
        ["docker", "import", "-", BASE], stdin=tar.stdout, env={**os.environ, **_ENV}, capture_output=True
    )
    if tar.wait() or done.returncode:
        raise Trouble(f"docker import of the base: {done.stderr.decode()[-300:]}")
    shutil.rmtree(work)


def _unpack() -> None:
    """Leaves the image's root file system at ROOT."""
    new = CACHE / "root.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    container = _docker("create", name()).strip()
    try:
        export = subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE, env={**os.environ, **_ENV})
        sh_tar = subprocess.run(["tar", "-x", "-C", str(new)], stdin=export.stdout)
        if export.wait() or sh_tar.returncode:
            raise Trouble("the image's root file system could not be unpacked")
    finally:
        _docker("rm", container)
    shutil.rmtree(ROOT, ignore_errors=True)
    new.rename(ROOT)
