"""Firezone 0.7 on this host: its secrets, its administrator, its one API token, and what its API holds.

Knows: the API under /v0 (wrappers, 422s, its token's life and cap), the commands in its container, the files beside its
compose file. Must not know: the description, the pillar. Speaks to no other host.

Files in ``folder``, all 0600: `credentials.env` (made once and kept: the database is encrypted with it),
`database.env`, `fz-api-token`, `fz-admin` (for which administrator and password the account was made, as a keyed
hash), `fz-owned.json` (which identity providers are ours).
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import secrets
import urllib.parse
from pathlib import Path

from salt.exceptions import CommandExecutionError

API = "http://172.30.55.2:13000"
FOLDER = "/opt/mrvpn/firezone"
CONTAINER = "firezone"
# as Firezone's own gen-env makes them: base64 of so many random bytes
CREDENTIALS = {
    "GUARDIAN_SECRET_KEY": 48,
    "DATABASE_ENCRYPTION_KEY": 32,
    "SECRET_KEY_BASE": 48,
    "LIVE_VIEW_SIGNING_SALT": 24,
    "COOKIE_SIGNING_SALT": 6,
    "COOKIE_ENCRYPTION_SALT": 6,
    "DATABASE_PASSWORD": 24,
    "DEFAULT_ADMIN_PASSWORD": 18,
}
JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
TOKENS = 25  # per user; Firezone never shows one again
PROVIDERS = "openid_connect_providers"
HIDDEN = "***"


class _Refused(CommandExecutionError):
    """Firezone's answer is a refusal; ``status`` is HTTP's."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


class _NoToken(CommandExecutionError):
    pass


# -- secrets ----------------------------------------------------------------------------------------------------------


def _read(path):
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _write(path, text):
    """Replaces a file by a rename; never a moment in which others could read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".next")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    os.replace(new, path)


def _files(folder, password):
    have = _read(Path(folder) / "credentials.env")
    want = {name: have.get(name) or None for name in CREDENTIALS}
    if password is not None:
        want["DEFAULT_ADMIN_PASSWORD"] = password
    return have, want


def credentials_todo(folder=FOLDER, password=None):
    """
    Which secrets are to be made or changed, ``{name: what}``; ``password`` is the administrator's where
    it is described.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.credentials_todo /opt/mrvpn/firezone
    """
    have, want = _files(folder, password)
    todo = {name: "made" if name not in have else "changed" for name, value in want.items() if have.get(name) != value}
    todo |= {name: "made" for name, value in want.items() if value is None}
    for name in ("credentials.env", "database.env"):
        path = Path(folder) / name
        if not path.exists():
            todo[name] = "made"
        elif path.stat().st_mode & 0o7777 != 0o600:
            todo[name] = f"mode {path.stat().st_mode & 0o7777:04o} -> 0600"
    if have and "database.env" not in todo:
        database = _read(Path(folder) / "database.env").get("POSTGRES_PASSWORD")
        if database != have.get("DATABASE_PASSWORD"):
            todo["database.env"] = "changed"
    return todo


def make_credentials(folder=FOLDER, password=None):
    """
    Makes the secrets that are missing, keeps those that are there, and returns what was done in the shape of
    ``credentials_todo``.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.make_credentials /opt/mrvpn/firezone
    """
    todo = credentials_todo(folder, password)
    if todo:
        have, want = _files(folder, password)
        values = {**have}
        for name, size in CREDENTIALS.items():
            values[name] = want[name] or base64.b64encode(secrets.token_bytes(size)).decode()
        _write(Path(folder) / "credentials.env", "".join(f"{name}={value}\n" for name, value in values.items()))
        _write(Path(folder) / "database.env", f"POSTGRES_PASSWORD={values['DATABASE_PASSWORD']}\n")
    return todo


# -- the API ----------------------------------------------------------------------------------------------------------


def _make_token(folder):
    done = __salt__["mrvpn_docker.exec_in"](CONTAINER, "bin/create-api-token", timeout=120)
    found = JWT.findall(done["out"])
    if done["code"] or not found:
        raise _NoToken(
            f"Firezone made no API token (bin/create-api-token ended with {done['code']}): its administrator must "
            f"exist, and may have {TOKENS} tokens at most; delete old ones on its web page, in the account's settings"
        )
    _write(Path(folder) / "fz-api-token", found[-1] + "\n")
    return found[-1]


def _token(folder):
    try:
        return (Path(folder) / "fz-api-token").read_text().strip() or _make_token(folder)
    except FileNotFoundError:
        return _make_token(folder)


def _send(api, method, path, body, token):
    url = urllib.parse.urlsplit(api)
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=30)
    try:
        text = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, f"/v0/{path}", text, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError as error:
        raise CommandExecutionError(f"Firezone does not answer on {api}: {error.strerror or error}") from None
    finally:
        connection.close()


def _call(api, folder, method, path, body=None):
    """The `data` of an answer. The stored token is made anew once, when Firezone says 401 to it."""
    status, raw = _send(api, method, path, body, _token(folder))
    if status == 401:
        status, raw = _send(api, method, path, body, _make_token(folder))
    if status == 204:
        return None
    try:
        answer = json.loads(raw) if raw else {}
    except ValueError:
        answer = {}
    if status >= 300 or "data" not in answer:
        raise _Refused(f"Firezone answered {status} to {method} /v0/{path}: {_problems(answer)}", status)
    return answer["data"]


def _problems(answer):
    """Firezone's own words, by key; never what was sent."""
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if isinstance(errors, dict):
        return "; ".join(
            f"{key}: {', '.join(map(str, v)) if isinstance(v, list) else v}" for key, v in sorted(errors.items())
        )
    return str(errors or "no reason given")


