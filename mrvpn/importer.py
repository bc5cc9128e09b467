"""MRVPN2's configuration and Ansible's inventory -> a description's files, its secrets, and what was not carried over.

Knows: MRVPN2's keys and what Ansible puts around them. Must not know: where files are written, random numbers.
Values are moved, not judged: the result is checked as any description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from mrvpn.countries import ALIASES
from mrvpn.patterns import problem
from mrvpn.schema.model import Description, Firezone

MAX_BYTES = 10 * 2**20
MAX_VALUES = 200_000
ROUTEROS = "community.routeros.routeros"
LINE = 110  # the longest map that is written in one line


class NotImportable(Exception):
    """The input is no MRVPN2 configuration; the text says why."""


@dataclass
class Imported:
    """The files of the description by name, the secrets by name, and notes on what a person has to look at."""

    files: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Vault(str):
    """A value that Ansible would decrypt."""


class _Loader(yaml.SafeLoader):
    pass


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if suffix == "vault":
        return _Vault()
    if suffix == "unsafe" and isinstance(node, yaml.ScalarNode):
        return node.value
    raise NotImportable(f"line {node.start_mark.line + 1}: the tag !{suffix} is not read")


_Loader.add_multi_constructor("!", _tagged)


def import_config(config: str, inventory: str | None = None) -> Imported:
    """The description of an MRVPN2 configuration (YAML text) and its inventory. Raises NotImportable."""
    return _Importer(_load(config, "the configuration"), _hosts_of(inventory)).run()


def _load(text: str, what: str) -> dict[str, Any]:
    if len(text) > MAX_BYTES:
        raise NotImportable(f"{what} has more than {MAX_BYTES} bytes")
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise NotImportable(f"{what} is not YAML: line {line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise NotImportable(f"{what} is not YAML: {type(error).__name__}") from None
    if not isinstance(tree, dict):
        raise NotImportable(f"{what} holds no map")
    for number, _ in enumerate(_walk(tree)):
        if number > MAX_VALUES:
            raise NotImportable(f"{what} holds more than {MAX_VALUES} values")
    return tree


def _walk(tree: Any) -> Iterator[Any]:
    """Every value; aliases are walked as often as they stand, so that a bomb counts as what it becomes."""
    todo = [tree]
    while todo:
        value = todo.pop()
        yield value
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _hosts_of(inventory: str | None) -> dict[str, dict[str, Any]]:
    """Every host's variables of a YAML inventory, its groups' among them."""
    found: dict[str, dict[str, Any]] = {}
    if inventory is None:
        return found
    todo: list[tuple[Any, dict[str, Any]]] = [
        (group, {}) for group in _load(inventory, "the inventory").values() if isinstance(group, dict)
    ]
    while todo:
        group, inherited = todo.pop(0)
        if not isinstance(group, dict):
            continue
        common = {**inherited, **_dict(group.get("vars"))}
        for host, options in _dict(group.get("hosts")).items():
            found[str(host)] = {**found.get(str(host), {}), **common, **_dict(options)}
        todo += [(child, common) for child in _dict(group.get("children")).values()]
    return found


class _Importer:
    def __init__(self, tree: dict[str, Any], inventory: dict[str, dict[str, Any]]) -> None:
        for _ in range(2):
            for top in ("mrvpn", "mrvpn_config"):
                if isinstance(tree.get(top), dict) and len(tree) == 1:
                    tree = tree[top]
        self._tree = tree
        self._inventory = inventory
        self._out = Imported()

    def run(self) -> Imported:
        tree = self._tree
        if not isinstance(tree.get("tunnels"), dict):
            raise NotImportable("there is no map `tunnels`: is this a configuration of MRVPN2?")
        known = {"tunnels", "routing", "services", "entrypoint", "firezone", "mrvpn_root", "mrvpn_base_dir"}
        new = set(Description.model_fields) - known
        for key in sorted(tree.keys() - known - new, key=str):
            self._note(f"{key}: is no key of MRVPN2: left out")
        entry = self._plain(tree.get("entrypoint"), "entrypoint")
        network = {"entrypoint": entry} if entry is not None else {}
        root = self._plain(tree.get("mrvpn_root"), "mrvpn_root")
        tunnels = self._tunnels(tree["tunnels"], str(root or Description.model_fields["mrvpn_root"].default))
        network |= {"mrvpn_root": root} if root not in (None, Description.model_fields["mrvpn_root"].default) else {}
        network |= {key: self._clean(tree[key], key) for key in sorted(new & tree.keys()) if key != "hosts"}
        hosts = self._hosts(tunnels, self._map(tree.get("hosts"), "hosts"), str(entry))
        if hosts:
            network["hosts"] = hosts
        self._write("network.yaml", "Hosts: a host's id is its minion id.", network)
        self._write("tunnels.yaml", "One entry holds both ends of a link.", {"tunnels": tunnels})
        if tree.get("routing"):
            self._write(
                "routing.yaml",
                "Which destination leaves by which tunnel.",
                {"routing": self._routing(self._map(tree["routing"], "routing"))},
            )
        gateway = {"services": self._clean(tree["services"], "services")} if tree.get("services") else {}
        if tree.get("firezone"):
            gateway["firezone"] = self._firezone(self._map(tree["firezone"], "firezone"))
        if gateway:
            self._write("gateway.yaml", "What clients connect to.", gateway)
        return self._out

    def _note(self, text: str) -> None:
        if text not in self._out.notes:
            self._out.notes.append(text)

    def _map(self, value: Any, path: str) -> dict[str, Any]:
        """A map; an empty one, with a note, in place of anything else."""
        if value is not None and not isinstance(value, dict):
            self._note(f"{path}: is no map: left out")
        return _dict(value)

    def _write(self, name: str, head: str, tree: dict[str, Any]) -> None:
        self._out.files[name] = f"# {head}\n{dump({'mrvpn': tree})}"

    def _plain(self, value: Any, path: str) -> Any:
        """A value fit for plain YAML; None with a note where Ansible would have computed it."""
        if isinstance(value, _Vault):
            self._note(f"{path}: Ansible's vault holds it: put the value into the secrets file by hand")
            return None
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            self._note(f"{path}: is an expression ({value.strip()}), which is not computed: write the value")
            return None
        return value

    def _clean(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            found = {str(k): self._clean(v, f"{path}.{k}") for k, v in value.items()}
            return {k: v for k, v in found.items() if v is not None}
        if isinstance(value, list):
            return [v for n, item in enumerate(value) if (v := self._clean(item, f"{path}[{n}]")) is not None]
        return self._plain(value, path)

    def _secret(self, value: Any, name: str, path: str) -> dict[str, str] | None:
        """`{secret: NAME}` for a value, which goes into the secrets."""
        if value is None or (isinstance(value, dict) and set(value) == {"secret"}):
            return value
        name = re.sub(r"[^A-Za-z0-9_]", "_", name)
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            self._note(f"{path}: is an expression of Ansible's: put the value into the secrets file as {name}")
            self._out.secrets[name] = ""
        elif isinstance(value, _Vault):
            self._note(f"{path}: Ansible's vault holds it: put the value into the secrets file as {name}")
            self._out.secrets[name] = ""
        else:
            self._out.secrets[name] = str(value)
        return {"secret": name}

    def _tunnels(self, tunnels: dict[str, Any], root: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, tunnel in tunnels.items():
            tunnel = self._map(tunnel, f"tunnels.{name}")
            ends = tunnel.get("hosts")
            if not isinstance(ends, dict):
                ends = {k: v for k, v in tunnel.items() if k != "subnet" and isinstance(v, dict)}
            rest = {k: v for k, v in tunnel.items() if k not in ends and k != "hosts"}
            found[str(name)] = {
                **self._clean(rest, f"tunnels.{name}"),
                "hosts": {str(host): self._end(str(name), str(host), end, root) for host, end in ends.items()},
            }
        return found

    def _end(self, tunnel: str, host: str, end: Any, root: str) -> dict[str, Any]:
        path = f"tunnels.{tunnel}.hosts.{host}"
        end = dict(self._map(end, path))
        if end.pop("private", None) is not None:
            keep = f"write the key into {root.rstrip('/')}/wg_tunnels/{tunnel}/private.key on {host} (0600)"
            if self._is_router(host, [end]):
                keep = f"the router keeps the one it has; else /interface/wireguard/set {tunnel} private-key=... there"
            self._note(f"{path}.private: is not copied: {keep}, or a new one is made there")
        psk = self._secret(end.pop("psk", None), f"psk_{tunnel}_{host}", f"{path}.psk")
        if end.get("compose_service") and end.pop("autostart", None):
            self._note(f"{path}.autostart: is left out beside compose_service, whose stack starts it")
        if end.get("masquerade"):
            self._note(
                "masquerade: hides only what leaves by an interface that is neither a tunnel nor the gateway; traffic "
                "within the mesh is never masqueraded"
            )
        found: dict[str, Any] = self._clean(end, path)
        if found.get("table") is False:
            found["table"] = "off"
        return {**found, **({"psk": psk} if psk else {})}

    def _hosts(self, tunnels: dict[str, Any], described: dict[str, Any], entrypoint: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for host in dict.fromkeys(host for tunnel in tunnels.values() for host in tunnel["hosts"]):
            variables = self._inventory.get(host, {})
            options: dict[str, Any] = dict(self._map(described.get(host), f"hosts.{host}"))
            address = self._plain(variables.get("ansible_host"), f"inventory: {host}.ansible_host")
            ends = {name: tunnel["hosts"][host] for name, tunnel in tunnels.items() if host in tunnel["hosts"]}
            bare = [name for name, end in ends.items() if end.get("expose") and ":" not in str(end["expose"])]
            if address and (bare or host == entrypoint):
                options.setdefault("endpoint", str(address))
            if bare and "endpoint" not in options:
                self._note(f"hosts.{host}.endpoint: is not known, and {', '.join(bare)} listen there: write it")
            if self._is_router(host, ends.values()):
                options.setdefault("os", "routeros")
                if not self._inventory:
                    self._note(f"hosts.{host}.os: is taken for routeros, as it has RouterOS commands")
            if (
                options.get("os") == "routeros"
                and {"ansible_ssh_user", "ansible_ssh_pass", "ansible_password"} & variables.keys()
            ):
                self._note(
                    f"inventory: {host}: its user and password are not copied: they go to the salt-proxy of the router"
                )
            if options:
                found[host] = options
            if self._inventory and host not in self._inventory:
                self._note(f"inventory: has no host {host}")
        self._note("hosts: their ids become minion ids: `salt-key` must list the same names")
        return found

    def _is_router(self, host: str, ends: Iterable[dict[str, Any]]) -> bool:
        """By the inventory; without one by the RouterOS commands of its ends."""
        if self._inventory:
            return str(self._inventory.get(host, {}).get("ansible_network_os", "")) == ROUTEROS
        return any(end.get("mikrotik_cleanup") or end.get("mikrotik_deploy") for end in ends)

    def _routing(self, routing: dict[str, Any]) -> dict[str, Any]:
        found = {k: self._clean(v, f"routing.{k}") for k, v in routing.items() if k not in ("routes", "db", "ws_port")}
        for key in ("db", "ws_port"):
            if key in routing:
                self._note(f"routing.{key}: has no meaning here: left out")
        found["routes"] = [
            self._route(route, f"routing.routes[{number}]")
            for number, route in enumerate(_listed(routing.get("routes")))
            if self._map(route, f"routing.routes[{number}]")
        ]
        return {k: v for k, v in found.items() if v is not None}

    def _route(self, route: dict[str, Any], path: str) -> dict[str, Any]:
        names = {"geo": "country", "domains": "domain", "static": "net", "ttl": "route_ttl"}
        found = {names.get(k, k): self._clean(v, f"{path}.{k}") for k, v in route.items()}
        if "country" in found:
            found["country"] = _one([self._country(c, path) for c in _listed(found["country"])])
        for pattern in _listed(found.get("domain")):
            told = problem(str(pattern))
            if told:
                self._note(f"{path}.domain: {told}")
            elif not re.search(r"(\$|\.\*|\.\+)\)?$", str(pattern)):
                self._note(
                    "domain: MRVPN2 matched the beginning of a name, here the whole must match: "
                    r"`.*\.ru` no longer catches www.rust-lang.org (for the old meaning, add `.*` at the end)"
                )
        if "country" in found and "net" in found:
            self._note(
                f"{path}: a prefix now wins over a country whatever the database's grain; MRVPN2 took the longer"
            )
        for key in ("domain", "net"):
            if key in found:
                found[key] = _one(_listed(found[key]))
        return {k: v for k, v in found.items() if v is not None}

    def _country(self, value: Any, path: str) -> str:
        text = "NO" if value is False else str(value)  # YAML reads Norway's code as false
        match = re.fullmatch(r"(?:country\s*=\s*)?['\"]?([A-Za-z]{2})['\"]?", text.strip())
        code = match[1].upper() if match else text
        if code in ALIASES:
            self._note(f"{path}: {code} is written {ALIASES[code]} (ISO 3166)")
        return ALIASES.get(code, code)

    def _firezone(self, firezone: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in firezone.items():
            path = f"firezone.{key}"
            if key not in Firezone.model_fields:
                self._note(f"{path}: is no key of MRVPN2: left out")
            elif key == "fz_admin_password":
                found[key] = self._secret(value, key, path)
            elif key == "fz_oidc" and isinstance(value, dict):
                found[key] = {
                    str(name): self._oidc(str(name), self._map(options, f"{path}.{name}"))
                    for name, options in value.items()
                }
            else:
                found[str(key)] = self._clean(value, path)
        return {k: v for k, v in found.items() if v is not None}

    def _oidc(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        path = f"firezone.fz_oidc.{name}"
        secret = self._secret(options.get("client_secret"), f"oidc_{name}", f"{path}.client_secret")
        rest = {k: v for k, v in options.items() if k != "client_secret"}
        return {**self._clean(rest, path), "client_secret": secret}


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


class _Dumper(yaml.SafeDumper):
    """Small maps and lists in one line, as people write the description."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        leaf = all(not isinstance(v, dict) or set(v) == {"secret"} for v in dict(mapping).values())
        lists = all(not isinstance(v, list) or len(v) < 5 for v in dict(mapping).values())
        short = leaf and lists and len(json.dumps(dict(mapping), default=str)) < LINE
        return super().represent_mapping(tag, mapping, flow_style=short)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = all(not isinstance(v, (dict, list)) for v in sequence)
        short = plain and len(json.dumps(list(sequence), default=str)) < LINE
        return super().represent_sequence(tag, sequence, flow_style=short)


def dump(tree: Any) -> str:
    """A tree as YAML for people."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True)
