"""Rows that move as they are (windows, rolls, tokens of a picture), past what works on each row by itself.

    attention(linear(move(x)))     => attention(move(linear(x)))      attention reads by index,
    move(linear(attention(..)))    => linear(move(attention(..)))     and writes by index
    unmove(f(move(x)))             => f(x)                            f: linear, normalization and elementwise layers

A *move* is a chain of reshapes, permutes and rolls that leave the last dimension as it is: every row of the result is
one of the operand's. A roll is also what puts `x[k:]` in front of `x[:k]`. A row of weights makes of a row is the same
wherever it stands, so moves pass linear layers; the kernel of attention reads and writes its rows by index arithmetic
(`attention`), so that there a move is no kernel, whatever its size. What stood behind a move, a residual's addition,
then stands behind the linear layer, whose kernel takes it.

The first two take every move away from a linear layer that has attention on the other side, and the third one a chain
of moves; none brings one back, so the rules end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from specc.ir.graph import Graph, Value
from specc.passes.attention import attentions, moves_rows
from specc.passes.rewrite import Event, Journal

ALONG_ROWS = ("layer_norm", "rms_norm", "softmax")
"""Operators of a dimension that they name."""


@dataclass(frozen=True)
class Move:
    """One step of a chain: what moves the rows of `operand` to those of `result`. `nodes` are those that do it."""

    op: str
    attrs: Mapping[str, Any]
    operand: Value
    result: Value
    nodes: tuple[int, ...]

    def again(self, graph: Graph, value: Value, width: Any) -> Value:
        """The same move of rows of another width."""
        node = graph.node(self.result.node)
        attrs = dict(self.attrs)
        if self.op == "reshape":
            attrs["shape"] = (*attrs["shape"][:-1], width)
        return graph.apply(self.op, (value,), attrs, node.path, node.span)


def rows(graph: Graph, journal: Journal | None = None) -> Graph:
    """`graph` with moves of rows at attention, and without those that are undone."""
    graph = graph.copy()
    graph.prune()
    journal = journal if journal is not None else Journal()
    found = attentions(graph)
    taken = {identity for members in found for identity in members}
    for members in found:
        _reads(graph, set(members), taken, journal)
        _writes(graph, members, taken, journal)
    graph.prune()
    for identity in graph.order():
        if identity in graph.structure and identity not in taken:
            _undone(graph, identity, taken, journal)
    graph.prune()
    return graph


def _reads(graph: Graph, members: set[int], taken: set[int], journal: Journal) -> None:
    """The moves in front of the linear layers that an attention reads, to behind them."""
    read = {value for member in members for value in graph.operands(member)}
    layers = sorted(value for value in read if value.node not in members and _is_layer(graph, value))
    layers = [value for value in layers if _users(graph, value) <= members and value not in graph.outputs]
    for value in layers:
        data, *weights = graph.operands(value.node)
        chain = _above(graph, data, {layer.node for layer in layers}, taken)
        if not _moving(chain):
            continue
        node = graph.node(value.node)
        moved = graph.apply("linear", (chain[0].operand, *weights), node.attrs, node.path, node.span)
        for move in chain:
            moved = move.again(graph, moved, node.types[0].shape[-1])
        graph.replace(value, moved)
        _note(journal, graph, "attention(linear(move(x))) => attention(move(linear(x)))", value)


def _writes(graph: Graph, members: Sequence[int], taken: set[int], journal: Journal) -> None:
    """The moves behind the linear layer that reads an attention alone, to in front of it."""
    inside = set(members)
    results = [Value(member) for member in members if not _users(graph, Value(member)) <= inside]
    if len(results) != 1 or graph.uses(results[0]) != 1:
        return
    ((user, _),) = graph.users(results[0])
    if not _is_layer(graph, Value(user)) or graph.operands(user)[0] != results[0]:
        return
    chain = _below(graph, Value(user), taken)
    if not _moving(chain):
        return
    node, moved = graph.node(user), results[0]
    for move in chain:
        moved = move.again(graph, moved, graph.type(results[0]).shape[-1])
    layer = graph.apply("linear", (moved, *graph.operands(user)[1:]), node.attrs, node.path, node.span)
    graph.replace(chain[-1].result, layer)
    _note(journal, graph, "move(linear(attention(..))) => linear(move(attention(..)))", Value(user))


def _undone(graph: Graph, identity: int, taken: set[int], journal: Journal) -> None:
    """`unmove(f(move(x))) => f(x)` where the first operator of f is the node `identity`."""
    data = _data(graph, identity)
    above = _above(graph, data, {identity}, taken) if data is not None else []
    layers, value = [identity], Value(identity)
    while above:
        below = _below(graph, value, taken)
        found = _inverse(graph, above, below)
        if found:
            source, last = found
            graph.replace(last, _again(graph, layers, source))
            _note(journal, graph, "unmove(f(move(x))) => f(x)", last)
            return
        users = _users(graph, value)
        if len(users) != 1 or value in graph.outputs or _data(graph, *users) != value:
            return
        layers += users
        value = Value(*users)


def _inverse(graph: Graph, above: Sequence[Move], below: Sequence[Move]) -> tuple[Value, Value] | None:
    """What the last moves of `above` move, and the result of the first ones of `below`, which undo them."""
    for first, start in enumerate(above):
        for end, stop in enumerate(below, 1):
            shape, last = graph.type(start.operand).shape, graph.type(stop.result).shape
            if shape[:-1] == last[:-1] and _stays(shape, [*above[first:], *below[:end]]):
                return start.operand, stop.result
    return None


def _stays(shape: Sequence[Any], chain: Sequence[Move]) -> bool:
    """Whether moves bring every row of a tensor of `shape` back to its place."""
    import numpy as np

    if not all(isinstance(extent, int) for move in chain for extent in (*shape, *move.attrs.get("shape", ()))):
        return not _moving(chain)
    places = np.arange(prod(shape[:-1])).reshape(*shape[:-1], 1)
    for move in chain:
        if move.op == "reshape":
            places = places.reshape(*move.attrs["shape"][:-1], 1)
        elif move.op == "permute":
            places = places.transpose(move.attrs["order"])
        else:
            places = np.roll(places, move.attrs["shifts"], move.attrs["axes"])
    return bool((places.reshape(-1) == np.arange(places.size)).all())


def _data(graph: Graph, identity: int) -> Value | None:
    """The operand whose rows a node works on, each by itself: linear layers, normalization along rows, elementwise
    operators of one tensor and of what is equal for all rows. None for another node."""
    node, operands = graph.node(identity), graph.operands(identity)
    live = {operand for operand in operands if not graph.is_frozen(operand.node)}
    if len(live) != 1 or len(node.types) != 1 or not node.types[0].rank or node.types[0].layout:
        return None
    (data,) = live
    rank = graph.type(data).rank
    if node.op in ("linear", *ALONG_ROWS):
        along = node.op == "linear" or node.attrs["axis"] % rank == rank - 1
        return data if along and operands[0] == data else None
    others = [graph.type(operand).shape for operand in operands if operand != data]
    alike = all(len(shape) <= 1 for shape in others)
    return data if node.record.elementwise and alike and graph.type(data).shape == node.types[0].shape else None


def _again(graph: Graph, layers: Sequence[int], value: Value) -> Value:
    """The operators of `layers`, each on what the one before it makes, the first one on `value`."""
    for identity in layers:
        node, data = graph.node(identity), _data(graph, identity)
        operands = [value if operand == data else operand for operand in graph.operands(identity)]
        attrs = {**node.attrs, "axis": graph.type(value).rank - 1} if node.op in ALONG_ROWS else node.attrs
        value = graph.apply(node.op, operands, attrs, node.path, node.span)
    return value


# ---- chains ---------------------------------------------------------------------------------------------------------


def _move(graph: Graph, value: Value) -> Move | None:
    """The move that makes `value`; None where it is made otherwise, or depends on no input."""
    if graph.is_frozen(value.node) or any(graph.type(o).layout for o in graph.operands(value.node)):
        return None
    if moves_rows(graph, value):
        node = graph.node(value.node)
        return Move(node.op, node.attrs, graph.operands(value.node)[0], value, (value.node,))
    return _rolled(graph, value)


def _rolled(graph: Graph, value: Value) -> Move | None:
    """`concat(x[k:], x[:k])` as the roll that it is."""
    node, parts = graph.node(value.node), graph.operands(value.node)
    if node.op != "concat" or [graph.op(part) for part in parts] != ["slice", "slice"]:
        return None
    axis = node.attrs["axis"] % node.types[0].rank
    cuts = [graph.node(part.node).attrs for part in parts]
    (source,), (other,) = (graph.operands(part.node) for part in parts)
    extent, at = graph.type(source).shape[axis], cuts[0]["start"]
    ranges = [(cut["axis"] % node.types[0].rank, cut["start"], cut["stop"], cut["step"]) for cut in cuts]
    if source != other or axis == node.types[0].rank - 1 or ranges != [(axis, at, extent, 1), (axis, 0, at, 1)]:
        return None
    if not isinstance(at, int) or not isinstance(extent, int):
        return None
    return Move("roll", {"shifts": (-at,), "axes": (axis,)}, source, value, (value.node, *(p.node for p in parts)))


def _above(graph: Graph, value: Value, users: set[int], taken: set[int]) -> list[Move]:
    """The moves that lead to `value`, in order, as far as nobody needs what is between them but `users`."""
    chain: list[Move] = []
    while value not in graph.outputs and value.node not in taken and _users(graph, value) <= users:
        move = _move(graph, value)
        if move is None or not taken.isdisjoint(move.nodes):
            break
        if len(move.nodes) > 1 and any(graph.uses(Value(part)) != 1 for part in move.nodes[1:]):
            break
        chain.insert(0, move)
        users, value = set(move.nodes), move.operand
    return chain


def _below(graph: Graph, value: Value, taken: set[int]) -> list[Move]:
    """The moves that `value` goes through, in order, as far as nobody needs what is between them."""
    chain: list[Move] = []
    while value not in graph.outputs:
        users = _users(graph, value)
        joined = {user for part in users for user in _users(graph, Value(part))} if len(users) == 2 else users
        if len(joined) != 1 or not taken.isdisjoint(users | joined):
            break
        move = _move(graph, Value(*joined))
        if move is None or move.operand != value or not users <= set(move.nodes):
            break
        chain.append(move)
        value = move.result
    return chain


def _moving(chain: Sequence[Move]) -> bool:
    """Whether a chain is more than a view."""
    return any(move.op != "reshape" for move in chain)


def _users(graph: Graph, value: Value) -> set[int]:
    return {user for user, _ in graph.users(value)}


def _is_layer(graph: Graph, value: Value) -> bool:
    """Whether a linear layer whose weights are known makes `value`."""
    if graph.op(value) != "linear" or graph.is_frozen(value.node):
        return False
    return all(graph.is_frozen(weight.node) for weight in graph.operands(value.node)[1:])


def _note(journal: Journal, graph: Graph, rule: str, value: Value) -> None:
    node = graph.node(value.node)
    journal.events.append(Event(rule, node.op, node.path, node.span))
