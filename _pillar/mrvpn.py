"""ext_pillar `mrvpn`: the view of each minion under pillar['mrvpn'], or `_errors`: it fails closed.

Master configuration::

    ext_pillar:
      - mrvpn:
          path: /srv/mrvpn/network                  # a description: file or folder
          secrets: /etc/salt/mrvpn/secrets.yaml     # 0600, NAME: value; psk_root among them
          # secrets: sdb://vault                    # or a profile of sdb: NAME is read as sdb://vault/NAME

A secret may also name sdb itself: ``{secret: sdb://vault/NAME}``.
A view that cannot be made answers ``{"_errors": [...]}``: ``state.apply`` then refuses to run and shows every problem.
This module must load whatever is missing: were it absent, Salt would go on with an empty pillar.
"""

import gc
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
_secret_files = {}  # path -> (fingerprint, values)

OPTIONAL = "psk_root"  # without it there are no preshared keys


def ext_pillar(minion_id, pillar, path=None, secrets=None):
    """
    The view of a minion, or `_errors`.

    path
        The description: a file, or a folder of ``*.yaml``.
    secrets
        A YAML file of mode 0600 on the master, NAME: value; or an sdb URI that NAME is put behind.
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
        network = compiled.network
        if network is None:
            return {"_errors": [f"mrvpn: {problem}" for problem in compiled.errors]}
        wanted = []
        look_up = _resolver(secrets)

        def secret(name):
            value = look_up(name)
            if value is None and name != OPTIONAL:
                wanted.append(name)
            return value

        far_ends = {host for name in network.ends.get(minion_id, ()) for host in network.addresses[name]}
        keys, addresses = _mine(far_ends - {minion_id})
        view = views.view(network, minion_id, keys, secret, compiled.notices(minion_id), addresses)
        if wanted:
            return {
                "_errors": [f"mrvpn: there is no secret `{name}`: add it to {secrets}" for name in sorted(set(wanted))]
            }
        return {"mrvpn": view}
    except Exception as error:  # whatever it is, the answer must be a refusal, not an empty pillar
        log.exception("mrvpn: the view of %s could not be made", minion_id)
        return {"_errors": [f"mrvpn: the view could not be made: {type(error).__name__}: {error}"]}


def _fingerprint(file):
    info = os.stat(file)
    return (str(file), info.st_mtime_ns, info.st_size, info.st_ino)


def _compile(path):
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*.y*ml")) if path.is_dir() else [path, *folder.glob("lock.yaml")]
    # the folder may be a link that a deployment switches: what it leads to counts
    fingerprint = (str(path.resolve()), *(_fingerprint(file) for file in files if file.exists()))
    known = _compiled.get(path)
    if known is None or known[0] != fingerprint:
        gc.unfreeze()
        known = _compiled[path] = (fingerprint, compiler.compile_path(path))
        # it stays: without this every full round of the collector walks it (50 ms at 1,000 hosts)
        gc.collect()
        gc.freeze()
    return known[1]


def _resolver(secrets):
    """The function that gives a secret's value by its name, None where there is none."""
    values = {} if not secrets or str(secrets).startswith("sdb://") else _secrets_of(secrets)
    base = str(secrets).rstrip("/") if secrets and not values and str(secrets).startswith("sdb://") else None

    def look_up(name):
        if name.startswith("sdb://") or base:
            import salt.utils.sdb

            uri = name if name.startswith("sdb://") else f"{base}/{name}"
            value = salt.utils.sdb.sdb_get(uri, __opts__)
            return None if value is None or value == uri else str(value)
        value = values.get(name)
        return None if value is None else str(value)

    return look_up


def _secrets_of(path):
    """The secrets file's values; refused where others can read it."""
    mode = os.stat(path).st_mode
    if stat.S_IMODE(mode) & 0o077:
        raise PermissionError(f"{path} is readable by others: chmod 600 it")
    fingerprint = _fingerprint(path)
    known = _secret_files.get(path)
    if known is None or known[0] != fingerprint:
        import yaml

        with open(path, encoding="utf-8") as handle:
            try:
                values = yaml.safe_load(handle) or {}
            except yaml.YAMLError as error:  # its text shows the line: it may be a secret
                place = getattr(error, "problem_mark", None)
                raise ValueError(f"{path} is not YAML{f' (line {place.line + 1})' if place else ''}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold NAME: value")
        known = _secret_files[path] = (fingerprint, values)
    return known[1]


def _mine(hosts):
    """What these hosts tell by the mine, where Salt keeps it under their own ids.

    ({host: {interface: public key}}, {host: address}); the address is that of the host's default route.
    """
    import salt.cache

    cache = salt.cache.factory(__opts__)
    keys, addresses = {}, {}
    for host in sorted(hosts):
        try:
            told = cache.fetch("mine", host) or {}
        except Exception:  # masterless: there is no mine
            break
        theirs, address = (_data(told.get(name)) for name in ("mrvpn_public_keys", "mrvpn_address"))
        if isinstance(theirs, dict):
            keys[host] = {str(name): str(key) for name, key in theirs.items()}
        if isinstance(address, str):
            addresses[host] = address
    return keys, addresses


def _data(value):
    """A mine function's answer, out of the wrapping that access control puts around it."""
    return value["__data__"] if isinstance(value, dict) and "__data__" in value else value
