"""RouterOS by its API: single commands by hand, and the one apply that the states use.

Knows: the proxy's session, mrvpn.routeros. Must not know: the pillar, the description, sockets.
"""

import builtins
import time

from salt.exceptions import CommandExecutionError
from salt.utils.args import clean_kwargs

try:
    from mrvpn.routeros import transaction
    from mrvpn.routeros.diff import OWNER, token_of
    from mrvpn.routeros.errors import RouterError
    from mrvpn.routeros.facts import PATHS
    from mrvpn.routeros.undo import quoted

    MISSING = None
except ImportError as error:
    MISSING = str(error)

__proxyenabled__ = ["routeros"]
__virtualname__ = "routeros"
__func_alias__ = {"print_": "print", "set_": "set"}

MASK = "*****"
SECRETS = ("private-key", "preshared-key", "password", "auth-key", "secret", "passphrase")
SETTLE = 20  # seconds to wait for a far end's first answer, or for the router to undo what a lost session left


def __virtual__():
    if (__opts__.get("proxy") or {}).get("proxytype") != "routeros":
        return False, "this minion is no proxy of a RouterOS router"
    if MISSING:
        return False, f"the package mrvpn is not installed where the proxy runs: {MISSING}"
    return __virtualname__


def _session():
    session = __proxy__["routeros.session"]()
    # sub-proxies of a deltaproxy share modules: a job must never reach another minion's router
    own = (globals().get("__pillar__") or {}).get("proxy") or {}
    if own and any(own.get(key) != session.settings.get(key) for key in ("host", "port", "username")):
        raise CommandExecutionError(f"{__opts__['id']}: the session is of another router: nothing is done")
    return session


def _ask(command_, words=None):
    try:
        return [_masked(row) for row in _session().call(command_, words)]
    except RouterError as error:
        raise CommandExecutionError(str(error)) from None


def _masked(row):
    return {name: MASK if text and name in SECRETS else text for name, text in row.items()}


def _words(kwargs):
    """Fields from the command line: ``listen_port=1`` is ``listen-port``, lists become ``a,b``, None clears a field."""
    words = {}
    for name, value in clean_kwargs(**kwargs).items():
        name = name.replace("_", "-")
        if value is None:
            words[f"!{name}"] = ""
        elif isinstance(value, bool):
            words[name] = "yes" if value else "no"
        elif isinstance(value, (builtins.list, tuple)):
            words[name] = ",".join(str(part) for part in value)
        else:
            words[name] = str(value)
    return words


def _path(path):
    return "/" + path.strip("/ ").replace(" ", "/")


def print_(path, fields=None, **where):
    """
    The rows of a menu; secrets are masked.

    path
        menu, such as ``/interface/wireguard`` or ``interface wireguard``
    fields
        list of fields, all where left out
    where
        ``name=value``: only rows that have it

    CLI Example:

    .. code-block:: bash

        salt router routeros.print /interface/wireguard fields='[name,public-key]' name=wg_office
    """
    words = {".proplist": ",".join(fields)} if fields else {}
    words.update({f"?{name}": text for name, text in _words(where).items()})
    return _ask(f"{_path(path)}/print", words)


def add(path, **fields):
    """
    Adds a row; returns its id.

    CLI Example:

    .. code-block:: bash

        salt router routeros.add /ip/address address=192.0.2.1/24 interface=bridge comment=test
    """
    rows = _ask(f"{_path(path)}/add", _words(fields))
    return rows[-1].get("ret", "") if rows else ""


def set_(path, id, **fields):
    """
    Sets fields of a row; ``field=null`` clears one.

    CLI Example:

    .. code-block:: bash

        salt router routeros.set /ip/address '*4' comment='branch office'
    """
    _ask(f"{_path(path)}/set", {".id": id, **_words(fields)})
    return True


def remove(path, id):
    """
    Removes a row.

    CLI Example:

    .. code-block:: bash

        salt router routeros.remove /ip/address '*4'
    """
    if not id:
        raise CommandExecutionError(f"{path}: remove needs the id of a row, such as *4")
    _ask(f"{_path(path)}/remove", {".id": id})
    return True


def move(path, id, before):
    """
    Moves a row of an ordered menu before another.

    CLI Example:

    .. code-block:: bash

        salt router routeros.move /ip/firewall/filter '*A' '*2'
    """
    _ask(f"{_path(path)}/move", {"numbers": id, "destination": before})
    return True


def command(name, **words):
    """
    Any command of the API with its words; returns its rows.

    CLI Example:

    .. code-block:: bash

        salt router routeros.command /system/identity/set name=office
    """
    return _ask(_path(name), _words(words))


