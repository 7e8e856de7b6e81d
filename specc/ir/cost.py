"""What a graph costs: trainable numbers, and multiply-accumulate operations of convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Mapping

from specc.ir.dims import Dim, estimate, symbols
from specc.ir.dtypes import DTYPES
from specc.ir.graph import Graph, Value


def params_of(graph: Graph, identity: int) -> Dim:
    """The trainable numbers that a node stands for."""
    node = graph.node(identity)
    return node.types[0].elements if node.op == "param" and node.attrs["trainable"] else 0


def macs_of(graph: Graph, identity: int) -> Dim:
    """The multiply-accumulate operations of a node, as its operator's record counts them."""
    node = graph.node(identity)
    if node.record.macs is None:
        return 0
    return node.record.macs([graph.type(operand) for operand in graph.operands(identity)], node.attrs)


def count_params(graph: Graph) -> int:
    """The trainable numbers of a graph; `ValueError` while a dimension has no value."""
    return sum(fixed(params_of(graph, identity)) for identity in graph)


def count_macs(graph: Graph) -> int:
    """The multiply-accumulate operations of one inference; `ValueError` while a dimension has no value."""
    return sum(fixed(macs_of(graph, identity)) for identity in graph.live())


def fixed(dim: Dim) -> int:
    """The dimension as a number; `ValueError` while it has no value."""
    if not isinstance(dim, int):
        raise ValueError(f"`{dim}` is no number yet")
    return dim


NOMINAL = 8
"""The extent that a symbol stands for in an estimate, where the graph gives it none."""


def nominal(dim: Dim, defaults: Mapping[str, int]) -> int:
    """The dimension as a number, for comparing costs: symbols at their defaults, and others at `NOMINAL`."""
    return estimate(dim, {name: defaults.get(name, NOMINAL) for name in symbols(dim)})


def nominal_bytes(graph: Graph, value: Value) -> int:
    """The bytes of a value's elements, for comparing costs: see `nominal`."""
    type = graph.type(value)
    return DTYPES[type.dtype] * nominal(type.elements, graph.defaults)
