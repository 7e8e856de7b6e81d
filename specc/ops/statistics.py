"""Normalization by the statistics of the operand itself, in training and at inference alike.

    layer_norm   (x - mean) / sqrt(var + eps) * weight + bias     over one dimension (arXiv:1607.06450)
    group_norm   the same over groups of channels and all places  (arXiv:1803.08494)
    rms_norm     x / sqrt(mean(x * x) + eps) * weight             over one dimension (arXiv:1910.07467)

The variance is the mean of the squared differences from the mean, in a second sweep: the difference of two large
numbers would lose the digits that matter.
"""

from __future__ import annotations

import random
from typing import Any

from specc.ir.types import TensorType
from specc.ops.record import OPEN_EXTENT, Argument, Attributes, Illegal, Operator, Spelling, Types, Weight
from specc.ops.reduce import normal_axis, reciprocal


def _check(types: Types, attrs: Attributes, name: str, axis: int) -> TensorType:
    """The first operand, if weight and bias fit its dimension `axis`; raises `Illegal`."""
    x = types[0]
    if x.layout and axis != 1:
        raise Illegal(f"`{name}` takes the plain layout, not {x.layout}", operand=0)
    for position, t in enumerate(types[1:], 1):
        if t.shape != (x.shape[axis],):
            raise Illegal(f"the weight and the bias of `{name}` are [{x.shape[axis]}], not {t}", operand=position)
    if attrs["eps"] <= 0:
        raise Illegal(f"`eps` is above 0, not {attrs['eps']}", argument="eps")
    return x


def _weights(types: Types, a: dict[str, Any], name: str, axis: int) -> tuple[Weight, ...]:
    if not a["affine"]:
        return ()
    extent = types[0].shape[axis]
    if not isinstance(extent, int):
        raise Illegal(f"`{name}` needs a known extent of dimension {axis}, not {extent}", operand=0, note=OPEN_EXTENT)
    per_channel = TensorType((extent,), types[0].dtype)
    weight = Weight("weight", per_channel, "ones")
    return (weight, Weight("bias", per_channel, "zeros")) if a.get("bias") else (weight,)


# ---- over one dimension


def _layer_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    return (_check(types, attrs, "layer_norm", normal_axis(attrs["axis"], types[0].rank)),)


def _rms_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    return (_check(types, attrs, "rms_norm", normal_axis(attrs["axis"], types[0].rank)),)


def _row_spell(name: str) -> Any:
    def spell(types: Types, a: dict[str, Any]) -> Spelling:
        weights = _weights(types, a, name, normal_axis(a["axis"], types[0].rank))
        return Spelling({"axis": a["axis"], "eps": a["eps"]}, weights)

    return spell


def _layer_reference(x: Any, weight: Any = None, bias: Any = None, *, axis: int, eps: float) -> Any:
    import torch.nn.functional as functional

    axis, last = axis % x.ndim, x.ndim - 1  # torch.onnx.export writes a negative place as it is, which is no order
    rows = x.movedim(axis, last)
    extent = int(rows.shape[-1])  # a number also where torch.onnx.export has lost the shape, as behind a pool
    return functional.layer_norm(rows, (extent,), weight, bias, eps).movedim(last, axis)


def _rms_reference(x: Any, weight: Any = None, *, axis: int, eps: float) -> Any:
    axis, last = axis % x.ndim, x.ndim - 1
    rows = x.movedim(axis, last)
    normal = rows * ((rows * rows).mean(-1, keepdim=True) + eps).rsqrt()
    return (normal if weight is None else normal * weight).movedim(last, axis)


def _row_mean(k: Any, shape: tuple[int, ...], axis: int, dtype: str, term: Any) -> Any:
    """The mean of `term` over `axis`, as an access that takes and ignores that index."""
    outer = shape[:axis] + shape[axis + 1 :]
    total = k.stage(outer, lambda *o: k.sum((shape[axis],), lambda r: term(*o[:axis], r, *o[axis:])))
    return lambda *i: total(*i[:axis], *i[axis + 1 :]) * reciprocal(k, shape[axis : axis + 1], dtype)


def _affine(normal: Any, weights: tuple[Any, ...], channel: Any) -> Any:
    if weights:
        normal = normal * weights[0](channel)
    return normal + weights[1](channel) if len(weights) > 1 else normal


def _layer_compute(k: Any, types: Types, x: Any, *weights: Any, axis: int, eps: float) -> Any:
    shape, dtype = types[0].concrete, types[0].dtype
    axis %= len(shape)
    mean = _row_mean(k, shape, axis, dtype, x)
    variance = _row_mean(k, shape, axis, dtype, lambda *i: (x(*i) - mean(*i)) * (x(*i) - mean(*i)))
    return lambda *i: _affine((x(*i) - mean(*i)) * k.rsqrt(variance(*i) + k.const(eps, dtype)), weights, i[axis])


