"""The description as typed, frozen values: every key, its type and default.

Knows: the keys, in MRVPN2's spellings and ours. Must not know: YAML, how keys relate to each other (checks.py), what
follows from them (topology).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DEFAULT_EXIT = "_DEFAULT"
HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)


KEEPS_NULL = frozenset({"port_range"})  # where null says something other than an absent key
# keys whose values no message repeats; below `fz_configuration` those of Firezone's API
SECRET_KEYS = frozenset({"private", "psk", "fz_admin_password", "client_secret", "password", "fz_configuration"})


class Model(BaseModel):
    """Frozen; an unknown key is a problem; a key without a value is as good as none."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, dict) and None in value.values():
            return {k: v for k, v in value.items() if v is not None or k in KEEPS_NULL}
        return value


def _listed(value: Any) -> Any:
    return [] if value is None else value if isinstance(value, list) else [value]


def _split(value: Any) -> Any:
    """A list, or MRVPN2's one text with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else _listed(value)


def _network_of(value: Any) -> str:
    """A prefix; host bits are cut off, as MRVPN2 does in allowed_nets."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no prefix: write it as text, such as 10.9.20.0/24")
    try:
        return _canonical(value.strip())
    except ValueError:
        raise ValueError(f"{value!r} is no prefix, such as 10.9.20.0/24 (names go into `domain` or `suffix`)") from None


@functools.lru_cache(maxsize=4096)  # most are 0.0.0.0/0 and ::/0
def _canonical(prefix: str) -> str:
    return str(ipaddress.ip_network(prefix, strict=False))


def _prefix(value: Any) -> str:
    """A prefix or address in canonical text; host bits are a problem, as the writer may have meant another network."""
    found = _network_of(value)
    try:
        ipaddress.ip_network(value.strip())
    except ValueError:
        raise ValueError(f"{value} names a host of a network: write {found}") from None
    return found


def _address(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no address: write it as text, such as 10.9.20.1")
    try:
        return str(ipaddress.ip_interface(value.strip()).ip)
    except ValueError:
        raise ValueError(f"{value!r} is no address, such as 10.9.20.1") from None


def key_problem(value: str) -> str | None:
    """Why a text is no WireGuard key, None where it is one; it is not repeated."""
    try:
        raw = base64.b64decode(value, validate=True)
    except ValueError:  # binascii.Error is one; so is text beyond ASCII
        raw = b""
    return None if len(raw) == 32 else "is no WireGuard key: 32 bytes in base64, 44 characters that end in ="


def _key(value: str) -> str:
    told = key_problem(value)
    if told:
        raise ValueError(told)
    return value


def _country(value: Any) -> str:
    found = re.fullmatch(r"\s*country\s*=\s*['\"]?([A-Za-z]{2})['\"]?\s*|([A-Za-z]{2})", str(value), re.ASCII)
    if not found:
        raise ValueError(f"{value!r} is no country: two letters such as RU, or MRVPN2's country='RU'")
    return (found[1] or found[2]).upper()


def _table(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "NO":
        if value is False or value == "NO":
            return "off"
        raise ValueError(f'{value} is no table: write "off", or a table\'s name on a RouterOS host')
    return str(value)


def _host_part(value: Any) -> str:
    """An address or a DNS name, without brackets; a port does not belong here."""
    text = str(value).strip().removeprefix("[").removesuffix("]")
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text))
    if not isinstance(value, str) or not HOST_NAME.fullmatch(text) or text.replace(".", "").isdigit():
        raise ValueError(f"{value!r} is neither an address nor a DNS name (without a port)")
    return text


def _secret(value: Any) -> Any:
    # says nothing of the value: it may be a secret in the wrong form
    if isinstance(value, dict) and set(value) == {"secret"} and isinstance(value["secret"], str):
        return Secret(secret=value["secret"])
    if not isinstance(value, (str, Secret)):
        raise ValueError("is no secret: write {secret: NAME}, or text")
    return value


def _with_secrets(value: Any) -> Any:
    """A map of any depth in which `{secret: NAME}` may stand for a value."""
    return {k: _filled(v, str(k)) for k, v in value.items()} if isinstance(value, dict) else value


