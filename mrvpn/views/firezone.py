"""What the gateway `firezone` adds to the entrypoint's view: its stack, environment, and configuration that is ours.

Knows: MRVPN2's `fz_*` keys, Firezone 0.7's variables. Must not know: Salt, compose, how its API is spoken to.

A variable of the environment wins over Firezone's own database and makes its web page read-only there: only what this
description says is set, and what `fz_configuration` names is left to the API.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any
from urllib.parse import urlsplit

from mrvpn.schema.checks.gateway import PASSWORD as PASSWORD_LENGTH
from mrvpn.schema.checks.gateway import PROVIDERS
from mrvpn.schema.model import SECRET_KEYS, Oidc, Secret
from mrvpn.topology import GATEWAY_INTERFACE, Network
from mrvpn.views.content import content_hash
from mrvpn.views.images import PINNED
from mrvpn.views.secret import Marked, Placeholder, Secrets, holds_secret

FOLDER = "firezone"
STACK = ("firezone", "caddy", "postgres")


def extend(found: dict[str, Any], network: Network, secrets: Secrets) -> None:
    """Adds `gateway.firezone` to an entrypoint's view and changes what depends on it; nothing for other views."""
    gateway = found["gateway"]
    if gateway is None:
        return
    gateway["firezone"] = None
    if gateway["kind"] != "firezone":
        return
    f = network.description.firezone
    subnet4, subnet6 = (ipaddress.ip_network(subnet) for subnet in gateway["network"]["subnets"])
    addresses = {
        "caddy": [str(subnet4.network_address + 3), str(subnet6.network_address + 3)],
        "postgres": [str(subnet4.network_address + 4), str(subnet6.network_address + 4)],
    }
    if not f.fz_ospf:
        for entry in found["frr"]:
            entry["interfaces"] = [i for i in entry["interfaces"] if i["name"] != GATEWAY_INTERFACE]
    # the proxy's answers and its certificates' requests leave the bridge by its own address; the database's never do
    found["host_guard"]["addresses"] = [*found["host_guard"]["addresses"], *addresses["caddy"]]
    found["docker"]["min_compose"] = "2.24"  # env_file with `required`
    found["notices"] += _notices(network)
    url = _url(network)
    configuration = {
        **_marked(secrets.filled("firezone.fz_configuration", f.fz_configuration)),
        **({PROVIDERS: _providers(f.fz_oidc, url, secrets)} if f.fz_oidc else {}),
    }
    environment = _environment(network, gateway["addresses"], addresses["caddy"], url)
    environment = {key: value for key, value in environment.items() if key.lower() not in configuration}
    pins = {**PINNED, **{str(name): image for name, image in f.fz_images.items()}}
    images = {name: pins[name] for name in (*STACK, *(("autoheal",) if f.fz_autoheal else ()))}
    gateway["firezone"] = {
        "folder": _folder(network),
        "images": images,
        "url": url,
        "https": f.fz_firezone_https,
        "api": f"http://{gateway['network']['addresses'][0]}:13000",
        "admin": {"email": f.fz_admin, "password": _password(f.fz_admin_password, secrets)},
        "labels": _labels(f.fz_custom_labels),
        "addresses": addresses,
        "environment": environment,
        "environment_hash": content_hash(environment),
        "autoheal": f.fz_autoheal,
        "conntrack_log": f.fz_conntrack_log,
        "configuration": configuration,
        "secret_keys": sorted(key for key, value in configuration.items() if holds_secret(value)),
    }


def _url(network: Network) -> str:
    d = network.description
    if d.firezone.fz_server_url:
        return d.firezone.fz_server_url.rstrip("/")
    options = d.hosts.get(d.entrypoint or "")
    host = (options.endpoint if options else None) or str(d.entrypoint)
    return f"{'https' if d.firezone.fz_firezone_https else 'http'}://{f'[{host}]' if ':' in host else host}"