def request(method, path, body=None, api=API, folder=FOLDER):
    """
    Firezone's answer to one request below /v0, without its wrapper.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.request GET devices
    """
    return _call(api, folder, method, path, body)


# -- the administrator ------------------------------------------------------------------------------------------------


def _admin_password(folder):
    return _read(Path(folder) / "credentials.env")["DEFAULT_ADMIN_PASSWORD"].strip("\"'")


def _admin_mark(folder, email):
    known = _read(Path(folder) / "credentials.env")
    if "GUARDIAN_SECRET_KEY" not in known or "DEFAULT_ADMIN_PASSWORD" not in known:
        raise CommandExecutionError(f"{folder}/credentials.env is missing: apply mrvpn.gateway first")
    text = f"{email}\0{_admin_password(folder)}".encode()
    return hmac.new(known["GUARDIAN_SECRET_KEY"].encode(), text, hashlib.sha256).hexdigest()


def admin_todo(email, api=API, folder=FOLDER):
    """
    Why the administrator's account must be made or reset, None where it stands.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.admin_todo fz-admin@localhost
    """
    try:
        mark = (Path(folder) / "fz-admin").read_text().strip()
    except FileNotFoundError:
        mark = ""
    if not hmac.compare_digest(mark, _admin_mark(folder, email)):
        return "its password changed" if mark else "not made yet"
    try:
        users = _call(api, folder, "GET", "users")
    except _NoToken:
        return "no API token can be made for it"
    return None if any(user["email"] == email for user in users) else "the account is gone"


def admin(email, api=API, folder=FOLDER):
    """
    Makes or resets the administrator's account where it must be, and returns why; None where nothing was done.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.admin fz-admin@localhost
    """
    why = admin_todo(email, api, folder)
    if why:
        # the container may run with an older password than credentials.env says
        given = Path(folder) / "fz-admin.env"
        _write(given, f"DEFAULT_ADMIN_EMAIL={email}\nDEFAULT_ADMIN_PASSWORD={_admin_password(folder)}\n")
        try:
            # the tool prints the password: nothing of what it says is passed on
            done = __salt__["mrvpn_docker.exec_in"](
                CONTAINER, "bin/create-or-reset-admin", timeout=120, env_file=str(given)
            )
        finally:
            given.unlink()
        if done["code"]:
            raise CommandExecutionError(
                f"bin/create-or-reset-admin ended with {done['code']}: see `docker logs firezone`"
            )
        _write(Path(folder) / "fz-admin", _admin_mark(folder, email) + "\n")
    return why


# -- configuration ----------------------------------------------------------------------------------------------------


def _owned(folder):
    try:
        return list(json.loads((Path(folder) / "fz-owned.json").read_text())[PROVIDERS])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def _merged(have, wanted, owned):
    """All providers as they should stand: others' as they are, ours as described, ours of before gone."""
    ours = {provider["id"]: provider for provider in wanted}
    kept = [provider for provider in have if provider["id"] not in ours and provider["id"] not in owned]
    return kept + list(ours.values())


def _providers_diff(have, merged):
    before, after = ({provider["id"]: provider for provider in providers} for providers in (have, merged))
    told = {}
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            told[name] = "added"
        elif name not in after:
            told[name] = "removed"
        else:
            keys = [key for key, value in after[name].items() if before[name].get(key) != value]
            if keys:
                told[name] = f"changed: {', '.join(sorted(keys))}"
    return told


