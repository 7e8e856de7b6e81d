"""Matrix products in the cheapest order, and sums of products that share a factor as one product.

    (a b) c => a (b c)                  the order of a chain with the fewest multiplications, by dynamic programming
    matmul(x, f) => linear(x, f')       f frozen, a matrix
    f(x, w) + f(y, w) => f(x + y, w)    f a convolution, a matrix product, or a product of equal shapes
    a c + b c => (a + b) c

A product of frozen factors costs nothing at run time. Each rule makes the number of multiplications smaller, or the
number of nodes, or turns a matmul into a linear, which nothing turns back; so they end. The chain's order is the
textbook's (Cormen et al., Introduction to Algorithms, section 14.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specc import ops
from specc.ir.cost import nominal
from specc.ir.dims import Dim
from specc.ir.graph import Value
from specc.ir.types import TensorType
from specc.ops.record import Illegal
from specc.passes.rewrite import Frozen, Match, Op, Refused, Rule, Var


@dataclass(frozen=True)
class _Factor:
    """A factor of a chain: `value`, which is transposed where it is the weight of a linear."""

    value: Value
    transposed: bool = False


@dataclass(frozen=True)
class _Product:
    """The cheapest way to multiply some neighbours: its cost, the value's shape, and where it is split."""

    cost: int
    shape: tuple[Dim, ...]
    frozen: bool
    split: int = 0


MOST_FACTORS = 64
"""Of a chain whose order is looked for, which takes time by the third power: 0.2 s for 40, 1.4 s for 80."""


def _factors(match: Match, root: Value) -> list[_Factor]:
    """The factors of the tree of products that makes `root`, from left to right."""
    graph = match.graph
    found: list[_Factor] = []
    waiting = [_Factor(root)]
    while waiting:
        factor = waiting.pop()
        value = factor.value
        shared = value != root and graph.uses(value) > 1
        if factor.transposed or shared or match.is_frozen(value) or not _is_product(match, value.node):
            found.append(factor)
        else:
            left, right = graph.operands(value.node)
            waiting += [_Factor(right, transposed=graph.op(value) == "linear"), _Factor(left)]
    return found


def _is_product(match: Match, identity: int) -> bool:
    """Whether a node is a product of two: a matmul, or a linear without bias whose weight could be a factor."""
    node, operands = match.graph.node(identity), match.graph.operands(identity)
    plain = len(operands) == 2 and match.is_frozen(operands[-1]) and match.type(operands[0]).rank >= 2
    return node.op == "matmul" or (node.op == "linear" and plain)


def _reassociated(match: Match) -> Value | None:
    """The chain under the root in its cheapest order, where that is cheaper than the order it has."""
    root = Value(match.root)
    users = [user for user, _ in match.graph.users(root)]
    if match.graph.uses(root) == 1 and any(_is_product(match, user) for user in users):
        return None  # part of a longer chain, which is looked at as a whole
    factors = _factors(match, root)
    if len(factors) < 3:
        return None
    if len(factors) > MOST_FACTORS:
        raise Refused(f"it has {len(factors)} factors, and the order of no more than {MOST_FACTORS} is looked for")
    table = _cheapest(match, factors)
    if table is None:
        return None
    now, best = _cost(match, root), table[0, len(factors)].cost
    if best >= now:
        raise Refused(f"no order of these {len(factors)} factors costs less than {now} multiplications")
    return _build(match, factors, table, 0, len(factors))


def _cost(match: Match, value: Value, root: bool = True) -> int:
    """The multiplications of the tree as it stands."""
    graph = match.graph
    if match.is_frozen(value) or not (root or graph.uses(value) == 1):
        return 0
    if not _is_product(match, value.node):
        return 0
    a, b = graph.operands(value.node)
    own = _multiplications(match, match.type(value).shape, match.type(a).shape[-1])
    return own + _cost(match, a, False) + _cost(match, b, False)


