"""Matrix products."""

from __future__ import annotations

import random
from typing import Any

from specc.ir.dims import Dim, product
from specc.ir.types import TensorType
from specc.ops.elementwise import broadcast
from specc.ops.record import OPEN_EXTENT, Argument, Attributes, Illegal, Operator, Spelling, Types, Weight


def _linear_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, weight, *bias = types
    if not x.rank:
        raise Illegal("`linear` takes at least one dimension, and the operand is a number", operand=0)
    if weight.rank != 2 or weight.shape[1] != x.shape[-1]:
        raise Illegal(f"the weight takes [out, {x.shape[-1]}], the operand's last extent, not {weight}", operand=1)
    if bias and bias[0].shape != weight.shape[:1]:
        raise Illegal(f"the bias is [{weight.shape[0]}], not {bias[0]}", operand=2)
    return (TensorType((*x.shape[:-1], weight.shape[0]), x.dtype),)


def _linear_spell(types: Types, a: dict[str, Any]) -> Spelling:
    if not types[0].rank:
        raise Illegal("`linear` takes at least one dimension, and the operand is a number", operand=0)
    if a["out"] < 1:
        raise Illegal(f"`out` is at least 1, not {a['out']}", argument="out")
    inputs = types[0].shape[-1]
    if not isinstance(inputs, int):
        raise Illegal(f"`linear` needs a known last extent, not {inputs}", operand=0, note=OPEN_EXTENT)
    weights = [Weight("weight", TensorType((a["out"], inputs), types[0].dtype), "kaiming")]
    if a["bias"]:
        weights.append(Weight("bias", TensorType((a["out"],), types[0].dtype), "fan_in_bias"))
    return Spelling({}, tuple(weights))


def _linear_reference(x: Any, weight: Any, bias: Any = None) -> Any:
    import torch.nn.functional as functional

    return functional.linear(x, weight, bias)


def _linear_compute(k: Any, types: Types, x: Any, weight: Any, *bias: Any) -> Any:
    result = _linear_infer(types, {})[0].concrete
    inputs = types[0].concrete[-1]
    summed = k.stage(result, lambda *i: k.sum((inputs,), lambda r: x(*i[:-1], r) * weight(i[-1], r)))
    return (lambda *i: summed(*i) + bias[0](i[-1])) if bias else summed


def _linear_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    lead = tuple(rng.choice((1, 2, 3, 7)) for _ in range(rng.choice((0, 1, 1, 2))))
    inputs, out = rng.choice((1, 3, 8, 16, 17)), rng.choice((1, 3, 8, 16, 17))
    types = [TensorType((*lead, inputs)), TensorType((out, inputs))]
    return types + [TensorType((out,))] * rng.randint(0, 1), {}


def _matmul_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    a, b = types
    for position, t in enumerate(types):
        if t.rank < 2:
            raise Illegal(f"`matmul` takes at least two dimensions, not {t}", operand=position)
    if a.shape[-1] != b.shape[-2]:
        raise Illegal(f"the inner extents of {a} and {b} differ: {a.shape[-1]} and {b.shape[-2]}", operand=1)
    lead = broadcast([TensorType(t.shape[:-2]) for t in types])
    return (TensorType((*lead, a.shape[-2], b.shape[-1]), a.dtype),)


def _matmul_reference(a: Any, b: Any) -> Any:
    return a @ b


def _matmul_compute(k: Any, types: Types, a: Any, b: Any) -> Any:
    result = _matmul_infer(types, {})[0].concrete
    lead = len(result) - 2

    def at(access: Any, t: TensorType, outer: tuple[Any, ...], row: Any, column: Any) -> Any:
        own = t.concrete[:-2]
        return access(*(0 if e == 1 else i for e, i in zip(own, outer[lead - len(own) :])), row, column)

    def element(*i: Any) -> Any:
        *outer, row, column = i
        return k.sum(
            (types[0].concrete[-1],),
            lambda r: at(a, types[0], tuple(outer), row, r) * at(b, types[1], tuple(outer), r, column),
        )

    return k.stage(result, element)


def _matmul_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    m, inner, n = (rng.choice((1, 3, 8, 17)) for _ in range(3))
    lead = tuple(rng.choice((1, 2, 3)) for _ in range(rng.randint(0, 2)))
    right = rng.choice(((), lead))
    return [TensorType((*lead, m, inner)), TensorType((*right, inner, n))], {}


def _macs(result: TensorType, inner: Dim) -> Dim:
    return product(result.shape) * inner


RECORDS = (
    Operator(
        "linear",
        "x @ transposed(weight) + bias over the last dimension.",
        ("x", "weight", "bias?"),
        _linear_infer,
        _linear_reference,
        _linear_example,
        arguments=(Argument("out", "int"), Argument("bias", "bool", True)),
        spell=_linear_spell,
        weights=2,
        compute=_linear_compute,
        macs=lambda types, attrs: _macs(_linear_infer(types, attrs)[0], types[0].shape[-1]),
        traits=frozenset({"open"}),
    ),
    Operator(
        "matmul",
        "Matrix product of the last two dimensions; the others are broadcast.",
        ("a", "b"),
        _matmul_infer,
        _matmul_reference,
        _matmul_example,
        compute=_matmul_compute,
        macs=lambda types, attrs: _macs(_matmul_infer(types, attrs)[0], types[0].shape[-1]),
        traits=frozenset({"open"}),
    ),
)