def _configuration(values, api, folder, secret_keys):
    """(what to send, what to tell) so that Firezone's configuration says what ``values`` do."""
    have = _call(api, folder, "GET", "configuration")
    send, told = {}, {}
    unknown = sorted(values.keys() - have.keys())
    if unknown:
        raise CommandExecutionError(
            f"Firezone's configuration has no {', '.join(unknown)}; it has {', '.join(sorted(have))}"
        )
    for key, value in values.items():
        if key != PROVIDERS and have[key] != value:
            send[key] = value
            told[key] = {"old": HIDDEN, "new": HIDDEN} if key in secret_keys else {"old": have[key], "new": value}
    merged = _merged(have[PROVIDERS], values.get(PROVIDERS, []), _owned(folder))
    providers = _providers_diff(have[PROVIDERS], merged)
    if providers:
        send[PROVIDERS], told[PROVIDERS] = merged, providers
    return send, told


def configuration_todo(values, api=API, folder=FOLDER, secret_keys=()):
    """
    What differs in Firezone's configuration from these values, no secret among it; other keys are nobody's business.

    secret_keys
        keys of ``values`` that hold a secret, of whose values nothing is told.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.configuration_todo '{"local_auth_enabled": true}'
    """
    return _configuration(values, api, folder, secret_keys)[1]


def configure(values, api=API, folder=FOLDER, secret_keys=()):
    """
    Changes Firezone's configuration to these values, and returns what was changed in the shape of
    ``configuration_todo``.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.configure '{"local_auth_enabled": true}'
    """
    send, told = _configuration(values, api, folder, secret_keys)
    if send:
        _call(api, folder, "PATCH", "configuration", {"configuration": send})
    ours = sorted(provider["id"] for provider in values.get(PROVIDERS, []))
    if ours != _owned(folder):
        _write(Path(folder) / "fz-owned.json", json.dumps({PROVIDERS: ours}) + "\n")
    return told


# -- users, devices, rules --------------------------------------------------------------------------------------------

WRAPPERS = {"users": "user", "devices": "device", "rules": "rule"}


def find(kind, api=API, folder=FOLDER, **match):
    """
    The one user, device or rule that has these values, None where there is none.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.find devices public_key=...
    """
    for item in _call(api, folder, "GET", kind):
        if all(item.get(key) == value for key, value in match.items()):
            return item
    return None


def user_id(email, api=API, folder=FOLDER):
    """
    The id of a user.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.user_id someone@example.com
    """
    found = find("users", api, folder, email=email)
    if found is None:
        raise CommandExecutionError(f"Firezone has no user {email}: make it first (firezone.user_present)")
    return found["id"]


def differing(kind, match, values, api=API, folder=FOLDER):
    """
    What a user, device or rule lacks, ``{key: {"old", "new"}}``; ``{"created": ...}`` where it is not there.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.differing users '{"email": "a@example.com"}' '{"role": "admin"}'
    """
    have = find(kind, api, folder, **match)
    if have is None:
        return {"created": {key: value for key, value in {**match, **values}.items() if value is not None}}
    return {key: {"old": have.get(key), "new": value} for key, value in values.items() if have.get(key) != value}


def bring(kind, match, values, once=None, api=API, folder=FOLDER):
    """
    Makes a user, device or rule, or changes what differs; returns what was done in the shape of ``differing``.
    ``once`` are values given only when it is made (a password).

    CLI Example:

    .. code-block:: bash

        salt entry firezone.bring users '{"email": "a@example.com"}' '{"role": "admin"}'
    """
    have = find(kind, api, folder, **match)
    told = differing(kind, match, values, api, folder)
    wrapper = WRAPPERS[kind]
    if have is None:
        new = {key: value for key, value in {**match, **values, **(once or {})}.items() if value is not None}
        _call(api, folder, "POST", kind, {wrapper: new})
    elif told:
        _call(api, folder, "PATCH", f"{kind}/{have['id']}", {wrapper: {key: values[key] for key in told}})
    return told


def remove(kind, api=API, folder=FOLDER, **match):
    """
    Takes the user, device or rule with these values away; False where there was none.

    CLI Example:

    .. code-block:: bash

        salt entry firezone.remove devices public_key=...
    """
    have = find(kind, api, folder, **match)
    if have is not None:
        _call(api, folder, "DELETE", f"{kind}/{have['id']}")
    return have is not None
