"""Sums of branches: terms of one sum that are linear in the same tensor become one term.

    conv(x, a) + conv(x, b)     => conv(x, a + b)
    linear(x, a) + linear(x, b) => linear(x, a + b)
    conv(x, a) + t              => conv(x, a, bias + t)
    linear(x, a) + t            => linear(x, a, bias + t)
    x * s + x * t               => x * (s + t)
    x + t + v                   => x + (t + v)      unless t + v is large, and more than t and v

A sum is a tree of additions whose inner results nobody else uses; its terms may stand in any order. A branch of the
first two rules is any linear region (`specc.passes.regions`): a convolution of any kernel, dilation and groups, an
average pool, x itself, x scaled, or several of these in a row. All branches of one tensor become one term where that
costs no more than they do together, else every two that do; so sums end. Two terms at a time, the journal counts; a sum
of more than `LONG` terms takes all that its equation fits in one sweep, so that work grows with its length alone. The
idea of merging branches of different kernels is RepVGG's (arXiv:2101.03697, section 3.3) and ACNet's
(arXiv:1908.03930).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from functools import partial, reduce

from specc.ir.cost import nominal
from specc.ir.graph import Value
from specc.ir.types import TensorType
from specc.ops.elementwise import broadcast
from specc.passes.regions import Region
from specc.passes.rewrite import Match, Op, Refused, Rule, Var
from specc.passes.weight_space import add_bias, channel_axis, is_per_channel, per_channel, sole_use

LONG = 24
"""A sum of so many terms or fewer merges two in a sweep: equations that stand before have their turn in between."""


_SMALL = 32768
"""Elements of a sum of frozen terms that may be more than these together: a kernel reads it from the caches. A larger
one comes from beyond them, where one more addition costs less: with one thread of the Granite Rapids generation, the
attention of shifted windows in Swin-T (56x56 and 28x28 places) takes 0.84 of the time where it adds masks and relative
positions one after the other."""


def terms_of(match: Match) -> list[Value]:
    """The summands of the tree of additions under the root, from left to right; none where the sum goes on behind it.

    So rules look at whole sums, from their last addition.
    """
    root = Value(match.root)
    users = match.graph.users(root)
    if match.graph.uses(root) == 1 and users:
        user = match.graph.node(users[0][0])
        if user.op == "add" and user.types[0] == match.type(root):
            return []
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


def _scaled(match: Match, term: Value) -> tuple[Value, Value | None]:
    """`term` as (x, factor): of `x * f` with a frozen f, these; of anything else, itself and None."""
    if match.graph.op(term) == "mul" and not match.is_frozen(term):
        a, b = match.graph.operands(term.node)
        for x, factor in ((a, b), (b, a)):
            if match.is_frozen(factor) and match.type(x) == match.type(term):
                return x, factor
    return term, None


def replaced(match: Match, terms: Sequence[Value], merged: Value, gone: Collection[int]) -> Value | None:
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
    match.times = len(gone) - 1
    return merged if match.type(merged) == match.type(root) else None


def _most(terms: Sequence[Value]) -> int:
    """How many terms of a sum become one in a sweep, at most."""
    return 2 if len(terms) <= LONG else len(terms)


def _shifts(match: Match) -> Value | None:
    """The sum with one term for those that are frozen; refused for a large one that is more than its terms together."""
    terms = terms_of(match)
    frozen = [position for position, term in enumerate(terms) if match.is_frozen(term)]
    if len(frozen) < 2:
        return None
    ways = itertools.combinations(frozen, 2) if _most(terms) == 2 else [tuple(frozen)]
    for gone in ways:
        if not _grows(match, [terms[position] for position in gone]):
            merged = reduce(partial(match.apply, "add"), (terms[position] for position in gone))
            return replaced(match, terms, merged, gone)
    raise Refused("a sum of frozen terms would be more to read than these are")


def _grows(match: Match, terms: Sequence[Value]) -> bool:
    """Whether a sum of frozen terms is more than these, and no small one."""
    types = [match.type(term) for term in terms]
    together, *apart = (nominal(type.elements, match.graph.defaults) for type in (TensorType(broadcast(types)), *types))
    return together > max(_SMALL, sum(apart))


def _multiples(match: Match) -> Value | None:
    """The sum with one term for all multiples of a tensor, that of the first one of which there are several."""
    terms = terms_of(match)
    found: dict[Value, dict[int, Value | None]] = {}
    for position, term in enumerate(terms):
        x, factor = _scaled(match, term)
        if not match.is_frozen(x):
            found.setdefault(x, {})[position] = factor
    refusal = None
    for x, factors in found.items():
        if len(factors) < 2:
            continue
        kept = {p: sole_use(match, terms[p]) for p, factor in factors.items() if factor is not None}
        refusal = refusal or next(filter(None, kept.values()), None)
        gone = [position for position in factors if not kept.get(position)]
        if len(gone) < 2 or match.type(x) != match.type(Value(match.root)):
            continue
        gone = gone[: _most(terms)]
        each = (match.constant(1.0) if (factor := factors[p]) is None else factor for p in gone)
        return replaced(match, terms, match.apply("mul", x, reduce(partial(match.apply, "add"), each)), gone)
    if refusal:
        raise Refused(refusal)
    return None


def _bias(op: str, name: str) -> Rule:
    """The rule for frozen summands beside an `op`, which takes all that fit into its bias."""

    def rewrite(match: Match) -> Value | None:
        terms = terms_of(match)
        frozen = [position for position, term in enumerate(terms) if match.is_frozen(term)]
        refusal = None
        for at, term in enumerate(terms if frozen else ()):
            if not _weighted(match, term, op):
                continue
            reason, axis = sole_use(match, term), channel_axis(match, term)
            fit = [p for p in frozen if is_per_channel(match, terms[p], term, axis)]
            if reason is None and fit and match.type(term) == match.type(Value(match.root)):
                gone = [at, *fit][: _most(terms)]
                return replaced(match, terms, _with_bias(match, term, [terms[p] for p in gone[1:]]), gone)
            differs = next((terms[p] for p in frozen if p not in fit), None)
            if reason is None and differs is not None:
                reason = f"the summand {match.type(differs)} differs within a channel"
            refusal = refusal or reason
        if refusal:
            raise Refused(refusal)
        return None

    return Rule(f"{name}(x, a) + t => {name}(x, a, bias + t)", Op("add", Var("a"), Var("b")), rewrite)


def _with_bias(match: Match, term: Value, shifts: Sequence[Value]) -> Value:
    """A convolution or matrix product with summands in its bias, each of which is the same within a channel."""
    x, weight, *bias = match.graph.operands(term.node)
    channels = match.type(weight).shape[0]
    assert isinstance(channels, int)
    for summand in shifts:
        shift = per_channel(match, summand, term, channel_axis(match, term))
        assert shift is not None
        bias = [add_bias(match, tuple(bias), shift, channels)]
    node = match.graph.node(term.node)
    return match.apply(node.op, x, weight, *bias, like=term.node, **node.attrs)


def _shared(region: Region, terms: list[Value]) -> dict[Value, tuple[int, ...]]:
    """The sources in which several terms are linear, and the positions of these."""
    found: dict[Value, list[int]] = {}
    for position, term in enumerate(terms):
        for source in region.sources(term):
            found.setdefault(source, []).append(position)
    several = {source: tuple(positions) for source, positions in found.items() if len(positions) > 1}
    return {source: positions for source, positions in several.items() if not region.match.is_frozen(source)}


def _together(
    region: Region, terms: list[Value], source: Value, positions: Sequence[int], tables: bool
) -> tuple[Value, Sequence[int]] | None:
    """One term for those at `positions`, and these; None and refused as `Region.merged`."""
    merged = region.merged([terms[position] for position in positions], source, tables)
    return None if merged is None else (merged, positions)


def _one_by_one(
    region: Region, terms: list[Value], source: Value, positions: Sequence[int], tables: bool
) -> tuple[Value, Sequence[int]] | None:
    """One term for the first two that become one, and for those that it takes in further; and their positions.

    Raises the first `Refused` where every two that might are refused.
    """
    refusal = None
    heavy = {position for position in positions if region.weighs(terms[position], source)}
    if not heavy:
        return None
    joining = region.joining([terms[position] for position in positions], source)
    usable = [position for position, joins in zip(positions, joining) if joins]
    for at, first in enumerate(usable):
        merged, gone = terms[first], [first]
        for position in usable[at + 1 :] if first in heavy else [p for p in usable[at + 1 :] if p in heavy]:
            try:
                made = region.merged([merged, terms[position]], source, tables)
            except Refused as refused:
                refusal = refusal or refused
                continue
            if made is not None:
                merged, gone = made, [*gone, position]
            if len(gone) == _most(terms):
                break
        if len(gone) > 1:
            return merged, gone
    if refusal:
        raise refusal
    return None


def _branches(op: str, name: str) -> Rule:
    """The rule for branches of one kind, which also says why a term of that kind finds no partner."""

    def rewrite(match: Match) -> Value | None:
        terms = terms_of(match)
        region, refusal = Region(match, op), None
        shared = _shared(region, terms)
        largest = sorted(shared.items(), key=lambda item: -len(item[1]))
        ways = [(_together, *item) for item in largest]
        ways += [(_one_by_one, *item) for item in shared.items() if len(item[1]) > 2]
        for tables, (merge, source, positions) in itertools.product((False, True), ways):
            try:
                found = merge(region, terms, source, positions, tables)
            except Refused as refused:
                refusal = refusal or refused
                continue
            total = None if found is None else replaced(match, terms, *found)
            if total is not None:
                match.times = 1 if merge is _together else match.times
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
    _bias("conv2d", "conv"),
    _branches("linear", "linear"),
    _bias("linear", "linear"),
    Rule("x * s + x * t => x * (s + t)", Op("add", Var("a"), Var("b")), _multiples),
    Rule("x + t + v => x + (t + v)", Op("add", Var("a"), Var("b")), _shifts),
)
