"""ext_pillar `mrvpn`: the view of each minion under pillar['mrvpn'], or `_errors`: it fails closed.

Master configuration::

    ext_pillar:
      - mrvpn:
          path: /srv/mrvpn/network                  # a description: file or folder
          secrets: /etc/salt/mrvpn/secrets.yaml     # 0600, NAME: value; psk_root among them

A view that cannot be made answers ``{"_errors": [...]}``: ``state.apply`` then refuses to run and shows every problem.
This module must load whatever is missing: were it absent, Salt would go on with an empty pillar.
"""

import logging
import os
import stat
from pathlib import Path

try:
    from mrvpn import compiler, views

    MISSING = None
except ImportError as error:
    MISSING = str(error)

log = logging.getLogger(__name__)
_compiled = {}  # path -> (fingerprint, Compiled): parsed once per content, not once per minion


def ext_pillar(minion_id, pillar, path=None, secrets=None):
    """
    The view of a minion, or `_errors`.

    path
        The description: a file, or a folder of ``*.yaml``.
    secrets
        A YAML file of mode 0600 on the master, NAME: value.
    """
    if MISSING:
        return {"_errors": [f"mrvpn: the package `mrvpn` is not installed where the master runs: {MISSING}"]}
    # masterless, Salt compiles the pillar again on top of the last one: a view of ours in it is no second source
    if "mrvpn" in pillar and not {"version", "host", "member"} <= set(pillar["mrvpn"] or ()):
        return {
            "_errors": [
                "mrvpn: the pillar holds `mrvpn` already: it comes from ext_pillar alone, take it out of pillar_roots"
            ]
        }
    if not path:
        return {"_errors": ["mrvpn: ext_pillar has no `path`: name the folder of the description"]}
    try:
        compiled = _compile(Path(path))
        if compiled.network is None:
            return {"_errors": [f"mrvpn: {problem}" for problem in compiled.errors]}
        values = _secrets(secrets)
        return {"mrvpn": views.view(compiled.network, minion_id, _public_keys(), values.get)}
    except Exception as error:  # whatever it is, the answer must be a refusal, not an empty pillar
        log.exception("mrvpn: the view of %s could not be made", minion_id)
        return {"_errors": [f"mrvpn: the view could not be made: {type(error).__name__}: {error}"]}


def _compile(path):
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    fingerprint = tuple(
        (str(file), info.st_mtime_ns, info.st_size, info.st_ino) for file in files for info in [file.stat()]
    )
    known = _compiled.get(path)
    if known is None or known[0] != fingerprint:
        known = _compiled[path] = (fingerprint, compiler.compile_path(path))
    return known[1]


def _secrets(path):
    """The secrets file's values; refused where others can read it."""
    if not path:
        return {}
    import salt.utils.yaml

    mode = os.stat(path).st_mode
    if stat.S_IMODE(mode) & 0o077:
        raise PermissionError(f"{path} is readable by others: chmod 600 it")
    with open(path, encoding="utf-8") as handle:
        values = salt.utils.yaml.safe_load(handle) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold NAME: value")
    return values


def _public_keys():
    """{host: {interface: public key}} from the mine; Salt stores a host's under its own id."""
    import salt.cache

    cache = salt.cache.factory(__opts__)
    found = {}
    try:
        hosts = cache.list("mine")
    except Exception:  # masterless: there is no mine
        return found
    for host in hosts or ():
        value = (cache.fetch("mine", host) or {}).get("mrvpn_public_keys")
        if isinstance(value, dict) and "__data__" in value:
            value = value["__data__"]
        if isinstance(value, dict):
            found[host] = {str(name): str(key) for name, key in value.items()}
    return found
