"""Sums of branches: terms of one sum that are linear in the same tensor become one term.

    conv(x, a) + conv(x, b)     => conv(x, a + b)
    conv(x, a) + x * s          => conv(x, a + dirac * s)
    conv(x, a) + t              => conv(x, a, bias + t)
    linear(x, a) + linear(x, b) => linear(x, a + b)
    linear(x, a) + x * s        => linear(x, a + diag(s))
    linear(x, a) + t            => linear(x, a, bias + t)
    x * s + x * t               => x * (s + t)

A sum is a tree of additions whose inner results nobody else uses; its terms may stand in any order. Each rule takes two
terms at a time and leaves one, so sums end. A merge that would cost more multiplications than its branches is refused.
The idea of merging branches of different kernels is RepVGG's (arXiv:2101.03697, section 3.3) and ACNet's
(arXiv:1908.03930).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from specc.ir.dims import Dim, product
from specc.ir.graph import Value
from specc.passes.kernels import Taps, embed, union
from specc.passes.rewrite import Match, Op, Refused, Rule, Var
from specc.passes.weight_space import add_bias, along, channel_axis, is_per_channel, per_channel, sole_use


def terms_of(match: Match, root: Value) -> list[Value]:
    """The summands of the tree of additions under `root`, from left to right."""
    found: list[Value] = []
    for operand in match.graph.operands(root.node):
        inner = match.graph.op(operand) == "add" and match.graph.uses(operand) == 1
        same = match.type(operand) == match.type(root)  # a broadcast summand is a term, not a part of the tree
        found += terms_of(match, operand) if inner and same and not match.is_frozen(operand) else [operand]
    return found


def _weighted(match: Match, term: Value, op: str) -> bool:
    """Whether `term` is an application of `op` with frozen weights."""
    if match.graph.op(term) != op or match.is_frozen(term):
        return False
    _, *weights = match.graph.operands(term.node)
    return all(match.is_frozen(w) for w in weights)


def _absorbable(match: Match, *terms: Value) -> None:
    for term in terms:
        if reason := sole_use(match, term):
            raise Refused(reason)


def _source(match: Match, term: Value) -> Value:
    return match.graph.operands(term.node)[0]


def _scaled(match: Match, term: Value) -> tuple[Value, Value | None]:
    """`term` as (x, factor): of `x * f` with a frozen f, these; of anything else, itself and None."""
    if match.graph.op(term) == "mul" and not match.is_frozen(term):
        a, b = match.graph.operands(term.node)
        for x, factor in ((a, b), (b, a)):
            if match.is_frozen(factor) and match.type(x) == match.type(term):
                return x, factor
    return term, None


def _taps(match: Match, conv: Value) -> tuple[Taps, Taps]:
    attrs = match.graph.node(conv.node).attrs
    top, left, bottom, right = attrs["padding"]
    kh, kw = match.type(match.graph.operands(conv.node)[1]).shape[2:]
    assert isinstance(kh, int) and isinstance(kw, int)
    dy, dx = attrs["dilation"]
    return Taps(kh, dy, top, bottom), Taps(kw, dx, left, right)


def _merged_conv(match: Match, conv: Value, kernel: Value, taps: tuple[Taps, Taps], bias: tuple[Value, ...]) -> Value:
    """A convolution with its taps of `taps`, weight `kernel` [o, i / g, kh', kw'] and bias, else as `conv`."""
    attrs = dict(match.graph.node(conv.node).attrs)
    y, x = taps
    attrs["padding"] = (y.before, x.before, y.after, x.after)
    attrs["dilation"] = (y.dilation if y.count > 1 else 1, x.dilation if x.count > 1 else 1)
    return match.apply("conv2d", _source(match, conv), kernel, *bias, **attrs)


def _sum_biases(match: Match, *terms: Value) -> tuple[Value, ...]:
    biases = [bias for term in terms for bias in match.graph.operands(term.node)[2:]]
    return (biases[0],) if len(biases) == 1 else (match.apply("add", *biases),) if biases else ()


def _kernel_sum(
    match: Match, a: Value, b: Value, a_taps: tuple[Taps, Taps], b_taps: tuple[Taps, Taps], limit: Dim
) -> tuple[Value, tuple[Taps, Taps]]:
    """Kernel a + kernel b on their common grid; refused where the sum has more than `limit` elements."""
    unions = [union(p, q) for p, q in zip(a_taps, b_taps)]
    if unions[0] is None or unions[1] is None:
        raise Refused("the taps of the two kernels lie on no common grid")
    merged = unions[0].taps, unions[1].taps
    elements = product(match.type(a).shape[:2]) * merged[0].count * merged[1].count
    if isinstance(elements, int) and isinstance(limit, int) and elements > limit:
        raise Refused(
            f"one kernel of {merged[0].count} x {merged[1].count} would cost {elements} multiplications at each place, "
            f"the branches cost {limit}"
        )
    kernels = []
    for which, (kernel, taps) in enumerate(((a, a_taps), (b, b_taps))):
        for axis in (0, 1):
            grid = unions[axis]
            assert grid is not None
            kernel = embed(match, kernel, axis + 2, taps[axis], grid.leads[which], grid.taps)
        kernels.append(kernel)
    return match.apply("add", *kernels), merged


def conv_conv(match: Match, a: Value, b: Value) -> Value | None:
    """conv(x, a) + conv(x, b); None where the terms are something else."""
    if not _weighted(match, a, "conv2d") or not _weighted(match, b, "conv2d") or a == b:
        return None
    if _source(match, a) != _source(match, b):
        return None
    _absorbable(match, a, b)
    first, second = match.graph.node(a.node).attrs, match.graph.node(b.node).attrs
    for name in ("stride", "groups"):
        if first[name] != second[name]:
            raise Refused(f"the branches differ in {name}: {first[name]} and {second[name]}")
    weight, other = (match.graph.operands(term.node)[1] for term in (a, b))
    cost = product(match.type(weight).shape) + product(match.type(other).shape)
    kernel, taps = _kernel_sum(match, weight, other, _taps(match, a), _taps(match, b), cost)
    return _merged_conv(match, a, kernel, taps, _sum_biases(match, a, b))


def conv_identity(match: Match, a: Value, b: Value) -> Value | None:
    """conv(x, a) + x * s, where the product with s may be missing."""
    if not _weighted(match, a, "conv2d"):
        return None
    x, factor = _scaled(match, b)
    if _source(match, a) != x:
        return None
    _absorbable(match, a, *([b] if factor is not None else []))
    attrs, weight = match.graph.node(a.node).attrs, match.graph.operands(a.node)[1]
    if attrs["stride"] != (1, 1):
        raise Refused(f"the convolution has stride {attrs['stride']}, and the branch beside it none")
    channels, per_group = match.type(weight).shape[:2]
    if match.type(x) != match.type(a) or channels != per_group * attrs["groups"]:
        raise Refused(f"the convolution changes {match.type(x)} to {match.type(a)}")
    dirac = match.apply("dirac", shape=(channels, per_group, 1, 1), groups=attrs["groups"])
    if factor is not None:
        scale = per_channel(match, factor, x, 1)
        if scale is None:
            raise Refused(f"the factor {match.type(factor)} differs within a channel")
        dirac = match.apply("mul", dirac, along(match, scale, 0, 4))
    point = Taps(1, 1, 0, 0)
    kernel, taps = _kernel_sum(match, weight, dirac, _taps(match, a), (point, point), product(match.type(weight).shape))
    return _merged_conv(match, a, kernel, taps, match.graph.operands(a.node)[2:])


def linear_linear(match: Match, a: Value, b: Value) -> Value | None:
    """linear(x, a) + linear(x, b)."""
    if not _weighted(match, a, "linear") or not _weighted(match, b, "linear") or a == b:
        return None
    if _source(match, a) != _source(match, b):
        return None
    _absorbable(match, a, b)
    weight = match.apply("add", match.graph.operands(a.node)[1], match.graph.operands(b.node)[1])
    return match.apply("linear", _source(match, a), weight, *_sum_biases(match, a, b))


def linear_identity(match: Match, a: Value, b: Value) -> Value | None:
    """linear(x, a) + x * s, where the product with s may be missing."""
    if not _weighted(match, a, "linear"):
        return None
    x, factor = _scaled(match, b)
    if _source(match, a) != x:
        return None
    _absorbable(match, a, *([b] if factor is not None else []))
    weight = match.graph.operands(a.node)[1]
    if match.type(x) != match.type(a):
        raise Refused(f"the matrix product changes {match.type(x)} to {match.type(a)}")
    size = match.type(weight).shape[0]
    diagonal = match.apply("reshape", match.apply("dirac", shape=(size, size, 1, 1)), shape=(size, size))
    if factor is not None:
        scale = per_channel(match, factor, x, match.type(x).rank - 1)
        if scale is None:
            raise Refused(f"the factor {match.type(factor)} differs along more than the last dimension")
        diagonal = match.apply("mul", diagonal, along(match, scale, 0, 2))
    total = match.apply("add", weight, diagonal)
    return match.apply("linear", x, total, *match.graph.operands(a.node)[2:])


Merge = Callable[[Match, Value, Value], Value | None]


def _with_bias(op: str) -> Merge:
    """conv(x, a) + t or linear(x, a) + t."""

    def merge(match: Match, a: Value, b: Value) -> Value | None:
        if not _weighted(match, a, op) or not match.is_frozen(b):
            return None
        _absorbable(match, a)
        axis = channel_axis(match, a)
        if not is_per_channel(match, b, a, axis):
            raise Refused(f"the summand {match.type(b)} differs within a channel")
        shift = per_channel(match, b, a, axis)
        assert shift is not None
        x, weight, *bias = match.graph.operands(a.node)
        channels = match.type(weight).shape[0]
        assert isinstance(channels, int)
        total = add_bias(match, tuple(bias), shift, channels)
        return match.apply(op, x, weight, total, like=a.node, **match.graph.node(a.node).attrs)

    return merge


def identity_identity(match: Match, a: Value, b: Value) -> Value | None:
    """X * s + x * t, where either product may be missing."""
    (x, s), (y, t) = _scaled(match, a), _scaled(match, b)
    if x != y or match.is_frozen(x):
        return None
    _absorbable(match, *(term for term, factor in ((a, s), (b, t)) if factor is not None))
    factors = [match.constant(1.0) if factor is None else factor for factor in (s, t)]
    return match.apply("mul", x, match.apply("add", *factors))


def _is_outermost(match: Match) -> bool:
    """Whether no addition takes the sum in: rules look at whole sums, from their last addition."""
    root = Value(match.root)
    users = match.graph.users(root)
    if match.graph.uses(root) != 1 or not users:
        return True
    user = match.graph.node(users[0][0])
    return user.op != "add" or user.types[0] != match.type(root)


def _sum_rule(equation: str, merge: Merge) -> Rule:
    """The rule that takes the first two terms of a sum that `merge` makes one of."""

    def rewrite(match: Match) -> Value | None:
        if not _is_outermost(match):
            return None
        root = Value(match.root)
        terms = terms_of(match, root)
        refusal = None
        for i, j in itertools.permutations(range(len(terms)), 2):
            try:
                total = merge(match, terms[i], terms[j])
            except Refused as refused:
                refusal = refusal or refused
                continue
            if total is None or match.type(total) != match.type(root):
                continue
            others = [term for position, term in enumerate(terms) if position not in (i, j)]
            if not others:  # the whole sum became one node, and stands where the sum stood
                node = match.graph.node(match.root)
                match.graph.update(total.node, path=node.path, span=node.span)
            for term in others:
                total = match.apply("add", total, term)
            return total
        if refusal:
            raise refusal
        return None

    return Rule(equation, Op("add", Var("a"), Var("b")), rewrite)


RULES = (
    _sum_rule("conv(x, a) + conv(x, b) => conv(x, a + b)", conv_conv),
    _sum_rule("conv(x, a) + x * s => conv(x, a + dirac * s)", conv_identity),
    _sum_rule("conv(x, a) + t => conv(x, a, bias + t)", _with_bias("conv2d")),
    _sum_rule("linear(x, a) + linear(x, b) => linear(x, a + b)", linear_linear),
    _sum_rule("linear(x, a) + x * s => linear(x, a + diag(s))", linear_identity),
    _sum_rule("linear(x, a) + t => linear(x, a, bias + t)", _with_bias("linear")),
    _sum_rule("x * s + x * t => x * (s + t)", identity_identity),
)
