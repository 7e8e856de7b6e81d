"""A graph as a reader wants it: a table of its blocks, its counts, and nodes and edges for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specc.ir.body import Body
from specc.ir.cost import fixed, macs_of, params_of
from specc.ir.dims import Symbolic
from specc.ir.graph import Graph
from specc.ir.types import TensorType


@dataclass
class Block:
    """A row of the table: everything whose path begins with `path`."""

    path: str
    nodes: int = 0
    params: int = 0
    macs: int = 0
    type: TensorType | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "nodes": self.nodes,
            "params": self.params,
            "macs": self.macs,
            "type": str(self.type) if self.type else None,
        }


def blocks(graph: Graph, depth: int) -> list[Block]:
    """The blocks of a specialized graph down to `depth` names, in the order in which they first run.

    A number belongs to the name before it: `stages.2.blocks.3.conv1` at depth 2 is in `stages.2.blocks.3`.
    """
    rows: dict[str, Block] = {}
    frozen = graph.frozen()
    for identity in graph.order():
        node = graph.node(identity)
        if node.op == "input":
            continue
        row = rows.setdefault(prefix(node.path, depth), Block(prefix(node.path, depth)))
        row.params += fixed(params_of(graph, identity))
        if identity not in frozen:
            row.nodes += 1
            row.macs += fixed(macs_of(graph, identity))
            row.type = node.types[0]
    return list(rows.values())


def prefix(path: str, depth: int) -> str:
    """The first `depth` names of a path."""
    names, kept = 0, []
    for part in path.split("."):
        names += not part.isdigit()
        if names > depth:
            break
        kept.append(part)
    return ".".join(kept)


def to_json(graph: Graph) -> dict[str, Any]:
    """Nodes in order and edges, for programs."""
    nodes = []
    for identity in graph.order():
        node = graph.node(identity)
        nodes.append(
            {
                "id": identity,
                "op": node.op,
                "path": node.path,
                "group": node.group,
                "attributes": {name: _plain(value) for name, value in node.attrs.items()},
                "types": [str(type) for type in node.types],
                "place": str(node.span) if node.span else None,
            }
        )
    edges = [
        {"source": operand.node, "result": operand.result, "target": identity, "position": position}
        for identity in graph.order()
        for position, operand in enumerate(graph.operands(identity))
    ]
    outputs = [{"node": value.node, "result": value.result} for value in graph.outputs]
    return {"name": graph.name, "defaults": graph.defaults, "nodes": nodes, "edges": edges, "outputs": outputs}


def _plain(value: Any) -> Any:
    if isinstance(value, (TensorType, Symbolic)):
        return str(value)
    if isinstance(value, Body):
        return to_json(value.graph)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def signature(graph: Graph) -> tuple[dict[str, str], list[str]]:
    """The types of inputs by name, and of outputs."""
    nodes = [graph.node(i) for i in graph.inputs]
    return {n.attrs["name"]: str(n.types[0]) for n in nodes}, [str(graph.type(value)) for value in graph.outputs]


def table(rows: Sequence[Mapping[str, str]], right: Sequence[str] = ()) -> str:
    """Rows as aligned columns under their names; those in `right` are aligned to the right."""
    names = list(rows[0]) if rows else []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    lines = []
    for row in [{name: name for name in names}, *rows]:
        cells = [row[n].rjust(widths[n]) if n in right else row[n].ljust(widths[n]) for n in names]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def abbreviated(count: float) -> str:
    """Three digits and a suffix: 8802912 as 8.80M."""
    for scale, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= scale:
            scaled = count / scale
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled))))}f}{suffix}"
    return f"{count:g}"
