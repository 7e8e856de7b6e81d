"""Scales and shifts beside views: they pass a change of shape, so that they meet the operator that takes them in.

    view(conv(x, w)) * s      => view(conv(x, w) * s')         s' is s, seen from before the view
    view(conv(x, w)) + t      => view(conv(x, w) + t')
    linear(view(x * s), w)    => linear(view(x) * s', w)       s' is s, seen from behind the view
    linear(view(x + t), w)    => linear(view(x) + t', w)

A view is any number of reshapes, permutations, and means over dimensions along which s does not vary. In the first two
rules a scale moves towards the inputs, to an operator that absorbs it; in the last two towards the operator that does,
past all views at once, and only where none in front of it would. So the rules end.
"""

from __future__ import annotations

from collections.abc import Callable

from specc.ir.dims import product
from specc.ir.graph import Node, Value
from specc.ir.types import TensorType
from specc.passes.rewrite import Frozen, Match, Op, Refused, Rule, Var
from specc.passes.weight_space import channel_axis, is_per_channel, sole_use

VIEWS = ("reshape", "flatten", "permute", "mean", "global_avg_pool")


def _aligned(factor: TensorType, like: TensorType) -> tuple[object, ...] | None:
    """The shape of the factor with ones in front, as long as that of `like`."""
    return (1,) * (like.rank - factor.rank) + factor.shape if factor.rank <= like.rank else None


def _below(match: Match, value: Value) -> tuple[list[int], Value]:
    """The views above a value, outermost first, and the value; none of them has another user."""
    views: list[int] = []
    while match.graph.op(value) in VIEWS and not match.is_frozen(value):
        if reason := sole_use(match, value):
            raise Refused(reason)
        views.append(value.node)
        (value,) = match.graph.operands(value.node)
    return views, value


def _again(match: Match, views: list[int], value: Value) -> Value:
    """The same views of another value of the same type."""
    for view in reversed(views):
        node = match.graph.node(view)
        value = match.apply(node.op, value, like=view, **node.attrs)
    return value


def _pulled(match: Match, view: int, factor: Value) -> Value | None:
    """A factor behind the view as one before it, of full rank; None where it is none."""
    node, (operand,) = match.graph.node(view), match.graph.operands(view)
    x, y = match.type(operand), node.types[0]
    shape = _aligned(match.type(factor), y)
    if shape is None:
        return None
    if node.op == "permute":
        order = [axis % x.rank for axis in node.attrs["order"]]
        inverse = tuple(order.index(axis) for axis in range(x.rank))
        return match.apply("permute", match.apply("reshape", factor, shape=shape), order=inverse)
    if node.op in ("mean", "global_avg_pool"):
        kept = iter(shape if not node.attrs["keep"] else [e for i, e in enumerate(shape) if i not in _reduced(node, x)])
        return match.apply(
            "reshape", factor, shape=tuple(1 if i in _reduced(node, x) else next(kept) for i in range(x.rank))
        )
    varying = [axis for axis, extent in enumerate(shape) if extent != 1]
    if not varying:
        return match.apply("reshape", factor, shape=(1,) * x.rank)
    for axis, extent in enumerate(x.shape):
        block = _block(y, product(x.shape[:axis]), product(x.shape[: axis + 1]), varying[0], varying[-1])
        if block and isinstance(extent, int):
            first, last = block
            within = match.apply("reshape", factor, shape=shape[first:last])
            full = match.apply("mul", match.constant(1.0, y.shape[first:last]), within)
            return match.apply("reshape", full, shape=(1,) * axis + (extent,) + (1,) * (x.rank - axis - 1))
    return None


def _pushed(match: Match, view: int, factor: Value) -> Value | None:
    """A factor before the view as one behind it, of full rank; None where it is none."""
    node, (operand,) = match.graph.node(view), match.graph.operands(view)
    x, y = match.type(operand), node.types[0]
    shape = _aligned(match.type(factor), x)
    if shape is None:
        return None
    if node.op == "permute":
        order = tuple(axis % x.rank for axis in node.attrs["order"])
        return match.apply("permute", match.apply("reshape", factor, shape=shape), order=order)
    varying = [axis for axis, extent in enumerate(shape) if extent != 1]
    if node.op in ("mean", "global_avg_pool"):
        if set(varying) & _reduced(node, x):
            return None
        kept = [e for i, e in enumerate(shape) if i not in _reduced(node, x)]
        return match.apply("reshape", factor, shape=shape if node.attrs["keep"] else tuple(kept))
    if not varying:
        return match.apply("reshape", factor, shape=(1,) * y.rank)
    axis = varying[0]
    start, end = product(x.shape[:axis]), product(x.shape[: axis + 1])
    edges = [product(y.shape[:i]) for i in range(y.rank + 1)]
    if len(varying) > 1 or start not in edges or end not in edges:
        return None
    first, last = edges.index(start), edges.index(end)
    ones = (1,) * first, (1,) * (y.rank - last)
    return match.apply("reshape", factor, shape=(*ones[0], *y.shape[first:last], *ones[1]))


