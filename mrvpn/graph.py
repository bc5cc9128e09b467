"""The mesh drawn: hosts, tunnels, exits, what leaves by them. As Mermaid text, and as SVG without any program.

Knows: the network. Must not know: files, colours of terminals. The same network gives the same drawing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from html import escape

from mrvpn import patterns
from mrvpn.schema.model import DEFAULT_EXIT
from mrvpn.topology import Network

CLIENTS = "clients"
INTERNET = "internet"
MESH = 4  # ends of a tunnel up to which every pair gets a line
SHOWN = 4  # matches that a line of a label lists


@dataclass(frozen=True)
class Node:
    """A box: `column` from the left, by its distance from the clients."""

    id: str
    kind: str  # clients | entrypoint | exit | office | host | internet
    lines: tuple[str, ...]
    column: int


@dataclass(frozen=True)
class Edge:
    """A line between two boxes, with its label."""

    one: str
    other: str
    lines: tuple[str, ...]
    tunnel: bool


@dataclass(frozen=True)
class Graph:
    """What is drawn."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def graph(network: Network) -> Graph:
    """The drawing of a network."""
    d = network.description
    columns = _columns(network)
    exits = {
        e.name for e in network.exits[1:] if e.ipv4 or e.ipv6 or any(r.route.interface == e.name for r in network.rules)
    }
    ways_out = {host for name in exits for host in d.tunnels[name].hosts if host != d.entrypoint}
    nodes = [Node(CLIENTS, "clients", ("clients", *_some([*d.clients])), 0)] if d.entrypoint else []
    for host in network.hosts:
        options = d.hosts.get(host)
        lan = options.lan if options else ()
        kind = "entrypoint" if host == d.entrypoint else "office" if lan else "exit" if host in ways_out else "host"
        nodes.append(Node(host, kind, (host, *lan), columns[host]))
    edges = [Edge(CLIENTS, d.entrypoint, (d.gateway,), False)] if d.entrypoint else []
    for name, tunnel in d.tunnels.items():
        ends = sorted(tunnel.hosts, key=lambda host: columns[host])
        pairs = list(itertools.combinations(ends, 2)) if len(ends) <= MESH else [(ends[0], other) for other in ends[1:]]
        edges += [Edge(*pair, (name, *_matches(network, name)) if pair[0] == ends[0] else (), True) for pair in pairs]
    leaving = [host for host in network.hosts if host in ways_out and not (d.hosts.get(host) and d.hosts[host].lan)]
    if d.entrypoint:
        nodes.append(Node(INTERNET, "internet", ("internet",), max(columns.values(), default=0) + 1))
        edges += [Edge(host, INTERNET, (), False) for host in leaving]
        edges.append(Edge(d.entrypoint, INTERNET, tuple(_matches(network, DEFAULT_EXIT)) or ("anything else",), False))
    return Graph(tuple(nodes), tuple(edges))


def _columns(network: Network) -> dict[str, int]:
    """Each host's distance from the entrypoint in tunnels, plus one; what is not joined to it stands last."""
    d = network.description
    columns: dict[str, int] = {}
    border = [d.entrypoint] if d.entrypoint else list(network.hosts[:1])
    depth = 1
    while border:
        columns |= {host: depth for host in border if host}
        joined = [
            peer for host in border for name in network.ends.get(host or "", ()) for peer in d.tunnels[name].hosts
        ]
        border = [host for host in dict.fromkeys(joined) if host not in columns]
        depth += 1
    return {host: columns.get(host, depth) for host in network.hosts}


def _matches(network: Network, exit_: str) -> list[str]:
    """What leaves by an exit, a line for each kind."""
    found: dict[str, list[str]] = {}
    for rule in network.rules:
        if rule.route.interface != exit_:
            continue
        what = "anything else" if rule.kind == "default" else rule.field
        values = [_readable(value) for value in rule.values] if rule.field == "domain" else rule.values
        found.setdefault(what, []).extend(values)
    lines = []
    for what, values in found.items():
        if what == "anything else":
            lines.append(what)
            continue
        lines += [", ".join(_some(list(dict.fromkeys(values))))]
    return lines


def _readable(pattern: str) -> str:
    """`*.ru` for `.*\\.ru`; other patterns as they are."""
    shape = patterns.compile_pattern(pattern)
    if shape.name is None:
        return pattern
    return f"*.{shape.name}" if shape.below else shape.name


def _some(values: list[str]) -> list[str]:
    more = [f"and {len(values) - SHOWN} more"] if len(values) > SHOWN else []
    return [*values[:SHOWN], *more]


