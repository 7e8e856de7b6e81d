"""Algebra on frozen tensors: the shapes in which scales, shifts and kernels meet.

A factor or summand of an activation is *per channel* when it varies along the channel's dimension alone; then it is a
vector [c], or one number for all channels, and can move into the weights of the operator that makes or takes the
activation.
"""

from __future__ import annotations

from specc.ir.graph import Value
from specc.passes.rewrite import Match


def channel_axis(match: Match, value: Value) -> int:
    """The dimension that the weights of the operator making `value` count: 1 for conv2d, the last one for linear."""
    return 1 if match.graph.op(value) == "conv2d" else match.type(value).rank - 1


def per_channel(match: Match, factor: Value, like: Value, axis: int) -> Value | None:
    """`factor`, broadcast against `like`, as a vector [c] over `axis` or as a number []; None where it is neither."""
    shape, target = match.type(factor).shape, match.type(like).shape
    if len(shape) > len(target):
        return None
    aligned = (1,) * (len(target) - len(shape)) + shape
    if any(extent != 1 for position, extent in enumerate(aligned) if position != axis):
        return None
    wanted = () if aligned[axis] == 1 else (target[axis],)
    return factor if shape == wanted else match.apply("reshape", factor, shape=wanted)


def is_per_channel(match: Match, factor: Value, like: Value, axis: int) -> bool:
    """Whether `per_channel` finds a vector or a number, without making one."""
    shape, target = match.type(factor).shape, match.type(like).shape
    aligned = (1,) * (len(target) - len(shape)) + shape
    return len(shape) <= len(target) and all(extent == 1 for i, extent in enumerate(aligned) if i != axis)


def as_vector(match: Match, factor: Value, channels: int) -> Value:
    """A number or a vector as a vector [channels]."""
    if match.type(factor).rank:
        return factor
    return match.apply("mul", match.constant(1.0, (channels,)), factor)


def along(match: Match, vector: Value, axis: int, rank: int) -> Value:
    """A vector [c] shaped so that it is broadcast along dimension `axis` of a tensor of `rank`; a number stays."""
    shape = match.type(vector).shape
    if not shape:
        return vector
    return match.apply("reshape", vector, shape=(1,) * axis + shape + (1,) * (rank - axis - 1))


def scaled_rows(match: Match, weight: Value, scale: Value) -> Value:
    """weight[o, ...] * scale[o]."""
    return match.apply("mul", weight, along(match, scale, 0, match.type(weight).rank))


def grouped_input(match: Match, weight: Value, vector: Value, groups: int) -> Value:
    """A vector over input channels, shaped to be broadcast against the weight [g, o / g, i / g, ...]."""
    per_group = match.type(weight).shape[1]
    return match.apply("reshape", vector, shape=(groups, 1, per_group, *(1,) * (match.type(weight).rank - 2)))


def split_groups(match: Match, weight: Value, groups: int) -> Value:
    """The weight [o, i / g, ...] as [g, o / g, i / g, ...]."""
    out, *rest = match.type(weight).shape
    return match.apply("reshape", weight, shape=(groups, out // groups, *rest))


def scaled_columns(match: Match, weight: Value, scale: Value, groups: int) -> Value:
    """weight[o, i, ...] * scale[the input channel that o and i name]."""
    if not match.type(scale).rank:
        return match.apply("mul", weight, scale)
    split = split_groups(match, weight, groups)
    product = match.apply("mul", split, grouped_input(match, weight, scale, groups))
    return match.apply("reshape", product, shape=match.type(weight).shape)


def response(match: Match, weight: Value, shift: Value, groups: int) -> Value:
    """What a constant input `shift` gives: sum over i and taps of weight[o, i, ...] * shift[i], a vector [o]."""
    product = scaled_columns(match, weight, shift, groups)
    return match.apply("sum", product, axes=tuple(range(1, match.type(weight).rank)))


def add_bias(match: Match, bias: tuple[Value, ...], summand: Value, channels: int) -> Value:
    """Bias + summand as a vector [channels], where there may be no bias yet and the summand may be a number."""
    if not bias:
        return as_vector(match, summand, channels)
    return match.apply("add", bias[0], summand)


def sole_use(match: Match, value: Value) -> str | None:
    """The reason why `value` cannot be absorbed: someone else needs it too."""
    return None if match.graph.uses(value) == 1 else uses_of(match, value)


def uses_of(match: Match, value: Value) -> str:
    """Who needs `value`, in words."""
    users = [match.graph.node(user) for user, _ in match.graph.users(value)]
    names = [f"`{node.op}`{f' at {node.path}' if node.path else ''}" for node in users]
    names += ["the network's output"] * match.graph.outputs.count(value)
    return f"the result of `{match.graph.op(value)}` is used {len(names)} times: by {', '.join(names)}"