def _reduced(node: Node, x: TensorType) -> set[int]:
    """The dimensions over which a mean is taken."""
    axes = node.attrs.get("axes", (2, 3))
    return {axis % x.rank for axis in axes}


def _block(y: TensorType, start: object, end: object, first: int, last: int) -> tuple[int, int] | None:
    """The dimensions of y, those from `first` to `last` among them, that hold the elements from `start` to `end`."""
    edges = [product(y.shape[:i]) for i in range(y.rank + 1)]
    begins = [i for i, edge in enumerate(edges) if edge == start and i <= first]
    ends = [i for i, edge in enumerate(edges) if edge == end and i > last]
    return (begins[-1], ends[0]) if begins and ends else None


def _behind(op: str) -> Callable[[Match], Value | None]:
    def rewrite(match: Match) -> Value | None:
        root, view = Value(match.root), Value(match["view"])
        if match.type(view) != match.type(root) or match.is_frozen(view):
            return None
        views, base = _below(match, view)
        if match.graph.op(base) not in ("conv2d", "linear") or match.is_frozen(base):
            return None
        if not all(match.is_frozen(weight) for weight in match.graph.operands(base.node)[1:]):
            return None
        if reason := sole_use(match, base):
            raise Refused(reason)
        factor: Value | None = match["s"]
        for each in views:
            factor = _pulled(match, each, factor) if factor is not None else None
        if factor is None or not is_per_channel(match, factor, base, channel_axis(match, base)):
            raise Refused(f"{match.type(match['s'])} differs within a channel of the `{match.graph.op(base)}`")
        return _again(match, views, match.apply(op, base, factor, like=base.node))

    return rewrite


def _moves_forward(match: Match, value: Value, factor: Value) -> bool:
    """Whether no operator in front takes in a factor of `value`.

    One that someone else needs does not; but in this sweep that can be dead code, which the rules in front left. So it
    counts who is needed in the end.
    """
    views, base = [], value
    while match.graph.op(base) in VIEWS and not match.is_frozen(base):
        views.append(base.node)
        (base,) = match.graph.operands(base.node)
    if match.graph.op(base) not in ("conv2d", "linear") or match.is_frozen(base):
        return True
    if not all(match.is_frozen(weight) for weight in match.graph.operands(base.node)[1:]):
        return True
    if sum(_is_live(match, user) for user, _ in match.graph.users(base)) > 1 or base in match.graph.outputs:
        return True
    pulled: Value | None = factor
    for each in views:
        pulled = _pulled(match, each, pulled) if pulled is not None else None
    return pulled is None or not is_per_channel(match, pulled, base, channel_axis(match, base))


def _is_live(match: Match, identity: int) -> bool:
    """Whether an output needs the node."""
    graph = match.graph
    pending, seen = [identity], {identity}
    while pending:
        one = pending.pop()
        if any(value.node == one for value in graph.outputs):
            return True
        new = {
            user for result in range(len(graph.node(one).types)) for user, _ in graph.users(Value(one, result))
        } - seen
        seen |= new
        pending += new
    return False


def _before(match: Match) -> Value | None:
    root = match.graph.node(match.root)
    operand = Value(match["view"])
    views, base = _below(match, operand)
    op = match.graph.op(base)
    if op not in ("mul", "add") or match.is_frozen(base):
        return None
    x, factor = match.graph.operands(base.node)
    if match.is_frozen(x):
        x, factor = factor, x
    if not match.is_frozen(factor) or match.type(x) != match.type(base):
        return None
    if reason := sole_use(match, base):
        raise Refused(reason)
    if not _moves_forward(match, x, factor):
        return None
    if op == "add" and any(root.attrs.get("padding", ())):
        return None
    for view in reversed(views):
        pushed = _pushed(match, view, factor)
        if pushed is None:
            raise Refused(f"{match.type(factor)} differs along dimensions that `{match.graph.node(view).op}` joins")
        factor = pushed
    axis = 1 if root.op == "conv2d" else match.type(operand).rank - 1
    if not is_per_channel(match, factor, operand, axis):
        raise Refused(f"{match.type(factor)} differs within a channel")
    moved = match.apply(op, _again(match, views, x), factor, like=base.node)
    return match.apply(root.op, moved, *match.graph.operands(match.root)[1:], **root.attrs)


_VIEW = Op(VIEWS, Var("x"), name="view")

RULES = (
    Rule("view(conv(x, w)) * s => view(conv(x, w) * s)", Op("mul", _VIEW, Frozen("s")), _behind("mul")),
    Rule("view(conv(x, w)) + t => view(conv(x, w) + t)", Op("add", _VIEW, Frozen("s")), _behind("add")),
    Rule("linear(view(x * s), w) => linear(view(x) * s, w)", Op("linear", _VIEW, Frozen("w"), rest="bias"), _before),
    Rule("conv(view(x * s), w) => conv(view(x) * s, w)", Op("conv2d", _VIEW, Frozen("w"), rest="bias"), _before),
)