def _multiplications(match: Match, result: Sequence[Dim], inner: Dim) -> int:
    count = nominal(inner, match.graph.defaults)
    for extent in result:
        count *= nominal(extent, match.graph.defaults)
    return count


def _cheapest(match: Match, factors: list[_Factor]) -> dict[tuple[int, int], _Product] | None:
    """For each run of factors [start, end), the cheapest way; None where a product would not be legal on its own."""
    table: dict[tuple[int, int], _Product] = {}
    matmul = ops.get("matmul")
    for position, factor in enumerate(factors):
        shape = match.type(factor.value).shape
        shape = shape[::-1] if factor.transposed else shape
        table[position, position + 1] = _Product(0, shape, match.is_frozen(factor.value))
    dtype = match.type(factors[0].value).dtype
    for length in range(2, len(factors) + 1):
        for start in range(len(factors) - length + 1):
            end = start + length
            options: list[_Product] = []
            for split in range(start + 1, end):
                left, right = table[start, split], table[split, end]
                types = [TensorType(side.shape, dtype) for side in (left, right)]
                try:
                    (result,) = ops.infer(matmul, types, {})
                except Illegal:
                    return None
                frozen = left.frozen and right.frozen
                own = 0 if frozen else _multiplications(match, result.shape, left.shape[-1])
                options.append(_Product(own + left.cost + right.cost, result.shape, frozen, split))
            table[start, end] = min(options, key=lambda option: option.cost)
    return table


def _build(match: Match, factors: list[_Factor], table: dict[tuple[int, int], _Product], start: int, end: int) -> Value:
    if end == start + 1:
        factor = factors[start]
        return match.apply("permute", factor.value, order=(1, 0)) if factor.transposed else factor.value
    split = table[start, end].split
    left = _build(match, factors, table, start, split)
    if end == split + 1 and factors[split].transposed:
        return match.apply("linear", left, factors[split].value)
    return match.apply("matmul", left, _build(match, factors, table, split, end))


def _to_linear(match: Match) -> Value | None:
    if match.type(match["w"]).rank != 2:
        return None
    return match.apply("linear", match["x"], match.apply("permute", match["w"], order=(1, 0)))


SHARING = ("conv2d", "linear", "matmul", "mul")
"""Operators that are linear in each of their first two operands."""


def _shared_factor(match: Match) -> Value | None:
    """`f(x, w) + f(y, w) => f(x + y, w)`, and the same with the factor in front."""
    graph = match.graph
    a, b = graph.operands(match.root)
    first, second = graph.node(a.node), graph.node(b.node)
    if a == b or first.op != second.op or first.op not in SHARING or first.attrs != second.attrs:
        return None
    if first.types != second.types or first.types[0] != match.type(Value(match.root)):
        return None
    one, other = graph.operands(a.node), graph.operands(b.node)
    if len(one) != 2 or len(other) != 2 or match.is_frozen(a) or match.is_frozen(b):
        return None
    pairs = [(0, 0), (1, 1)] + ([(0, 1), (1, 0)] if first.op == "mul" else [])
    for p, q in pairs:
        x, y, shared = one[1 - p], other[1 - q], one[p]
        if shared != other[q] or match.type(x) != match.type(y):
            continue
        if match.is_frozen(x) and match.is_frozen(y) and first.op != "matmul":
            return None  # one weight for two: re-parameterization, which knows what it costs
        if graph.uses(a) != 1 or graph.uses(b) != 1:
            raise Refused(f"one of the two results of `{first.op}` is used elsewhere too")
        summed = match.apply("add", x, y)
        operands = (shared, summed) if p == 0 else (summed, shared)
        return match.apply(first.op, *operands, **first.attrs)
    return None


RULES = (
    Rule("matmul(x, f) => linear(x, f')", Op("matmul", Var("x"), Frozen("w")), _to_linear),
    Rule("(a b) c => a (b c)", Op(("matmul", "linear"), Var("a"), Var("b")), _reassociated),
    Rule("f(x, w) + f(y, w) => f(x + y, w)", Op("add", Var("a"), Var("b")), _shared_factor),
)
