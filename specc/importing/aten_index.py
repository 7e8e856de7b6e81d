"""PyTorch's operations with indices, truth values and subscripts --> operators (see `specc.importing.aten`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specc.importing.builder import Builder, Convert, Unsupported
from specc.ir.dims import product
from specc.ir.graph import Value


def _axis(b: Builder, x: Value, axis: int) -> int:
    return axis % len(b.shape(x))


def _embedding(b: Builder, table: Value, tokens: Value, *_: Any) -> Value:
    return b.apply("embedding", tokens, table)


def _topk(b: Builder, x: Value, k: int, axis: int = -1, largest: bool = True, ordered: bool = True) -> Any:
    axis = _axis(b, x, axis)
    places = b.apply("topk_indices", x, k=k, axis=axis, largest=largest)
    return b.apply("gather", x, places, axis=axis), places


def _compare(op: str) -> Convert:
    def convert(b: Builder, x: Value, y: Any) -> Value:
        return b.apply(op, x, y if isinstance(y, Value) else b.constant(y, x))

    return convert


def _where(b: Builder, condition: Value, x: Any, y: Any) -> Value:
    like = x if isinstance(x, Value) else y if isinstance(y, Value) else None
    x, y = (v if isinstance(v, Value) else b.constant(v, like) for v in (x, y))
    return b.apply("where", condition, x, y)


def _masked_fill(b: Builder, x: Value, mask: Value, value: Any) -> Value:
    return _where(b, mask, value, x)


def _extreme(op: str) -> Convert:
    """`max` and `min` over a dimension give the values and their places, over none the value."""

    def convert(b: Builder, x: Value, axis: Any = None, keep: bool = False) -> Any:
        if isinstance(axis, Value):
            return b.apply("maximum" if op == "max" else "minimum", x, axis)
        turned = x if op == "max" else b.apply("neg", x)
        axes = tuple(range(len(b.shape(x)))) if axis is None else (_axis(b, x, axis),)
        value = b.apply("amax", turned, axes=axes, keep=keep)
        value = value if op == "max" else b.apply("neg", value)
        return value if axis is None else (value, b.apply("argmax", turned, axis=axes[0], keep=keep))

    return convert


def _amin(b: Builder, x: Value, axes: Any, keep: bool = False) -> Value:
    chosen = tuple(_axis(b, x, axis) for axis in ([axes] if isinstance(axes, int) else axes))
    return b.apply("neg", b.apply("amax", b.apply("neg", x), axes=tuple(sorted(chosen)), keep=keep))


def _einsum(b: Builder, equation: str, tensors: Sequence[Value], **_: Any) -> Value:
    """The product of two operands as one of matrices; a single operand is permuted and summed over."""
    sources, arrow, goal = equation.replace(" ", "").partition("->")
    names = sources.split(",")
    if not arrow or "." in equation or len(tensors) > 2 or any(len(set(n)) != len(n) for n in names):
        raise Unsupported(f"the sum over subscripts `{equation}`")
    if len(tensors) == 1:
        return _ordered(b, *_summed(b, tensors[0], names[0], goal), goal)
    (x, left), (y, right) = (
        _summed(b, tensor, own, goal + other) for tensor, own, other in zip(tensors, names, reversed(names))
    )
    batch = [n for n in left if n in right and n in goal]
    inner = [n for n in left if n in right and n not in goal]
    rows, columns = [n for n in left if n not in right], [n for n in right if n not in left]
    size = dict(zip(left + right, (*b.shape(x), *b.shape(y))))

    def matrix(value: Value, own: str, first: list[str], second: list[str]) -> Value:
        value = _ordered(b, value, own, "".join([*batch, *first, *second]))
        shape = [product(size[n] for n in part) for part in (first, second)]
        return b.reshape(value, [*(size[n] for n in batch), *shape])

    found = b.apply("matmul", matrix(x, left, rows, inner), matrix(y, right, inner, columns))
    order = [*batch, *rows, *columns]
    return _ordered(b, b.reshape(found, [size[n] for n in order]), "".join(order), goal)


def _summed(b: Builder, x: Value, own: str, wanted: str) -> tuple[Value, str]:
    """The operand without the dimensions that nobody else knows."""
    axes = tuple(i for i, name in enumerate(own) if name not in wanted)
    kept = "".join(name for name in own if name in wanted)
    return (b.apply("sum", x, axes=axes, keep=False) if axes else x), kept


def _ordered(b: Builder, x: Value, own: str, goal: str) -> Value:
    return b.permute(x, [own.index(name) for name in goal])


def _repeat(b: Builder, x: Value, times: Sequence[int]) -> Value:
    shape = [*([1] * (len(times) - len(b.shape(x)))), *b.shape(x)]
    x = b.reshape(x, shape)
    for axis, count in enumerate(times):
        if count == 1:
            continue
        if shape[axis] == 1:
            x = b.apply("expand", x, shape=tuple(count if i == axis else -1 for i in range(len(shape))))
        else:
            x = b.apply("concat", *[x] * count, axis=axis)
    return x


INDEXING: dict[str, Convert] = {
    "embedding": _embedding,
    "gather": lambda b, x, axis, places: b.apply("gather", x, places, axis=_axis(b, x, axis)),
    "index_select": lambda b, x, axis, places: b.apply("take", x, places, axis=_axis(b, x, axis)),
    "cumsum": lambda b, x, axis: b.apply("cumsum", x, axis=_axis(b, x, axis)),
    "topk": _topk,
    "argmax": lambda b, x, axis=-1, keep=False: b.apply("argmax", x, axis=_axis(b, x, axis), keep=keep),
    "max": _extreme("max"),
    "min": _extreme("min"),
    "amin": _amin,
    "gt": _compare("greater"),
    "ge": _compare("greater_equal"),
    "lt": _compare("less"),
    "le": _compare("less_equal"),
    "eq": _compare("equal"),
    "ne": _compare("not_equal"),
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__"), lambda b, x, y: b.apply("logical_and", x, y)),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__"), lambda b, x, y: b.apply("logical_or", x, y)),
    **dict.fromkeys(("logical_not", "bitwise_not"), lambda b, x: b.apply("logical_not", x)),
    "where": _where,
    "masked_fill": _masked_fill,
    "einsum": _einsum,
    "repeat": _repeat,
}
"""By the names of ATen."""
