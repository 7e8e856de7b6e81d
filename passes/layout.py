"""Layout: for every activation, whether it lies plainly or in blocks of channels; one choice over the whole graph.

Convolutions and pooling over blocks of channels (NCHW16c) load whole vectors; most operators that name a dimension
read the plain layout alone; elementwise operators take either, as long as their operands agree. Each choice that an
operator does not like costs what its slower kernel costs, each disagreement along an edge costs the traffic of a
conversion. The cheapest assignment is a minimum cut between "blocked" and "plain" (networkx), and `convert_layout`
nodes stand where it cuts.

A convolution of fewer input channels than a block holds (a network's first) reads the plain layout, and its results are
converted as they are written: that conversion costs nothing and becomes part of its kernel in the fusion pass.

Precondition: the dimensions of activations are numbers (`specialize`). What a blocked layout saves on the whole was
measured for NeoCPU (arXiv:1809.02697, section 3.2), which searches the same space with dynamic programming.
"""

from __future__ import annotations

import networkx as nx

from specc import ops
from specc.ir.dims import product
from specc.ir.graph import Graph, Node, Value

BLOCKED, PLAIN = "blocked", "plain"
"""The two sides of the cut."""

PREFERS_BLOCKS = frozenset({"conv2d", "max_pool2d", "avg_pool2d"})
"""Operators whose kernels want blocks of channels."""

SLOWDOWN = 4
"""How many bytes' worth of traffic an element costs a kernel that wants blocks and gets the plain layout."""


def layout(graph: Graph, block: int) -> Graph:
    """`graph` with blocked activations where that is cheapest, and a `convert_layout` where layouts meet.

    block   channels in a block: the float32 lanes of the target's vectors
    """
    graph = _plain(graph)
    blocked = choose(graph, block)
    name = f"NCHW{block}c"
    live = graph.live()
    converted: dict[tuple[Value, str], Value] = {}

    def converted_to(value: Value, wanted: str, user: Node) -> Value:
        if (value, wanted) not in converted:
            new = graph.apply("convert_layout", [value], {"layout": wanted}, user.path, user.span)
            converted[value, wanted] = new
        return converted[value, wanted]

    for identity in live:
        node = graph.node(identity)
        for position, operand in enumerate(graph.operands(identity)):
            reading = _reading(graph, operand, node, position)
            wanted = name if identity in blocked and reading == "as the node works" else ""
            if reading == "either" and identity in blocked:
                continue
            if graph.type(operand).layout != wanted:
                graph.set_operand(identity, position, converted_to(operand, wanted, node))
        types = ops.infer(node.record, [graph.type(o) for o in graph.operands(identity)], dict(node.attrs))
        graph.update(identity, types=types)
    for position, value in enumerate(graph.outputs):
        if graph.type(value).layout:
            graph.outputs[position] = converted_to(value, "", graph.node(value.node))
    return graph


def _plain(graph: Graph) -> Graph:
    """A copy in which everything lies plainly: what was chosen before is no reason for the choice now."""
    graph = graph.copy()
    for identity in graph.order():
        if graph.node(identity).op == "convert_layout":
            graph.replace(Value(identity), graph.operands(identity)[0])
    graph.prune()
    graph.infer()
    return graph


def choose(graph: Graph, block: int) -> set[int]:
    """The live nodes that work in blocks of channels, in the cheapest assignment."""
    flow = nx.DiGraph()
    live = graph.live()
    flow.add_nodes_from((BLOCKED, PLAIN, *live))
    for identity in live:
        node = graph.node(identity)
        prefers, takes = _preference(graph, identity, block)
        _capacity(flow, BLOCKED, identity, prefers)
        if not takes:
            flow.add_edge(identity, PLAIN)  # without a capacity: never cut
        for position, operand in enumerate(graph.operands(identity)):
            reading = _reading(graph, operand, node, position)
            if reading == "either":
                continue
            cost = 0 if reads_plainly(graph, operand.node, block) else _bytes(graph, operand)
            source = operand.node if operand.node in flow else PLAIN  # inputs and weights lie plainly
            reader = identity if reading == "as the node works" else PLAIN
            _capacity(flow, source, reader, cost)
            _capacity(flow, reader, source, cost)
    for value in graph.outputs:
        if value.node in flow and graph.type(value).rank == 4:
            _capacity(flow, value.node, PLAIN, _bytes(graph, value))
    _, (blocked, _) = nx.minimum_cut(flow, BLOCKED, PLAIN)
    return {identity for identity in live if identity in blocked}


def reads_plainly(graph: Graph, identity: int, block: int) -> bool:
    """Whether a node is a convolution of fewer input channels than a block holds."""
    if graph.node(identity).op != "conv2d":
        return False
    channels = graph.type(graph.operands(identity)[0]).concrete[1]
    return channels < block


def _preference(graph: Graph, identity: int, block: int) -> tuple[int, bool]:
    """What the plain layout costs a node, in bytes of traffic, and whether it can work in blocks at all."""
    node = graph.node(identity)
    operands = graph.operands(identity)
    if not operands or graph.type(operands[0]).rank != 4 or reads_plainly(graph, identity, block):
        return 0, False
    if node.op in PREFERS_BLOCKS:
        return SLOWDOWN * _bytes(graph, operands[0]), True
    if node.op == "mean":
        return 0, node.attrs["axes"] == (2, 3)
    return 0, node.record.elementwise or node.op == "batch_norm"


def _reading(graph: Graph, operand: Value, user: Node, position: int) -> str:
    """How a node reads an operand: "plainly", "as the node works" (plainly or in blocks), or "either" way."""
    t = graph.type(operand)
    if t.rank != 4:
        return "either"
    if user.record.elementwise and t.shape[2:] == (1, 1) and user.types[0].shape[2:] != (1, 1):
        return "either"  # read by channel; where the node works plainly, a conversion of it costs nothing to speak of
    activation = user.record.variadic or position < len(user.record.call_operands)
    return "as the node works" if activation else "plainly"


def _bytes(graph: Graph, value: Value) -> int:
    elements = product(graph.type(value).concrete)
    assert isinstance(elements, int)
    return 4 * elements


def _capacity(flow: nx.DiGraph, source: object, target: object, cost: int) -> None:
    if source == target or not cost:
        return
    if flow.has_edge(source, target) and "capacity" not in flow.edges[source, target]:
        return
    known = flow.edges[source, target]["capacity"] if flow.has_edge(source, target) else 0
    flow.add_edge(source, target, capacity=known + cost)
