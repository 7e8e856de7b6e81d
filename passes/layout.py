"""Layout: for every activation, whether it lies plainly or in blocks of channels; one choice over the whole graph.

Convolutions and pooling over blocks of channels (NCHW16c) load whole vectors. Whether another operator can work in
blocks too is asked of its record: it can if `infer` takes operands in blocks. Elementwise operators always do, as long
as their operands agree; concat, slice and pad of channels do in whole blocks, and of other dimensions anyway; a softmax
and reductions do. Some of these read blocks and write a plain result (permute, a mean over channels): they take what
they get. Each choice that an operator does not like costs what its slower kernel costs, each value that is read in
another layout than it was made in costs the traffic of one conversion, however many read it so. The cheapest assignment
is a minimum cut between "blocked" and "plain" (networkx), and `convert_layout` nodes stand where it cuts.

A convolution of fewer input channels than a block holds (a network's first) reads the plain layout, and its results are
converted as they are written: that conversion costs nothing and becomes part of its kernel in the fusion pass. Nor does
it cost anything to lay out weights.

Dimensions without a value are estimated (`specc.ir.cost.nominal`): whatever they come to, the result is right, though
perhaps not the cheapest. What a blocked layout saves on the whole was measured for NeoCPU (arXiv:1809.02697, section
3.2), which searches the same space with dynamic programming.
"""

from __future__ import annotations

import networkx as nx

from specc import ops
from specc.ir.cost import nominal, nominal_bytes
from specc.ir.graph import Graph, Node, Value
from specc.ir.types import TensorType
from specc.ops.record import Illegal

BLOCKED, PLAIN = "blocked", "plain"
"""The two sides of the cut."""

PREFERS_BLOCKS = frozenset({"conv2d", "conv2d_integer", "max_pool2d", "avg_pool2d"})
"""Operators whose kernels want blocks of channels."""

SLOWDOWN = 4
"""How often the traffic of its operand a kernel costs more that wants blocks and gets the plain layout."""

FOURS = 4
"""So many channels of integers are multiplied and added up at once: up to so many are read plainly."""

PREFERS_ROWS = frozenset({"softmax"})
"""Operators whose kernels run along rows, and gather what lies in blocks: one more sweep over the operand."""


def layout(graph: Graph, block: int) -> Graph:
    """`graph` with blocked activations where that is cheapest, and a `convert_layout` where layouts meet.

    block   channels in a block: the float32 lanes of the target's vectors
    """
    graph = _plain(graph)
    return arrange(graph, choose(graph, block), block)


def arrange(graph: Graph, blocked: set[int], block: int) -> Graph:
    """A plain graph with the nodes `blocked` working in blocks; each has to be one that can (`can_work_in_blocks`)."""
    graph = graph.copy()
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
            reading = _reading(graph, operand, identity, position, block)
            if reading == "either" or (reading == "by channel" and identity in blocked):
                continue
            wanted = name if identity in blocked and reading == "as the node works" else ""
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
    """The live nodes that work in blocks of channels, in the cheapest assignment for a plain graph.

    For a value that is made plainly, one edge of the conversion's cost stands between its maker and all who would read
    it in blocks, and one for the other way round: so that a conversion is paid once.
    """
    flow = nx.DiGraph()
    live = graph.live()
    flow.add_nodes_from((BLOCKED, PLAIN, *live))
    readers: dict[Value, list[object]] = {}
    for identity in live:
        works = how_it_works(graph, identity, block)
        if works != BLOCKED:
            flow.add_edge(identity, PLAIN)  # without a capacity: never cut
        elif graph.node(identity).op in PREFERS_BLOCKS:
            _add(flow, BLOCKED, identity, SLOWDOWN * nominal_bytes(graph, graph.operands(identity)[0]))
        elif graph.node(identity).op in PREFERS_ROWS:
            _add(flow, identity, PLAIN, nominal_bytes(graph, graph.operands(identity)[0]))
        for position, operand in enumerate(graph.operands(identity)):
            reading = _reading(graph, operand, identity, position, block)
            if reading in ("plainly", "as the node works"):
                readers.setdefault(operand, []).append(identity if reading == "as the node works" else PLAIN)
    for value in graph.outputs:
        readers.setdefault(value, []).append(PLAIN)
    for number, (value, users) in enumerate(sorted(readers.items())):
        cost = conversion_cost(graph, value, block)
        maker = value.node if value.node in flow else PLAIN  # inputs lie plainly
        if graph.type(value).rank != 4 or not cost:
            continue
        to_plain, to_blocks = f"{number} to plain", f"{number} to blocks"
        _add(flow, maker, to_plain, cost)
        _add(flow, to_blocks, maker, cost)
        for user in dict.fromkeys(users):
            flow.add_edge(to_plain, user)
            flow.add_edge(user, to_blocks)
    _, (blocked, _) = nx.minimum_cut(flow, BLOCKED, PLAIN)
    return {identity for identity in live if identity in blocked}


