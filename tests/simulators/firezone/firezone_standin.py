"""A stand-in of Firezone 0.7's API and of the commands in its container, strict where the real one is.

Knows: the routes under /v0, their wrappers and refusals, a token's life (30 days) and cap (25 per user), which
configuration keys the environment has taken. It keeps everything in memory and journals each request in `seen`.
Refuses what the real one would let pass in silence (unknown keys): a caller that sends them is wrong.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DAY = 86400
TOKEN_LIFE = 30 * DAY
TOKENS_PER_USER = 25
DEVICES_PER_USER = 10
PROVIDER = {
    "id": str, "label": str, "client_id": str, "client_secret": str, "discovery_document_uri": str,
    "redirect_uri": (str, type(None)), "response_type": str, "scope": str, "auto_create_users": bool,
}  # fmt: skip
CONFIGURATION: dict[str, Any] = {
    "local_auth_enabled": True,
    "allow_unprivileged_device_management": True,
    "allow_unprivileged_device_configuration": True,
    "disable_vpn_on_oidc_error": False,
    "vpn_session_duration": 0,
    "default_client_persistent_keepalive": 25,
    "default_client_mtu": 1280,
    "default_client_endpoint": "localhost:51820",
    "default_client_dns": [],
    "default_client_allowed_ips": ["0.0.0.0/0", "::/0"],
    "openid_connect_providers": [],
    "saml_identity_providers": [],
}
Errors = dict[str, list[str]]


class Refusal(Exception):
    def __init__(self, status: int, errors: Any) -> None:
        super().__init__(status)
        self.status, self.errors = status, errors


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Firezone:
    """The state behind the API; `environment` is what the container was started with."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.now = 1_700_000_000
        self.users: list[dict[str, Any]] = []
        self.passwords: dict[str, str] = {}
        self.devices: list[dict[str, Any]] = []
        self.rules: list[dict[str, Any]] = []
        self.tokens: dict[str, tuple[str, int]] = {}  # id -> (user, expires)
        self.configuration = json.loads(json.dumps(CONFIGURATION))
        self.seen: list[tuple[str, str, Any]] = []
        self.commands: list[str] = []
        self._key = b"a key of the stand-in"

    # -- the container's commands -------------------------------------------------------------------------------------

    def command(self, name: str, extra: dict[str, str]) -> tuple[int, str]:
        self.commands.append(name)
        environment = {**self.environment, **extra}
        if name == "bin/create-or-reset-admin":
            return self._admin(environment["DEFAULT_ADMIN_EMAIL"], environment["DEFAULT_ADMIN_PASSWORD"])
        if name == "bin/create-api-token":
            return self._create_token(environment["DEFAULT_ADMIN_EMAIL"])
        return 127, f"{name}: not found"

    def _admin(self, email: str, password: str) -> tuple[int, str]:
        user = next((user for user in self.users if user["email"] == email), None)
        if user is None:
            user = self._new_user({"email": email}, "admin")
        user["role"] = "admin"
        self.passwords[user["id"]] = password
        return 0, f"{email}\n{password}\n"  # as the real one does

    def _create_token(self, email: str) -> tuple[int, str]:
        user = next((user for user in self.users if user["email"] == email), None)
        if user is None:
            return 1, "** (Ecto.NoResultsError) expected at least one result but got none"
        if sum(1 for owner, _ in self.tokens.values() if owner == user["id"]) >= TOKENS_PER_USER:
            return 1, "** (MatchError) no match of right hand side value: {:error, #Ecto.Changeset<action: :insert>}"
        ident = str(uuid.uuid4())
        self.tokens[ident] = (user["id"], self.now + TOKEN_LIFE)
        head = _encode(json.dumps({"alg": "HS512", "typ": "JWT"}).encode())
        body = _encode(json.dumps({"api": ident, "exp": self.now + TOKEN_LIFE}).encode())
        return 0, f"12:00:00.000 [info] Starting up\n{head}.{body}.{self._sign(head, body)}\n"

    def _sign(self, head: str, body: str) -> str:
        return _encode(hmac.new(self._key, f"{head}.{body}".encode(), hashlib.sha512).digest())

    def authorised(self, header: str) -> bool:
        kind, _, token = header.partition(" ")
        parts = token.split(".")
        if kind != "Bearer" or len(parts) != 3 or not hmac.compare_digest(parts[2], self._sign(parts[0], parts[1])):
            return False
        ident = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))["api"]
        return ident in self.tokens and self.tokens[ident][1] > self.now

    # -- the API ------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any, str | None]:
        parts = path.strip("/").split("/")
        if parts[0] != "v0" or len(parts) not in (2, 3):
            raise Refusal(404, {"detail": "not_found"})
        if parts[1] == "configuration":
            return 200, {"data": self._configure(method, body)}, None
        kind, ident = parts[1], parts[2] if len(parts) == 3 else None
        items = {"users": self.users, "devices": self.devices, "rules": self.rules}.get(kind)
        if items is None:
            raise Refusal(404, {"detail": "not_found"})
        wrapper = kind.removesuffix("s")
        if method == "GET" and ident is None:
            return 200, {"data": items}, None
        if method == "POST" and ident is None:
            made = getattr(self, f"_new_{wrapper}")(_unwrap(body, wrapper))
            return 201, {"data": made}, f"/v0/{kind}/{made['id']}"
        item = next((item for item in items if ident in (item["id"], item.get("email"))), None)
        if item is None:
            raise Refusal(404, {"detail": "not_found"})
        if method == "DELETE":
            items.remove(item)
            return 204, None, None
        if method in ("PATCH", "PUT"):
            getattr(self, f"_change_{wrapper}")(item, _unwrap(body, wrapper))
        elif method != "GET":
            raise Refusal(405, {"detail": "method not allowed"})
        return 200, {"data": item}, None

    def _configure(self, method: str, body: Any) -> dict[str, Any]:
        if method == "GET":
            return {"id": "1c5b3594-1309-4779-b01d-cd21bee561b8", "logo": {}, **self.configuration}
        if method not in ("PATCH", "PUT"):
            raise Refusal(405, {"detail": "method not allowed"})
        wanted, errors = _unwrap(body, "configuration"), Errors()
        for key, value in wanted.items():
            if key not in self.configuration:
                errors[key] = ["is unknown"]
            elif key.upper() in self.environment:
                errors[key] = [f"cannot be changed; it is overridden by {key.upper()} environment variable"]
            elif key == "openid_connect_providers":
                problems = _providers(value)
                if problems:
                    errors[key] = problems
            elif type(value) is not type(self.configuration[key]):
                errors[key] = ["is invalid"]
        _raise(errors)
        self.configuration.update(wanted)
        return self._configure("GET", None)

    def _new_user(self, given: dict[str, Any], role: str | None = None) -> dict[str, Any]:
        errors = _unknown(given, {"email", "role", "password", "password_confirmation"})
        email = given.get("email")
        if not isinstance(email, str) or "@" not in email:
            errors["email"] = ["is invalid email address" if email else "can't be blank"]
        elif any(user["email"] == email for user in self.users):
            errors["email"] = ["has already been taken"]
        self._password(given, errors)
        _raise(errors)
        user = {
            "id": str(uuid.uuid4()), "email": email, "role": role or given.get("role", "unprivileged"),
            "disabled_at": None, "last_signed_in_at": None, "last_signed_in_method": None,
        }  # fmt: skip
        self.users.append(user)
        return user

    def _password(self, given: dict[str, Any], errors: Errors) -> None:
        if "password" in given:
            if len(given["password"]) < 12:
                errors["password"] = ["should be at least 12 byte(s)"]
            if given.get("password_confirmation") != given["password"]:
                errors["password_confirmation"] = ["can't be blank"]

    def _change_user(self, user: dict[str, Any], given: dict[str, Any]) -> None:
        errors = _unknown(given, {"email", "role", "password", "password_confirmation"})
        self._password(given, errors)
        if given.get("role") not in (None, "admin", "unprivileged"):
            errors["role"] = ["is invalid"]
        _raise(errors)
        user.update({key: value for key, value in given.items() if not key.startswith("password")})

    def _device(self, device: dict[str, Any], given: dict[str, Any]) -> None:
        allowed = {"name", "description", "public_key", "preshared_key", "ipv4", "ipv6", "user_id"}
        errors = _unknown(given, allowed)
        key = given.get("public_key", device.get("public_key"))
        try:
            if len(base64.b64decode(key or "", validate=True)) != 32:
                raise ValueError
        except ValueError:
            errors["public_key"] = ["should be a base64-encoded string"]
        if any(other is not device and other["public_key"] == key for other in self.devices):
            errors["public_key"] = ["has already been taken"]
        if given.get("user_id", device.get("user_id")) not in [user["id"] for user in self.users]:
            errors["user_id"] = ["does not exist"]
        if device.get("user_id") not in (None, given.get("user_id", device.get("user_id"))):
            errors["user_id"] = ["can not be changed"]
        for family in ("ipv4", "ipv6"):
            network = ipaddress.ip_network(self.environment[f"WIREGUARD_{family.upper()}_NETWORK"])
            if given.get(family) and ipaddress.ip_address(given[family]) not in network:
                errors[family] = [f"IP must be contained within network {network}"]
        _raise(errors)

    def _new_device(self, given: dict[str, Any]) -> dict[str, Any]:
        self._device({}, given)
        if sum(device["user_id"] == given["user_id"] for device in self.devices) >= DEVICES_PER_USER:
            raise Refusal(422, {"errors": {"base": ["max device limit reached"]}})
        device = {"id": str(uuid.uuid4()), "description": None, "ipv4": None, "ipv6": None, "name": "factory"}
        device |= {"latest_handshake": None, "rx_bytes": None, "tx_bytes": None, **given}
        for family in ("ipv4", "ipv6"):
            network = ipaddress.ip_network(self.environment[f"WIREGUARD_{family.upper()}_NETWORK"])
            device[family] = device[family] or str(network.network_address + 2 + len(self.devices))
        self.devices.append(device)
        return device

    def _change_device(self, device: dict[str, Any], given: dict[str, Any]) -> None:
        self._device(device, given)
        device.update(given)

    def _rule(self, rule: dict[str, Any], given: dict[str, Any]) -> None:
        errors = _unknown(given, {"action", "destination", "port_range", "port_type", "user_id"})
        merged = {**rule, **given}
        if merged.get("action") not in ("accept", "drop"):
            errors["action"] = ["is invalid"]
        if not merged.get("destination"):
            errors["destination"] = ["can't be blank"]
        if bool(merged.get("port_type")) != bool(merged.get("port_range")):
            errors["port_type"] = ["Please specify a port range for the given port type"]
        same = ("destination", "user_id", "port_type", "port_range", "action")
        if any(other is not rule and all(other[k] == merged.get(k) for k in same) for other in self.rules):
            errors["destination"] = ["has already been taken"]
        _raise(errors)

    def _new_rule(self, given: dict[str, Any]) -> dict[str, Any]:
        self._rule({}, given)
        rule = {"id": str(uuid.uuid4()), "port_range": None, "port_type": None, "user_id": None, **given}
        self.rules.append(rule)
        return rule

    def _change_rule(self, rule: dict[str, Any], given: dict[str, Any]) -> None:
        self._rule(rule, given)
        rule.update(given)


