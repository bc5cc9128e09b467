"""Installing Docker's parts: which packages where, and real apt on a repository made here: one package, no other."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import rig
from salt.exceptions import CommandExecutionError

View = Callable[[str], dict[str, Any]]
MakeCaller = Callable[..., Any]
BOTH = ["compose", "engine"]


@pytest.fixture
def caller(view: View, make_caller: MakeCaller) -> Any:
    return make_caller("uk", view("uk"))


@pytest.fixture
def on(view: View, make_caller: MakeCaller, tmp_path: Path) -> Callable[[str, str], Any]:
    """A minion that takes itself for another system."""

    def make(system: str, release: str) -> Any:
        (tmp_path / "minion").write_text(f'grains: {{os: {system}, osmajorrelease: "{release}"}}\n')
        return make_caller("uk", view("uk"))

    return make


@pytest.mark.parametrize(
    ("system", "release", "packages", "borrowed"),
    [
        ("Debian", "12", ["docker.io", "docker-compose"], ("docker-compose", "trixie")),
        ("Debian", "13", ["docker.io", "docker-cli", "docker-compose"], None),
        ("Debian", "14", ["docker.io", "docker-cli", "docker-compose"], None),
        ("Ubuntu", "24", ["docker.io", "docker-compose-v2"], None),
        ("Ubuntu", "26", ["docker.io", "docker-compose-v2"], None),
    ],
)
def test_packages_by_release(
    on: Callable[[str, str], Any], system: str, release: str, packages: list[str], borrowed: tuple[str, str] | None
) -> None:
    it = on(system, release)
    assert it.cmd("mrvpn_engine.plan", BOTH) == {"packages": packages, "next": borrowed, "vendor": False}
    only = it.cmd("mrvpn_engine.plan", ["compose"])["packages"]
    assert only == [packages[-1]]
    vendor = it.cmd("mrvpn_engine.plan", BOTH, source="vendor")
    assert "docker-ce" in vendor["packages"] and "docker-compose-plugin" in vendor["packages"]


def test_an_unknown_release_says_what_would_be_right(on: Callable[[str, str], Any]) -> None:
    with pytest.raises(CommandExecutionError, match=r"Debian 11: install Engine .* or set docker\.source to vendor"):
        on("Debian", "11").cmd("mrvpn_engine.plan", BOTH)


def test_missing_and_not_to_be_managed_is_one_sentence(
    on: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = on("Debian", "13")
    monkeypatch.setenv("PATH", "/nonexistent")
    state = ("state.single", "mrvpn_docker.engine", "docker")
    wanted = {"min_engine": "20.10", "min_compose": "2.20"}
    (result,) = rig.by_state(caller.cmd(*state, manage=False, **wanted)).values()
    assert result["result"] is False
    assert "Docker is not installed" in result["comment"] and "docker.manage" in result["comment"]
    (foretold,) = rig.by_state(caller.cmd(*state, manage=True, test=True, **wanted)).values()
    assert foretold["result"] is None
    assert foretold["changes"].keys() == {"docker.io", "docker-cli", "docker-compose"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "sources.list",
            "# deb http://no bookworm main\ndeb-src http://no bookworm main\ndeb {uri} bookworm main contrib\n",
        ),
        ("sources.list.d/a.list", "deb [arch=amd64 signed-by=/k.gpg] {uri} bookworm main\n"),
        (
            "sources.list.d/debian.sources",
            "Types: deb\nURIs: http://security.example\nSuites: bookworm-security\nComponents: main\n\n"
            "# a comment\nTypes: deb deb-src\nURIs: {uri}\nSuites: bookworm\n bookworm-updates\nComponents: main\n"
            "Signed-By: /k.gpg\n",
        ),
    ],
)
def test_the_mirror_is_the_machines_own(caller: Any, tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "apt" / name
    path.parent.mkdir(parents=True)
    path.write_text(text.format(uri="http://mirror.example/debian"))
    found = caller.cmd("mrvpn_engine.mirror", "bookworm", str(tmp_path / "apt"))
    assert found["uris"] == "http://mirror.example/debian"
    assert found.get("signed-by") == ("/k.gpg" if "/k.gpg" in text else None)


def test_no_mirror_is_told(caller: Any, tmp_path: Path) -> None:
    with pytest.raises(CommandExecutionError, match="no source of bookworm main"):
        caller.cmd("mrvpn_engine.mirror", "bookworm", str(tmp_path))


def _repository(folder: Path, packages: dict[str, dict[str, str]]) -> None:
    """An apt repository of empty packages: {release: {package: version}}."""
    for release, versions in packages.items():
        pool = folder / "pool" / release
        for package, version in versions.items():
            control = folder / "make" / release / package / "DEBIAN" / "control"
            control.parent.mkdir(parents=True)
            control.write_text(
                f"Package: {package}\nVersion: {version}\nArchitecture: all\n"
                "Maintainer: x <x@example.net>\nDescription: x\n"
            )
            pool.mkdir(parents=True, exist_ok=True)
            deb = pool / f"{package}.deb"
            subprocess.run(["dpkg-deb", "--build", str(control.parents[1]), str(deb)], check=True, capture_output=True)
        dist = folder / "dists" / release
        (dist / "main" / "binary-all").mkdir(parents=True)
        architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
        binary = dist / "main" / f"binary-{architecture}"
        binary.mkdir()
        command = ["dpkg-scanpackages", "--multiversion", f"pool/{release}"]
        index = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
        (binary / "Packages").write_bytes(index)
        sums = ""
        for path in (binary / "Packages",):
            digest = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True).stdout.split()[0]
            sums += f" {digest} {path.stat().st_size} {path.relative_to(dist)}\n"
        (dist / "Release").write_text(
            f"Suite: {release}\nCodename: {release}\nArchitectures: {architecture}\nComponents: main\nSHA256:\n{sums}"
        )


def test_apt_takes_that_package_and_no_other(caller: Any, tmp_path: Path) -> None:
    old = {"docker-compose": "1.29.2-3", "bash": "5.2.15-2", "docker.io": "20.10.24"}
    new = {"docker-compose": "2.26.1-4", "bash": "5.2.37-2", "docker.io": "26.1.5"}
    _repository(tmp_path / "repo", {"bookworm": old, "trixie": new})
    apt = tmp_path / "etc"
    (apt / "sources.list.d").mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [trusted=yes] file:{tmp_path}/repo bookworm main\n")
    assert caller.cmd("mrvpn_engine.borrow", "docker-compose", "trixie", str(apt), "bookworm") is True
    assert caller.cmd("mrvpn_engine.borrow", "docker-compose", "trixie", str(apt), "bookworm") is False
    for name in ("lists/partial", "cache/archives/partial"):
        (tmp_path / "apt" / name).mkdir(parents=True)
    (tmp_path / "apt" / "status").write_text("")
    options: list[str] = []
    for key, value in {
        "Dir::Etc": apt, "Dir::State::Lists": tmp_path / "apt/lists", "Dir::Cache": tmp_path / "apt/cache",
        "Dir::State::status": tmp_path / "apt/status", "APT::Sandbox::User": "root",
    }.items():  # fmt: skip
        options += ["-o", f"{key}={value}"]
    subprocess.run(["apt-get", *options, "update"], check=True, capture_output=True)

    def candidate(package: str) -> str:
        out = subprocess.run(["apt-cache", *options, "policy", package], capture_output=True, text=True).stdout
        return next(line.split()[-1] for line in out.splitlines() if "Candidate:" in line)

    assert candidate("docker-compose") == new["docker-compose"]
    assert (candidate("bash"), candidate("docker.io")) == (old["bash"], old["docker.io"])


def test_a_vendors_key_that_is_not_the_known_one_installs_nothing(
    caller: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    make = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "x@example.net", "ed25519"]
    subprocess.run(make, check=True, capture_output=True)
    key = subprocess.run(["gpg", "--armor", "--export"], capture_output=True, check=True).stdout
    shown = subprocess.run(["gpg", "--list-keys", "--with-colons"], capture_output=True, text=True).stdout
    fingerprint = next(line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr"))
    subprocess.run(["gpgconf", "--kill", "all"], capture_output=True)
    (tmp_path / "site" / "debian").mkdir(parents=True)
    (tmp_path / "site" / "debian" / "gpg").write_bytes(key)

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "site"), **more)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        url, apt = f"http://127.0.0.1:{server.server_address[1]}", str(tmp_path / "apt")
        where = {"system": "Debian", "codename": "trixie"}
        with pytest.raises(CommandExecutionError, match="is not the key 9DC858229FC7DD38854AE2D88D81803C0EBFCD88"):
            caller.cmd("mrvpn_engine.vendor_source", apt, url, **where)
        assert not (tmp_path / "apt").exists()
        assert caller.cmd("mrvpn_engine.vendor_source", apt, url, fingerprint, **where) is True
    finally:
        server.shutdown()
        server.server_close()
    text = (tmp_path / "apt/sources.list.d/docker.sources").read_text()
    assert f"URIs: {url}/debian\nSuites: trixie\n" in text and "keyrings/docker.asc" in text
