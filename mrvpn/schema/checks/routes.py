"""Route rules, exits and lists: what they name must be there.

Knows: what a rule refers to. Must not know: which rule wins (topology).
"""

from __future__ import annotations

from mrvpn import marks, patterns
from mrvpn.countries import ALIASES, COUNTRIES, SETS
from mrvpn.schema.checks.near import inside, near, network
from mrvpn.schema.checks.tunnels import entrypoint_tunnels
from mrvpn.schema.model import DEFAULT_EXIT, Description, Route
from mrvpn.schema.source import Path_, Source


def check(source: Source, d: Description) -> None:
    """Adds what is wrong with rules and exits."""
    mine = dict.fromkeys(entrypoint_tunnels(d))
    for number, route in enumerate(d.routing.routes):
        path: Path_ = ("routing", "routes", number)
        if route.interface is not None:
            _exit(source, d, route.interface, mine, (*path, "interface"))
            _carries(source, d, route, path)
        if not (route.country or route.domain or route.suffix or route.net or route.list):
            source.problem(
                path, "matches nothing: give it country, domain, suffix, list or net", "no-match", absent=True
            )
        _countries(source, route, path)
        _names(source, d, route, path)
    _exits(source, d, mine)
    _lists(source, d, mine)
    _marks(source, d, mine)


def _exit(source: Source, d: Description, name: str, mine: dict[str, None], path: Path_) -> None:
    if name == DEFAULT_EXIT or source.unsure(("tunnels", name)) or source.unsure(("entrypoint",)):
        return
    if name not in mine:
        there = name in d.tunnels and d.entrypoint
        told = f"is no tunnel of the entrypoint, {d.entrypoint}" if there else "is no tunnel"
        source.problem(path, f"{name} {told}{near(name, [DEFAULT_EXIT, *mine])}", "unknown-exit")
    elif d.entrypoint and not d.tunnels[name].hosts[d.entrypoint].compose_service:
        message = (
            f"{name} is used as an exit, but its end at {d.entrypoint} is not in the gateway's namespace: "
            "give that end `compose_service: firezone`"
        )
        source.problem(path, message, "exit-outside")


def _carries(source: Source, d: Description, route: Route, path: Path_) -> None:
    """An exit whose far end takes no default carries only what its allowed_nets name."""
    tunnel = d.tunnels.get(route.interface or "")
    if tunnel is None or d.entrypoint not in tunnel.hosts or len(tunnel.hosts) < 2:
        return
    if source.touched(("tunnels", route.interface or "")):
        return
    nets = [network(p) for host, end in tunnel.hosts.items() if host != d.entrypoint for p in end.allowed_nets]
    wanted = [network(p) for p in route.net if network(p).prefixlen >= 8]
    default = any(n.prefixlen < 8 for n in nets)
    named = bool(wanted) and all(any(inside(w, n) for n in nets) for w in wanted)
    others = route.country or route.domain or route.suffix or route.list
    if not default and not (named and len(wanted) == len(route.net) and not others):
        message = f"{route.interface} carries only what its far end's allowed_nets name: add 0.0.0.0/0 there"
        source.problem((*path, "interface"), message, "exit-narrow", warning=True)


def _countries(source: Source, route: Route, path: Path_) -> None:
    for country in route.country:
        if country in ALIASES:
            message = f"{country} is read as {ALIASES[country]} (ISO 3166)"
            source.problem(path, message, "country-alias", warning=True)
        elif country not in COUNTRIES and country not in SETS:
            source.problem(path, f"{country} is no country code of ISO 3166", "unknown-country")


def _names(source: Source, d: Description, route: Route, path: Path_) -> None:
    for pattern in route.domain:
        told = patterns.problem(pattern)
        if told:
            source.problem(path, told, "pattern")
    for suffix in route.suffix:
        name = suffix.strip().strip(".")
        if not patterns.is_name(name):
            hint = f": write `domain: {suffix!r}` for a pattern" if any(c in suffix for c in "*\\^$()[]") else ""
            source.problem(path, f"{suffix!r} is no DNS name{hint}", "suffix")
    for name in route.list:
        _list(source, d, name, (*path, "list"))


def _list(source: Source, d: Description, name: str, path: Path_) -> None:
    if name not in d.lists and not source.unsure(("lists", name)):
        source.problem(path, f"there is no list {name}{near(name, d.lists)}", "unknown-list")


def _exits(source: Source, d: Description, mine: dict[str, None]) -> None:
    for name, options in d.exits.items():
        if name not in mine and not source.unsure(("tunnels", name)) and not source.unsure(("entrypoint",)):
            message = f"there is no exit {name}{near(name, mine)}"
            source.problem(("exits", name), message, "unknown-exit")
        for number, fallback in enumerate(options.fallback):
            _exit(source, d, fallback, mine, ("exits", name, "fallback", number))
    for circle in _circles({name: [f for f in e.fallback if f in d.exits] for name, e in d.exits.items()}):
        told = " -> ".join([*circle, circle[0]])
        source.problem(("exits", circle[0], "fallback"), f"goes round in a circle: {told}", "fallback-circle")


def _circles(follows: dict[str, list[str]]) -> list[list[str]]:
    """Each circle of a graph once, from its first node in the order of the map; without recursion."""
    done: set[str] = set()
    found: list[list[str]] = []
    for start in follows:
        trail: list[str] = []
        todo = [(start, iter(follows[start]))] if start not in done else []
        while todo:
            node, rest = todo[-1]
            if not trail or trail[-1] != node:
                trail.append(node)
            following = next(rest, None)
            if following is None:
                done.add(node)
                todo.pop()
                trail.pop()
            elif following in trail:
                found.append(trail[trail.index(following) :])
            elif following not in done:
                todo.append((following, iter(follows[following])))
    return found


def _lists(source: Source, d: Description, mine: dict[str, None]) -> None:
    for name in d.dns.bypass.lists:
        _list(source, d, name, ("dns", "bypass", "lists"))
    for name, options in d.lists.items():
        if (options.url is None) == (options.path is None):
            source.problem(("lists", name), "needs one of `url` and `path`", "list-place", absent=True)
        if options.exit is not None:
            _exit(source, d, options.exit, mine, ("lists", name, "exit"))
    database = d.routing.country_database
    if database.exit is not None:
        _exit(source, d, database.exit, mine, ("routing", "country_database", "exit"))


def _marks(source: Source, d: Description, mine: dict[str, None]) -> None:
    last = d.routing.pbr_mark + len(mine)
    if last > marks.MAX_EXIT_MARK:
        message = (
            f"{d.routing.pbr_mark} leaves no marks for {len(mine)} exits: at most {marks.MAX_EXIT_MARK - len(mine)}"
        )
        source.problem(("routing", "pbr_mark"), message, "marks")
    rules = sum(bool(v) for r in d.routing.routes for v in (r.country, r.domain, r.suffix, r.net, r.list))
    if 2 * rules > marks.MAX_RULES:
        source.problem(("routing", "routes"), f"{rules} rules; there are marks for {marks.MAX_RULES // 2}", "marks")
