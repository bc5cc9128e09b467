"""The description's keys for editors and readers: JSON Schema, and the reference in Markdown. One sentence a key.

Knows: the model and what its keys mean. Must not know: checks, what follows from a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mrvpn.schema.model import Description

ID = "https://json-schema.org/draft/2020-12/schema"
# how each model is reached from the top, in the order in which the reference tells them
PLACES = {
    "Description": "mrvpn",
    "HostOptions": "mrvpn.hosts.<id>",
    "Tunnel": "mrvpn.tunnels.<name>",
    "End": "mrvpn.tunnels.<name>.hosts.<id>",
    "Routing": "mrvpn.routing",
    "Route": "mrvpn.routing.routes[]",
    "CountryDatabase": "mrvpn.routing.country_database",
    "Exit": "mrvpn.exits.<tunnel>",
    "Health": "mrvpn.exits.<tunnel>.health",
    "NameList": "mrvpn.lists.<name>",
    "Client": "mrvpn.clients.<name>",
    "Dns": "mrvpn.dns",
    "Bypass": "mrvpn.dns.bypass",
    "Firezone": "mrvpn.firezone",
    "Oidc": "mrvpn.firezone.fz_oidc.<name>",
    "Image": "mrvpn.image",
    "Docker": "mrvpn.docker",
}
OLDER = {"geo": "country", "domains": "domain", "static": "net", "ttl": "route_ttl"}  # of a route: MRVPN2's older names

DOCS = {
    "Description.entrypoint": "The host where clients enter.",
    "Description.gateway": "What clients connect to: Firezone, or plain WireGuard with `clients` described here.",
    "Description.mrvpn_root": "The folder on every host below which everything is put.",
    "Description.mrvpn_base_dir": "Read for MRVPN2's sake; without a meaning.",
    "Description.tunnels": "The tunnels by name, which is their interface's name on both sides: 1 to 15 characters.",
    "Description.hosts": "What is true of a host in all its tunnels, by its minion id.",
    "Description.routing": "The route rules and what they share.",
    "Description.services": "Compose service: its interfaces; one recursor, daemon and FRR for each service.",
    "Description.firezone": "The gateway's settings.",
    "Description.exits": "What else is to be said of a tunnel as an exit.",
    "Description.lists": "Names kept elsewhere, for routes with `list` and for `dns.bypass`.",
    "Description.clients": "The clients of the plain gateway, by name.",
    "Description.dns": "Where the recursor asks.",
    "Description.image": "The container image.",
    "Description.docker": "The Docker Engine.",
    "Description.port_range": "UDP ports that the gateway publishes from the first apply, [first, last]: a tunnel that "
    "listens on one of them recreates nothing. null: none.",
    "HostOptions.endpoint": "The public address or DNS name at which others reach the host.",
    "HostOptions.os": "What runs on it.",
    "HostOptions.lan": "The prefixes behind it, routed without NAT.",
    "Tunnel.subnet": "A prefix, or one a family; host n in the order of the file gets its network + n.",
    "Tunnel.hosts": "Its ends by host id; MRVPN2's form without `hosts` is read too.",
    "End.expose": "The port on which this end listens, or HOST:PORT as others reach it; without it the end only dials.",
    "End.allowed_nets": "What its peers allow from this end besides its tunnel address.",
    "End.compose_service": "Compose service in whose network namespace the tunnel runs.",
    "End.compose_network": "Compose network that a standalone tunnel joins.",
    "End.masquerade": "Masquerade what came in by the tunnel and leaves by an interface that is neither tunnel nor "
    "gateway.",
    "End.table": '"off", or on RouterOS the routing table that gets the routes of this tunnel.',
    "End.autostart": "Start a standalone tunnel at once.",
    "End.mikrotik_cleanup": "RouterOS commands run before a removal.",
    "End.mikrotik_deploy": "RouterOS commands run at the end.",
    "End.private": "Without a meaning: private keys are made on their host and stay there.",
    "End.psk": "The preshared key of this end's pairs; without it, derived from `psk_root`.",
    "End.address": "Its tunnel address, one a family, instead of the one its place gives it.",
    "End.public_key": "Its WireGuard public key, where it does not come from the mine.",
    "End.mtu": "The interface's MTU.",
    "Routing.routes": "The rules, each a match and an exit.",
    "Routing.pbr_mark": "The mark of the default exit; exit n has the n-th after it.",
    "Routing.table": "The routing table before the first exit's.",
    "Routing.interfaces": "The interfaces by which traffic enters.",
    "Routing.domain_route_ttl": "Seconds: the longest TTL that a client is answered.",
    "Routing.clean_conntrack": "Whether live connections are cut when their rule changes its exit.",
    "Routing.db": "Read for MRVPN2's sake; without a meaning.",
    "Routing.ws_port": "Read for MRVPN2's sake; without a meaning.",
    "Routing.country_database": "Where the countries' addresses come from.",
    "Routing.hints": "What is done with address hints in HTTPS records.",
    "Routing.learn_scope": "For whom an answer counts: for all clients, or for the one that asked.",
    "Route.interface": "The exit: a tunnel of the entrypoint, or _DEFAULT. Without it the rule only sets a TTL.",
    "Route.country": "Countries, ISO 3166-1 alpha-2, or EU; MRVPN2's geo: [country='RU'] too.",
    "Route.domain": "Regular expressions (RE2) that the whole name must match.",
    "Route.suffix": "Names: each and everything below it.",
    "Route.net": "Prefixes or addresses; one shorter than /8 is a default.",
    "Route.list": "Names of `lists`.",
    "Route.weight": "The higher wins, before anything else is compared.",
    "Route.metric": "The metric of the kernel's route.",
    "Route.route_ttl": "Seconds: the longest TTL for what this rule matches.",
    "Route.live": "What happens to live connections when this rule's exit changes.",
    "CountryDatabase.path": "An .mmdb file inside the daemon's container.",
    "CountryDatabase.url": "Where it is fetched.",
    "CountryDatabase.refresh": "How often, such as 24h.",
    "CountryDatabase.checksum": "A URL that holds its SHA-256.",
    "CountryDatabase.exit": "The exit that the fetch goes through.",
    "Docker.source": "Where the engine is installed from.",
    "Exit.health": "How the exit is judged; without it only its interface counts.",
    "Health.route": "A prefix that OSPF keeps by the exit's interface while its far end lives.",
    "Health.icmp": "Addresses of which one must answer a ping by this exit.",
    "Health.http": "URLs (http://ADDRESS/...) of which one must answer by this exit.",
    "Health.dns": "Servers of which one must answer by this exit.",
    "Health.handshake": "Seconds that WireGuard's newest handshake may be old.",
    "Health.interval": "Seconds between two rounds.",
    "Health.timeout": "Seconds that a round waits.",
    "Health.down_after": "Failed rounds after which the exit is down.",
    "Health.up_after": "Good rounds after which it is up again.",
    "Health.grace": "Seconds that its interface may be away.",
    "Exit.fallback": "The exits that take over, in this order, while this one is down.",
    "Exit.on_down": "What happens when no fallback is up: nothing passes, or the default exit takes it.",
    "Exit.ipv6": "Whether IPv6 goes this way; auto: where its far end takes ::/0.",
    "NameList.url": "Where the list is fetched; what a geosite list includes, from the same folder.",
    "NameList.path": "A file on the entrypoint instead; what it includes lies beside it.",
    "NameList.format": "How the list is written.",
    "NameList.refresh": "How often it is fetched, such as 24h.",
    "NameList.checksum": "A URL that holds its SHA-256, alone or as sha256sum writes it.",
    "NameList.exit": "The exit that the fetch goes through.",
    "NameList.attributes": "Of geosite lists: only entries with one of these.",
    "Client.public_key": "Its WireGuard public key.",
    "Client.addresses": "Its addresses, of the clients' prefixes.",
    "Dns.upstream": "The servers asked; without any, the recursor resolves from the root.",
    "Dns.forward": "Zone: the servers asked for it.",
    "Dns.exempt": "Prefixes of clients that keep their own resolver.",
    "Dns.bypass": "What is done about clients that take their DNS elsewhere (over TLS, QUIC, HTTPS).",
    "Bypass.enabled": "Whether they are refused, at once and counted.",
    "Bypass.lists": "Lists (of `lists`) of more resolvers that speak HTTPS: their addresses are refused on port 443, "
    "their names are not resolved. Those shipped stay.",
    "Dns.dnssec": "What the recursor does with signatures.",
    "Image.name": "The image's name; without it, this version's own.",
    "Image.source": "Whether the image is there already, is built on the host, or pulled.",
    "Docker.manage": "Whether settings of the engine are looked after.",
    "Firezone.fz_client_subnet": "The clients' IPv4 prefix; its first address is the gateway's.",
    "Firezone.fz_client_subnet6": "The clients' IPv6 prefix.",
    "Firezone.fz_admin": "The administrator's e-mail address.",
    "Firezone.fz_admin_password": "The administrator's password, 12 characters at least; without it one is made.",
    "Firezone.fz_wireguard_port": "The UDP port that clients connect to.",
    "Firezone.fz_firezone_dir": "The folder of the gateway's files, below `mrvpn_root`.",
    "Firezone.fz_firezone_https": "Whether the web interface is served by HTTPS.",
    "Firezone.fz_server_url": "The web interface's address as browsers see it.",
    "Firezone.fz_custom_labels": "Docker labels of the gateway's container.",
    "Firezone.fz_mgmt_subnet": "The IPv4 prefix of the gateway's compose network.",
    "Firezone.fz_cleanup": "Read for MRVPN2's sake.",
    "Firezone.fz_ospf": "Whether the clients' prefixes are announced.",
    "Firezone.fz_oidc": "Providers of single sign-on, by name.",
    "Firezone.fz_client_gateway": "The gateway's address within the clients' prefix, where it is not the first.",
    "Firezone.fz_client_allowed_subnets": "What clients send into the tunnel.",
    "Firezone.fz_client_dns": "The DNS servers that clients are told.",
    "Firezone.fz_images": "Images of the stack's containers, instead of the pinned ones.",
    "Firezone.fz_autoheal": "Whether unhealthy containers are restarted by a container of its own.",
    "Firezone.fz_conntrack_log": "Whether connections are logged.",
    "Firezone.fz_telemetry": "Whether Firezone sends telemetry.",
    "Firezone.fz_connectivity_checks": "Whether Firezone asks its makers for its own address.",
    "Firezone.fz_configuration": "More of Firezone's configuration, by its API; `{secret: NAME}` for any value in it.",
    "Oidc.client_id": "The client's id at the provider.",
    "Oidc.client_secret": "The client's secret at the provider.",
    "Oidc.discovery_document_uri": "The provider's discovery document.",
    "Oidc.redirect_uri": "Where the provider sends browsers back to.",
    "Oidc.response_type": "The kind of answer asked for.",
    "Oidc.scope": "What is asked for.",
    "Oidc.label": "What the button says.",
    "Oidc.auto_create_users": "Whether who signs in first becomes a user.",
    "Secret.secret": "The name of a secret that the master holds.",
    "Expose.port": "The port.",
    "Expose.host": "The address or name.",
}


def json_schema() -> dict[str, Any]:
    """The schema of a description file, every spelling accepted."""
    schema = Description.model_json_schema()
    definitions: dict[str, Any] = schema.pop("$defs")
    definitions["Description"] = schema
    for name, definition in definitions.items():
        for field, value in definition.get("properties", {}).items():
            text = DOCS.get(f"{name}.{field}")
            value.pop("title", None)
            definition["properties"][field] = _loose(name, field, value) | ({"description": text} if text else {})
    route = definitions["Route"]["properties"]
    for older, newer in OLDER.items():
        route[older] = {**route[newer], "description": f"MRVPN2's older name of `{newer}`."}
    tunnel = definitions["Tunnel"]
    tunnel.pop("required", None)
    tunnel["additionalProperties"] = {"anyOf": [{"$ref": "#/$defs/End"}, {"type": "null"}]}
    whole = {"anyOf": [{"$ref": "#/$defs/Description"}, {"$ref": "#/$defs/Wrapped"}]}
    definitions["Wrapped"] = {
        "type": "object",
        "properties": {"mrvpn_config": {"$ref": "#/$defs/Description"}},
        "required": ["mrvpn_config"],
        "additionalProperties": False,
    }
    return {
        "$schema": ID,
        "title": "MRVPN: the description of a network",
        "type": "object",
        "properties": {"mrvpn": whole, "mrvpn_config": whole},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "$defs": definitions,
    }


def _loose(model: str, field: str, value: dict[str, Any]) -> dict[str, Any]:
    """A field's schema with the spellings that are read besides the one that pydantic knows, and null for absent."""
    if field == "refresh" or f"{model}.{field}" == "End.expose":
        value = {"type": ["integer", "string"]}
    elif f"{model}.{field}" in ("End.table", "Dns.dnssec"):
        value = {"anyOf": [value, {"const": False}]}
    elif value.get("type") == "array" and field != "routes" and "prefixItems" not in value:
        value = _list_or_one(value)
    elif isinstance(value.get("additionalProperties"), dict):
        inner = value["additionalProperties"]
        if inner.get("type") == "array":
            value = {**value, "additionalProperties": _list_or_one(inner)}
        elif "$ref" in inner:
            value = {**value, "additionalProperties": {"anyOf": [inner, {"type": "null"}]}}
    return {"anyOf": [value, {"type": "null"}]}


def _list_or_one(value: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [value.get("items", {}), value]}


def markdown() -> str:
    """The reference: every key, what it is, its default."""
    lines = [
        "# The description, key by key",
        "",
        "Every `*.yaml` of the folder has `mrvpn:` at its top; maps merge across files. A list of one may stand as",
        "the one. `{secret: NAME}` stands for any secret. Made by `mrvpn schema --format markdown`.",
    ]
    for model in _models():
        lines += ["", f"## `{PLACES[model.__name__]}`", "", "| key | what it is | default |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
            text = DOCS[f"{model.__name__}.{name}"].replace("|", "\\|")
            lines.append(f"| `{name}` | {text} | {default} |")
        if model.__name__ == "Route":
            older = ", ".join(f"`{old}` for `{new}`" for old, new in OLDER.items())
            lines += ["", f"MRVPN2's older names are read too: {older}."]
    return "\n".join(lines) + "\n"


def _models() -> Iterator[type[BaseModel]]:
    import mrvpn.schema.model as module

    for name in PLACES:
        yield getattr(module, name)


def _default(value: Any) -> str:
    if value is None or value == () or value == {} or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    return f"`{value}`"
