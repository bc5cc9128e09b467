"""States of Firezone: its secrets, its administrator, its configuration; users, devices and rules.

Knows: the module `firezone`. Must not know: HTTP, containers. Secret values come from the view here, not through the
SLS.
"""

from salt.exceptions import CommandExecutionError


def _result(name, comment, changes=None, result=True):
    return {"name": name, "changes": changes or {}, "result": result, "comment": comment}


def _view():
    view = __pillar__["mrvpn"]
    fz = view["gateway"]["firezone"]
    return fz, {"api": fz["api"], "folder": f"{view['root']}/{fz['folder']}"}


def _where(api, folder):
    """How the API is reached: as given, else as this host's view says."""
    if api and folder:
        return {"api": api, "folder": folder}
    return _view()[1]


def _done(name, todo, act, there, would, was):
    """read -> changes -> none: return -> test mode -> act -> report, the same for every state."""
    try:
        found = todo()
        if not found:
            return _result(name, there)
        if __opts__["test"]:
            return _result(name, would, found, result=None)
        return _result(name, was, act())
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)


def credentials(name):
    """
    Makes Firezone's secrets in the folder ``name`` where they are missing, 0600, and keeps those that are there.
    """
    fz, _ = _view()
    password = fz["admin"]["password"]
    return _done(
        name,
        lambda: __salt__["firezone.credentials_todo"](name, password),
        lambda: __salt__["firezone.make_credentials"](name, password),
        "all secrets are there",
        "secrets would be made",
        "secrets made",
    )


def admin(name):
    """
    Has the administrator ``name`` (an e-mail address) exist, with the password in credentials.env.
    """
    _, where = _view()

    def told(why):
        return {"administrator": why} if why else {}

    if __opts__["test"] and not _answers(where):
        return _result(name, "would be made once Firezone runs", {"administrator": "not made yet"}, result=None)
    return _done(
        name,
        lambda: told(__salt__["firezone.admin_todo"](name, **where)),
        lambda: told(__salt__["firezone.admin"](name, **where)),
        "the account is there",
        "the account would be made or reset",
        "the account was made or reset",
    )


def _answers(where):
    try:
        __salt__["firezone.request"]("GET", "configuration", **where)
    except CommandExecutionError:
        return False
    return True


def configuration(name, values=None, api=None, folder=None, secret_keys=()):
    """
    Has Firezone's configuration say what the description does; keys that it does not name stay as they are.

    values
        ``{key: value}`` as the API has them; the view's by default. Providers that others added stay.
    secret_keys
        keys of ``values`` that hold a secret: that they change is told, their values are not.
    """
    fz, where = _view() if values is None or not (api and folder) else (None, {"api": api, "folder": folder})
    wanted, hidden = (fz["configuration"], fz["secret_keys"]) if values is None else (values, secret_keys)
    if __opts__["test"] and not _answers(where):
        return _result(name, "would be compared once Firezone runs", {"configuration": sorted(wanted)}, result=None)
    return _done(
        name,
        lambda: __salt__["firezone.configuration_todo"](wanted, secret_keys=hidden, **where),
        lambda: __salt__["firezone.configure"](wanted, secret_keys=hidden, **where),
        "as described",
        "would be changed",
        "changed",
    )


def _present(name, kind, match, values, where, once=None):
    return _done(
        name,
        lambda: __salt__["firezone.differing"](kind, match, values, **where),
        lambda: __salt__["firezone.bring"](kind, match, values, once, **where),
        "as described",
        "would be made or changed",
        "made or changed",
    )


def _absent(name, kind, match, where):
    return _done(
        name,
        lambda: {"removed": name} if __salt__["firezone.find"](kind, **where, **match) else {},
        lambda: {"removed": name} if __salt__["firezone.remove"](kind, **where, **match) else {},
        "not there",
        "would be removed",
        "removed",
    )


def user_present(name, role="unprivileged", password=None, api=None, folder=None):
    """
    Has the user ``name`` (an e-mail address) exist with this role.

    password
        given to the account when it is made; none for users who come by a provider. It is never compared or changed.
    """
    where = _where(api, folder)
    once = {"password": password, "password_confirmation": password} if password else None
    return _present(name, "users", {"email": name}, {"role": role}, where, once)


def user_absent(name, api=None, folder=None):
    """
    Has no user ``name`` (an e-mail address); its devices go with it.
    """
    return _absent(name, "users", {"email": name}, _where(api, folder))


def device_present(name, user, public_key, ipv4=None, ipv6=None, description=None, api=None, folder=None):
    """
    Has a device with this public key exist for a user.

    user
        e-mail address of its owner
    ipv4, ipv6
        its addresses; Firezone chooses where they are not given
    """
    where = _where(api, folder)
    try:
        owner = __salt__["firezone.user_id"](user, **where)
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)
    values = {"name": name, "user_id": owner, "ipv4": ipv4, "ipv6": ipv6, "description": description}
    values = {key: value for key, value in values.items() if value is not None}
    return _present(name, "devices", {"public_key": public_key}, values, where)


def device_absent(name, public_key, api=None, folder=None):
    """
    Has no device with this public key.
    """
    return _absent(name, "devices", {"public_key": public_key}, _where(api, folder))


def rule_present(name, action="accept", user=None, port_type=None, port_range=None, api=None, folder=None):
    """
    Has an egress rule for the destination ``name`` (a prefix or address) exist with this action.

    user
        e-mail address: only for that user's devices
    port_type, port_range
        ``tcp`` or ``udp``, and ``1 - 2``: both or none
    """
    where = _where(api, folder)
    try:
        owner = __salt__["firezone.user_id"](user, **where) if user else None
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)
    match = {"destination": name, "user_id": owner, "port_type": port_type, "port_range": port_range}
    return _present(name, "rules", match, {"action": action}, where)


def rule_absent(name, user=None, port_type=None, port_range=None, api=None, folder=None):
    """
    Has no egress rule for the destination ``name``.
    """
    where = _where(api, folder)
    try:
        owner = __salt__["firezone.user_id"](user, **where) if user else None
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)
    match = {"destination": name, "user_id": owner, "port_type": port_type, "port_range": port_range}
    return _absent(name, "rules", match, where)