def _environment(network: Network, addresses: list[str], proxies: list[str], url: str) -> dict[str, str]:
    """The variables of `.env`, all text, no secret among them; what has Firezone's own default is left out."""
    f = network.description.firezone
    own = [ipaddress.ip_interface(address) for address in addresses]
    dns = f.fz_client_dns or tuple(str(interface.ip) for interface in own)
    found = {
        "EXTERNAL_URL": url,
        "DEFAULT_ADMIN_EMAIL": f.fz_admin,
        "PHOENIX_EXTERNAL_TRUSTED_PROXIES": json.dumps(proxies),
        "PHOENIX_SECURE_COOKIES": str(urlsplit(url).scheme == "https").lower(),
        "DATABASE_HOST": "postgres",
        "DEFAULT_CLIENT_DNS": ",".join(dns),
        "DEFAULT_CLIENT_ALLOWED_IPS": ",".join(f.fz_client_allowed_subnets or ("0.0.0.0/0", "::/0")),
        "DEFAULT_CLIENT_MTU": "1280",
        "WIREGUARD_PORT": str(f.fz_wireguard_port),
        "WIREGUARD_INTERFACE_NAME": GATEWAY_INTERFACE,
        "WIREGUARD_IPV6_ENABLED": "false",
        "TELEMETRY_ENABLED": str(f.fz_telemetry).lower(),
        "CONNECTIVITY_CHECKS_ENABLED": str(f.fz_connectivity_checks).lower(),
    }
    for interface in own:
        family = f"WIREGUARD_IPV{interface.version}"
        found[f"{family}_ENABLED"] = "true"
        found[f"{family}_NETWORK"] = str(interface.network)
        found[f"{family}_ADDRESS"] = str(interface.ip)
        # Firezone's own masquerade takes in every interface that is there when it starts: the NAT is ipt_server's
        found[f"{family}_MASQUERADE"] = "false"
    return dict(sorted(found.items()))


def _providers(oidc: dict[str, Oidc], url: str, secrets: Secrets) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "label": it.label or name,
            "client_id": it.client_id,
            "client_secret": secrets.text(f"firezone.fz_oidc.{name}.client_secret", it.client_secret),
            "discovery_document_uri": it.discovery_document_uri,
            "redirect_uri": it.redirect_uri or f"{url}/auth/oidc/{name}/callback",
            "response_type": it.response_type,
            "scope": it.scope,
            "auto_create_users": it.auto_create_users,
        }
        for name, it in sorted(oidc.items())
    ]


def _marked(value: Any) -> Any:
    """What Firezone's API holds as a secret carries the mark, where the description has it in plain text, too."""
    if isinstance(value, dict):
        return {k: Marked(v) if k in SECRET_KEYS and type(v) is str else _marked(v) for k, v in value.items()}
    return [_marked(item) for item in value] if isinstance(value, list) else value


def _password(value: str | Secret | None, secrets: Secrets) -> str | None:
    path = "firezone.fz_admin_password"
    found = secrets.text(path, value)
    if found is not None and not isinstance(found, Placeholder) and len(found) < PASSWORD_LENGTH:
        secrets.refuse(path, f"has less than {PASSWORD_LENGTH} characters, Firezone refuses it: choose a longer one")
    return found


def _labels(written: tuple[Any, ...]) -> dict[str, str]:
    """Docker labels of the Firezone container; written as `key=value`, `key: value` or maps."""
    found: dict[str, str] = {}
    for label in written:
        if isinstance(label, dict):
            found |= {str(key): str(value) for key, value in label.items()}
        else:
            key, _, value = str(label).partition("=")
            found[key.strip()] = value.strip()
    return dict(sorted(found.items()))


def _folder(network: Network) -> str:
    """`fz_firezone_dir` below the root, as a relative path; elsewhere it is not used, and a notice says so."""
    wanted, root = network.description.firezone.fz_firezone_dir, network.description.mrvpn_root.rstrip("/") + "/"
    if wanted and wanted.startswith(root) and ".." not in wanted.split("/"):
        return wanted.removeprefix(root).strip("/") or FOLDER
    return FOLDER


def _notices(network: Network) -> list[str]:
    d = network.description
    found = []
    wanted = d.firezone.fz_firezone_dir
    if wanted and f"{d.mrvpn_root.rstrip('/')}/{_folder(network)}" != wanted.rstrip("/"):
        found.append(
            f"firezone.fz_firezone_dir: {wanted} is not below {d.mrvpn_root}: {d.mrvpn_root}/{FOLDER} is used; to take "
            "data over, move it there before the first apply"
        )
    if d.firezone.fz_cleanup:
        found.append(
            "firezone.fz_cleanup: nothing is taken away by an apply; `state.apply mrvpn.absent` does that, data kept "
            "unless told otherwise"
        )
    return found
