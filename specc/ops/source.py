"""Sources: inputs, parameters, and constants that a rule or the language writes into a graph."""

from __future__ import annotations

import random
import struct
from typing import Any

from specc.ir.dims import floordiv
from specc.ir.dtypes import DECLARED, HALVES, SMALL
from specc.ir.types import TensorType
from specc.ops.record import ELEMENTS, Argument, Attributes, Illegal, Operator, Types


def _typed(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    if attrs["type"].dtype in HALVES:
        raise Illegal(f"a network takes no tensors of {attrs['type'].dtype}: it makes them itself", argument="type")
    return (attrs["type"],)


def _no_reference(*_: Any, **__: Any) -> Any:
    raise AssertionError("inputs and parameters are given, not computed")


def _constant_type(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    shape, dtype, value = attrs["shape"], attrs["dtype"], attrs["value"]
    if dtype not in DECLARED:
        raise Illegal(f"there is no element type `{dtype}`; there are {', '.join(DECLARED)}", argument="dtype")
    if any(isinstance(extent, int) and extent < 1 for extent in shape):
        raise Illegal(f"the extents of a constant are at least 1, not {list(shape)}", argument="shape")
    check_element(value, dtype)
    return (TensorType(shape, dtype),)


def check_element(value: float, dtype: str) -> None:
    """Raises `Illegal` unless a tensor of `dtype` can have the element `value`."""
    whole = dtype.startswith(("float", "bfloat")) or value.is_integer()
    if not whole or (dtype in SMALL and not SMALL[dtype][0] <= value <= SMALL[dtype][1]):
        note = None if whole or dtype == "bool" else '`cast(x, "float32")` makes numbers with fractions of integers'
        raise Illegal(f"{value} is no {dtype}", argument="value", note=note)
    if dtype in HALVES and not _has(dtype, value):
        raise Illegal(f"{value} is no {dtype}", argument="value")


def _has(dtype: str, value: float) -> bool:
    """Whether a type of 16 bits has the number."""
    try:
        if dtype == "float16":
            return bool(struct.unpack("<e", struct.pack("<e", value))[0] == value)
        return struct.pack("<f", value)[:2] == bytes(2) and struct.unpack("<f", struct.pack("<f", value))[0] == value
    except OverflowError:
        return False


def _constant(value: float, shape: tuple[int, ...], dtype: str) -> Any:
    import torch

    return torch.full(shape, value, dtype=torch.float64 if dtype.startswith("float") else getattr(torch, dtype))


def _range_type(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    start, stop, step, dtype = (attrs[name] for name in ("start", "stop", "step", "dtype"))
    numbers = [name for name in DECLARED if name not in (*SMALL, "bool")]
    if dtype not in numbers:
        there_are = ", ".join(numbers)
        raise Illegal(f"there are no numbers of type `{dtype}`; there are {there_are}", argument="dtype")
    if step < 1:
        raise Illegal(f"`step` is at least 1, not {step}", argument="step")
    if isinstance(stop - start, int) and stop - start < 1:
        raise Illegal(f"there are no numbers from {start} to below {stop}", argument="stop")
    return (TensorType((floordiv(stop - start + (step - 1), step),), dtype),)


def _range(stop: int, start: int, step: int, dtype: str) -> Any:
    import torch

    kind = torch.float64 if dtype.startswith("float") else getattr(torch, dtype)
    return torch.arange(start, stop, step, dtype=kind)


def _range_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    start = rng.randint(-3, 3)
    dtype = rng.choice(("int64", "int32", "float32"))
    return [], {"start": start, "stop": start + rng.randint(1, 20), "step": rng.choice((1, 2, 3)), "dtype": dtype}


def _dirac_type(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    shape, groups, dtype = attrs["shape"], attrs["groups"], attrs["dtype"]
    if dtype not in ELEMENTS["float"]:
        raise Illegal(f"a kernel is of type {' or '.join(ELEMENTS['float'])}, not `{dtype}`", argument="dtype")
    numbers = len(shape) == 4 and all(isinstance(e, int) and e > 0 for e in shape) and groups > 0
    if not numbers or shape[0] != shape[1] * groups or shape[2] % 2 == 0 or shape[3] % 2 == 0:
        raise Illegal(f"no identity kernel has the shape {list(shape)} in {groups} groups")
    return (TensorType(shape, dtype),)


def _dirac(shape: tuple[int, ...], groups: int, dtype: str) -> Any:
    import torch

    return torch.nn.init.dirac_(torch.empty(shape, dtype=torch.float64), groups)


def _example_type(rng: random.Random) -> TensorType:
    return TensorType(tuple(rng.choice((1, 2, 3, 7)) for _ in range(rng.randint(0, 4))))


RECORDS = (
    Operator(
        "input",
        "A tensor that the caller gives.",
        (),
        infer=_typed,
        torch=_no_reference,
        attributes=(Argument("name", "str"), Argument("type", "type")),
        example=lambda rng: ([], {"name": "x", "type": _example_type(rng)}),
        traits=frozenset({"source"}),
    ),
    Operator(
        "param",
        "A tensor of the checkpoint, by its key.",
        (),
        infer=_typed,
        torch=_no_reference,
        attributes=(
            Argument("key", "str"),
            Argument("type", "type"),
            Argument("init", "str", "zeros"),
            Argument("trainable", "bool", True),
        ),
        example=lambda rng: ([], {"key": "w", "type": _example_type(rng)}),
        traits=frozenset({"source"}),
    ),
    Operator(
        "constant",
        "A number, in every element of a tensor of `shape`.",
        (),
        infer=_constant_type,
        torch=_constant,
        attributes=(Argument("value", "float"), Argument("shape", "ints", ()), Argument("dtype", "str", "float32")),
        compute=lambda k, types, value, shape, dtype: lambda *i: k.const(value, dtype),
        example=lambda rng: ([], {"value": rng.choice((0.0, 1.0, -0.5, 3.0)), "shape": rng.choice(((), (3,), (2, 1)))}),
        traits=frozenset({"source", "typed"}),
    ),
    Operator(
        "arange",
        "The numbers start, start + step, ... below stop.",
        (),
        infer=_range_type,
        torch=_range,
        attributes=(
            Argument("stop", "dim"),
            Argument("start", "dim", 0),
            Argument("step", "int", 1),
            Argument("dtype", "str", "int64"),
        ),
        compute=lambda k, types, stop, start, step, dtype: lambda i: k.number(i * step + start, dtype),
        example=_range_example,
        traits=frozenset({"source", "typed", "open"}),
    ),
    Operator(
        "dirac",
        "The convolution kernel [c, c / groups, kh, kw] that leaves its input as it is (kh and kw odd).",
        (),
        infer=_dirac_type,
        torch=_dirac,
        attributes=(Argument("shape", "ints"), Argument("groups", "int", 1), Argument("dtype", "str", "float32")),
        compute=lambda k, types, shape, groups, dtype: (
            lambda o, i, y, x: k.select(
                k.all(o % shape[1] == i, y == shape[2] // 2, x == shape[3] // 2),
                k.const(1.0, dtype),
                k.const(0.0, dtype),
            )
        ),
        example=lambda rng: ([], {"shape": (4, 4 // (g := rng.choice((1, 2, 4))), 3, 1), "groups": g}),
        traits=frozenset({"source", "typed"}),
    ),
)