def _filled(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        if set(value) == {"secret"}:
            try:
                return _secret(value)
            except ValueError as error:
                raise ValueError(f"{path} {error}") from None
        return {k: _filled(v, f"{path}.{k}") for k, v in value.items()}
    return [_filled(v, f"{path}.{n}") for n, v in enumerate(value)] if isinstance(value, list) else value


Prefix = Annotated[str, BeforeValidator(_prefix)]
Network = Annotated[str, BeforeValidator(_network_of)]
Address = Annotated[str, BeforeValidator(_address)]
PublicKey = Annotated[str, AfterValidator(_key)]
Prefixes = Annotated[tuple[Prefix, ...], BeforeValidator(_listed)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_listed)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Countries = Annotated[tuple[Annotated[str, BeforeValidator(_country)], ...], BeforeValidator(_listed)]
HostPart = Annotated[str, BeforeValidator(_host_part)]
Port = Annotated[int, Field(ge=1, le=65535)]
Mtu = Annotated[int, Field(ge=1280, le=9000)]


class Secret(Model):
    """`{secret: NAME}`: resolved on the master, never from git."""

    secret: str


SecretText = Annotated[str | Secret, BeforeValidator(_secret)]


class Expose(Model):
    """Where a host listens in a tunnel: its port, and the host part of the endpoint where one was written."""

    port: Port
    host: HostPart | None = None


def _expose(value: Any) -> Any:
    """`55824`, "55824", "192.0.2.1:55824", "[2001:db8::1]:55824", "vpn.example.net:55824"."""
    if value is None or isinstance(value, (dict, Expose)):
        return value
    host, colon, port = str(value).strip().rpartition(":")
    bare = ":" in host and not host.startswith("[")
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,5}", port) or (colon and not host) or bare:
        raise ValueError(f"{value!r} is no port: write 55824, or HOST:PORT with an IPv6 address in brackets")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"{port} is no port: 1 to 65535")
    return Expose(port=int(port), host=_host_part(host) if host else None)


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
    private: SecretText | None = None
    psk: SecretText | None = None
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
            ends = {k: v for k, v in value.items() if k != "subnet" and (v is None or isinstance(v, dict))}
            if ends:
                return {**{k: v for k, v in value.items() if k not in ends}, "hosts": ends}
        return value


class HostOptions(Model):
    """`hosts.<id>`: what is true of a host in all its tunnels."""

    endpoint: HostPart | None = None
    os: Literal["linux", "routeros"] = "linux"
    lan: Prefixes = ()


class Route(Model):
    """`routing.routes[]`: what goes through `interface`; without it the rule only sets a TTL."""

    interface: str | None = None
    country: Countries = ()
    domain: Texts = ()
    suffix: Texts = ()
    net: Networks = ()
    list: Texts = ()
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


def _seconds(value: Any) -> Any:
    """Seconds of 86400, "24h", "7d", "30m" or "90s"."""
    found = re.fullmatch(r"([0-9]{1,9})\s*([smhd]?)", str(value).strip())
    if isinstance(value, bool) or not found or not int(found[1]):
        raise ValueError(f"{value!r} is no duration: write 24h, 7d, 30m, or seconds")
    return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


Duration = Annotated[int, BeforeValidator(_seconds), Field(ge=60)]


class CountryDatabase(Model):
    """`routing.country_database`."""

    path: str | None = None
    url: str | None = None
    refresh: Duration | None = None
    checksum: str | None = None
    exit: str | None = None


class NameList(Model):
    """`lists.<name>`: names and prefixes kept elsewhere; the daemon reads and refreshes them, `check` never does."""

    url: str | None = None
    path: str | None = None
    format: Literal["auto", "plain", "hosts", "dnsmasq", "clash", "geosite"] = "auto"
    refresh: Duration | None = None
    checksum: str | None = None
    exit: str | None = None
    attributes: Texts = ()


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


