"""Sums of branches: terms of one sum that are linear in the same tensor become one term.

    conv(x, a) + conv(x, b)     => conv(x, a + b)
    conv(x, a) + x * s          => conv(x, a + dirac * s)
    conv(x, a) + avg_pool(x)    => conv(x, a + dirac / k)
    conv(x, a) + avg_pool(conv(x, b)) => conv(x, a + b / k)
    conv(x, a) + conv(conv(x, b), c) => conv(x, a + c * b)
    conv(x, a) + t              => conv(x, a, bias + t)
    linear(x, a) + linear(linear(x, b), c) => linear(x, a + c b)
    linear(x, a) + linear(x, b) => linear(x, a + b)
    linear(x, a) + x * s        => linear(x, a + diag(s))
    linear(x, a) + t            => linear(x, a, bias + t)
    x * s + x * t               => x * (s + t)
    x + t + v                   => x + (t + v)

A sum is a tree of additions whose inner results nobody else uses; its terms may stand in any order. Each rule takes two
terms at a time and leaves one, so sums end. A merge that would cost more multiplications than its branches is refused.
The idea of merging branches of different kernels is RepVGG's (arXiv:2101.03697, section 3.3) and ACNet's
(arXiv:1908.03930).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from specc.ir.dims import Dim
from specc.ir.graph import Node, Value
from specc.passes import convolutions
from specc.passes.convolutions import Convolution, elements
from specc.passes.rewrite import Match, Op, Refused, Rule, Var
from specc.passes.weight_space import add_bias, along, channel_axis, is_per_channel, per_channel, response, sole_use


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


def _convolution_beside(match: Match, a: Value, b: Value) -> Convolution | None:
    """The convolution that makes `a`, where `b` could be a branch beside it."""
    return None if a == b else convolutions.read(match, a)


def _merged(match: Match, a: Value, first: Convolution, second: Convolution, limit: Dim) -> Value:
    return convolutions.write(match, convolutions.add(match, first, second, limit), like=a.node)


def conv_conv(match: Match, a: Value, b: Value) -> Value | None:
    """conv(x, a) + conv(x, b); None where the terms are something else."""
    first, second = _convolution_beside(match, a, b), convolutions.read(match, b)
    if first is None or second is None or first.source != second.source:
        return None
    _absorbable(match, a, b)
    return _merged(match, a, first, second, elements(match, first, second))


def conv_chain(match: Match, a: Value, b: Value) -> Value | None:
    """conv(x, a) + conv(conv(x, b), c): worth it where the sum costs less, though the chain alone may not."""
    first, outer = _convolution_beside(match, a, b), convolutions.read(match, b)
    if first is None or outer is None or outer.source == first.source:
        return None
    inner = convolutions.read(match, outer.source)
    if inner is None or inner.source != first.source:
        return None
    _absorbable(match, a, b, outer.source)
    limit = elements(match, first, outer) + elements(match, inner) * (outer.stride[0] * outer.stride[1])
    return _merged(match, a, first, convolutions.compose(match, outer, inner, limit), limit)


def conv_identity(match: Match, a: Value, b: Value) -> Value | None:
    """conv(x, a) + x * s, where the product with s may be missing."""
    first = _convolution_beside(match, a, b)
    x, factor = _scaled(match, b)
    if first is None or first.source != x:
        return None
    _absorbable(match, a, *([b] if factor is not None else []))
    return _merged(match, a, first, convolutions.identity(match, x, factor, first), elements(match, first))


def conv_pool(match: Match, a: Value, b: Value) -> Value | None:
    """conv(x, a) + avg_pool(x)."""
    first = _convolution_beside(match, a, b)
    if first is None or match.graph.op(b) != "avg_pool2d" or _source(match, b) != first.source:
        return None
    _absorbable(match, a, b)
    second = convolutions.pooling(match, b, first)
    assert second is not None
    return _merged(match, a, first, second, elements(match, first))


def conv_pooled(match: Match, a: Value, b: Value) -> Value | None:
    """conv(x, a) + avg_pool(conv(x, b)): worth it where the sum costs less, though the chain alone may not."""
    first = _convolution_beside(match, a, b)
    if first is None or match.graph.op(b) != "avg_pool2d":
        return None
    inner = convolutions.read(match, _source(match, b))
    if inner is None or inner.source != first.source:
        return None
    _absorbable(match, a, b, _source(match, b))
    attrs = match.graph.node(b.node).attrs
    limit = elements(match, first) + elements(match, inner) * (attrs["stride"][0] * attrs["stride"][1])
    second = convolutions.pooled(match, attrs, inner, limit)
    return None if second is None else _merged(match, a, first, second, limit)


def _sum_biases(match: Match, *terms: Value) -> tuple[Value, ...]:
    biases = [bias for term in terms for bias in match.graph.operands(term.node)[2:]]
    return (biases[0],) if len(biases) == 1 else (match.apply("add", *biases),) if biases else ()


def linear_linear(match: Match, a: Value, b: Value) -> Value | None:
    """linear(x, a) + linear(x, b)."""
    if not _weighted(match, a, "linear") or not _weighted(match, b, "linear") or a == b:
        return None
    if _source(match, a) != _source(match, b):
        return None
    if match.graph.uses(b):  # what a rule has just made has no user yet
        _absorbable(match, a, b)
    weight = match.apply("add", match.graph.operands(a.node)[1], match.graph.operands(b.node)[1])
    return match.apply("linear", _source(match, a), weight, *_sum_biases(match, a, b))


def linear_chain(match: Match, a: Value, b: Value) -> Value | None:
    """linear(x, a) + linear(linear(x, b), c), as a low-rank adaptation has it (LoRA, arXiv:2106.09685, section 4.1)."""
    if not _weighted(match, a, "linear") or not _weighted(match, b, "linear"):
        return None
    x, middle = _source(match, a), _source(match, b)
    if not _weighted(match, middle, "linear") or _source(match, middle) != x:
        return None
    _absorbable(match, a, b, middle)
    return linear_linear(match, a, linear_product(match, b, middle))


def linear_product(match: Match, outer: Value, inner: Value) -> Value:
    """linear(linear(x, a, b), c, d) as one: linear(x, c a, d + c b)."""
    x, a, *b = match.graph.operands(inner.node)
    _, c, *d = match.graph.operands(outer.node)
    out = match.type(c).shape[0]
    assert isinstance(out, int)
    bias = (add_bias(match, tuple(d), response(match, c, b[0], 1), out),) if b else tuple(d)
    return match.apply("linear", x, match.apply("matmul", c, a), *bias, like=outer.node)


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


def shift_shift(match: Match, a: Value, b: Value) -> Value | None:
    """T + v, both frozen."""
    return match.apply("add", a, b) if match.is_frozen(a) and match.is_frozen(b) else None


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


def _alone(match: Match, terms: list[Value], op: str) -> Refused | None:
    """Why a convolution or matrix product of the sum stays: no other term is linear in what it reads."""
    for term in terms:
        if not _weighted(match, term, op):
            continue
        others = [other for other in terms if other != term and not match.is_frozen(other)]
        made = ", ".join(f"`{n.op}`{f' at {n.path}' if n.path else ''}" for n in map(_node_of(match), others))
        return Refused(f"no other term is linear in what the `{op}` reads; they are made by {made}") if made else None
    return None


def _node_of(match: Match) -> Callable[[Value], Node]:
    return lambda value: match.graph.node(value.node)


def _sum_rule(equation: str, merge: Merge, explains: str | None = None) -> Rule:
    """The rule that takes the first two terms of a sum that `merge` makes one of.

    With `explains`, it is also the one that says why a term made by that operator finds no partner.
    """

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
            others = [term for position, term in enumerate(terms) if position not in (i, j)]
            if total is None or (match.type(total) != match.type(root) and not match.is_frozen(total)):
                continue
            if not others:  # the whole sum became one node, and stands where the sum stood
                node = match.graph.node(match.root)
                match.graph.update(total.node, path=node.path, span=node.span)
            for term in others:
                total = match.apply("add", total, term)
            return total if match.type(total) == match.type(root) else None
        refusal = refusal or (_alone(match, terms, explains) if explains else None)
        if refusal:
            raise refusal
        return None

    return Rule(equation, Op("add", Var("a"), Var("b")), rewrite)


RULES = (
    _sum_rule("conv(x, a) + conv(x, b) => conv(x, a + b)", conv_conv, explains="conv2d"),
    _sum_rule("conv(x, a) + x * s => conv(x, a + dirac * s)", conv_identity),
    _sum_rule("conv(x, a) + avg_pool(x) => conv(x, a + dirac / k)", conv_pool),
    _sum_rule("conv(x, a) + avg_pool(conv(x, b)) => conv(x, a + b / k)", conv_pooled),
    _sum_rule("conv(x, a) + conv(conv(x, b), c) => conv(x, a + c * b)", conv_chain),
    _sum_rule("conv(x, a) + t => conv(x, a, bias + t)", _with_bias("conv2d")),
    _sum_rule("linear(x, a) + linear(x, b) => linear(x, a + b)", linear_linear, explains="linear"),
    _sum_rule("linear(x, a) + x * s => linear(x, a + diag(s))", linear_identity),
    _sum_rule("linear(x, a) + linear(linear(x, b), c) => linear(x, a + c b)", linear_chain),
    _sum_rule("linear(x, a) + t => linear(x, a, bias + t)", _with_bias("linear")),
    _sum_rule("x * s + x * t => x * (s + t)", identity_identity),
    _sum_rule("x + t + v => x + (t + v)", shift_shift),
)