def conversion_cost(graph: Graph, value: Value, block: int) -> int:
    """The bytes of a tensor that is converted; 0 where its maker writes it in any layout, and for weights."""
    free = graph.is_frozen(value.node) or reads_plainly(graph, value.node, block)
    return 0 if free else nominal_bytes(graph, value)


def reads_plainly(graph: Graph, identity: int, block: int) -> bool:
    """Whether a node is a convolution of fewer input channels than a block holds, or than there are to a sum of
    products of integers."""
    least = {"conv2d": block, "conv2d_integer": FOURS + 1}.get(graph.node(identity).op)
    return least is not None and nominal(graph.type(graph.operands(identity)[0]).shape[1], graph.defaults) < least


def how_it_works(graph: Graph, identity: int, block: int) -> str:
    """`BLOCKED` for a node that can work in blocks, "either" for one that reads them and writes plainly, or `PLAIN`."""
    node, operands = graph.node(identity), graph.operands(identity)
    if not operands or graph.type(operands[0]).rank != 4 or reads_plainly(graph, identity, block):
        return PLAIN
    if not node.record.elementwise and "blocks" not in node.record.traits:
        return PLAIN
    types = []
    for position, operand in enumerate(operands):
        t = graph.type(operand)
        in_blocks = t.rank == 4 and _is_activation(node, position) and not _by_channel(t, node)
        types.append(TensorType(t.shape, t.dtype, f"NCHW{block}c") if in_blocks else t)
    try:
        results = ops.infer(node.record, types, dict(node.attrs))
    except Illegal:
        return PLAIN
    return BLOCKED if all(t.layout for t in results) else "either"


def _is_activation(node: Node, position: int) -> bool:
    return node.record.variadic or position < len(node.record.call_operands)


def _by_channel(t: TensorType, user: Node) -> bool:
    """Whether an operand is read by channel, or by place: then it may lie plainly beside others in blocks."""
    if not user.record.elementwise:
        return False
    wanted = user.types[0].shape
    return (t.shape[2:] == (1, 1) and wanted[2:] != (1, 1)) or (t.shape[1] == 1 != wanted[1])


def _reading(graph: Graph, operand: Value, user: int, position: int, block: int) -> str:
    """How a node reads an operand: "plainly", "as the node works" (plainly or in blocks), or "either" way.

    "by channel" is either way for a node that works in blocks; where it works plainly, a conversion of the small
    operand costs nothing to speak of.
    """
    t, node = graph.type(operand), graph.node(user)
    if t.rank != 4:
        return "either"
    if not _is_activation(node, position):
        return "plainly"
    if _by_channel(t, node):
        return "by channel"
    works = how_it_works(graph, user, block)
    return "either" if works == "either" else "as the node works"


def _add(flow: nx.DiGraph, source: object, target: object, cost: int) -> None:
    """An edge that costs something to cut; several between the same two add up."""
    if source == target:
        return
    known = flow.edges[source, target].get("capacity") if flow.has_edge(source, target) else 0
    if known is not None:
        flow.add_edge(source, target, capacity=known + cost)