class Health(Model):
    """`exits.<tunnel>.health`: how the exit is judged besides its interface."""

    route: Prefix | None = None
    icmp: Annotated[tuple[Address, ...], BeforeValidator(_listed)] = ()
    http: Annotated[tuple[Annotated[str, Field(pattern=r"^http://")], ...], BeforeValidator(_listed)] = ()
    dns: Annotated[tuple[Address, ...], BeforeValidator(_listed)] = ()
    handshake: Annotated[int, Field(ge=1)] | None = None
    interval: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] | None = None
    timeout: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] | None = None
    down_after: Annotated[int, Field(ge=1)] | None = None
    up_after: Annotated[int, Field(ge=1)] | None = None
    grace: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] | None = None


class Exit(Model):
    """`exits.<tunnel>`: what else is to be said of a tunnel as an exit."""

    fallback: Texts = ()
    on_down: Literal["block", "default"] = "block"
    ipv6: Literal["auto", "route", "strip"] = "auto"
    health: Health | None = None


class Client(Model):
    """`clients.<name>` of the plain gateway."""

    public_key: PublicKey
    addresses: Annotated[tuple[Address, ...], BeforeValidator(_listed)]


class Bypass(Model):
    """`dns.bypass`: whether clients are kept from resolvers elsewhere, and which are known besides those shipped."""

    enabled: bool = True
    lists: Texts = ()


class Dns(Model):
    """`dns`: where the recursor asks, and that clients ask it."""

    upstream: Annotated[tuple[Address, ...], BeforeValidator(_listed)] = ()
    forward: dict[str, Annotated[tuple[Address, ...], BeforeValidator(_listed)]] = {}
    exempt: Prefixes = ()
    bypass: Bypass = Bypass()
    dnssec: Annotated[Literal["off", "process", "validate"], BeforeValidator(lambda v: "off" if v is False else v)] = (
        "process"
    )


class Image(Model):
    """`image`: where the container image comes from."""

    name: str | None = None
    source: Literal["preloaded", "build", "pull"] = "build"


class Docker(Model):
    """`docker`: whether MRVPN installs the engine and looks after its settings, and where it comes from."""

    manage: bool = True
    source: Literal["distribution", "vendor"] = "distribution"


class Oidc(Model):
    """`firezone.fz_oidc.<name>`."""

    client_id: str
    client_secret: SecretText
    discovery_document_uri: str = "https://accounts.google.com/.well-known/openid-configuration"
    redirect_uri: str | None = None
    response_type: str = "code"
    scope: str = "openid email profile"
    label: str | None = None
    auto_create_users: bool = False


class Firezone(Model):
    """`firezone`: the gateway's settings, in MRVPN2's names."""

    fz_client_subnet: Prefix = "10.11.0.0/24"
    fz_client_subnet6: Prefix | None = None
    fz_admin: str = "fz-admin@localhost"
    fz_admin_password: SecretText | None = None
    fz_wireguard_port: Port = 51620
    fz_firezone_dir: str | None = None
    fz_firezone_https: bool = True
    fz_server_url: str | None = None
    fz_custom_labels: tuple[Any, ...] = ()
    fz_mgmt_subnet: Prefix = "172.30.55.0/24"
    fz_cleanup: bool = False
    fz_ospf: bool = True
    fz_oidc: dict[str, Oidc] = {}
    fz_client_gateway: Annotated[str | None, BeforeValidator(lambda v: None if v is None else _address(v))] = None
    fz_client_allowed_subnets: Annotated[tuple[Network, ...], BeforeValidator(_split)] = ()
    # beside MRVPN2's
    fz_client_dns: Annotated[tuple[Address, ...], BeforeValidator(_split)] = ()
    fz_images: dict[Literal["firezone", "caddy", "postgres", "autoheal"], str] = {}
    fz_autoheal: bool = False
    fz_conntrack_log: bool = False
    fz_telemetry: bool = False
    fz_connectivity_checks: bool = False
    fz_configuration: Annotated[dict[str, Any], BeforeValidator(_with_secrets)] = {}


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
    lists: dict[str, NameList] = {}
    clients: dict[str, Client] = {}
    dns: Dns = Dns()
    image: Image = Image()
    docker: Docker = Docker()
    port_range: tuple[Port, Port] | None = (55800, 55899)
