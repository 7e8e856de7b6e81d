"""Operators that read where an index says, and operators that give indices.

An index outside of its table is refused by PyTorch; a kernel takes the nearest one inside (see S0913 for inputs).
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from specc.ir.types import TensorType
from specc.ops.record import Argument, Attributes, Illegal, Interval, Operator, Spelling, Types, Weight
from specc.ops.reduce import normal_axis

# ---- embedding


def _embedding_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    tokens, table = types
    if table.rank != 2:
        raise Illegal(f"the weight of `embedding` is [count, width], not {table}", operand=1)
    return (TensorType((*tokens.shape, table.shape[1]), table.dtype),)


def _embedding_spell(types: Types, a: dict[str, Any]) -> Spelling:
    for name in ("count", "width"):
        if a[name] < 1:
            raise Illegal(f"`{name}` is at least 1, not {a[name]}", argument=name)
    return Spelling({}, (Weight("weight", TensorType((a["count"], a["width"])), "normal(1.0)"),))


def _embedding_reference(tokens: Any, weight: Any) -> Any:
    import torch.nn.functional as functional

    return functional.embedding(tokens, weight)


def _embedding_compute(k: Any, types: Types, tokens: Any, weight: Any) -> Any:
    return lambda *i: weight(k.index(tokens(*i[:-1]), types[1].concrete[0]), i[-1])


def _embedding_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    tokens = TensorType(_shape(rng, 0, 3), rng.choice(("int64", "int32")))
    return [tokens, TensorType((rng.choice((1, 2, 5, 17)), rng.choice((1, 3, 8, 17))))], {}


# ---- take and gather


def _take_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, places = types
    axis = normal_axis(attrs["axis"], types[0].rank)
    return (TensorType((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]), x.dtype),)


def _take_reference(x: Any, places: Any, *, axis: int) -> Any:
    axis %= x.ndim
    rows = x.index_select(axis, places.reshape(-1))
    return rows.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _take_compute(k: Any, types: Types, x: Any, places: Any, *, axis: int) -> Any:
    axis %= types[0].rank
    end = axis + types[1].rank
    return lambda *i: x(*i[:axis], k.index(places(*i[axis:end]), types[0].concrete[axis]), *i[end:])


def _take_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng, 1, 3)
    return [TensorType(shape), TensorType(_shape(rng, 0, 2), "int64")], {"axis": rng.randrange(-len(shape), len(shape))}


def _gather_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, places = types
    axis = normal_axis(attrs["axis"], types[0].rank)
    if places.rank != x.rank or any(a != b for d, (a, b) in enumerate(zip(x.shape, places.shape)) if d != axis):
        raise Illegal(f"{x} and {places} differ beside dimension {axis}", operand=1)
    return (replace(x, shape=places.shape),)


def _gather_reference(x: Any, places: Any, *, axis: int) -> Any:
    return x.gather(axis, places.long())


def _gather_compute(k: Any, types: Types, x: Any, places: Any, *, axis: int) -> Any:
    axis %= types[0].rank
    return lambda *i: x(*i[:axis], k.index(places(*i), types[0].concrete[axis]), *i[axis + 1 :])


def _gather_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng, 1, 4)
    axis = rng.randrange(len(shape))
    places = (*shape[:axis], rng.choice((1, 2, 5)), *shape[axis + 1 :])
    return [TensorType(shape), TensorType(places, "int64")], {"axis": axis - rng.choice((0, len(shape)))}


def _table(types: Types, attrs: Attributes) -> dict[int, Interval]:
    return {1: (0, types[0].shape[normal_axis(attrs["axis"], types[0].rank)] - 1)}


def _scatter_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, places, source = types
    _gather_infer((x, places), attrs)
    if source.shape != places.shape:
        raise Illegal(f"{places} says the places of {source}, and is of another shape", operand=2)
    return (x,)


def _scatter_reference(x: Any, places: Any, source: Any, *, axis: int) -> Any:
    return x.scatter_add(axis, places.long(), source)


def _scatter_compute(k: Any, types: Types, x: Any, places: Any, source: Any, *, axis: int) -> Any:
    axis %= types[0].rank
    dtype, kind = types[0].dtype, types[1].dtype

    def element(*i: Any) -> Any:
        def term(r: Any) -> Any:
            at = (*i[:axis], r, *i[axis + 1 :])
            return k.select(k.equal(places(*at), k.number(i[axis], kind)), source(*at), k.const(0, dtype))

        return k.sum((types[1].concrete[axis],), term)

    total = k.stage(types[0].concrete, element)
    return lambda *i: x(*i) + total(*i)


def _scatter_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    (x, places), attrs = _gather_example(rng)
    return [x, places, TensorType(places.shape)], attrs


# ---- indices of what is greatest


def _argmax_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    axis, shape = normal_axis(attrs["axis"], types[0].rank), types[0].shape
    kept = (1,) if attrs["keep"] else ()
    return (TensorType((*shape[:axis], *kept, *shape[axis + 1 :]), "int64"),)


def _argmax_reference(x: Any, *, axis: int, keep: bool) -> Any:
    # Of equal elements the first: torch.argmax leaves it open.
    here = (x == x.amax(axis, keepdim=True)) | (x != x)  # of NaN, too
    return here.to(x.dtype).cumsum(axis).eq(0).sum(axis, keepdim=keep)


def _argmax_compute(k: Any, types: Types, x: Any, *, axis: int, keep: bool) -> Any:
    shape, dtype = types[0].concrete, types[0].dtype
    axis %= len(shape)
    outer = shape[:axis] + shape[axis + 1 :]
    extents = (shape[axis],)
    top = k.stage(outer, lambda *o: k.max_over(extents, lambda r: x(*o[:axis], r, *o[axis:])))
    last = k.const(-shape[axis], dtype)

    def first(*o: Any) -> Any:
        def term(r: Any) -> Any:
            own = k.let(x(*o[:axis], r, *o[axis:]))
            here = k.equal(own, top(*o)) | ~k.is_number(own)
            return k.select(here, k.const(0, dtype) - k.number(r, dtype), last)

        return k.max_over(extents, term)

    found = k.stage(outer, first)
    skip = axis + keep
    return lambda *i: _place(k, k.const(0, dtype) - found(*i[:axis], *i[skip:]))


def _place(k: Any, number: Any) -> Any:
    """A place of an element, as int64. By way of int32, which every processor has an instruction for: LLVM passes what
    becomes an int64 on 32-bit ARM to a function in another register than the one where it looks."""
    return k.cast(k.cast(number, "int32"), "int64")


def _argmax_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng, 1, 4)
    return [TensorType(shape)], {"axis": rng.randrange(-len(shape), len(shape)), "keep": rng.random() < 0.5}


def _order_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    axis, shape, count = normal_axis(attrs["axis"], types[0].rank), types[0].shape, attrs["k"]
    if count < 1 or (isinstance(shape[axis], int) and count > shape[axis]):
        raise Illegal(f"there are no {count} of {shape[axis]} elements", argument="k")
    return (TensorType((*shape[:axis], count, *shape[axis + 1 :]), "int64"),)


def _order_reference(x: Any, *, k: int, axis: int, largest: bool) -> Any:
    return x.sort(dim=axis, descending=largest, stable=True).indices.narrow(axis, 0, k)


def _order_compute(math: Any, types: Types, x: Any, *, k: int, axis: int, largest: bool) -> Any:
    """The rank of every element, by comparison with all others; then the place that has each rank."""
    shape, dtype = types[0].concrete, types[0].dtype
    axis %= len(shape)
    one, zero = math.const(1, dtype), math.const(0, dtype)

    def greater(a: Any, b: Any) -> Any:
        """Also NaN than a number."""
        return ~(a <= b) & math.is_number(b)

    def rank(*i: Any) -> Any:
        def term(r: Any) -> Any:
            other, own = math.let(x(*i[:axis], r, *i[axis + 1 :])), math.let(x(*i))
            before, behind = (other, own) if largest else (own, other)
            earlier = ~greater(behind, before) & (math.number(r, "int32") < math.number(i[axis], "int32"))
            return math.select(greater(before, behind) | earlier, one, zero)

        return math.sum((shape[axis],), term)

    ranks = math.stage(shape, rank)

    def place(*i: Any) -> Any:
        def term(r: Any) -> Any:
            here = math.equal(ranks(*i[:axis], r, *i[axis + 1 :]), math.number(i[axis], dtype))
            return math.select(here, math.number(r, dtype), zero)

        return math.sum((shape[axis],), term)

    found = math.stage((*shape[:axis], k, *shape[axis + 1 :]), place)
    return lambda *i: _place(math, found(*i))


def _order_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng, 1, 3)
    axis = rng.randrange(len(shape))
    attrs = {"k": rng.randint(1, shape[axis]), "axis": axis - rng.choice((0, len(shape)))}
    return [TensorType(shape)], {**attrs, "largest": rng.random() < 0.7}


# ---- sums so far


def _cumsum_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    normal_axis(attrs["axis"], types[0].rank)
    return (types[0],)


def _cumsum_compute(k: Any, types: Types, x: Any, *, axis: int) -> Any:
    shape, dtype = types[0].concrete, types[0].dtype
    axis %= len(shape)

    def element(*i: Any) -> Any:
        def term(r: Any) -> Any:
            return k.select(r <= i[axis], x(*i[:axis], r, *i[axis + 1 :]), k.const(0, dtype))

        return k.sum((shape[axis],), term)

    return k.stage(shape, element)


def _cumsum_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng, 1, 4)
    return [TensorType(shape)], {"axis": rng.randrange(-len(shape), len(shape))}


def _shape(rng: random.Random, least: int, most: int) -> tuple[int, ...]:
    return tuple(rng.choice((1, 2, 3, 7, 8, 17)) for _ in range(rng.randint(least, most)))


_AXIS = Argument("axis", "int")

RECORDS = (
    Operator(
        "embedding",
        "The rows of a table of `count` rows of `width` that the integers name.",
        ("tokens", "weight"),
        _embedding_infer,
        _embedding_reference,
        _embedding_example,
        arguments=(Argument("count", "int"), Argument("width", "int")),
        spell=_embedding_spell,
        weights=1,
        compute=_embedding_compute,
        elements=("integer", "float"),
        domain=lambda types, attrs: {0: (0, types[1].shape[0] - 1)},
        traits=frozenset({"open"}),
    ),
    Operator(
        "take",
        "The parts of x along `axis` that the integers name; their dimensions take the place of that one.",
        ("x", "places"),
        _take_infer,
        _take_reference,
        _take_example,
        attributes=(Argument("axis", "int", 0),),
        compute=_take_compute,
        elements=("any", "integer"),
        domain=_table,
        traits=frozenset({"choice"}),
    ),
    Operator(
        "gather",
        "For each integer, the element of x at that place along `axis` and at the integer's own place elsewhere.",
        ("x", "places"),
        _gather_infer,
        _gather_reference,
        _gather_example,
        attributes=(_AXIS,),
        compute=_gather_compute,
        elements=("any", "integer"),
        domain=_table,
        traits=frozenset({"choice"}),
    ),
    Operator(
        "scatter_add",
        "x, with each element of the source added at the place along `axis` that its integer names.",
        ("x", "places", "source"),
        _scatter_infer,
        _scatter_reference,
        _scatter_example,
        attributes=(_AXIS,),
        compute=_scatter_compute,
        elements=("float", "integer", "float"),
        domain=_table,
    ),
    Operator(
        "argmax",
        "The place of the greatest element along `axis`, the first one of equals, and NaN before all others; with "
        "`keep` the dimension stays.",
        ("x",),
        _argmax_infer,
        _argmax_reference,
        _argmax_example,
        attributes=(Argument("axis", "int", -1), Argument("keep", "bool", False)),
        compute=_argmax_compute,
        traits=frozenset({"jumps"}),
    ),
    Operator(
        "topk_indices",
        "The places of the `k` greatest elements along `axis` (least, if not `largest`), in order; NaN is greater than "
        "all numbers.",
        ("x",),
        _order_infer,
        _order_reference,
        _order_example,
        attributes=(Argument("k", "int"), Argument("axis", "int", -1), Argument("largest", "bool", True)),
        compute=_order_compute,
        traits=frozenset({"jumps"}),
    ),
    Operator(
        "cumsum",
        "The sum of each element and all before it along `axis`.",
        ("x",),
        _cumsum_infer,
        lambda x, axis: x.cumsum(axis),
        _cumsum_example,
        attributes=(_AXIS,),
        compute=_cumsum_compute,
    ),
)
