"""Which numbers a tensor may hold so that all that reads it makes sense: intervals, followed from users to sources.

    embedding(reshape(tokens), 1000 rows)     tokens in 0 ... 999
    sqrt(x)                                   x in 0.5 ...

An operator says what it asks of its operands (`Operator.domain`); an operator that only moves elements (the traits
`movement` and `choice`) asks of its operand what is asked of its result. Arithmetic is not followed.
"""

from __future__ import annotations

from specc.ir.dims import Symbolic
from specc.ir.graph import Graph, Value

Interval = tuple[float, float]


def domains(graph: Graph) -> dict[Value, Interval]:
    """The least and the greatest element of every value of which something is asked (infinite where it is open).

    Where two users ask for intervals that do not meet, the first one counts. A bound that is still symbolic is none.
    """
    found: dict[Value, Interval] = {}

    def ask(value: Value, interval: Interval) -> None:
        least, greatest = found.get(value, interval)
        both = max(least, interval[0]), min(greatest, interval[1])
        found[value] = both if both[0] <= both[1] else (least, greatest)

    for identity in reversed(graph.order()):
        node, operands = graph.node(identity), graph.operands(identity)
        if node.record.domain is not None:
            asked = node.record.domain([graph.type(operand) for operand in operands], node.attrs)
            for position, (least, greatest) in asked.items():
                if not isinstance(least, Symbolic) and not isinstance(greatest, Symbolic):
                    ask(operands[position], (least, greatest))
        if "body" in node.record.traits:
            body = node.attrs["body"]
            for source, interval in domains(body.graph).items():
                if source in body.sources:
                    ask(operands[body.sources.index(source)], interval)
        if {"movement", "choice"} & node.record.traits and Value(identity) in found:
            for operand, key in zip(operands, node.record.classes(len(operands))):
                if key == "any":
                    ask(operand, found[Value(identity)])
    return found
