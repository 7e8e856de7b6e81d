"""Permutes moved through what stands between them, where fewer elements are moved then.

    permute(f(permute(x))) => f(x)                     also where f is several operators, or has other operands
    f(permute(x), permute(y)) => permute(f(x, y))
    reduce(permute(x)) => reduce(x)                    permuted behind it where the dimensions that stay ask for it
    slice(permute(x)) => permute(slice(x))
    f(reshape(x)) => reshape(f(x))                     f elementwise: it can join the kernel that makes x

An operator lets a permute through if it says which dimension it works on, or works on all alike: elementwise operators,
softmax and normalization of one dimension, reductions that keep their dimensions, slice, concat, pad, expand. A matrix
for every place of [n, h, w, c] is a 1x1 convolution of [n, c, h, w], and the other way round. Weights and other frozen
operands are permuted at no cost. What is counted are the elements that permutes move; each rule makes
that number smaller (the last one moves views behind elementwise operators and nothing back), and none adds nodes, so
the rules end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specc import ops
from specc.ir.cost import nominal
from specc.ir.graph import Node, Value
from specc.passes.rewrite import Match, Op, Rule, Var

ELEMENTWISE = tuple(record.name for record in ops.OPERATORS.values() if record.elementwise)
REDUCTIONS = ("mean", "sum", "amax")
ALONG_AXIS = frozenset({"softmax", "layer_norm", "rms_norm", "slice", "concat"})
"""Operators that name one dimension, in `axis`, and have a result of the same rank."""
SAME = {"linear": "conv2d", "conv2d": "linear"}
"""What a matrix for every place and a convolution of 1x1 become where channels change their place."""
WEIGHTED = frozenset({"layer_norm", "rms_norm", *SAME})
"""Operators whose first operand alone has the dimensions of the result."""

Order = tuple[int, ...]
Attributes = Mapping[str, Any]


def _reordered(node: Node, order: Order) -> Attributes | None:
    """The attributes with which a node does to permuted operands what it does now; None where it cannot."""
    rank, attrs = len(order), dict(node.attrs)
    if node.record.elementwise:
        return attrs
    if node.op in ALONG_AXIS:
        return {**attrs, "axis": order.index(attrs["axis"] % rank)}
    if node.op in REDUCTIONS and attrs["keep"]:
        return {**attrs, "axes": tuple(sorted(order.index(axis % rank) for axis in attrs["axes"]))}
    if node.op == "pad":
        sides = {side: tuple(attrs[side][axis] for axis in order) for side in ("before", "after")}
        return {**attrs, **sides}
    if node.op == "linear" and rank == 4 and order.index(3) == 1:
        return {}  # a 1x1 convolution
    if node.op == "conv2d" and order.index(1) == 3:
        plain = attrs["stride"] == (1, 1) and not any(attrs["padding"]) and attrs["groups"] == 1
        return {} if plain else None  # a matrix, where the kernel is of 1x1
    return None


def _activations(match: Match, identity: int) -> list[Value]:
    """The operands of a node that have its dimensions: all but weights."""
    operands = match.graph.operands(identity)
    return list(operands[:1]) if match.graph.node(identity).op in WEIGHTED else list(operands)


@dataclass
class _Region:
    """Nodes between `root`, a permute, and what they read: all that is read outside is permuted instead."""

    match: Match
    order: Order
    members: list[int] = field(default_factory=list)

    def elements(self, value: Value) -> int:
        graph = self.match.graph
        return nominal(graph.type(value).elements, graph.defaults)

    def leaves(self) -> list[Value]:
        """What the members read outside of the region, as far as it has their dimensions."""
        read = [
            v for identity in self.members for v in _activations(self.match, identity) if v.node not in self.members
        ]
        return list(dict.fromkeys(read))

    def permuted(self, value: Value) -> tuple[Value, Order] | None:
        """What `value` is a permute of, and the order in which the region would read that."""
        node = self.match.graph.node(value.node)
        if node.op != "permute" or self.match.is_frozen(value) or node.types[0].rank != len(self.order):
            return None
        source = self.match.graph.operands(value.node)[0]
        if self.match.type(source).layout:
            return None
        return source, tuple(node.attrs["order"][axis] for axis in self.order)

    def gain(self) -> tuple[int, int]:
        """How many elements fewer are moved, and how many nodes fewer there are, at the least."""
        graph = self.match.graph
        moved, nodes = self.elements(Value(self.match.root)), 1
        inside = {*self.members, self.match.root}
        for leaf in self.leaves():
            if self.match.is_frozen(leaf) or not graph.type(leaf).rank:
                continue
            if graph.type(leaf).elements == 1:
                nodes -= 1  # a reshape
                continue
            found = self.permuted(leaf)
            if found and all(user in inside for user, _ in graph.users(leaf)) and leaf not in graph.outputs:
                moved, nodes = moved + self.elements(leaf), nodes + 1
            if not found or found[1] != tuple(range(len(found[1]))):
                moved, nodes = moved - self.elements(leaf), nodes - 1
            if graph.type(leaf).rank < len(self.order):
                nodes -= 1  # a reshape to the rank of the others
        return moved, nodes

    def rebuild(self) -> Value:
        """The members on permuted operands; the result of the last one, which is the root's."""
        match, graph = self.match, self.match.graph
        made: dict[Value, Value] = {}
        for identity in reversed(self.members):
            node = graph.node(identity)
            attrs = _reordered(node, self.order)
            assert attrs is not None
            operands = list(graph.operands(identity))
            for position, operand in enumerate(_activations(match, identity)):
                if operand not in made:
                    made[operand] = self._read(operand, identity)
                operands[position] = made[operand]
            if node.op in SAME:
                out, inputs, *_ = match.type(operands[1]).shape
                kernel = (out, inputs, 1, 1) if node.op == "linear" else (out, inputs)
                operands[1] = match.apply("reshape", operands[1], like=identity, shape=kernel)
            made[Value(identity)] = match.apply(SAME.get(node.op, node.op), *operands, like=identity, **attrs)
        return made[Value(self.members[0])]

    def _read(self, leaf: Value, user: int) -> Value:
        match, rank = self.match, len(self.order)
        found = self.permuted(leaf)
        source, order = found or (leaf, self.order)
        shape = match.type(source).shape
        if not shape:
            return source
        if len(shape) < rank:
            source = match.apply("reshape", source, like=user, shape=(1,) * (rank - len(shape)) + shape)
        return source if order == tuple(range(rank)) else match.apply("permute", source, like=user, order=order)