def _rms_compute(k: Any, types: Types, x: Any, *weights: Any, axis: int, eps: float) -> Any:
    shape, dtype = types[0].concrete, types[0].dtype
    axis %= len(shape)
    square = _row_mean(k, shape, axis, dtype, lambda *i: x(*i) * x(*i))
    return lambda *i: _affine(x(*i) * k.rsqrt(square(*i) + k.const(eps, dtype)), weights, i[axis])


def _row_example(most: int) -> Any:
    def example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
        shape = tuple(rng.choice((2, 3, 7, 8, 17)) for _ in range(rng.randint(1, 4)))
        axis = rng.choice((-1, rng.randint(-len(shape), len(shape) - 1)))
        weights = [TensorType((shape[axis],))] * rng.randint(0, most)
        return [TensorType(shape), *weights], {"axis": axis, "eps": rng.choice((1e-5, 1e-6))}

    return example


# ---- over groups of channels


def _group_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    if types[0].rank < 2:
        raise Illegal(f"`group_norm` takes [n, c, ...], not {types[0]}", operand=0)
    x, groups = _check(types, attrs, "group_norm", 1), attrs["groups"]
    channels = x.shape[1]
    if groups < 1 or (isinstance(channels, int) and channels % groups):
        raise Illegal(f"{channels} channels do not divide into {groups} groups", argument="groups")
    return (x,)


def _group_spell(types: Types, a: dict[str, Any]) -> Spelling:
    if types[0].rank < 2:
        raise Illegal(f"`group_norm` takes [n, c, ...], not {types[0]}", operand=0)
    return Spelling({"groups": a["groups"], "eps": a["eps"]}, _weights(types, a, "group_norm", 1))


def _group_reference(x: Any, weight: Any = None, bias: Any = None, *, groups: int, eps: float) -> Any:
    rows = x.reshape(x.shape[0], groups, -1)
    rows = rows - rows.mean(-1, keepdim=True)
    normal = (rows * ((rows * rows).mean(-1, keepdim=True) + eps).rsqrt()).reshape(x.shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    normal = normal if weight is None else normal * weight.reshape(shape)
    return normal if bias is None else normal + bias.reshape(shape)


def _group_compute(k: Any, types: Types, x: Any, *weights: Any, groups: int, eps: float) -> Any:
    (batch, channels, *places), dtype = types[0].concrete, types[0].dtype
    each = channels // groups

    def mean(term: Any) -> Any:
        total = k.stage((batch, groups), lambda n, g: k.sum((each, *places), lambda c, *p: term(n, g * each + c, *p)))
        return lambda n, c, *_: total(n, c // each) * reciprocal(k, (each, *places), dtype)

    middle = mean(x)
    variance = mean(lambda *i: (x(*i) - middle(*i)) * (x(*i) - middle(*i)))
    return lambda *i: _affine((x(*i) - middle(*i)) * k.rsqrt(variance(*i) + k.const(eps, dtype)), weights, i[1])


def _group_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    groups = rng.choice((1, 2, 3))
    shape = (rng.choice((1, 2)), groups * rng.choice((2, 3, 8)), *(rng.choice((1, 3, 7)) for _ in range(2)))
    return [TensorType(shape), *[TensorType(shape[1:2])] * rng.randint(0, 2)], {"groups": groups, "eps": 1e-5}


_AXIS, _EPS = Argument("axis", "int", -1), Argument("eps", "float", 1e-5)
_AFFINE, _BIAS = Argument("affine", "bool", True), Argument("bias", "bool", True)

RECORDS = (
    Operator(
        "layer_norm",
        "(x - mean) / sqrt(var + eps) * weight + bias over the dimension `axis` (arXiv:1607.06450).",
        ("x", "weight?", "bias?"),
        _layer_infer,
        _layer_reference,
        _row_example(2),
        attributes=(_AXIS, _EPS),
        arguments=(_AXIS, _EPS, _AFFINE, _BIAS),
        spell=_row_spell("layer_norm"),
        weights=2,
        compute=_layer_compute,
        traits=frozenset({"blocks", "open"}),
    ),
    Operator(
        "group_norm",
        "As `layer_norm`, over `groups` groups of channels and all places of [n, c, ...] (arXiv:1803.08494).",
        ("x", "weight?", "bias?"),
        _group_infer,
        _group_reference,
        _group_example,
        attributes=(Argument("groups", "int"), _EPS),
        arguments=(Argument("groups", "int"), _EPS, _AFFINE, _BIAS),
        spell=_group_spell,
        weights=2,
        compute=_group_compute,
        traits=frozenset({"blocks", "open"}),
    ),
    Operator(
        "rms_norm",
        "x / sqrt(mean(x * x) + eps) * weight over the dimension `axis` (arXiv:1910.07467).",
        ("x", "weight?"),
        _rms_infer,
        _rms_reference,
        _row_example(1),
        attributes=(_AXIS, _EPS),
        arguments=(_AXIS, _EPS, _AFFINE),
        spell=_row_spell("rms_norm"),
        weights=1,
        compute=_rms_compute,
        traits=frozenset({"blocks", "open"}),
    ),
)
