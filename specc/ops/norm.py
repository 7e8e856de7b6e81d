"""Normalization."""

from __future__ import annotations

import random
from typing import Any

from specc.ir.types import TensorType
from specc.ops.record import OPEN_EXTENT, Argument, Attributes, Illegal, Operator, Spelling, Types, Weight


def _infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x = types[0]
    if x.rank < 2:
        raise Illegal(f"`batch_norm` takes [n, c, ...], not {x}", operand=0)
    for position, t in enumerate(types[1:], 1):
        if t.shape != (x.shape[1],):
            raise Illegal(f"the statistics of {x.shape[1]} channels are [{x.shape[1]}], not {t}", operand=position)
    if len(types) == 4:
        raise Illegal("`batch_norm` has weight and bias, or neither")
    if attrs["eps"] <= 0:
        raise Illegal(f"`eps` is above 0, not {attrs['eps']}", argument="eps")
    return (x,)


def _spell(types: Types, a: dict[str, Any]) -> Spelling:
    if types[0].rank < 2:
        raise Illegal(f"`batch_norm` takes [n, c, ...], not {types[0]}", operand=0)
    channels = types[0].shape[1]
    if not isinstance(channels, int):
        raise Illegal(f"`batch_norm` needs a known number of channels, not {channels}", operand=0, note=OPEN_EXTENT)
    per_channel = TensorType((channels,), types[0].dtype)
    weights = [
        Weight("running_mean", per_channel, "zeros", trainable=False),
        Weight("running_var", per_channel, "ones", trainable=False),
    ]
    if a["affine"]:
        weights += [Weight("weight", per_channel, "ones"), Weight("bias", per_channel, "zeros")]
    return Spelling({"eps": a["eps"], "momentum": a["momentum"]}, tuple(weights))


def _reference(
    x: Any,
    mean: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    eps: float,
    momentum: float,
    training: Any = False,
) -> Any:
    import torch.nn.functional as functional

    return functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)


def _compute(k: Any, types: Types, x: Any, mean: Any, var: Any, *affine: Any, eps: float, momentum: float) -> Any:
    def element(*i: Any) -> Any:
        c = i[1]
        normal = (x(*i) - mean(c)) * k.rsqrt(var(c) + k.const(eps, types[0].dtype))
        return normal * affine[0](c) + affine[1](c) if affine else normal

    return element


def _example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    channels = rng.choice((1, 2, 3, 8, 17))
    x = TensorType((rng.choice((1, 2)), channels, *(rng.choice((1, 2, 3, 7)) for _ in range(rng.choice((0, 2, 2))))))
    statistics = [TensorType((channels,))] * rng.choice((2, 4))
    return [x, *statistics], {"eps": rng.choice((1e-5, 1e-3)), "momentum": 0.1}


RECORDS = (
    Operator(
        "batch_norm",
        "(x - mean) / sqrt(var + eps) * weight + bias for each channel (arXiv:1502.03167); training uses the batch's "
        "statistics and moves the running ones towards them by `momentum`.",
        ("x", "running_mean", "running_var", "weight?", "bias?"),
        _infer,
        _reference,
        _example,
        attributes=(Argument("eps", "float", 1e-5), Argument("momentum", "float", 0.1)),
        arguments=(
            Argument("eps", "float", 1e-5),
            Argument("momentum", "float", 0.1),
            Argument("affine", "bool", True),
        ),
        spell=_spell,
        weights=4,
        training=lambda *operands, **attrs: _reference(*operands, **attrs, training=True),
        training_state=(Weight("num_batches_tracked", TensorType((), "int64"), "zeros", trainable=False),),
        compute=_compute,
        traits=frozenset({"blocks", "open"}),
    ),
)
