"""Passes inside of nodes: what a pass does to a graph, it does to the graphs that its nodes hold as well.

`within(graph, run)` runs the pass on the graph, then on each body (and on theirs), and keeps the node and its body in
step. A body is a graph of its own to the pass, whose inputs change and whose parameters are frozen. Two things cross
its border:

    hoisting    what the body computes of weights alone is computed outside, where it is frozen: once for ever
    trimming    results that nobody reads, and states and operands that only these need, go

Both make the bodies smaller, so this ends when the pass does. `labelled` is for passes that change no node.
"""

from __future__ import annotations

from collections.abc import Callable

from specc.ir.body import Body, bodies
from specc.ir.graph import Graph, Value

Run = Callable[[Graph], Graph]


def within(graph: Graph, run: Run) -> Graph:
    """The graph after the pass `run`, which went through the graphs inside its nodes too."""
    graph = run(graph)
    while True:
        changed = graph.copy()
        found = [_changed(changed, identity, body, run) for identity, body in bodies(graph)]
        if not any(found):
            return graph
        graph = run(changed)


def labelled(graph: Graph, run: Run) -> Graph:
    """The graph after `run`, which only marks nodes, on it and on the graphs inside its nodes."""
    graph = run(graph).copy()
    for identity, body in bodies(graph):
        graph.update(identity, attrs={**graph.node(identity).attrs, "body": Body(labelled(body.graph, run))})
    return graph


def _changed(graph: Graph, identity: int, body: Body, run: Run) -> bool:
    return _trimmed(graph, identity) or _renewed(graph, identity, body, within(body.graph, run))


def _renewed(graph: Graph, identity: int, body: Body, inside: Graph) -> bool:
    """Gives a node the body `inside`, with what is frozen in it hoisted; whether that is another one than before."""
    operands = graph.operands(identity)
    names = [body.graph.node(i).attrs["name"] for i in body.graph.inputs]
    sources = dict(zip((*names, *body.parameters), operands, strict=True))
    inside = inside.copy()
    _hoist(graph, inside, sources)
    new = Body.of(inside)
    if new == body:
        return False
    _rebuild(graph, identity, [sources[name] for name in (*names, *new.parameters)], {"body": new})
    return True


def _hoist(graph: Graph, inside: Graph, sources: dict[str, Value]) -> None:
    """Moves what `inside` computes of its parameters alone to `graph`; `sources` are its operands there, by name."""
    frozen = inside.frozen()
    outside: dict[Value, Value] = {}

    def moved(value: Value) -> Value:
        if value not in outside:
            node = inside.node(value.node)
            if node.op == "param":
                outside[value] = sources[node.attrs["key"]]
            else:
                read = [moved(operand) for operand in inside.operands(value.node)]
                made = graph.apply(node.op, read, node.attrs, node.path, node.span)
                outside[value] = Value(made.node, value.result)
        return outside[value]

    for identity in inside.order():
        node = inside.node(identity)
        if identity not in frozen or node.op == "param" or "source" in node.record.traits:
            continue
        for result, type in enumerate(node.types):
            value = Value(identity, result)
            if value in inside.outputs or any(user not in frozen for user, _ in inside.users(value)):
                key = next(key for key in (f"${number}" for number in range(len(sources) + 1)) if key not in sources)
                sources[key] = moved(value)
                inside.replace(value, inside.parameter(key, type, span=node.span))


def _trimmed(graph: Graph, identity: int) -> bool:
    """Takes from a scan the results that nobody reads, and what only these need; whether there was anything."""
    node = graph.node(identity)
    body: Body = node.attrs["body"]
    inner, sequences, states = body.graph, node.attrs["sequences"], node.attrs["states"]
    stacked = len(inner.outputs) - states
    used = {number for number in range(len(node.types)) if graph.uses(Value(identity, number))}
    if not used:
        return False
    while True:
        needed = _ancestors(inner, [inner.outputs[number] for number in used])
        carried = {stacked + i for i in range(states) if inner.inputs[sequences + i] in needed}
        if carried <= used:
            break
        used |= carried
    live = [i for i, source in enumerate(inner.inputs) if source in needed]
    kept = {i for i in live if not sequences <= i < sequences + states}
    kept |= {sequences + number - stacked for number in used if number >= stacked}
    if not any(i < sequences for i in kept):
        kept.add(0)  # the length is that of a sequence
    if len(used) == len(node.types) and len(kept) == len(inner.inputs):
        return False
    smaller = inner.copy()
    order = sorted(used)
    smaller.outputs = [inner.outputs[number] for number in order]
    smaller.prune()
    smaller.remove([source for i, source in enumerate(inner.inputs) if i not in kept])
    new = Body(smaller)
    operands = graph.operands(identity)
    parameters = dict(zip(body.parameters, operands[len(inner.inputs) :], strict=True))
    attrs = {
        "body": new,
        "sequences": sum(i < sequences for i in kept),
        "states": sum(number >= stacked for number in used),
    }
    read = [operands[i] for i in sorted(kept)] + [parameters[key] for key in new.parameters]
    _rebuild(graph, identity, read, attrs, {old: place for place, old in enumerate(order)})
    return True


def _ancestors(graph: Graph, values: list[Value]) -> set[int]:
    found: set[int] = set()
    pending = [value.node for value in values]
    while pending:
        identity = pending.pop()
        if identity not in found:
            found.add(identity)
            pending += graph.structure.predecessors(identity)
    return found


def _rebuild(
    graph: Graph,
    identity: int,
    operands: list[Value],
    changes: dict[str, object],
    places: dict[int, int] | None = None,
) -> None:
    """A node with other operands and attributes in the place of an old one; `places` are its results' new numbers."""
    node = graph.node(identity)
    made = graph.apply(node.op, operands, {**node.attrs, **changes}, node.path, node.span)
    graph.update(made.node, group=node.group)
    for old in range(len(node.types)):
        if places is None or old in places:
            graph.replace(Value(identity, old), Value(made.node, old if places is None else places[old]))
    graph.remove([identity])
