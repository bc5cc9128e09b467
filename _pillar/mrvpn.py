"""ext_pillar `mrvpn`: the view of each minion under pillar['mrvpn'], or `_errors`: it fails closed.

Master configuration::

    ext_pillar:
      - mrvpn:
          path: /srv/mrvpn/network                  # a description: file or folder
          secrets: /etc/salt/mrvpn/secrets.yaml     # 0600, NAME: value; psk_root among them
          # secrets: sdb://vault                    # or a profile of sdb: NAME is read as sdb://vault/NAME

A secret may also name sdb itself: ``{secret: sdb://vault/NAME}``.
Beside it stands pillar['mrvpn_modules'], `{"modules/mrvpn.py": digest}`: what of this checkout minions load.
A view that cannot be made answers ``{"_errors": [...]}``: ``state.apply`` then refuses to run and shows every problem.
This module must load whatever is missing: were it absent, Salt would go on with an empty pillar.
"""

import contextlib
import gc
import hashlib
import json
import logging
import marshal
import os
import stat
from pathlib import Path

try:
    from mrvpn import compiler, views

    MISSING = None
except ImportError as error:
    MISSING = str(error)

log = logging.getLogger(__name__)
_compiled = {}  # path -> (content, Compiled): parsed once per content, not once per minion
_views = {}  # (path, minion) -> (what it was made of, the view as marshal writes it)
_told = {}  # host -> (stamp of its mine, what it told)
_secret_files = {}  # path -> (stamp, values)
_digests = {}  # path -> (stamp, digest)

CHECKOUT = Path(__file__).parents[1]
LOADED = ("modules", "states", "grains", "engines", "proxy")  # what minions load, in folders `_modules` and so on

OPTIONAL = "psk_root"  # without it there are no preshared keys
SDB = "sdb://"


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
        return _answer(Path(path), minion_id, secrets)
    except Exception as error:  # whatever it is, the answer must be a refusal, not an empty pillar
        log.exception("mrvpn: the view of %s could not be made", minion_id)
        return {"_errors": [f"mrvpn: the view could not be made: {type(error).__name__}: {error}"]}


def _answer(path, minion_id, secrets):
    content, compiled, fresh = _compile(path)
    if compiled.network is None:
        return {"_errors": [f"mrvpn: {problem}" for problem in compiled.errors]}
    entrypoint = compiled.network.description.entrypoint
    if fresh and entrypoint not in (None, minion_id):
        # by far the largest: made along with the compiling, so that no single answer takes long
        with contextlib.suppress(Exception):  # its own call says what is wrong
            _view(path, content, compiled, entrypoint, secrets)
    try:
        return {"mrvpn": _view(path, content, compiled, minion_id, secrets), "mrvpn_modules": _modules()}
    except views.Unfit as unfit:
        where = f" ({secrets})" if secrets else ""
        return {"_errors": [f"mrvpn: {problem}{where}" for problem in unfit.problems]}


def _compile(path):
    """(what the content is known by, Compiled, whether it was compiled just now)."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*.y*ml")) if path.is_dir() else [path, *folder.glob("lock.yaml")]
    # the folder may be a link that a deployment switches: what it leads to counts
    content = (str(path.resolve()), *(_stamp(file) for file in files))
    known = _compiled.get(path)
    if known is not None and known[0] == content:
        return (*known, False)
    gc.unfreeze()
    known = _compiled[path] = (content, compiler.compile_path(path))
    for key in [key for key in _views if key[0] == path]:
        del _views[key]
    # it stays: without this every full round of the collector walks it (50 ms at 1,000 hosts)
    gc.collect()
    gc.freeze()
    return (*known, True)


def _stamp(file):
    """What a file's content is known by, None where there is none."""
    try:
        info = os.stat(file)
    except FileNotFoundError:
        return None
    return (str(file), info.st_mtime_ns, info.st_size, info.st_ino)


