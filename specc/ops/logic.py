"""Truth values, choices by them, and conversions between types of elements."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from specc.ir.dtypes import DECLARED, DTYPES, HALVES, SMALL
from specc.ir.types import TensorType
from specc.ops.elementwise import binary, draw_pair, draw_shape, infer, torch_function
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types


def _truth(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    return (replace(infer(types, attrs)[0], dtype="bool"),)


def _comparison(name: str, symbol: str, torch: str, scalar: Callable[..., Any]) -> Operator:
    summary = f"whether a {symbol} b, also written so"
    return binary(name, summary, torch_function(torch), scalar, infer=_truth, traits=frozenset({"jumps"}))


def _bools(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    return [replace(t, dtype="bool") for t in draw_pair(rng)], {}


def _where_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    a, b = draw_pair(rng)
    condition = replace(rng.choice((a, b)), dtype="bool")
    return [condition, a, b], {}


def _cast_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    if attrs["dtype"] not in DTYPES:
        raise Illegal(f"there is no element type `{attrs['dtype']}`; there are {', '.join(DECLARED)}", argument="dtype")
    if attrs["dtype"] in SMALL:
        reason = f"`quantize` makes {attrs['dtype']}: what it cannot hold becomes the nearest that it can"
        raise Illegal(reason, argument="dtype")
    return (replace(types[0], dtype=attrs["dtype"]),)


def _cast_reference(x: Any, *, dtype: str) -> Any:
    import torch

    if dtype in HALVES:  # what computes takes it as it is rounded, in the type at hand
        hand = x.dtype if x.is_floating_point() else torch.float64
        return x.to(torch.float32).to(getattr(torch, dtype)).to(hand)
    # A number with a fraction is made exactly, and takes the precision of what computes (see the trait `typed`).
    return x.to(torch.float64 if dtype.startswith("float") else getattr(torch, dtype))


def _cast_spell(types: Types, a: dict[str, Any]) -> Spelling:
    if a["dtype"] in HALVES:
        raise Illegal(f"no spec makes tensors of {a['dtype']}: a compilation has a precision", argument="dtype")
    return Spelling(a)


def _cast_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    wide = [dtype for dtype in DECLARED if dtype not in SMALL]
    return [TensorType(draw_shape(rng), rng.choice(DECLARED))], {"dtype": rng.choice(wide)}


RECORDS = (
    _comparison("less", "<", "lt", lambda k, a, b: a < b),
    _comparison("less_equal", "<=", "le", lambda k, a, b: a <= b),
    _comparison("greater", ">", "gt", lambda k, a, b: a > b),
    _comparison("greater_equal", ">=", "ge", lambda k, a, b: a >= b),
    _comparison("equal", "==", "eq", lambda k, a, b: k.equal(a, b)),
    _comparison("not_equal", "!=", "ne", lambda k, a, b: ~k.equal(a, b)),
    Operator(
        "logical_and",
        "whether both a and b are true",
        ("a", "b"),
        infer,
        torch_function("logical_and"),
        _bools,
        scalar=lambda k, a, b: a & b,
        elements="bool",
    ),
    Operator(
        "logical_or",
        "whether a, b or both are true",
        ("a", "b"),
        infer,
        torch_function("logical_or"),
        _bools,
        scalar=lambda k, a, b: a | b,
        elements="bool",
    ),
    Operator(
        "logical_not",
        "whether x is false",
        ("x",),
        infer,
        torch_function("logical_not"),
        lambda rng: ([TensorType(draw_shape(rng), "bool")], {}),
        scalar=lambda k, x: ~x,
        elements="bool",
    ),
    Operator(
        "where",
        "a where the condition is true, else b.",
        ("condition", "a", "b"),
        infer,
        torch_function("where"),
        _where_example,
        scalar=lambda k, condition, a, b: k.select(condition, a, b),
        elements=("bool", "any"),
        traits=frozenset({"choice"}),
    ),
    Operator(
        "cast",
        "x with elements of another type: towards 0 from numbers with fractions to integers; what is not 0 is true.",
        ("x",),
        _cast_infer,
        _cast_reference,
        _cast_example,
        attributes=(Argument("dtype", "str"),),
        spell=_cast_spell,
        scalar=lambda k, x, dtype: k.cast(x, dtype),
        elements="any",
        traits=frozenset({"jumps", "typed"}),
    ),
)
