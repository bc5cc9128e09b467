"""The description as typed, frozen values: every key, its type and default.

Knows: the keys, in MRVPN2's spellings and ours. Must not know: YAML, how keys relate to each other (checks.py), what
follows from them (topology).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DEFAULT_EXIT = "_DEFAULT"


class Model(BaseModel):
    """Frozen; an unknown key is a problem."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _listed(value: Any) -> Any:
    return [] if value is None else value if isinstance(value, list) else [value]


def _prefix(value: Any) -> str:
    """A prefix or address in canonical text; host bits are a problem, as the writer may have meant another network."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no prefix: write it as text, such as 10.9.20.0/24")
    return str(ipaddress.ip_network(value.strip()))


def _network_of(value: Any) -> str:
    """A prefix; host bits are cut off, as MRVPN2 does in allowed_nets."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no prefix: write it as text, such as 10.9.20.0/24")
    return str(ipaddress.ip_network(value.strip(), strict=False))


def _address(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no address")
    return str(ipaddress.ip_interface(value.strip()).ip)


def _key(value: str) -> str:
    try:
        raw = base64.b64decode(value, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        raise ValueError("is no WireGuard key: 32 bytes in base64, 44 characters that end in =")
    return value


def _country(value: Any) -> str:
    found = re.fullmatch(r"\s*country\s*=\s*['\"]?([A-Za-z]{2})['\"]?\s*|([A-Za-z]{2})", str(value))
    if not found:
        raise ValueError(f"{value!r} is no country: two letters such as RU, or MRVPN2's country='RU'")
    return (found[1] or found[2]).upper()


def _table(value: Any) -> str | None:
    return "off" if value is False else None if value is None else str(value)


Prefix = Annotated[str, BeforeValidator(_prefix)]
Network = Annotated[str, BeforeValidator(_network_of)]
Address = Annotated[str, BeforeValidator(_address)]
PublicKey = Annotated[str, AfterValidator(_key)]
Prefixes = Annotated[tuple[Prefix, ...], BeforeValidator(_listed)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_listed)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Countries = Annotated[tuple[Annotated[str, BeforeValidator(_country)], ...], BeforeValidator(_listed)]
Port = Annotated[int, Field(ge=1, le=65535)]
Mtu = Annotated[int, Field(ge=1280, le=9000)]


class Secret(Model):
    """`{secret: NAME}`: resolved on the master, never from git."""

    secret: str


class Expose(Model):
    """Where a host listens in a tunnel: its port, and the host part of the endpoint where one was written."""

    port: Port
    host: str | None = None


def _expose(value: Any) -> Any:
    """`55824`, "55824", "192.0.2.1:55824", "[2001:db8::1]:55824", "vpn.example.net:55824"."""
    if value is None or isinstance(value, (dict, Expose)):
        return value
    host, colon, port = str(value).strip().rpartition(":")
    if not port.isdigit() or (colon and not host):
        raise ValueError(f"{value!r} is no port: write 55824, or HOST:PORT with an IPv6 address in brackets")
    host = host.removeprefix("[").removesuffix("]")
    return {"port": int(port), "host": host or None}


class End(Model):
    """One end of a tunnel: `tunnels.<name>.hosts.<id>`."""

    expose: Annotated[Expose | None, BeforeValidator(_expose)] = None
    allowed_nets: Networks = ()
    compose_service: str | None = None
    compose_network: str | None = None
    masquerade: bool = False
    table: Annotated[str | None, BeforeValidator(_table)] = None
    autostart: bool = True
    mikrotik_cleanup: Texts = ()
    mikrotik_deploy: Texts = ()
    private: str | Secret | None = None
    psk: str | Secret | None = None
    address: Annotated[tuple[Address, ...], BeforeValidator(_listed)] = ()
    public_key: PublicKey | None = None
    mtu: Mtu = 1280


class Tunnel(Model):
    """`tunnels.<name>`; the form without `hosts:` that MRVPN2's README prints is read too."""

    subnet: Prefixes = ()
    hosts: dict[str, End]

    @model_validator(mode="before")
    @classmethod
    def _without_hosts(cls, value: Any) -> Any:
        if isinstance(value, dict) and "hosts" not in value:
            ends = {k: v for k, v in value.items() if k != "subnet"}
            if ends and all(isinstance(v, dict) for v in ends.values()):
                return {"subnet": value.get("subnet"), "hosts": ends}
        return value


class HostOptions(Model):
    """`hosts.<id>`: what is true of a host in all its tunnels."""

    endpoint: str | None = None
    os: Literal["linux", "routeros"] = "linux"
    lan: Prefixes = ()


class Route(Model):
    """`routing.routes[]`: what goes through `interface`; without it the rule only sets a TTL."""

    interface: str | None = None
    country: Countries = ()
    domain: Texts = ()
    suffix: Texts = ()
    net: Networks = ()
    weight: int = 0
    metric: int = 200
    route_ttl: Annotated[int, Field(gt=0)] | None = Field(default=None)
    live: Literal["keep", "cut"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = dict(value)
        for old, new in (("geo", "country"), ("domains", "domain"), ("static", "net"), ("ttl", "route_ttl")):
            if old in value:
                if new in value:
                    raise ValueError(f"has both `{old}` and `{new}`, which mean the same: keep one")
                value[new] = value.pop(old)
        return value


class CountryDatabase(Model):
    """`routing.country_database`."""

    path: str | None = None
    url: str | None = None
    refresh: str | int | None = None


class Routing(Model):
    """`routing`: the route rules and what they share."""

    routes: tuple[Route, ...] = ()
    pbr_mark: Annotated[int, Field(gt=0, lt=0x10000)] = 512
    table: Annotated[int, Field(gt=0, lt=2**31)] = 200
    interfaces: Texts = ("wg-firezone",)
    domain_route_ttl: Annotated[int, Field(gt=0)] = 300
    clean_conntrack: bool = False
    db: str | None = None
    ws_port: int | None = None
    country_database: CountryDatabase = CountryDatabase()
    hints: Literal["learn", "strip"] = "learn"
    learn_scope: Literal["all", "client"] = "all"


class Exit(Model):
    """`exits.<tunnel>`: what else is to be said of a tunnel as an exit."""

    fallback: Texts = ()
    on_down: Literal["block", "default"] = "block"
    ipv6: Literal["auto", "route", "strip"] = "auto"


class Client(Model):
    """`clients.<name>` of the plain gateway."""

    public_key: PublicKey
    addresses: Annotated[tuple[Address, ...], BeforeValidator(_listed)]


class Dns(Model):
    """`dns`: where the recursor asks."""

    upstream: Annotated[tuple[Address, ...], BeforeValidator(_listed)] = ()
    forward: dict[str, Annotated[tuple[Address, ...], BeforeValidator(_listed)]] = {}
    exempt: Prefixes = ()
    dnssec: Literal["off", "process", "validate"] = "process"


class Image(Model):
    """`image`: where the container image comes from."""

    name: str | None = None
    source: Literal["preloaded", "build", "pull"] = "build"


class Docker(Model):
    """`docker`: whether MRVPN looks after the engine's settings."""

    manage: bool = True


class Oidc(Model):
    """`firezone.fz_oidc.<name>`."""

    client_id: str
    client_secret: str | Secret
    discovery_document_uri: str = "https://accounts.google.com/.well-known/openid-configuration"
    redirect_uri: str | None = None
    response_type: str = "code"
    scope: str = "openid email profile"


class Firezone(Model):
    """`firezone`: the gateway's settings, in MRVPN2's names."""

    fz_client_subnet: Prefix = "10.11.0.0/24"
    fz_client_subnet6: Prefix | None = None
    fz_admin: str = "fz-admin@localhost"
    fz_admin_password: str | Secret | None = None
    fz_wireguard_port: Port = 51620
    fz_firezone_dir: str | None = None
    fz_firezone_https: bool = True
    fz_server_url: str | None = None
    fz_custom_labels: tuple[Any, ...] = ()
    fz_mgmt_subnet: Prefix = "172.30.55.0/24"
    fz_cleanup: bool = False
    fz_ospf: bool = True
    fz_oidc: dict[str, Oidc] = {}
    fz_client_gateway: str | None = None
    fz_client_allowed_subnets: Any = None


class Description(Model):
    """Everything under `mrvpn:`."""

    entrypoint: str | None = None
    gateway: Literal["firezone", "wireguard"] = "firezone"
    mrvpn_root: str = "/opt/mrvpn"
    mrvpn_base_dir: str | None = None
    tunnels: dict[str, Tunnel] = {}
    hosts: dict[str, HostOptions] = {}
    routing: Routing = Routing()
    services: dict[str, Texts] = {}
    firezone: Firezone = Firezone()
    exits: dict[str, Exit] = {}
    clients: dict[str, Client] = {}
    dns: Dns = Dns()
    image: Image = Image()
    docker: Docker = Docker()
    port_range: tuple[Port, Port] | None = (55800, 55899)
