"""Sums of branches: terms of one sum that are linear in the same tensor become one term.

    conv(x, a) + conv(x, b)     => conv(x, a + b)
    linear(x, a) + linear(x, b) => linear(x, a + b)
    conv(x, a) + t              => conv(x, a, bias + t)
    linear(x, a) + t            => linear(x, a, bias + t)
    x * s + x * t               => x * (s + t)
    x + t + v                   => x + (t + v)

A sum is a tree of additions whose inner results nobody else uses; its terms may stand in any order. A branch of the
first two rules is any linear region (`specc.passes.regions`): a convolution of any kernel, dilation and groups, an
average pool, x itself, x scaled, or several of these in a row. All branches of one tensor become one term where that
costs no more than they do together, else every two that do; so sums end. The idea of merging branches of different
kernels is RepVGG's (arXiv:2101.03697, section 3.3) and ACNet's (arXiv:1908.03930).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

from specc.ir.graph import Value
from specc.passes.regions import Region
from specc.passes.rewrite import Match, Op, Refused, Rule, Var
from specc.passes.weight_space import add_bias, channel_axis, is_per_channel, per_channel, sole_use


def _terms_of(match: Match, root: Value) -> list[Value]:
    """The summands of the tree of additions under `root`, from left to right."""
    found: list[Value] = []
    waiting = [*reversed(match.graph.operands(root.node))]
    while waiting:
        operand = waiting.pop()
        inner = match.graph.op(operand) == "add" and match.graph.uses(operand) == 1
        same = match.type(operand) == match.type(root)  # a broadcast summand is a term, not a part of the tree
        if inner and same and not match.is_frozen(operand):
            waiting += reversed(match.graph.operands(operand.node))
        else:
            found.append(operand)
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


def _scaled(match: Match, term: Value) -> tuple[Value, Value | None]:
    """`term` as (x, factor): of `x * f` with a frozen f, these; of anything else, itself and None."""
    if match.graph.op(term) == "mul" and not match.is_frozen(term):
        a, b = match.graph.operands(term.node)
        for x, factor in ((a, b), (b, a)):
            if match.is_frozen(factor) and match.type(x) == match.type(term):
                return x, factor
    return term, None


Merge = Callable[[Match, Value, Value], Value | None]


def _shift_shift(match: Match, a: Value, b: Value) -> Value | None:
    """The sum t + v, both frozen."""
    return match.apply("add", a, b) if match.is_frozen(a) and match.is_frozen(b) else None


def _with_bias(op: str) -> Merge:
    """The sum conv(x, a) + t or linear(x, a) + t."""

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


def _identity_identity(match: Match, a: Value, b: Value) -> Value | None:
    """The sum x * s + x * t, where either product may be missing."""
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


def _replaced(match: Match, terms: list[Value], merged: Value, *gone: int) -> Value | None:
    """The sum with `merged` in the place of the terms at the positions `gone`; None where that changes its type."""
    root = Value(match.root)
    others = [term for position, term in enumerate(terms) if position not in gone]
    if match.type(merged) != match.type(root) and not match.is_frozen(merged):
        return None
    if not others:  # the whole sum became one node, and stands where the sum stood
        node = match.graph.node(match.root)
        match.graph.update(merged.node, path=node.path, span=node.span)
    for term in others:
        merged = match.apply("add", merged, term)
    return merged if match.type(merged) == match.type(root) else None


def with_pair(match: Match, merge: Callable[[Value, Value], Value | None]) -> Value | None:
    """The sum with one term for the first two, in either order, that `merge` makes one of; None where it takes none.

    Raises the first `Refused` where every pair that it might take is refused.
    """
    if not _is_outermost(match):
        return None
    terms = _terms_of(match, Value(match.root))
    refusal = None
    for i, j in itertools.permutations(range(len(terms)), 2):
        try:
            merged = merge(terms[i], terms[j])
        except Refused as refused:
            refusal = refusal or refused
            continue
        total = None if merged is None else _replaced(match, terms, merged, i, j)
        if total is not None:
            return total
    if refusal:
        raise refusal
    return None


def _pair_rule(equation: str, merge: Merge) -> Rule:
    """The rule that takes the first two terms of a sum that `merge` makes one of."""
    return Rule(equation, Op("add", Var("a"), Var("b")), lambda match: with_pair(match, partial(merge, match)))


def _choices(region: Region, terms: list[Value]) -> Iterator[tuple[Value, tuple[int, ...]]]:
    """What could become one: a source, and the positions of terms that are linear in it. The most terms come first."""
    sources = {position: region.sources(term) for position, term in enumerate(terms)}
    shared: dict[Value, tuple[int, ...]] = {}
    for source in itertools.chain.from_iterable(sources.values()):
        positions = tuple(position for position, known in sources.items() if source in known)
        if len(positions) > 1 and not region.match.is_frozen(source):
            shared[source] = positions
    for source, positions in sorted(shared.items(), key=lambda item: -len(item[1])):
        yield source, positions
    for source, positions in shared.items():
        if len(positions) > 2:
            for pair in itertools.combinations(positions, 2):
                yield source, pair


def _branches(op: str, name: str) -> Rule:
    """The rule for branches of one kind, which also says why a term of that kind finds no partner."""

    def rewrite(match: Match) -> Value | None:
        if not _is_outermost(match):
            return None
        terms = _terms_of(match, Value(match.root))
        region, refusal = Region(match, op), None
        for tables in (False, True):
            for source, positions in _choices(region, terms):
                try:
                    merged = region.merged([terms[position] for position in positions], source, tables)
                except Refused as refused:
                    refusal = refusal or refused
                    continue
                total = None if merged is None else _replaced(match, terms, merged, *positions)
                if total is not None:
                    return total
        refusal = refusal or _without_partner(match, terms, op)
        if refusal:
            raise refusal
        return None

    return Rule(f"{name}(x, a) + {name}(x, b) => {name}(x, a + b)", Op("add", Var("a"), Var("b")), rewrite)


def _without_partner(match: Match, terms: list[Value], op: str) -> Refused | None:
    """Why a convolution or matrix product of the sum stays: no other term is linear in what it reads."""
    for term in terms:
        if not _weighted(match, term, op):
            continue
        others = [match.graph.node(o.node) for o in terms if o != term and not match.is_frozen(o)]
        made = [f"`{n.op}`{f' at {n.path}' if n.path else ''}{f' ({n.span})' if n.span else ''}" for n in others]
        if made:
            return Refused(f"no other term is linear in what the `{op}` reads; they are made by {', '.join(made)}")
    return None


RULES = (
    _branches("conv2d", "conv"),
    _pair_rule("conv(x, a) + t => conv(x, a, bias + t)", _with_bias("conv2d")),
    _branches("linear", "linear"),
    _pair_rule("linear(x, a) + t => linear(x, a, bias + t)", _with_bias("linear")),
    _pair_rule("x * s + x * t => x * (s + t)", _identity_identity),
    _pair_rule("x + t + v => x + (t + v)", _shift_shift),
)
