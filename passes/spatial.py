"""Convolutions over places that are known, as matrices: beside a matrix over the same places they become part of it.

    view(linear(view(x), b)) + conv(x, a) => view(linear(view(x), b + matrix(a)))

x [n, c, h, w] is flattened to vectors [n, c * h * w]; `linear` stands for a matrix product of these, or for a 1x1
convolution of [n, c * h * w, 1, 1], which may have groups. The matrix of a convolution is what it makes of the
unit vectors. The sum becomes one product as large as the one that is there already, so it never costs more. This is the
locality injection of RepMLP (arXiv:2112.11081, section 3.4); the convolution may be any linear region.
"""

from __future__ import annotations

import itertools
from functools import cache

from specc.ir.cost import fixed
from specc.ir.dims import product
from specc.ir.graph import Value
from specc.passes import convolutions
from specc.passes.branches import replaced, terms_of
from specc.passes.convolutions import POINT, Convolution
from specc.passes.regions import Region
from specc.passes.rewrite import Match, Op, Refused, Rule, Var
from specc.passes.weight_space import sole_use


def _under_reshapes(match: Match, value: Value) -> Value:
    while match.graph.op(value) in ("reshape", "flatten"):
        (value,) = match.graph.operands(value.node)
    return value


def _product(match: Match, term: Value) -> tuple[Value, Convolution] | None:
    """A term that is a reshaped matrix product over whole vectors: the product's value, and itself as a convolution."""
    made = _under_reshapes(match, term)
    if made == term or match.is_frozen(made) or match.graph.op(made) not in ("linear", "conv2d"):
        return None
    x, *weights = match.graph.operands(made.node)
    if not all(match.is_frozen(weight) and not match.type(weight).symbols() for weight in weights):
        return None
    matrix = convolutions.of_node(match, made, x, match.graph.op(made))
    vectors = match.type(x)
    whole = vectors.rank == 2 or (vectors.rank == 4 and vectors.shape[2:] == (1, 1))
    if matrix is None or not whole or matrix.taps != (POINT, POINT):
        return None
    return made, matrix


def _as_matrix(match: Match, conv: Convolution, like: Convolution, result: Value) -> Convolution:
    """The convolution, which makes `result`, as a matrix in the groups of `like`, of the vectors that `like` reads."""
    height, width = (fixed(extent) for extent in match.type(conv.source).shape[2:])
    out, *places = (fixed(extent) for extent in match.type(result).shape[1:])
    inputs, groups = conv.inputs // like.groups, like.groups
    columns, area = inputs * height * width, places[0] * places[1]

    def weight() -> Value:
        eye = match.apply("dirac", shape=(columns, columns, 1, 1), dtype=match.type(conv.source).dtype)
        units = match.apply("reshape", eye, shape=(columns, 1, inputs, height, width))
        repeated = match.apply("mul", units, match.constant(1.0, (1, groups, 1, 1, 1)))
        images = match.apply("reshape", repeated, shape=(columns, conv.inputs, height, width))
        attrs = {**convolutions.attributes(match, conv), "groups": groups}
        made = match.apply("conv2d", images, convolutions.expanded(match, conv, groups), **attrs)
        rows = match.apply("permute", match.apply("reshape", made, shape=(columns, out * area)), order=(1, 0))
        return match.apply("reshape", rows, shape=(out * area, columns, 1, 1))

    def bias() -> Value:
        assert conv.bias is not None
        spread = match.apply("mul", match.apply("reshape", conv.bias(), shape=(out, 1)), match.constant(1.0, (1, area)))
        return match.apply("reshape", spread, shape=(out * area,))

    shape = (out * area, columns, 1, 1)
    return Convolution(
        like.op, like.source, shape, cache(weight), cache(bias) if conv.bias else None, groups=like.groups
    )


def _merged(match: Match, region: Region, term: Value, found: tuple[Value, Convolution], branch: Value) -> Value | None:
    made, matrix = found
    for source in region.sources(branch):
        types = match.type(source), match.type(branch), match.type(matrix.source)
        if _under_reshapes(match, source) != _under_reshapes(match, matrix.source) or types[0].rank != 4:
            continue
        if any(not isinstance(extent, int) for type in types[:2] for extent in type.shape[1:]):
            continue
        if not types[0].shape[0] == types[1].shape[0] == types[2].shape[0]:
            continue
        inner = [node for node in region.inside(branch, source) if Value(node) != branch]
        chain = [term]
        while chain[-1] != made:
            chain += match.graph.operands(chain[-1].node)
        for value in (*chain, *([branch] if branch != source else []), *map(Value, inner)):
            if reason := sole_use(match, value):
                raise Refused(reason)
        conv = region.read(branch, source)
        if conv.table:
            raise Refused("the convolution has a summand that differs within a channel")
        if conv.groups % matrix.groups:
            raise Refused(f"the convolution mixes channels between the {matrix.groups} groups of the matrix")
        if product(types[1].shape[1:]) != matrix.shape[0]:
            continue
        whole = convolutions.add(match, matrix, _as_matrix(match, conv, matrix, branch), match.type(made))
        value = convolutions.write(match, whole, like=made.node)
        return match.apply("reshape", value, shape=match.type(term).shape, like=term.node)
    return None


def _sum(match: Match) -> Value | None:
    """The sum with one term for the first matrix product and the first branch that it takes in."""
    terms, region, refusal = terms_of(match), Region(match, "conv2d"), None
    products = {at: found for at, term in enumerate(terms) if (found := _product(match, term))}
    for at, position in itertools.product(products, range(len(terms))):
        if at == position:
            continue
        try:
            merged = _merged(match, region, terms[at], products[at], terms[position])
        except Refused as refused:
            refusal = refusal or refused
            continue
        total = None if merged is None else replaced(match, terms, merged, (at, position))
        if total is not None:
            return total
    if refusal:
        raise refusal
    return None


RULES = (
    Rule(
        "view(linear(view(x), b)) + conv(x, a) => view(linear(view(x), b + matrix(a)))",
        Op("add", Var("a"), Var("b")),
        _sum,
    ),
)