def _unwrap(body: Any, wrapper: str) -> dict[str, Any]:
    if not isinstance(body, dict) or list(body) != [wrapper] or not isinstance(body[wrapper], dict):
        raise Refusal(400, {"errors": {"detail": "Bad Request"}})
    inner: dict[str, Any] = body[wrapper]
    return inner


def _unknown(given: dict[str, Any], known: set[str]) -> Errors:
    return {key: ["is unknown"] for key in given.keys() - known}


def _providers(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(provider, dict) for provider in value):
        return ["is invalid"]
    ids = [provider.get("id") for provider in value]
    found = [] if len(set(ids)) == len(ids) else ["should not have duplicate ids"]
    for provider in value:
        found += [f"{key} is invalid" for key, kind in PROVIDER.items() if not isinstance(provider.get(key), kind)]
        found += [f"{key} is unknown" for key in provider.keys() - PROVIDER.keys()]
    return found


def _raise(errors: Errors) -> None:
    if errors:
        raise Refusal(422, {"errors": errors})


class Standin:
    """The API on a loopback port, while the context lasts; `POST /_container` is the container's shell."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.firezone = firezone = Firezone(environment)

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length)
                body = json.loads(raw) if raw else None
                location = None
                if self.path == "/_container":
                    code, out = firezone.command(body["command"], body["environment"])
                    status, answer = 200, {"code": code, "out": out}
                else:
                    firezone.seen.append((self.command, self.path, body))
                    try:
                        if not firezone.authorised(self.headers.get("Authorization") or ""):
                            raise Refusal(401, {"errors": {"detail": "unauthenticated"}})
                        status, answer, location = firezone.answer(self.command, self.path, body)
                    except Refusal as refusal:
                        status, answer = refusal.status, refusal.errors
                text = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Standin:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