def _admits(match: Match, identity: int, order: Order) -> bool:
    """Whether a permute with `order` may move from behind a node to its operands."""
    node = match.graph.node(identity)
    if len(node.types) != 1 or node.types[0].rank != len(order) or node.types[0].layout:
        return False
    operands = match.graph.operands(identity)
    if any(match.type(value).layout for value in operands):
        return False
    if node.op in SAME and not all(match.is_frozen(weight) for weight in operands[1:]):
        return False
    if node.op == "conv2d" and match.type(operands[1]).shape[2:] != (1, 1):
        return False
    return _reordered(node, order) is not None


def _through(match: Match) -> Value | None:
    """The region above the permute at the root, grown node by node as far as helps most."""
    graph = match.graph
    order = graph.node(match.root).attrs["order"]
    region = _Region(match, order)
    best: tuple[tuple[int, int], int] | None = None
    while (following := _following(region)) is not None:
        region.members.append(following)
        gain = region.gain()
        if gain[0] > 0 and gain[1] >= 0 and (best is None or gain > best[0]):
            best = gain, len(region.members)
    if best is None:
        return None
    del region.members[best[1] :]
    return region.rebuild()


def _following(region: _Region) -> int | None:
    """A node that the region can take in: only members use it."""
    match, graph = region.match, region.match.graph
    inside = {*region.members, match.root}
    candidates = region.leaves() if region.members else list(graph.operands(match.root))
    for value in candidates:
        if match.is_frozen(value) or value in graph.outputs or graph.op(value) == "permute":
            continue
        if all(user in inside for user, _ in graph.users(value)) and _admits(match, value.node, region.order):
            return value.node
    return None