def mermaid(found: Graph) -> str:
    """The drawing as a Mermaid flowchart."""
    names = {node.id: f"n{number}" for number, node in enumerate(found.nodes)}
    shapes = {CLIENTS: ("([", "])"), INTERNET: ("((", "))")}
    lines = ["graph LR"]
    for node in found.nodes:
        left, right = shapes.get(node.kind, ("[", "]"))
        lines.append(f'    {names[node.id]}{left}"{_safe("<br>", node.lines)}"{right}:::{node.kind}')
    for edge in found.edges:
        arrow = "<==>" if edge.tunnel else "-->"
        label = f'|"{_safe("<br>", edge.lines)}"|' if edge.lines else ""
        lines.append(f"    {names[edge.one]} {arrow}{label} {names[edge.other]}")
    lines += [f"    classDef {kind} fill:{fill},stroke:#333" for kind, fill in FILLS.items()]
    return "\n".join(lines) + "\n"


def _safe(between: str, lines: tuple[str, ...]) -> str:
    # Mermaid knows entities by number: quotes and hashes would end or open something
    special = {'"': "#34;", "#": "#35;", "<": "#60;", ">": "#62;", "`": "#96;", "*": "#42;", "\\": "#92;"}
    return between.join("".join(special.get(c, c) for c in line) for line in lines)


FILLS = {
    "clients": "#fbb",
    "entrypoint": "#bbf",
    "exit": "#bfb",
    "office": "#fe9",
    "host": "#eee",
    "internet": "#f0f0f0",
}
Place = tuple[float, float, float, float]  # x, y, width, height
WIDTH, LINE, PAD, GAP, GUTTER, CHAR = 150, 16, 8, 28, 230, 7


def svg(found: Graph) -> str:
    """The drawing as SVG: columns from the clients to the internet, boxes in the order of the description."""
    places: dict[str, Place] = {}
    columns: dict[int, list[Node]] = {}
    for node in found.nodes:
        columns.setdefault(node.column, []).append(node)
    labels = {node.id: sum(len(e.lines) for e in found.edges if node.id == e.other) for node in found.nodes}

    def height(node: Node) -> float:
        return max(len(node.lines), labels[node.id]) * LINE + 2 * PAD

    tall = max((sum(height(n) + GAP for n in nodes) for nodes in columns.values()), default=0) + GAP
    for place, number in enumerate(sorted(columns)):
        y = (tall - sum(height(n) + GAP for n in columns[number]) + GAP) / 2
        for node in columns[number]:
            width = float(max(WIDTH, max(len(line) for line in node.lines) * CHAR + 2 * PAD))
            places[node.id] = (GAP + place * (WIDTH + GUTTER), y, width, height(node))
            y += height(node) + GAP
    wide = max((x + w for x, _, w, _ in places.values()), default=0) + GAP
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}" width="{wide:.0f}" '
        f'height="{tall:.0f}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    out += [_line(edge, places) for edge in found.edges]
    for node in found.nodes:
        x, y, width, high = places[node.id]
        out.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{high:.0f}" rx="6" fill="{FILLS[node.kind]}" '
            'stroke="#333"/>'
        )
        top = y + high / 2 - (len(node.lines) - 1) * LINE / 2 + 4
        for number, text in enumerate(node.lines):
            weight = ' font-weight="bold"' if number == 0 else ""
            out.append(_text(x + width / 2, top + number * LINE, text, f'text-anchor="middle"{weight}'))
    return "\n".join([*out, "</svg>"]) + "\n"


def _line(edge: Edge, places: dict[str, Place]) -> str:
    """A curve between two boxes; its label stands at the far end, where lines lie apart."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = places[edge.one], places[edge.other]
    same = abs(x1 - x2) < 1  # two of one column: an arc on their right
    ax, ay, bx, by = x1 + w1, y1 + h1 / 2, x2 + (w2 if same else 0), y2 + h2 / 2
    bend = GUTTER / 3 if same else (bx - ax) / 2
    turn = bx + bend if same else bx - bend
    look = 'stroke="#369" stroke-width="3"' if edge.tunnel else 'stroke="#666" stroke-dasharray="4 3"'
    path = f"M {ax:.0f} {ay:.0f} C {ax + bend:.0f} {ay:.0f}, {turn:.0f} {by:.0f}, {bx:.0f} {by:.0f}"
    parts = [f'<path d="{path}" fill="none" {look}/>']
    x, anchor = (bx + bend / 2, "start") if same else (bx - 10, "end")
    top = by - (len(edge.lines) - 1) * LINE / 2 - (6 if len(edge.lines) == 1 else -4)
    halo = f'text-anchor="{anchor}" paint-order="stroke" stroke="white" stroke-width="3"'
    parts += [_text(x, top + number * LINE, text, halo) for number, text in enumerate(edge.lines)]
    return "\n".join(parts)


def _text(x: float, y: float, text: str, more: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(text)}</text>'
