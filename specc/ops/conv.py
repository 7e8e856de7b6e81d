"""Two-dimensional convolution (cross-correlation, as in PyTorch)."""

from __future__ import annotations

import random
from typing import Any

from specc.ir.dims import Dim, floordiv, product
from specc.ir.types import TensorType
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types, Weight


def window_extent(extent: Dim, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> Dim:
    """The number of places of a window: floor((extent + pads - dilation (kernel - 1) - 1) / stride) + 1."""
    reach = extent + (before + after - dilation * (kernel - 1) - 1)
    if isinstance(reach, int) and reach < 0:
        raise Illegal(
            f"a window of {dilation * (kernel - 1) + 1} does not fit into {extent} + {before + after} padding"
        )
    return floordiv(reach, stride) + 1


def same_padding(k: tuple[int, int], d: tuple[int, int]) -> tuple[int, int, int, int]:
    """The padding that keeps the extent of an odd kernel at stride 1."""
    y, x = d[0] * (k[0] - 1) // 2, d[1] * (k[1] - 1) // 2
    return y, x, y, x


def require_rank4(types: Types, name: str) -> None:
    """Raises `Illegal` unless the first operand is [n, c, h, w]."""
    if types[0].rank != 4:
        raise Illegal(f"`{name}` takes [n, c, h, w], not {types[0]}", operand=0)


def require_positive(attrs: Attributes, *names: str) -> None:
    """Raises `Illegal` unless every number of the attributes `names` is at least 1."""
    for name in names:
        values = attrs[name] if isinstance(attrs[name], tuple) else (attrs[name],)
        if any(isinstance(value, int) and value < 1 for value in values):
            raise Illegal(f"`{name}` is at least 1, not {attrs[name]}", argument=name)


def _infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, weight, *bias = types
    require_rank4(types, "conv2d")
    require_positive(attrs, "stride", "dilation", "groups")
    if weight.rank != 4:
        raise Illegal(f"the weight of `conv2d` is [out, in / groups, kh, kw], not {weight}", operand=1)
    groups = attrs["groups"]
    out, per_group, kh, kw = weight.shape
    if per_group * groups != x.shape[1]:
        raise Illegal(f"the weight takes {per_group} * {groups} channels, and the operand has {x.shape[1]}", operand=1)
    if isinstance(out, int) and out % groups:
        raise Illegal(f"{out} channels do not divide into {groups} groups", argument="groups")
    if bias and bias[0].shape != (out,):
        raise Illegal(f"the bias is [{out}], not {bias[0]}", operand=2)
    top, left, bottom, right = attrs["padding"]
    if min(top, left, bottom, right) < 0:
        raise Illegal(f"`padding` is at least 0, not {attrs['padding']}", argument="padding")
    (sy, sx), (dy, dx) = attrs["stride"], attrs["dilation"]
    height = window_extent(x.shape[2], _integer(kh), sy, top, bottom, dy)
    width = window_extent(x.shape[3], _integer(kw), sx, left, right, dx)
    return (TensorType((x.shape[0], out, height, width), x.dtype, x.layout),)


def _integer(dim: Dim) -> int:
    if not isinstance(dim, int):
        raise Illegal(f"the extent of a kernel is a number, not {dim}", operand=1)
    return dim


def _spell(types: Types, a: dict[str, Any]) -> Spelling:
    require_rank4(types, "conv2d")
    require_positive(a, "out", "k", "s", "d", "groups")
    channels = types[0].shape[1]
    if not isinstance(channels, int):
        raise Illegal(f"`conv2d` needs a known number of channels, not {channels}", operand=0)
    for count, what in ((channels, "the operand's channels"), (a["out"], "the result's channels")):
        if count % a["groups"]:
            raise Illegal(f"{a['groups']} groups do not divide {what}, {count}", argument="groups")
    weights = [Weight("weight", TensorType((a["out"], channels // a["groups"], *a["k"]), types[0].dtype), "kaiming")]
    if a["bias"]:
        weights.append(Weight("bias", TensorType((a["out"],), types[0].dtype), "fan_in_bias"))
    attrs = {
        "stride": a["s"],
        "padding": same_padding(a["k"], a["d"]) if a["p"] is None else a["p"],
        "dilation": a["d"],
        "groups": a["groups"],
    }
    return Spelling(attrs, tuple(weights))


def _reference(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Any:
    import torch.nn.functional as functional

    top, left, bottom, right = padding
    if (top, left) != (bottom, right):
        x, top, left = functional.pad(x, (left, right, top, bottom)), 0, 0
    return functional.conv2d(x, weight, bias, stride, (top, left), dilation, groups)


def _compute(k: Any, types: Types, *operands: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    x, weight, *bias = operands
    _, _, height, width = types[0].concrete
    out, per_group, kh, kw = types[1].concrete
    (sy, sx), (dy, dx), (top, left, _, _) = stride, dilation, padding
    result = _infer(types, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups})[0]

    def element(n: Any, o: Any, y: Any, z: Any) -> Any:
        def term(i: Any, r: Any, s: Any) -> Any:
            yy, zz = y * sy + r * dy - top, z * sx + s * dx - left
            inside = k.all(yy >= 0, yy < height, zz >= 0, zz < width)
            channel = (o // (out // groups)) * per_group + i if groups > 1 else i
            return k.select(inside, x(n, channel, yy, zz), k.const(0.0, types[0].dtype)) * weight(o, i, r, s)

        return k.sum((per_group, kh, kw), term)

    summed = k.stage(result.concrete, element)
    return (lambda n, o, y, z: summed(n, o, y, z) + bias[0](o)) if bias else summed


def _macs(types: Types, attrs: Attributes) -> Dim:
    result = _infer(types, attrs)[0]
    return product(result.shape) * product(types[1].shape[1:])


def _example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    groups = rng.choice((1, 1, 2, 3))
    inputs, out = groups * rng.choice((1, 2, 3, 7, 8, 17)), groups * rng.choice((1, 2, 3, 8, 17))
    if rng.random() < 0.3:  # depthwise
        groups, out = inputs, inputs
    k, d = (rng.choice((1, 2, 3, 5)), rng.choice((1, 2, 3))), (rng.choice((1, 1, 2)), rng.choice((1, 1, 2)))
    pads = tuple(rng.choice((0, 1, 2)) for _ in range(4))
    height, width = (rng.randint(d[i] * (k[i] - 1) + 1, d[i] * (k[i] - 1) + 9) for i in range(2))
    types = [TensorType((rng.choice((1, 1, 2)), inputs, height, width)), TensorType((out, inputs // groups, *k))]
    if rng.random() < 0.5:
        types.append(TensorType((out,)))
    stride = (rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2, 3)))
    return types, {"stride": stride, "padding": pads, "dilation": d, "groups": groups}


RECORDS = (
    Operator(
        "conv2d",
        "Convolution of [n, c, h, w]; without `p`, padded so that an odd kernel at stride 1 keeps the extent.",
        ("x", "weight", "bias?"),
        _infer,
        _reference,
        _example,
        attributes=(
            Argument("stride", "pair", 1),
            Argument("padding", "padding", 0),
            Argument("dilation", "pair", 1),
            Argument("groups", "int", 1),
        ),
        arguments=(
            Argument("out", "int"),
            Argument("k", "pair", 1),
            Argument("s", "pair", 1),
            Argument("p", "padding?", None),
            Argument("d", "pair", 1),
            Argument("groups", "int", 1),
            Argument("bias", "bool", True),
        ),
        spell=_spell,
        weights=2,
        compute=_compute,
        macs=_macs,
        traits=frozenset({"blocks"}),
    ),
)
