"""Attention as one group: two matrix products with a softmax between them, and what leads elements to them and away.

    softmax(E(q @ k)) @ v, moved      E: elementwise steps (a scale, a bias, a mask), reshapes of leading dimensions

Its kernel keeps the matrix of scores in the cache, of which memory would see four copies otherwise. The nodes that only
move elements (slices of a joint projection, reshapes, permutes) join, as far as nobody else needs their results: in a
kernel they are index arithmetic. A permute of v stays outside where it would leave its rows scattered in memory.
"""

from __future__ import annotations

from specc.ir.cost import nominal_bytes
from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph, Value
from specc.passes.rewrite import Event, Journal, Refused

_BEHIND = ("permute", "reshape", "roll")
"""What may stand behind the second product, beside a rounding to 16 bits."""


def attentions(graph: Graph, journal: Journal | None = None) -> list[list[int]]:
    """The nodes of each attention in `graph`, in topological order; no node is in two of them."""
    journal = journal if journal is not None else Journal()
    place = {identity: position for position, identity in enumerate(graph.order())}
    frozen = graph.frozen()
    found = []
    for identity in graph.live():
        node = graph.node(identity)
        try:
            members = _attention(graph, identity, frozen)
        except Refused as refused:
            journal.events.append(Event("attention", node.op, node.path, node.span, refused.reason))
            continue
        if members:
            journal.events.append(Event("attention", node.op, node.path, node.span, None, _moved(graph, members)))
            found.append(sorted(members, key=lambda member: place[member]))
    return found


def _moved(graph: Graph, members: set[int]) -> int:
    """The bytes that nobody writes and reads any more: those of all values but the last one."""
    read = [Value(m) for m in members if any(user in members for user, _ in graph.users(Value(m)))]
    return 2 * sum(nominal_bytes(graph, value) for value in read)


def _attention(graph: Graph, mixed: int, frozen: frozenset[int]) -> set[int] | None:
    """The nodes of the attention whose second product is the node `mixed`; None where there is none.

    Raises `Refused` for a product behind a softmax that the kernel does not take.
    """
    if graph.node(mixed).op != "matmul" or not _plain(graph, Value(mixed)):
        return None
    weights, value = graph.operands(mixed)
    way = _way(graph, weights, "softmax", moves=True)
    if way is None:
        return None
    softmax = way[-1]
    if graph.node(softmax).attrs["axis"] not in (-1, graph.type(Value(softmax)).rank - 1):
        raise Refused("the softmax is not over the dimension that the second product sums over")
    inner = _way(graph, graph.operands(softmax)[0], "matmul", moves=False)
    if inner is None:
        raise Refused("no product leads to the softmax through elementwise steps that nobody else needs")
    query, key = graph.operands(inner[-1])
    members = {mixed, *way, *inner}
    for operand, contiguous, once in ((query, False, True), (key, False, False), (value, True, False)):
        members |= _sources(graph, operand, frozen, contiguous, once)
    members |= _shared(graph, members, frozen)
    while graph.uses(Value(mixed)) == 1 and Value(mixed) not in graph.outputs:
        ((user, _),) = graph.users(Value(mixed))
        if graph.node(user).op not in _BEHIND and not rounds(graph, user):
            break
        members.add(user)
        mixed = user
    return members


def _way(graph: Graph, value: Value, goal: str, moves: bool) -> list[int] | None:
    """The nodes from `value` up to the next node that is a `goal`, if nobody else needs what they compute.

    With `moves` they only move rows as they are; otherwise elementwise nodes stand among them too, whose other operands
    come from outside.
    """
    nodes: list[int] = []
    while True:
        node = graph.node(value.node)
        if graph.uses(value) != 1 or value in graph.outputs or not _plain(graph, value):
            return None
        nodes.append(value.node)
        if node.op == goal:
            return nodes
        operands = graph.operands(value.node)
        if node.record.elementwise and not moves:
            same = [o for o in operands if graph.type(o).rank and _leads_to(graph, o, goal)]
            if len(same) != 1 or graph.type(same[0]).shape != node.types[0].shape:
                return None
            value = same[0]
        elif _keeps_rows(graph, value.node) or rounds(graph, value.node):
            value = operands[0]
        else:
            return None


