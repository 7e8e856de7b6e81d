"""A graph inside a node: what an operator such as `scan` runs at every step.

The body is a graph like any other, so whatever reads or rewrites graphs works on it: its inputs change from step to
step or depend on an input of the network, its parameters are the *frozen* operands of the node. It never changes; a
pass makes a new one (`specc.passes.bodies`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specc.ir.dims import Dim, Symbolic, symbols
from specc.ir.graph import Graph, Value
from specc.ir.specialize import bound
from specc.ir.text import print_graph
from specc.ir.types import TensorType


@dataclass(frozen=True, eq=False)
class Body:
    """`graph` without what its outputs do not need. Bodies of equal text are equal."""

    graph: Graph

    @staticmethod
    def of(graph: Graph) -> Body:
        """The body that computes the outputs of `graph`."""
        graph = graph.copy()
        graph.prune()
        return Body(graph)

    @cached_property
    def text(self) -> str:
        return print_graph(self.graph)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Body) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def inputs(self) -> tuple[TensorType, ...]:
        """The types of the inputs, in order."""
        return tuple(self.graph.node(i).types[0] for i in self.graph.inputs)

    @cached_property
    def parameters(self) -> dict[str, int]:
        """The parameter nodes by their keys, in the order of the node's last operands."""
        nodes = ((i, self.graph.node(i)) for i in self.graph.order())
        return {node.attrs["key"]: i for i, node in nodes if node.op == "param"}

    @cached_property
    def outputs(self) -> tuple[TensorType, ...]:
        """The types of the outputs, in order."""
        return tuple(self.graph.type(value) for value in self.graph.outputs)

    @cached_property
    def operands(self) -> tuple[TensorType, ...]:
        """The types of all that the body reads: its inputs, then its parameters."""
        return (*self.inputs, *(self.graph.node(i).types[0] for i in self.parameters.values()))

    @cached_property
    def sources(self) -> tuple[Value, ...]:
        """The body's own values that stand for the operands."""
        return tuple(Value(i) for i in (*self.graph.inputs, *self.parameters.values()))

    @cached_property
    def anonymous(self) -> Body:
        """The body without the names of its inputs and parameters, and without places: what its kernel depends on."""
        graph = self.graph.copy()
        graph.name, graph.claims = "body", []
        for number, identity in enumerate(graph.inputs):
            graph.update(identity, attrs={**graph.node(identity).attrs, "name": f"x{number}"})
        for number, identity in enumerate(self.parameters.values()):
            fixed = {"key": f"w{number}", "init": "zeros", "trainable": True}
            graph.update(identity, attrs={**graph.node(identity).attrs, **fixed})
        for identity in graph.structure:
            node = graph.node(identity)
            attrs = {name: v.anonymous if isinstance(v, Body) else v for name, v in node.attrs.items()}
            graph.update(identity, path="", span=None, attrs=attrs)
        return Body(graph)

    def symbols(self) -> frozenset[str]:
        """The names of all dimensions in the body that are not fixed yet."""
        found: set[str] = set()
        for identity in self.graph.structure:
            node = self.graph.node(identity)
            for value in (*node.types, *node.attrs.values()):
                found |= symbols_of(value)
        return frozenset(found)

    def substitute(self, bindings: Mapping[str, Dim]) -> Body:
        """The body with the symbols in `bindings` replaced; raises `Illegal` where a call is not legal any more."""
        if not self.symbols() & bindings.keys():
            return self
        graph = self.graph.copy()
        for identity in graph.order():
            node = graph.node(identity)
            graph.update(identity, attrs={name: bound(value, bindings) for name, value in node.attrs.items()})
        graph.infer()
        return Body(graph)

    def __repr__(self) -> str:
        return f"<body {self.graph.name}>"


def bodies(graph: Graph) -> Iterator[tuple[int, Body]]:
    """The nodes of `graph` that hold a graph, in order, with what they hold."""
    for identity in graph.order():
        for value in graph.node(identity).attrs.values():
            if isinstance(value, Body):
                yield identity, value


def nested(graph: Graph) -> Iterator[Graph]:
    """`graph`, then all graphs inside its nodes, at any depth."""
    yield graph
    for _, body in bodies(graph):
        yield from nested(body.graph)


def uses(graph: Graph, value: Value) -> Iterator[tuple[Graph, int, int]]:
    """Who reads a value, at any depth: the graph that the node stands in, the node, the operand's position.

    A node that holds a body is not among them: those nodes of its body are that read the operand there.
    """
    inside = dict(bodies(graph))
    for user, position in graph.users(value):
        if user in inside:
            yield from uses(inside[user].graph, inside[user].sources[position])
        else:
            yield graph, user, position


def inline(graph: Graph, body: Body, operands: Sequence[Value]) -> list[Value]:
    """Adds the nodes of `body` to `graph`, with `operands` in the place of what it reads; its outputs there."""
    values = dict(zip(body.sources, operands, strict=True))
    for identity in body.graph.order():
        node = body.graph.node(identity)
        if node.op not in ("input", "param"):
            read = [values[operand] for operand in body.graph.operands(identity)]
            made = graph.apply(node.op, read, node.attrs, node.path, node.span)
            values |= {Value(identity, number): Value(made.node, number) for number in range(len(node.types))}
    return [values[value] for value in body.graph.outputs]


def symbols_of(value: Any) -> frozenset[str]:
    """The names of all dimensions in a type or an attribute that are not fixed yet."""
    if isinstance(value, Symbolic):
        return symbols(value)
    if isinstance(value, tuple):
        return frozenset().union(*map(symbols_of, value))
    return value.symbols() if isinstance(value, (TensorType, Body)) else frozenset()
