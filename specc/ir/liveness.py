"""How much memory the values of a graph take at one time, before anybody has planned it.

Nodes run in the graph's order. A value lives from its node to the last one that reads it or a view of it; an
elementwise operator writes over an operand of its type that dies with it, as a kernel does that computes it where the
operand is made. Inputs, outputs and what depends on weights alone do not count: they have their own memory.
"""

from __future__ import annotations

from specc.ir.graph import Graph, Value
from specc.ir.placement import aligned, size


def peak(graph: Graph) -> tuple[int, int | None]:
    """The most bytes that values hold at one time, and the node that runs then; None where nothing holds any.

    All dimensions are fixed.
    """
    live = graph.live()
    place = {identity: position for position, identity in enumerate(live)}

    def stored(value: Value) -> Value:
        """The value whose bytes a view shows."""
        while value.node in place and "view" in graph.node(value.node).record.traits:
            value = graph.operands(value.node)[0]
        return value

    last = {Value(i, r): place[i] for i in live for r in range(len(graph.node(i).types))}
    last |= {stored(operand): place[identity] for identity in live for operand in graph.operands(identity)}
    outputs = {stored(value) for value in graph.outputs}
    counted = {value for value in last if value.node in place and stored(value) == value and value not in outputs}
    dying: dict[int, list[Value]] = {}
    for value in counted:
        dying.setdefault(last[value], []).append(value)
    now, most, where = 0, 0, None
    for position, identity in enumerate(live):
        gone = [value for value in dying.get(position, []) if value.node != identity]
        node = graph.node(identity)
        over = node.record.elementwise and any(graph.type(value) == node.types[0] for value in gone)
        made = [Value(identity, result) for result in range(len(node.types)) if Value(identity, result) in counted]
        fresh = sum(aligned(size(graph.type(value))) for value in made)
        held = now + (0 if over else fresh)
        if held > most:
            most, where = held, identity
        now += fresh - sum(aligned(size(graph.type(value))) for value in dying.get(position, []))
    return most, where
