"""Fusion: a partition of the live nodes into groups; each group becomes one kernel.

A group is an anchor (a convolution, a matrix product, a reduction, or nothing) followed by elementwise nodes, its
epilogue, which are computed on the anchor's result while it is in registers. It has one result, the only value that
others read. A node joins the group of an operand when nobody else needs that operand and the shapes are equal; where
several operands would do, the one that is computed last. Since the operand has one user, no path leaves the group and
comes back: groups are convex by construction (and the verifier asks again).

Small matrix products behind a mean join as well: the two of a squeeze-excite are computed where their input is, since
starting another parallel region would take longer than the product itself.

A kernel writes an epilogue as one expression, in which `x * sigmoid(x)` names x several times; a chain of such
operators would grow with the power of its length, so a group ends where its expression would become too long.

A concat whose operands can be written where its result is read costs nothing as long as it is alone: nothing joins it.

Views (reshape) cost nothing and stand in no group. Attention is a group of its own (`attention`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from specc.ir.cost import macs_of
from specc.ir.graph import Graph, Value
from specc.ir.placement import joined
from specc.passes.attention import attentions

SMALL_MACS = 1 << 17
"""Up to this many multiplications, a product behind another node of a group does not pay for a kernel of its own."""


MAX_NAMES = 500
"""How often the expression of an epilogue may name what it begins with: two functions such as tanh in a row, or eight
operators that name their operand twice. A chain of three tanh took TVM 4 s to compile, one of four 54 s."""

MAX_NODES = 64
"""The nodes of a group behind its first one."""


class _Names:
    """Stands for an expression, and knows how often it names its operands (see `KernelMath`)."""

    POLYNOMIAL = 16
    """What exp, erf, tanh and sigmoid come to: a polynomial names its argument with every coefficient."""

    dtype = "float32"

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def _joined(self, *others: Any) -> _Names:
        return _Names(self.count + sum(other.count for other in others if isinstance(other, _Names)))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _joined
    __floordiv__ = __mod__ = __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = _joined

    def __neg__(self) -> _Names:
        return self

    __invert__ = __neg__

    def __getattr__(self, function: str) -> Any:
        """The functions of `KernelMath`: `max(a, b)` names what its operands name."""
        if function in ("exp", "erf", "tanh", "sigmoid"):
            return lambda x: _Names(self.POLYNOMIAL * x.count)
        if function == "const":
            return lambda value, dtype: _Names()
        return lambda *operands: _Names()._joined(*operands)


def _names(graph: Graph, identity: int) -> int:
    """How often the expression of an elementwise node names an operand; 1 for any other node: its result is stored."""
    node = graph.node(identity)
    if node.record.scalar is None:
        return 1
    operands = [_Names(1) for _ in graph.operands(identity)]
    named: _Names = node.record.scalar(_Names(), *operands, **node.attrs)
    return max(1, named.count - len(operands) + 1)


def fuse(graph: Graph, epilogues: bool = True) -> Graph:
    """`graph` with `group` set on every live node that computes; without `epilogues`, each in a group of its own."""
    graph = graph.copy()
    order = graph.order()
    place = {identity: position for position, identity in enumerate(order)}
    live = graph.live()
    frozen = graph.frozen()
    lengths = {identity: _names(graph, identity) for identity in live}
    sizes: Counter[int] = Counter()
    anchors: dict[int, str] = {}
    joint = attentions(graph) if epilogues else []
    closed = {identity for members in joint for identity in members}
    single = [i for i in live if i not in closed and "view" not in graph.node(i).record.traits]
    for group, members in enumerate([*([identity] for identity in single), *joint]):
        for identity in members:
            graph.update(identity, group=group)
        anchors[group] = graph.node(members[0]).op
    if epilogues:
        for identity in single:
            hosts = [
                operand
                for operand in graph.operands(identity)
                if operand.node not in closed and _joins(graph, identity, operand, anchors, frozen)
            ]
            if hosts:
                host = max(hosts, key=lambda value: place[value.node])
                joined = graph.node(host.node).group
                length = lengths[host.node] * lengths[identity] if graph.node(identity).record.elementwise else 1
                if joined is None or length > MAX_NAMES or sizes[joined] >= MAX_NODES:
                    continue
                lengths[identity] = length
                sizes[joined] += 1
                graph.update(identity, group=joined)
    return renumber(graph)


def _joins(graph: Graph, identity: int, operand: Value, anchors: dict[int, str], frozen: frozenset[int]) -> bool:
    """Whether a node can be computed in the epilogue of the kernel that makes `operand`."""
    node, host = graph.node(identity), graph.node(operand.node)
    if host.group is None or sum(graph.uses(Value(operand.node, r)) for r in range(len(host.types))) != 1:
        return False
    if "body" in host.record.traits:
        return False
    if written_in_place(graph, operand.node):
        return False
    if anchors[host.group] == "mean" and _is_small_product(graph, identity, operand, frozen):
        return True
    made, needed = host.types[operand.result], node.types[0]
    if made.shape != needed.shape or made.dtype != needed.dtype:
        return False
    if node.op == "convert_layout":
        return host.record.elementwise or host.op == "conv2d"  # the element is stored elsewhere, that is all
    return node.record.elementwise


def written_in_place(graph: Graph, identity: int) -> bool:
    """Whether a node is a concat of values that are made for it, and lie one behind the other in its result."""
    node, operands = graph.node(identity), graph.operands(identity)
    if node.op != "concat":
        return False
    frozen, made = graph.frozen(), [_stored(graph, operand) for operand in operands]
    free = all(graph.op(v) not in ("input", "slice") and v.node not in frozen and _joined_once(graph, v) for v in made)
    types = [graph.type(operand) for operand in operands]
    return free and joined(types, node.types[0], node.attrs["axis"]) is not None


def _stored(graph: Graph, value: Value) -> Value:
    """The value whose bytes a view shows."""
    while "view" in graph.node(value.node).record.traits:
        value = graph.operands(value.node)[0]
    return value


def _joined_once(graph: Graph, value: Value) -> bool:
    """Whether a value is no output, and operand of no more than one concat."""
    concats = [user for user, _ in graph.users(value) if graph.node(user).op == "concat"]
    return value not in graph.outputs and len(concats) <= 1


def _is_small_product(graph: Graph, identity: int, operand: Value, frozen: frozenset[int]) -> bool:
    """Whether a node is a small product of weights with a tensor that has neither height nor width."""
    node, operands = graph.node(identity), graph.operands(identity)
    shape = graph.type(operand).shape
    if node.record.macs is None or operands[0] != operand or any(extent != 1 for extent in shape[2:]):
        return False
    if not all(o.node in frozen for o in operands[1:]):
        return False
    macs = macs_of(graph, identity)
    return isinstance(macs, int) and macs <= SMALL_MACS


def renumber(graph: Graph) -> Graph:
    """The groups numbered 0, 1, ... in the order of their first nodes."""
    numbers: dict[int, int] = {}
    for identity in graph.order():
        group = graph.node(identity).group
        if group is not None:
            graph.update(identity, group=numbers.setdefault(group, len(numbers)))
    return graph