def _leads_to(graph: Graph, value: Value, goal: str) -> bool:
    """Whether elementwise nodes and reshapes alone stand between `value` and a `goal` above it."""
    seen, waiting = {value}, [value]
    while waiting:
        value = waiting.pop()
        node = graph.node(value.node)
        if node.op == goal:
            return True
        if node.record.elementwise or _keeps_rows(graph, value.node):
            rows = graph.type(value).shape[-2:]
            above = {operand for operand in graph.operands(value.node) if graph.type(operand).shape[-2:] == rows} - seen
            seen |= above
            waiting += above
    return False


def _keeps_rows(graph: Graph, identity: int) -> bool:
    """Whether a node moves rows of the last two dimensions as they are."""
    node = graph.node(identity)
    if node.op == "permute":
        rank = node.types[0].rank
        return rank > 1 and tuple(node.attrs["order"][-2:]) == (rank - 2, rank - 1)
    if node.op != "reshape":
        return False
    return graph.type(graph.operands(identity)[0]).shape[-2:] == node.types[0].shape[-2:]


def rounds(graph: Graph, identity: int) -> bool:
    """Whether a node rounds numbers to 16 bits."""
    return graph.node(identity).op == "cast" and graph.node(identity).types[0].dtype in HALVES


def _sources(graph: Graph, value: Value, frozen: frozenset[int], contiguous: bool, once: bool) -> set[int]:
    """The nodes that only move elements on the way to `value`; with `contiguous`, none if its rows were scattered.

    Where the kernel reads an element `once`, a rounding to 16 bits is among them.
    """
    members: set[int] = set()
    axis = graph.type(value).rank - 1
    kept: set[int] = set()
    while graph.uses(value) == 1 and value not in graph.outputs and value.node not in frozen:
        node = graph.node(value.node)
        scaled = node.op == "mul" and not contiguous and _scaled(graph, value.node)
        if "movement" not in node.record.traits and not scaled and not (once and rounds(graph, value.node)):
            break
        last = axis == node.types[0].rank - 1
        if node.op == "permute":
            axis = node.attrs["order"][axis]
        elif contiguous and not last:
            break
        members.add(value.node)
        value = graph.operands(value.node)[0]
        if node.op != "permute":
            axis = graph.type(value).rank - 1
        if axis == graph.type(value).rank - 1:
            kept = set(members)
    return kept if contiguous else members


def _shared(graph: Graph, members: set[int], frozen: frozenset[int]) -> set[int]:
    """The nodes that move whole rows to several members, and to nobody else."""
    found: set[int] = set()
    while True:
        inside = members | found
        read = {value for member in inside for value in graph.operands(member) if value.node not in inside | frozen}
        new = {
            value.node
            for value in read
            if moves_rows(graph, value)
            and value not in graph.outputs
            and all(user in inside and _moves(graph, user) for user, _ in graph.users(value))
        }
        if not new:
            return found
        found |= new


def moves_rows(graph: Graph, value: Value) -> bool:
    """Whether a reshape, a permute or a roll that leaves the last dimension as it is makes `value`."""
    node, rank = graph.node(value.node), graph.type(value).rank
    if not rank or not _plain(graph, value):
        return False
    if node.op == "reshape":
        return graph.type(graph.operands(value.node)[0]).shape[-1:] == node.types[0].shape[-1:]
    if node.op == "permute":
        return bool(node.attrs["order"][-1] % rank == rank - 1)
    return node.op == "roll" and rank - 1 not in {axis % rank for axis in node.attrs["axes"]}


def _moves(graph: Graph, identity: int) -> bool:
    return "movement" in graph.node(identity).record.traits


def _scaled(graph: Graph, identity: int) -> bool:
    """Whether a node multiplies by a number."""
    return graph.node(graph.operands(identity)[1].node).op == "constant"


def _plain(graph: Graph, value: Value) -> bool:
    type = graph.type(value)
    return not type.layout and type.dtype in ("float32", *HALVES)
