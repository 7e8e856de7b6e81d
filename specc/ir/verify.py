"""The verifier: the invariants that every graph holds, before and after every pass.

1. The structure is acyclic; every edge carries a result that its source has; operands are numbered 0, 1, ...
2. Every operator exists, takes its operands and attributes, and the recorded types are those that it infers.
3. Names of inputs and keys of parameters are unique. Outputs exist. Every dimension of a node's type is made of
   dimensions of the inputs.
4. The nodes of a group are live, and the group is convex: no path leaves it and comes back.
5. A graph inside a node holds all of this too; its dimensions may be those of the graph around, and its activations
   lie plainly.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import networkx as nx

from specc import ops
from specc.diagnostics import Diagnostic, Label, SpeccError
from specc.ir.body import bodies
from specc.ir.graph import Graph
from specc.ops.record import Illegal


def verify(graph: Graph) -> None:
    """Raises `SpeccError` with one S0701 for every invariant that does not hold."""
    found = _broken_invariants(graph, frozenset())
    if found:
        raise SpeccError(*found)


def _broken_invariants(graph: Graph, around: frozenset[str]) -> list[Diagnostic]:
    """What is wrong with `graph`, which may use the dimensions `around` it."""
    graph = replace(graph, _operands={}, _order=None, _frozen=None)  # what the graph keeps is no witness
    found = _structure(graph)
    if found:
        return found
    known = around | graph.symbols()
    for identity, body in bodies(graph):
        found += _broken_invariants(body.graph, known)
        if any(type.layout for inner in body.graph.structure for type in body.graph.node(inner).types):
            found.append(_broken(graph, identity, "a tensor of its body lies in blocks"))
    return [*found, *_types(graph, known), *_names(graph), *_groups(graph)]


def _broken(graph: Graph, identity: int | None, message: str) -> Diagnostic:
    labels: tuple[Label, ...] = ()
    if identity is not None and identity in graph.structure:
        node = graph.node(identity)
        message = f"node {identity} (`{node.op}`{f' at {node.path}' if node.path else ''}): {message}"
        labels = (Label(node.span),) if node.span else ()
    return Diagnostic("S0701", message, labels)


def _structure(graph: Graph) -> list[Diagnostic]:
    found = []
    for identity, data in graph.structure.nodes(data=True):
        if "node" not in data or data["node"].op not in ops.OPERATORS:
            return [Diagnostic("S0701", f"node {identity} applies no known operator")]
    if not nx.is_directed_acyclic_graph(graph.structure):
        cycle = nx.find_cycle(graph.structure)
        return [_broken(graph, cycle[0][0], "is part of a cycle")]
    for source, user, key, data in graph.structure.edges(keys=True, data=True):
        if not 0 <= data["result"] < len(graph.node(source).types):
            found.append(
                _broken(graph, user, f"operand {key} is result {data['result']} of node {source}: there is none")
            )
    for identity in graph.structure:
        keys = sorted(key for _, _, key in graph.structure.in_edges(identity, keys=True))
        if keys != list(range(len(keys))):
            found.append(_broken(graph, identity, f"its operands are numbered {keys}"))
    for value in graph.outputs:
        if value.node not in graph.structure or not 0 <= value.result < len(graph.node(value.node).types):
            found.append(_broken(graph, None, f"the output {value} does not exist"))
    return found


def _types(graph: Graph, known: frozenset[str]) -> list[Diagnostic]:
    found = []
    for identity in graph.order():
        node = graph.node(identity)
        try:
            attrs = ops.complete(node.record, dict(node.attrs))
            types = ops.infer(node.record, [graph.type(o) for o in graph.operands(identity)], attrs)
        except Illegal as problem:
            found.append(_broken(graph, identity, problem.reason))
            continue
        if attrs != dict(node.attrs):
            found.append(_broken(graph, identity, f"its attributes {dict(node.attrs)} are not in normal form"))
        if types != node.types:
            said, inferred = (", ".join(map(str, ts)) for ts in (node.types, types))
            found.append(_broken(graph, identity, f"its type is given as {said} and follows as {inferred}"))
        stray = frozenset().union(*(t.symbols() for t in node.types)) - known
        if stray:
            found.append(_broken(graph, identity, f"no input has the dimension {', '.join(sorted(stray))}"))
    return found


def _names(graph: Graph) -> list[Diagnostic]:
    nodes = [graph.node(i) for i in graph.order()]
    found = []
    for op, attribute, what in (("input", "name", "inputs"), ("param", "key", "parameters")):
        counts = Counter(node.attrs[attribute] for node in nodes if node.op == op)
        found += [_broken(graph, None, f"{n} {what} are called `{name}`") for name, n in counts.items() if n > 1]
    return found


def _groups(graph: Graph) -> list[Diagnostic]:
    members: dict[int, list[int]] = {}
    for identity in graph.order():
        group = graph.node(identity).group
        if group is not None:
            members.setdefault(group, []).append(identity)
    if not members:
        return []
    live = set(graph.live())
    found = [
        _broken(graph, i, f"is in group {g} and runs with no inference")
        for g, ids in members.items()
        for i in ids
        if i not in live
    ]
    # A partition is convex in every part exactly when the graph of its parts has no cycle.
    part = {i: ("group", group) if (group := graph.node(i).group) is not None else ("node", i) for i in graph.structure}
    parts = nx.DiGraph((part[a], part[b]) for a, b in graph.structure.edges() if part[a] != part[b])
    if not nx.is_directed_acyclic_graph(parts):
        groups = sorted({number for (kind, number), _ in nx.find_cycle(parts) if kind == "group"})
        found.append(_broken(graph, members[groups[0]][0], f"groups {', '.join(map(str, groups))} are not convex"))
    return found