def _below(match: Match) -> Value | None:
    """`f(permute(x), permute(y)) => permute(f(x, y))`."""
    graph, root = match.graph, match.root
    live = [value for value in dict.fromkeys(graph.operands(root)) if not match.is_frozen(value)]
    permutes = [value for value in live if graph.op(value) == "permute" and match.type(value).rank > 1]
    if len(permutes) < 2:
        return None
    order: Order = graph.node(permutes[0].node).attrs["order"]
    inverse = tuple(order.index(axis) for axis in range(len(order)))
    if not _admits(match, root, inverse):
        return None
    region = _Region(match, inverse, [root])
    saved = [v for v in permutes if graph.uses(v) == sum(o == v for o in graph.operands(root))]
    gone = sum(region.elements(value) for value in saved)
    added = region.elements(Value(root))
    for value in live:
        found = region.permuted(value)
        if match.type(value).rank < len(order) or not found or found[1] != tuple(range(len(order))):
            return None
    if (gone, len(saved)) <= (added, 1):
        return None
    return match.apply("permute", region.rebuild(), order=order)


def _reduced(match: Match) -> Value | None:
    """The dimensions that are reduced, counted before the permute; a permute of what is left where it needs one."""
    graph, root = match.graph, Value(match.root)
    node, order = graph.node(root.node), match.node("permute").attrs["order"]
    if match.type(match["x"]).layout:
        return None
    gone = {axis % len(order) for axis in node.attrs["axes"]}
    axes = tuple(sorted(order[axis] for axis in gone))
    reduced = match.apply(node.op, match["x"], axes=axes, keep=node.attrs["keep"])
    if node.attrs["keep"]:
        wanted = order
    else:
        left = [order[axis] for axis in range(len(order)) if axis not in gone]
        wanted = tuple(sorted(left).index(axis) for axis in left)
    if wanted == tuple(range(len(wanted))):
        return reduced
    sole = graph.uses(Value(match["permute"])) == 1
    before, after = (nominal(match.type(v).elements, graph.defaults) for v in (match["x"], reduced))
    return match.apply("permute", reduced, order=wanted) if sole and after < before else None


def _sliced(match: Match) -> Value | None:
    graph, root = match.graph, Value(match.root)
    node, order = graph.node(root.node), match.node("permute").attrs["order"]
    before, after = (nominal(match.type(v).elements, graph.defaults) for v in (match["x"], root))
    if graph.uses(Value(match["permute"])) != 1 or after >= before or match.type(match["x"]).layout:
        return None
    attrs = {**node.attrs, "axis": order[node.attrs["axis"] % len(order)]}
    return match.apply("permute", match.apply("slice", match["x"], **attrs), order=order)


def _view_behind(match: Match) -> Value | None:
    """F elementwise of views of one shape, and of frozen values that can be seen in that shape as well."""
    graph, root = match.graph, match.root
    node = graph.node(root)
    operands = graph.operands(root)
    live = [value for value in dict.fromkeys(operands) if not match.is_frozen(value)]  # at least one: the root is live
    uses = {value: sum(o == value for o in operands) for value in live}
    if any(graph.op(v) != "reshape" or match.is_frozen(v) or graph.uses(v) != uses[v] for v in live):
        return None
    sources = [graph.operands(value.node)[0] for value in live]
    shape = match.type(sources[0]).shape
    wanted = node.types[0].shape
    if not any(graph.uses(source) == 1 and graph.op(source) != "input" for source in sources):
        return None  # f would become a kernel of its own, and what follows another
    if any(match.type(v).shape != wanted for v in live) or any(match.type(s).shape != shape for s in sources):
        return None
    taken: list[Value] = []
    for operand in operands:
        if operand in live:
            taken.append(sources[live.index(operand)])
        elif match.type(operand).shape == wanted:
            taken.append(match.apply("reshape", operand, shape=shape))
        elif match.type(operand).elements == 1:
            taken.append(match.apply("reshape", operand, shape=()))
        else:
            return None
    return match.apply("reshape", match.apply(node.op, *taken, **node.attrs), shape=wanted)


X = Var("x")
_PERMUTED = Op("permute", X, name="permute")

RULES = (
    Rule("permute(f(permute(x))) => f(x)", Op("permute", X), _through),
    Rule("f(permute(x), permute(y)) => permute(f(x, y))", Op((*ELEMENTWISE, "concat"), X, rest="others"), _below),
    Rule("reduce(permute(x)) => reduce(x)", Op(REDUCTIONS, _PERMUTED), _reduced),
    Rule("slice(permute(x)) => permute(slice(x))", Op("slice", _PERMUTED), _sliced),
    Rule("f(reshape(x)) => reshape(f(x))", Op(ELEMENTWISE, X, rest="others"), _view_behind),
)