def script(name):
    """
    Runs a line of RouterOS's own language; returns what it prints, an error where it does not come to its end.

    CLI Example:

    .. code-block:: bash

        salt router routeros.script '/interface list member add interface=wg_office list=LAN'
    """
    try:
        return transaction.run_hook(_session(), "by hand", name)
    except RouterError as error:
        raise CommandExecutionError(str(error)) from None


def ping(address, count=3):
    """
    Pings from the router: ``{sent, received, loss}``.

    CLI Example:

    .. code-block:: bash

        salt router routeros.ping 10.9.23.1 count=5
    """
    rows = _ask("/tool/ping", {"address": str(address), "count": str(count)})
    last = rows[-1] if rows else {}
    return {"sent": int(last.get("sent", 0)), "received": int(last.get("received", 0)), "loss": last.get("packet-loss")}


def monitor(interface):
    """
    What goes through an interface now, bits per second.

    CLI Example:

    .. code-block:: bash

        salt router routeros.monitor wg_office
    """
    return _ask("/interface/monitor-traffic", {"interface": interface, "once": ""})


def export(paths=None):
    """
    The rows that MRVPN owns as RouterOS commands, without secrets; for reading, not for loading back.

    CLI Example:

    .. code-block:: bash

        salt router routeros.export
    """
    try:
        device = _session()
        rows = transaction.read(device, paths or PATHS, transaction.version(device))
    except RouterError as error:
        raise CommandExecutionError(str(error)) from None
    lines = []
    for path, found in rows.items():
        for row in found:
            if token_of(row.get("comment")):
                fields = [f"{n}={quoted(text)}" for n, text in row.items() if n in PATHS[path].fields and text]
                lines.append(f"{path}/add {' '.join(fields)}")
    return "\n".join(lines)


def public_keys():
    """
    ``{interface: public key}`` of MRVPN's WireGuard interfaces; what the mine gets.

    CLI Example:

    .. code-block:: bash

        salt router routeros.public_keys
    """
    rows = _ask("/interface/wireguard/print", {".proplist": "name,public-key,comment"})
    return {row["name"]: row["public-key"] for row in rows if token_of(row.get("comment")) and row.get("public-key")}


def status():
    """
    What the router says of itself, and the view that an apply brought last: ``{"applied", "peers", "neighbors"}``, rows
    as it prints them.

    CLI Example:

    .. code-block:: bash

        salt router routeros.status
    """
    return {
        "applied": __salt__["mrvpn_live.applied"](f"{__opts__['cachedir']}/mrvpn"),
        "peers": print_("/interface/wireguard/peers"),
        "neighbors": print_("/routing/ospf/neighbor"),
    }


def reconcile(
    rows, owner=None, remove=True, force=False, test=False, pings=(), hooks=None, undo_after=120, settle=SETTLE
):
    """
    Makes the declared rows so, in one transaction: ``{changes, notices, adopted, hooks, writes}``, changes empty when
    they are.

    An error names every reason; either nothing was written, or it was taken back, or the error says what is left.

    rows
        ``{path: [row, ...]}``; each row has a comment ``mrvpn:<tunnel>:<role>``
    owner
        only rows whose comment begins so are removed; ``mrvpn:`` where left out
    remove
        whether rows of the owner that are not declared go
    force
        also change what the session itself runs over, or what could not be taken back
    pings
        addresses of far ends: those that answered before the changes must answer before they are kept
    hooks
        ``{tunnel: {cleanup: [command], deploy: [command]}}``, run where something of the tunnel changes
    undo_after
        seconds until a router without safe mode undoes by itself what was not confirmed

    CLI Example:

    .. code-block:: bash

        salt router routeros.reconcile '{"/routing/table": [{"name": "vpn", "fib": true, "comment":
        "mrvpn:vpn:table"}]}' test=True
    """
    deadline = time.monotonic() + settle

    def pause():
        time.sleep(0.25)
        return time.monotonic() < deadline

    order = transaction.Order(
        declared=rows, owner=owner or OWNER, remove=remove, force=force, test=test, pings=tuple(pings),
        hooks=hooks or {}, undo_after=undo_after,
    )  # fmt: skip
    try:
        outcome = transaction.reconcile(_session(), order, pause)
    except RouterError as error:
        raise CommandExecutionError(str(error)) from None
    return {
        "changes": outcome.plan.told(),
        "notices": outcome.notices,
        "adopted": outcome.plan.adopted,
        "hooks": outcome.hooks,
        "writes": outcome.writes,
    }


def matching(path, **where):
    """
    How many rows have these values; the guard of the state ``routeros.hook``.

    CLI Example:

    .. code-block:: bash

        salt router routeros.matching /interface/list/member comment=wg_office
    """
    words = {".proplist": ".id", **{f"?{name}": text for name, text in _words(where).items()}}
    return len(_ask(f"{_path(path)}/print", words))
