"""Fusion: a partition of the live nodes into groups; each group becomes one kernel.

A group is an anchor (a convolution, a matrix product, a reduction, or nothing) followed by elementwise nodes, its
epilogue, which are computed on the anchor's result while it is in registers. It has one result, the only value that
others read. A node joins the group of an operand when nobody else needs that operand and the shapes are equal; where
several operands would do, the one that is computed last. Since the operand has one user, no path leaves the group and
comes back: groups are convex by construction (and the verifier asks again).

Views (reshape) cost nothing and stand in no group.
"""

from __future__ import annotations

from specc.ir.graph import Graph, Value


def fuse(graph: Graph, epilogues: bool = True) -> Graph:
    """`graph` with `group` set on every live node that computes; without `epilogues`, each in a group of its own."""
    graph = graph.copy()
    order = graph.order()
    place = {identity: position for position, identity in enumerate(order)}
    live = graph.live()
    for group, identity in enumerate(i for i in live if "view" not in graph.node(i).record.traits):
        graph.update(identity, group=group)
    if epilogues:
        for identity in live:
            hosts = [operand for operand in graph.operands(identity) if _joins(graph, identity, operand)]
            if hosts:
                host = max(hosts, key=lambda value: place[value.node])
                graph.update(identity, group=graph.node(host.node).group)
    return renumber(graph)


def _joins(graph: Graph, identity: int, operand: Value) -> bool:
    """Whether a node can be computed in the epilogue of the kernel that makes `operand`."""
    node, host = graph.node(identity), graph.node(operand.node)
    if host.group is None or graph.uses(operand) != 1 or host.types[operand.result].shape != node.types[0].shape:
        return False
    if node.op == "convert_layout":
        return host.op == "conv2d" and not host.types[0].layout  # written in blocks as it leaves the registers
    return node.record.elementwise


def renumber(graph: Graph) -> Graph:
    """The groups numbered 0, 1, ... in the order of their first nodes."""
    numbers: dict[int, int] = {}
    for identity in graph.order():
        group = graph.node(identity).group
        if group is not None:
            graph.update(identity, group=numbers.setdefault(group, len(numbers)))
    return graph