def _view(path, content, compiled, minion_id, secrets):
    """The view of a minion in plain values, a copy for each caller; made once per content, secrets and mine."""
    network = compiled.network
    far_ends = {host for name in network.ends.get(minion_id, ()) for host in network.addresses[name]} - {minion_id}
    mine = _mine_stamps(far_ends)
    values = _Secrets(secrets)
    made_of = (content, values.stamp, mine)
    known = _views.get((path, minion_id))
    if known is not None and known[0] == made_of:
        return marshal.loads(known[1])
    keys, addresses = _mine(far_ends, mine or {})
    view = views.view(network, minion_id, keys, values.look_up, compiled.notices(minion_id), addresses)
    view = json.loads(json.dumps(view))  # the core's marks of secrets go no further
    if mine is not None and not values.elsewhere:
        _views[path, minion_id] = (made_of, marshal.dumps(view))
    return view


def _modules():
    """{"modules/mrvpn.py": 16 hex digits of its SHA-256} of the files that minions load, whatever serves them."""
    found = {}
    for kind in LOADED:
        for file in sorted((CHECKOUT / f"_{kind}").glob("*.py")):
            stamp = _stamp(file)
            known = _digests.get(file)
            if known is None or known[0] != stamp:
                known = _digests[file] = (stamp, hashlib.sha256(file.read_bytes()).hexdigest()[:16])
            found[f"{kind}/{file.name}"] = known[1]
    return found


# -- secrets ----------------------------------------------------------------------------------------------------------


class _Secrets:
    """The values that `secrets` leads to. `elsewhere`: some were read of sdb, which does not tell when they change."""

    def __init__(self, secrets):
        self.elsewhere = False
        self.stamp, self._values, self._base = None, {}, None
        if secrets and str(secrets).startswith(SDB):
            self._base = str(secrets).rstrip("/")
        elif secrets:
            self.stamp, self._values = _secrets_of(secrets)

    def look_up(self, name):
        """A secret's value, None where there is none."""
        if name.startswith(SDB) or self._base:
            import salt.utils.sdb

            self.elsewhere = True
            uri = name if name.startswith(SDB) else f"{self._base}/{name}"
            value = salt.utils.sdb.sdb_get(uri, __opts__)
            return None if value is None or value == uri else str(value)
        value = self._values.get(name)
        return None if value is None else str(value)


def _secrets_of(path):
    """(stamp, values) of the secrets file; refused where others can read it."""
    mode = os.stat(path).st_mode
    if stat.S_IMODE(mode) & 0o077:
        raise PermissionError(f"{path} is readable by others: chmod 600 it")
    stamp = _stamp(path)
    known = _secret_files.get(path)
    if known is None or known[0] != stamp:
        import yaml

        with open(path, encoding="utf-8") as handle:
            try:
                values = yaml.safe_load(handle) or {}
            except yaml.YAMLError as error:  # its text shows the line: it may be a secret
                place = getattr(error, "problem_mark", None)
                raise ValueError(f"{path} is not YAML{f' (line {place.line + 1})' if place else ''}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold NAME: value")
        known = _secret_files[path] = (stamp, values)
    return known


# -- the mine ---------------------------------------------------------------------------------------------------------


def _mine_stamps(hosts):
    """What each host's mine is known by, where Salt keeps it in files (`localfs`); None where it does not."""
    folder = os.path.join(__opts__["cachedir"], "mine")
    if __opts__.get("cache", "localfs") != "localfs" or not os.path.isdir(folder):
        return None
    return {host: _stamp(f"{folder}/{host}.p") for host in sorted(hosts)}


def _mine(hosts, stamps):
    """What these hosts tell by the mine, where Salt keeps it under their own ids.

    ({host: {interface: public key}}, {host: address}); the address is that of the host's default route.
    """
    import salt.cache

    cache = salt.cache.factory(__opts__)
    keys, addresses = {}, {}
    for host in sorted(hosts):
        stamp = stamps.get(host)
        known = _told.get(host)
        if known is None or stamp is None or known[0] != stamp:
            try:
                known = (stamp, cache.fetch("mine", host) or {})
            except Exception:  # masterless: there is no mine
                break
            _told[host] = known
        theirs, address = (_data(known[1].get(name)) for name in ("mrvpn_public_keys", "mrvpn_address"))
        if isinstance(theirs, dict):
            keys[host] = {str(name): str(key) for name, key in theirs.items()}
        if isinstance(address, str):
            addresses[host] = address
    return keys, addresses


def _data(value):
    """A mine function's answer, out of the wrapping that access control puts around it."""
    return value["__data__"] if isinstance(value, dict) and "__data__" in value else value
