"""Slices, concatenations, paddings and repetitions of one another: one where two would do, and none where none is due.

    slice(slice(x)) => slice(x)
    concat(.., concat(y, z), ..) => concat(.., y, z, ..)
    slice(concat(x, y)) => slice(x)                 where it lies within one part; none where it is the part
    slice(concat(x, y, z)) => concat(x, y)          where it holds whole parts
    concat(.., x[a:b], x[b:c], ..) => concat(.., x[a:c], ..)
    slice(pad(x)) => pad(x)                         where it cuts off padding alone
    pad(pad(x, v), v) => pad(x, v)
    conv(pad(x, 0)) => conv(x), avg_pool, max_pool  with the padding as their own
    expand(expand(x)) => expand(x)
    f(x, expand(y)) => f(x, y)                      where f repeats y by itself
    expand(x) => reshape(x)                         where nothing is repeated

Each takes a node away, or puts a node nearer to the inputs, and none adds one, so the rules end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specc import ops
from specc.ir.dims import Dim
from specc.ir.graph import Value
from specc.ops.record import Illegal
from specc.passes.rewrite import Match, Op, Refused, Rule, Var

X = Var("x")
ELEMENTWISE = tuple(record.name for record in ops.OPERATORS.values() if record.elementwise)

NONNEGATIVE = frozenset({"relu", "relu6", "sigmoid", "hard_sigmoid", "exp", "sqrt", "abs"})
"""Operators whose results are at least 0. A window holds at least one of them (its padding is below its extent), so
zeros at the border change no maximum."""


def _axis(match: Match, value: Value) -> int:
    """The dimension that the node making `value` names, counted from the front."""
    axis: int = match.graph.node(value.node).attrs["axis"]
    return axis % match.type(value).rank


def _cut(match: Match, value: Value, axis: int, start: Dim, stop: Dim) -> Value:
    """value[start:stop] along `axis`; the value itself where that is all of it."""
    whole = start == 0 and stop == match.type(value).shape[axis]
    return value if whole else match.apply("slice", value, axis=axis, start=start, stop=stop, step=1)


def _range(match: Match, value: Value) -> tuple[int, int, int] | None:
    """start, stop and step of a slice, where they are numbers."""
    attrs = match.graph.node(value.node).attrs
    start, stop, step = attrs["start"], attrs["stop"], attrs["step"]
    return (start, stop, step) if isinstance(start, int) and isinstance(stop, int) else None


def _slice_of_slice(match: Match) -> Value | None:
    inner, root = Value(match["inner"]), Value(match.root)
    axis = _axis(match, root)
    if axis != _axis(match, inner):
        return None
    outer_range, inner_range = _range(match, root), _range(match, inner)
    if outer_range is None or inner_range is None:
        return None
    (start, stop, step), (lead, _, stride) = outer_range, inner_range
    last = lead + stride * (start + step * ((stop - start - 1) // step))
    attrs = {"start": lead + stride * start, "stop": last + 1, "step": stride * step}
    return match.apply("slice", match["x"], axis=axis, **attrs)


def _flat_concat(match: Match) -> Value | None:
    """The parts of the parts, of those that nobody else needs."""
    root = Value(match.root)
    axis = _axis(match, root)
    parts: list[Value] = []
    for part in match.graph.operands(match.root):
        same = match.graph.op(part) == "concat" and not match.is_frozen(part) and _axis(match, part) == axis
        opened = same and match.graph.uses(part) == 1
        parts += match.graph.operands(part.node) if opened else [part]
    return match.apply("concat", *parts, axis=axis) if len(parts) > len(match.graph.operands(match.root)) else None


def _slice_of_concat(match: Match) -> Value | None:
    root, inner = Value(match.root), Value(match["inner"])
    axis, wanted = _axis(match, root), _range(match, root)
    if axis != _axis(match, inner) or wanted is None:
        return None
    start, stop, step = wanted
    position = 0
    whole: list[Value] = []
    for part in match.graph.operands(inner.node):
        extent = match.type(part).shape[axis]
        if not isinstance(extent, int):
            return None
        if position <= start and stop <= position + extent:
            if step == 1:
                return _cut(match, part, axis, start - position, stop - position)
            return match.apply("slice", part, axis=axis, start=start - position, stop=stop - position, step=step)
        if start <= position and position + extent <= stop:
            whole.append(part)
        position += extent
    total = sum(extent for part in whole if isinstance(extent := match.type(part).shape[axis], int))
    return match.apply("concat", *whole, axis=axis) if step == 1 and total == stop - start else None


def _joined_slices(match: Match) -> Value | None:
    """Neighbours that are neighbours in one tensor as well; a slice that is new takes the place of one that goes."""
    axis = _axis(match, Value(match.root))
    parts: list[Value] = []
    last: tuple[Value, int, int] | None = None
    for part in match.graph.operands(match.root):
        piece = _piece(match, part, axis)
        if piece and last and (piece[0], piece[1]) == (last[0], last[2]):
            whole = last[1] == 0 and piece[2] == match.type(piece[0]).shape[axis]
            if whole or 1 in (match.graph.uses(part), match.graph.uses(parts[-1])):
                last = (last[0], last[1], piece[2])
                parts[-1] = _cut(match, last[0], axis, last[1], last[2])
                continue
        parts.append(part)
        last = piece
    if len(parts) == len(match.graph.operands(match.root)):
        return None
    return parts[0] if len(parts) == 1 else match.apply("concat", *parts, axis=axis)


def _piece(match: Match, part: Value, axis: int) -> tuple[Value, int, int] | None:
    """A slice along `axis` without steps, as what it is of, from where and to where."""
    if match.graph.op(part) != "slice" or match.is_frozen(part) or _axis(match, part) != axis:
        return None
    found = _range(match, part)
    if found is None or found[2] != 1:
        return None
    return match.graph.operands(part.node)[0], found[0], found[1]


def _slice_of_pad(match: Match) -> Value | None:
    root, inner = Value(match.root), Value(match["inner"])
    axis, wanted = _axis(match, root), _range(match, root)
    attrs = match.graph.node(inner.node).attrs
    before, after, extent = list(attrs["before"]), list(attrs["after"]), match.type(match["x"]).shape[axis]
    if wanted is None or not all(isinstance(number, int) for number in (before[axis], after[axis], extent)):
        return None
    start, stop, step = wanted
    if step != 1 or start > before[axis] or stop < before[axis] + extent:
        return None
    after[axis] = stop - before[axis] - extent
    before[axis] -= start
    return match.apply("pad", match["x"], before=tuple(before), after=tuple(after), value=attrs["value"])


def _pad_of_pad(match: Match) -> Value | None:
    outer, inner = match.graph.node(match.root).attrs, match.node("inner").attrs
    if outer["value"] != inner["value"]:
        raise Refused(f"one pads with {inner['value']}, the other with {outer['value']}")
    before, after = (tuple(a + b for a, b in zip(outer[side], inner[side])) for side in ("before", "after"))
    return match.apply("pad", match["x"], before=before, after=after, value=outer["value"])


def _padded(match: Match) -> tuple[Any, tuple[int, ...]]:
    """The attributes of the window operator at the root, and its padding with that of the pad before it."""
    pad, window = match.node("inner").attrs, match.graph.node(match.root).attrs
    if pad["value"] != 0.0:
        raise Refused(f"the padding is of {pad['value']}, and a window reads zeros")
    if any(pad["before"][:2]) or any(pad["after"][:2]):
        raise Refused("the padding adds channels or pictures, and not a border alone")
    border = (*pad["before"][2:], *pad["after"][2:])
    if not all(isinstance(width, int) for width in border):
        raise Refused("the width of the border is no number yet")
    return window, tuple(a + b for a, b in zip(border, window["padding"]))


def _conv_of_pad(match: Match) -> Value:
    window, padding = _padded(match)
    return match.apply("conv2d", match["x"], *match["weights"], **{**window, "padding": padding})


def _pool_of_pad(match: Match) -> Value:
    op = match.graph.node(match.root).op
    window, padding = _padded(match)
    if op == "avg_pool2d" and not window["count_padding"]:
        raise Refused("the pool leaves out its own padding, and counts that of the pad")
    if op == "max_pool2d" and match.graph.op(match["x"]) not in NONNEGATIVE:
        raise Refused(f"the maximum takes the zeros of the padding, where `{match.graph.op(match['x'])}` may be below")
    try:
        return match.apply(op, match["x"], **{**window, "padding": padding})
    except Illegal as problem:
        raise Refused(problem.reason) from None


def _to_shape(match: Match) -> Value:
    return match.apply("expand", match["x"], shape=match.type(Value(match.root)).shape)


def _new_dimensions(match: Match) -> Value | None:
    shape, source = match.type(Value(match.root)).shape, match.type(match["x"]).shape
    if [extent for extent in shape if extent != 1] != [extent for extent in source if extent != 1]:
        return None
    return match.apply("reshape", match["x"], shape=shape)


def _without_expand(match: Match) -> Value | None:
    """Drops the repetition of the operands that the root repeats by itself: of all, or of all but one."""
    operands = list(match.graph.operands(match.root))
    bare = [_unexpanded(match, operand) for operand in operands]
    options = [bare, *([*bare[:i], operands[i], *bare[i + 1 :]] for i in range(len(operands)))]
    node = match.graph.node(match.root)
    for option in options:
        if option != operands and _same_type(match, option):
            return match.apply(node.op, *option, **node.attrs)
    return None


def _unexpanded(match: Match, value: Value) -> Value:
    while match.graph.op(value) == "expand":
        value = match.graph.operands(value.node)[0]
    return value


def _same_type(match: Match, operands: Sequence[Value]) -> bool:
    node = match.graph.node(match.root)
    return ops.infer(node.record, [match.type(operand) for operand in operands], dict(node.attrs)) == node.types


RULES = (
    Rule("slice(slice(x)) => slice(x)", Op("slice", Op("slice", X, name="inner")), _slice_of_slice),
    Rule("concat(.., concat(y, z), ..) => concat(.., y, z, ..)", Op("concat", X, rest="others"), _flat_concat),
    Rule(
        "slice(concat(x, y)) => slice(x)",
        Op("slice", Op("concat", X, rest="others", name="inner")),
        _slice_of_concat,
    ),
    Rule("concat(.., x[a:b], x[b:c], ..) => concat(.., x[a:c], ..)", Op("concat", X, rest="others"), _joined_slices),
    Rule("slice(pad(x)) => pad(x)", Op("slice", Op("pad", X, name="inner")), _slice_of_pad),
    Rule("pad(pad(x, v), v) => pad(x, v)", Op("pad", Op("pad", X, name="inner")), _pad_of_pad),
    Rule(
        "conv(pad(x, 0)) => conv(x)",
        Op("conv2d", Op("pad", X, name="inner"), rest="weights"),
        _conv_of_pad,
    ),
    Rule(
        "pool(pad(x, 0)) => pool(x)",
        Op(("avg_pool2d", "max_pool2d"), Op("pad", X, name="inner")),
        _pool_of_pad,
    ),
    Rule("expand(expand(x)) => expand(x)", Op("expand", Op("expand", X)), _to_shape),
    Rule("expand(x) => reshape(x), where nothing is repeated", Op("expand", X), _new_dimensions),
    Rule("f(x, expand(y)) => f(x, y)", Op(ELEMENTWISE, X, rest="others"), _without_expand),
)
