"""A client's configuration: what wg takes, what the description takes, and a private key that is nowhere else."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from salt.exceptions import CommandExecutionError

from mrvpn.schema.model import Description

PHONE = "10.11.0.2"


@pytest.fixture
def entry(view: Callable[[str], dict[str, Any]], make_caller: Callable[..., Any], tmp_path: Path) -> tuple[Any, str]:
    """A minion of an entrypoint whose files and keys are there."""
    it = view("entry")
    it["root"] = root = str(tmp_path / "opt" / "mrvpn")
    caller = make_caller("entry", it)
    caller.cmd("mrvpn_wireguard.make_keys", root, {"wg-firezone": "firezone/private.key"})
    files = caller.cmd("mrvpn_tree.render", it)
    caller.cmd("mrvpn_tree.put", root, files, caller.cmd("mrvpn_tree.diff", root, files))
    return caller, root


def test_a_new_client(entry: tuple[Any, str]) -> None:
    caller, root = entry
    made = caller.cmd("mrvpn_client.config", "laptop", "vpn.example.net", root=root)
    described = made["description"]["mrvpn"]["clients"]["laptop"]
    assert described["addresses"] == ["10.11.0.3", "fd6d:7276:11::3"], "the phone's and the gateway's are taken"
    Description.model_validate(made["description"]["mrvpn"])
    lines = made["config"].splitlines()
    private = next(line for line in lines if line.startswith("PrivateKey")).partition(" = ")[2]
    public = X25519PrivateKey.from_private_bytes(base64.b64decode(private)).public_key().public_bytes_raw()
    assert described["public_key"] == base64.b64encode(public).decode()
    server = caller.cmd("mrvpn.public_keys", root)["wg-firezone"]
    for line in (
        "Address = 10.11.0.3/32, fd6d:7276:11::3/128",
        "DNS = 10.11.0.1, fd6d:7276:11::1",
        f"PublicKey = {server}",
        "Endpoint = vpn.example.net:51620",
        "AllowedIPs = 0.0.0.0/0, ::/0",
        "MTU = 1280",
    ):
        assert line in lines
    assert made["qr"] and len(made["qr"].splitlines()) > 20
    files = [path for path in Path(root).rglob("*") if path.is_file()]
    assert not any(private in path.read_text() for path in files), "a client's private key was stored"
    assert caller.cmd("mrvpn_client.config", "laptop", "vpn.example.net", root=root)["config"] != made["config"]


def test_wg_takes_it(entry: tuple[Any, str]) -> None:
    caller, root = entry
    text = caller.cmd("mrvpn_client.config", "laptop", "2001:db8::1", qr=False, root=root)["config"]
    assert "Endpoint = [2001:db8::1]:51620" in text
    private = next(line for line in text.splitlines() if line.startswith("PrivateKey")).partition(" = ")[2]
    done = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_client_that_keeps_its_key(entry: tuple[Any, str]) -> None:
    caller, root = entry
    key = base64.b64encode(b"x" * 32).decode()
    made = caller.cmd("mrvpn_client.config", "phone", "vpn.example.net", public_key=key, root=root)
    assert made["qr"] is None and "own private key" in made["config"]
    assert made["description"]["mrvpn"]["clients"]["phone"]["addresses"][0] == PHONE, "it keeps the address it has"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"public_key": "short"}, "no WireGuard key"),
        ({"addresses": ["10.99.0.1"]}, "is not in 10.11.0.0/24"),
        ({"addresses": [PHONE]}, "is the address of phone"),
        ({"root": "/nonexistent"}, "is not deployed on this host"),
    ],
)
def test_what_cannot_be(entry: tuple[Any, str], more: dict[str, Any], told: str) -> None:
    caller, root = entry
    with pytest.raises(CommandExecutionError, match=told):
        caller.cmd("mrvpn_client.config", "laptop", "vpn.example.net", **{"root": root, **more})


def test_a_private_key_does_not_pass_by_the_master(entry: tuple[Any, str]) -> None:
    caller, root = entry
    caller.opts["file_client"] = caller.sminion.opts["file_client"] = "remote"
    with pytest.raises(CommandExecutionError, match="salt-call --local"):
        caller.cmd("mrvpn_client.config", "laptop", "vpn.example.net", root=root)
