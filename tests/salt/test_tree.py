"""Files put in place together, taken back, removed when described no more; keys made on the host and never shown."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rig
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

View = Callable[[str], dict[str, Any]]
MakeCaller = Callable[..., Any]
PSK = "cHNrdWtwc2t1a3Bza3VrcHNrdWtwc2t1a3Bza3VrcHM="


@pytest.fixture
def uk(view: View, make_caller: MakeCaller, tmp_path: Path) -> tuple[Any, dict[str, Any], Path]:
    it = view("uk")
    root = tmp_path / "opt" / "mrvpn"
    it["root"] = str(root)
    return make_caller("uk", it), it, root


def apply(caller: Any, it: dict[str, Any]) -> dict[str, str]:
    files = caller.cmd("mrvpn_tree.render", it)
    changes: dict[str, str] = caller.cmd("mrvpn_tree.diff", it["root"], files)
    if changes:
        caller.cmd("mrvpn_tree.put", it["root"], files, changes)
        caller.cmd("mrvpn_tree.tidy", it["root"], files)
    return changes


def test_first_all_then_nothing_then_only_what_changed(uk: tuple[Any, dict[str, Any], Path]) -> None:
    caller, it, root = uk
    assert set(apply(caller, it).values()) == {"created"}
    assert apply(caller, it) == {}
    it["tunnels"]["wg_uk"]["mtu"] = 1300
    changes = apply(caller, it)
    folder = "wg_tunnels/wg_uk"
    assert changes == dict.fromkeys(
        [f"{folder}/interface/interface.conf", f"{folder}/live/interface.conf"], "changed (not shown: it holds keys)"
    )
    assert "MTU = 1300" in (root / folder / "live" / "interface.conf").read_text()


def test_modes_are_kept_and_mended(uk: tuple[Any, dict[str, Any], Path]) -> None:
    caller, it, root = uk
    apply(caller, it)
    peer = root / "wg_tunnels/wg_uk/live/peers/entry.conf"
    assert stat.S_IMODE(peer.stat().st_mode) == 0o600
    assert stat.S_IMODE((root / ".mrvpn").stat().st_mode) == 0o700
    peer.chmod(0o644)
    assert apply(caller, it) == {"wg_tunnels/wg_uk/live/peers/entry.conf": "mode 0644 -> 0600"}
    assert stat.S_IMODE(peer.stat().st_mode) == 0o600
    # FRR's container owns its files: its chown and chmod are no change
    (root / "wg_tunnels/wg_uk/frr/frr.conf").chmod(0o640)
    assert apply(caller, it) == {}


def test_no_secret_in_what_is_reported(uk: tuple[Any, dict[str, Any], Path]) -> None:
    caller, it, _ = uk
    apply(caller, it)
    it["tunnels"]["wg_uk"]["peers"][0]["preshared_key"] = PSK[::-1]
    changes = apply(caller, it)
    assert changes and PSK not in str(changes) and PSK[::-1] not in str(changes)


def test_what_is_described_no_more_is_removed_and_only_that(uk: tuple[Any, dict[str, Any], Path]) -> None:
    caller, it, root = uk
    it["tunnels"]["wg_old"] = json.loads(json.dumps(it["tunnels"]["wg_uk"]))
    apply(caller, it)
    (root / "wg_tunnels/wg_old/private.key").write_text("x")
    (root / "wg_tunnels/wg_uk/notes.txt").write_text("the operator's own")
    (root / "somebody-elses").mkdir()
    del it["tunnels"]["wg_old"]
    it["tunnels"]["wg_uk"]["peers"] = []
    changes = apply(caller, it)
    assert changes["wg_tunnels/wg_uk/live/peers/entry.conf"] == "removed"
    assert not (root / "wg_tunnels/wg_old").exists()
    assert not (root / "wg_tunnels/wg_uk/live/peers").exists()
    assert (root / "wg_tunnels/wg_uk/notes.txt").exists() and (root / "somebody-elses").exists()


def test_put_back_undoes_the_last_put(uk: tuple[Any, dict[str, Any], Path]) -> None:
    caller, it, root = uk
    apply(caller, it)

    def content() -> dict[str, str]:
        paths = [path for path in root.rglob("*") if path.is_file() and ".mrvpn" not in path.parts]
        return {str(path.relative_to(root)): path.read_text() for path in paths}

    before = content()
    it["tunnels"]["wg_uk"]["mtu"] = 1400
    it["tunnels"]["wg_new"] = json.loads(json.dumps(it["tunnels"]["wg_uk"]))
    changes = apply(caller, it)
    assert content() != before
    caller.cmd("mrvpn_tree.put_back", str(root), changes)
    assert content() == before


def test_a_tunnel_that_was_to_go_is_whole_again_after_put_back(uk: tuple[Any, dict[str, Any], Path]) -> None:
    """Its container has the folder mounted: in another of the same name it would see no change any more."""
    caller, it, root = uk
    old = it["tunnels"]["wg_old"] = json.loads(json.dumps(it["tunnels"]["wg_uk"]))
    apply(caller, it)
    folder = root / "wg_tunnels" / "wg_old"
    (folder / "private.key").write_text("x")
    inode = (folder / "live").stat().st_ino
    del it["tunnels"]["wg_old"]
    files = caller.cmd("mrvpn_tree.render", it)
    changes = caller.cmd("mrvpn_tree.diff", str(root), files)
    caller.cmd("mrvpn_tree.put", str(root), files, changes)
    caller.cmd("mrvpn_tree.put_back", str(root), changes)
    assert (folder / "live").stat().st_ino == inode and (folder / "private.key").read_text() == "x"
    it["tunnels"]["wg_old"] = old
    assert apply(caller, it) == {}
    # and it goes with all it has when it may
    del it["tunnels"]["wg_old"]
    assert apply(caller, it) and not folder.exists()
    assert apply(caller, it) == {}


def test_keys_are_made_once_and_only_public_ones_are_told(uk: tuple[Any, dict[str, Any], Path]) -> None:
    caller, _, root = uk
    names = {"wg_uk": "wg_tunnels/wg_uk/private.key"}
    state = ("state.single", "mrvpn_wireguard.keys", str(root))

    def single(**extra: Any) -> dict[str, Any]:
        (result,) = rig.by_state(caller.cmd(*state, keys=names, **extra)).values()
        return dict(result)

    assert (single(test=True)["result"], single(test=True)["changes"]) == (None, {"wg_uk": "made"})
    assert not root.exists()
    assert single()["changes"] == {"wg_uk": "made"}
    path = root / names["wg_uk"]
    private = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    public = X25519PrivateKey.from_private_bytes(base64.b64decode(private)).public_key().public_bytes_raw()
    assert caller.cmd("mrvpn.public_keys", str(root)) == {"wg_uk": base64.b64encode(public).decode()}
    assert single()["changes"] == {}
    assert path.read_text().strip() == private
    path.chmod(0o644)
    assert single()["changes"] == {"wg_uk": "mode 0644 -> 0600"}
    path.write_text("no key")
    path.chmod(0o600)
    broken = single()
    assert broken["result"] is False and "holds no WireGuard key" in broken["comment"]
    assert path.read_text() == "no key", "a broken key is the operator's to judge"


def test_no_host_keys_before_they_are_made(uk: tuple[Any, dict[str, Any], Path]) -> None:
    caller, _, root = uk
    assert caller.cmd("mrvpn.public_keys", str(root)) == {}


def test_daemon_json_is_merged_never_overwritten(uk: tuple[Any, dict[str, Any], Path], tmp_path: Path) -> None:
    from salt.exceptions import CommandExecutionError

    caller, _, _ = uk
    path = tmp_path / "daemon.json"
    path.write_text('{"log-driver": "local", "ip6tables": false}')
    values = {"ip6tables": True, "userland-proxy": False}
    told = {"ip6tables": {"old": False, "new": True}, "userland-proxy": {"old": None, "new": False}}
    assert caller.cmd("mrvpn_docker.daemon_config", values, str(path)) == told
    assert json.loads(path.read_text())["ip6tables"] is False
    assert caller.cmd("mrvpn_docker.daemon_config", values, str(path), write=True) == told
    assert json.loads(path.read_text()) == {"log-driver": "local", "ip6tables": True, "userland-proxy": False}
    assert caller.cmd("mrvpn_docker.daemon_config", values, str(path)) == {}
    path.write_text("{ not json")
    with pytest.raises(CommandExecutionError, match="is no JSON"):
        caller.cmd("mrvpn_docker.daemon_config", values, str(path), write=True)
    assert path.read_text() == "{ not json"


@pytest.mark.parametrize("text", [None, "", "{}", '{"log-driver":   "local", "ip6tables": false}\n\n'])
def test_daemon_json_comes_back_byte_for_byte(
    uk: tuple[Any, dict[str, Any], Path], tmp_path: Path, text: str | None
) -> None:
    caller, _, root = uk
    path = tmp_path / "daemon.json"
    if text is not None:
        path.write_text(text)
        path.chmod(0o640)
    name = {"name": str(path), "values": {"ip6tables": True}, "root": str(root)}
    (done,) = caller.cmd("state.single", "mrvpn_docker.daemon_config", **name).values()
    assert done["changes"].keys() == {"ip6tables"} and json.loads(path.read_text())["ip6tables"] is True
    noted = caller.cmd("mrvpn_before.told", str(root))
    was = noted["daemon text"][str(path)]["old"]
    assert was == text
    assert (root / ".mrvpn" / "before.json").stat().st_mode & 0o077 == 0
    assert caller.cmd("mrvpn_docker.daemon_restore", noted["daemon"], was, str(path)).keys() == {"ip6tables"}
    caller.cmd("mrvpn_docker.daemon_restore", noted["daemon"], was, str(path), write=True)
    assert (path.read_text() if path.exists() else None) == text
    assert text is None or path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("have", "want", "new"),
    [("", "55800-55899", "55800-55899"), ("8080,55890-55950", "55800-55899", "8080,55800-55950"), ("1-3", "4", "1-4")],
)
def test_reserved_ports_are_added_to(make_caller: MakeCaller, view: View, have: str, want: str, new: str) -> None:
    module = rig.module("mrvpn_host")
    assert module._with(have, want) == new


def test_a_full_disk_changes_no_file(uk: tuple[Any, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the moment: the n-th write fails, for every n."""
    import errno
    import os
    import shutil

    from salt.exceptions import CommandExecutionError

    caller, it, root = uk
    apply(caller, it)
    before = {path: path.read_text() for path in root.rglob("*") if path.is_file() and ".mrvpn" not in path.parts}
    it["tunnels"]["wg_uk"]["mtu"] = 1300
    it["tunnels"]["wg_new"] = {**it["tunnels"]["wg_uk"], "interface": "wg_new"}
    real = {"open": os.open, "replace": os.replace, "copy2": shutil.copy2}
    left = 0

    def failing(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            writes = name != "open" or arguments[1] & os.O_WRONLY
            left -= bool(writes and str(arguments[0]).startswith(str(root)))
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
            return real[name](*arguments, **options)

        return call

    for module, name in ((os, "open"), (os, "replace"), (shutil, "copy2")):
        monkeypatch.setattr(module, name, failing(name))
    files = caller.cmd("mrvpn_tree.render", it)
    changes = caller.cmd("mrvpn_tree.diff", it["root"], files)
    failures = 0
    for moment in range(1, 200):
        left = moment
        try:
            caller.cmd("mrvpn_tree.put", it["root"], files, changes)
            break
        except (CommandExecutionError, OSError) as error:
            failures += 1
            assert "No space left on device" in str(error)
        now = {path: path.read_text() for path in root.rglob("*") if path.is_file() and ".mrvpn" not in path.parts}
        if "wg_new" not in str(now):
            assert now == before, f"the {moment}th write failed"
    assert failures > 10 and moment > 10
    left = 0
    assert caller.cmd("mrvpn_tree.diff", it["root"], files) == {}
