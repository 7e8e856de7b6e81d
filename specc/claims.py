"""Merge claims, asked beside their values: graph --> a small graph whose claims hold only where those of the graph do.

A network repeats its blocks, and what a claim speaks of merges with what stands beside it. So a claim is asked of its
surroundings alone, and of surroundings that are built alike once:

    surroundings    the nodes that only the claim's value needs, `REACH` steps up and up to a non-linearity, those that
                    use it, and all their weights; what else flows in is an input, what is used elsewhere an output
    alike           the same operators, attributes, types and edges, whatever the names

What merges there merges in the whole network too, whose values have as many uses. The reverse does not hold: where a
claim fails here, the whole network has to be asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from specc.ir.graph import Graph, MergeClaim, Value
from specc.passes.canonicalize import merge_common

REACH = 8
"""Steps from the value of a claim. A sum of branches of pools behind convolutions with batch norms takes six."""


def surroundings(graph: Graph) -> Graph:
    """The surroundings of every claim of `graph`, side by side in one graph, those that are alike once."""
    graph = merge_common(graph)  # what two places compute alike is needed in both
    result = Graph(graph.name, defaults=dict(graph.defaults))
    frozen = graph.frozen()
    place = {identity: place for place, identity in enumerate(graph.order())}
    known: set[tuple[object, ...]] = set()
    for claim in graph.claims:
        if claim.value.node not in graph.structure:
            continue  # nobody needs it
        near = _Near(graph, claim, frozen)
        form = near.form()
        if form not in known:
            known.add(form)
            near.add_to(result, place, f"{len(known)}")
    return result


class _Near:
    """The surroundings of one claim: nodes, numbered from 1 in an order that follows from how they are joined."""

    def __init__(self, graph: Graph, claim: MergeClaim, frozen: frozenset[int]) -> None:
        self.graph, self.claim = graph, claim
        live = _live_near(graph, claim.value, frozen)
        self.number = {identity: number for number, identity in enumerate(live, 1)}
        pending = [o.node for i in reversed(live) for o in reversed(graph.operands(i)) if o.node in frozen]
        while pending:
            identity = pending.pop()
            if identity not in self.number:
                self.number[identity] = len(self.number) + 1
                pending += [operand.node for operand in reversed(graph.operands(identity))]
        self.used = [value for identity in live for value in self._used_elsewhere(identity)]

    def _used_elsewhere(self, identity: int) -> Iterator[Value]:
        """The results of a node, each as often as it is used outside."""
        for _, user, result in self.graph.structure.out_edges(identity, data="result"):
            if user not in self.number:
                yield Value(identity, result)
        yield from (value for value in self.graph.outputs if value.node == identity)

    def form(self) -> tuple[object, ...]:
        """Equal for surroundings that are alike."""
        flowing: dict[Value, int] = {}
        rows: list[object] = [self.claim.operators]
        for identity in self.number:
            node, operands = self.graph.node(identity), self.graph.operands(identity)
            read = [(self.number.get(o.node) or -flowing.setdefault(o, len(flowing) + 1), o.result) for o in operands]
            attrs = () if node.op == "param" else tuple(node.attrs.items())
            rows.append((node.op, attrs, node.types, tuple(read)))
        rows += [(self.number[value.node], value.result) for value in self.used]
        return (*rows, *map(self.graph.type, flowing))

    def add_to(self, result: Graph, place: dict[int, int], name: str) -> None:
        """Adds the surroundings and the claim to `result`; `place` orders the nodes, `name` begins their names."""
        made: dict[Value, Value] = {}
        for identity in sorted(self.number, key=place.__getitem__):
            node, operands = self.graph.node(identity), self.graph.operands(identity)
            if node.op == "param":
                copy = result.parameter(f"{name}.{self.number[identity]}", node.types[0])
            else:
                for value in operands:
                    if value not in made:
                        made[value] = result.input(f"{name}.{len(made)}", self.graph.type(value))
                copy = result.apply(node.op, [made[value] for value in operands], node.attrs, node.path, node.span)
            made |= {Value(identity, number): Value(copy.node, number) for number in range(len(node.types))}
        result.outputs += [made[value] for value in self.used]
        result.claims.append(replace(self.claim, value=made[self.claim.value]))


def _live_near(graph: Graph, value: Value, frozen: frozenset[int]) -> list[int]:
    """The nodes above `value`, as they are found, and those that use it; none of them is frozen or an input."""
    steps = {value.node: 0}
    pending = deque(steps)
    while pending:
        identity = pending.popleft()
        record = graph.node(identity).record
        if steps[identity] == REACH or (steps[identity] and record.elementwise and record.arity == (1, 1)):
            continue
        for operand in graph.operands(identity):
            beside = operand.node not in frozen and operand.node not in steps and graph.uses(operand) == 1
            if beside and graph.op(operand) != "input":
                steps[operand.node] = steps[identity] + 1
                pending.append(operand.node)
    users = sorted(graph.structure.successors(value.node))
    return list(dict.fromkeys((*steps, *users)))
