"""Transposed convolution: the gradient of a convolution in its input, with PyTorch's weight [in, out / groups, k...].

    y[o, p] = sum over i, r of x[i, (p + before - r dilation) / stride] w[i, o, r]     where the division is exact

The result has (extent - 1) stride - before - after + dilation (k - 1) + 1 + output_padding places.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from specc.ir.dims import Dim, product
from specc.ir.types import TensorType
from specc.ops.conv import (
    EXTENTS,
    PADDINGS,
    SHAPES,
    inside,
    kernel_extents,
    known_channels,
    require_places,
    require_positive,
)
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types, Weight


def _infer(dimensions: int) -> Callable[[Types, Attributes], tuple[TensorType, ...]]:
    name = f"conv_transpose{dimensions}d"

    def infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
        x, weight, *bias = types
        require_places(types, name, dimensions)
        require_positive(attrs, "stride", "dilation", "groups")
        if weight.rank != dimensions + 2 or weight.shape[0] != x.shape[1]:
            spelled = SHAPES[dimensions].replace("[n, c", f"[{x.shape[1]}, out / groups")
            raise Illegal(f"the weight of `{name}` is {spelled}, not {weight}", operand=1)
        groups, padding, extra = attrs["groups"], attrs["padding"], attrs["output_padding"]
        if isinstance(x.shape[1], int) and x.shape[1] % groups:
            raise Illegal(f"{x.shape[1]} channels do not divide into {groups} groups", argument="groups")
        out = weight.shape[1] * groups
        if bias and bias[0].shape != (out,):
            raise Illegal(f"the bias is [{out}], not {bias[0]}", operand=2)
        if min(padding) < 0:
            raise Illegal(f"`padding` is at least 0, not {padding}", argument="padding")
        limits = zip(extra, attrs["stride"], attrs["dilation"])
        if any(not 0 <= e < max(s, d) for e, s, d in limits):
            reason = f"`output_padding` is at least 0 and below stride or dilation, not {extra}"
            raise Illegal(reason, argument="output_padding")
        places: list[Dim] = []
        for axis, (extent, kernel) in enumerate(zip(x.shape[2:], kernel_extents(weight))):
            reach = attrs["dilation"][axis] * (kernel - 1) + 1 + extra[axis]
            cut = padding[axis] + padding[dimensions + axis]
            place = (extent - 1) * attrs["stride"][axis] + (reach - cut)
            if isinstance(place, int) and place < 1:
                raise Illegal(f"a padding of {cut} leaves nothing of dimension {axis + 2}", argument="padding")
            places.append(place)
        return (TensorType((x.shape[0], out, *places), x.dtype),)

    return infer


def _spell(dimensions: int) -> Callable[[Types, dict[str, Any]], Spelling]:
    name = f"conv_transpose{dimensions}d"

    def spell(types: Types, a: dict[str, Any]) -> Spelling:
        require_places(types, name, dimensions)
        require_positive(a, "out", "k", "s", "d", "groups")
        channels = known_channels(types, name)
        for count, what in ((channels, "the operand's channels"), (a["out"], "the result's channels")):
            if count % a["groups"]:
                raise Illegal(f"{a['groups']} groups do not divide {what}, {count}", argument="groups")
        kernel = TensorType((channels, a["out"] // a["groups"], *a["k"]), types[0].dtype)
        weights = [Weight("weight", kernel, "kaiming")]
        if a["bias"]:
            weights.append(Weight("bias", TensorType((a["out"],), types[0].dtype), "fan_in_bias"))
        attrs = {"stride": a["s"], "padding": a["p"], "output_padding": a["output_padding"]}
        return Spelling({**attrs, "dilation": a["d"], "groups": a["groups"]}, tuple(weights))

    return spell


def _reference(dimensions: int) -> Callable[..., Any]:
    def reference(
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        output_padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Any:
        import torch.nn.functional as functional

        before, after = padding[:dimensions], padding[dimensions:]
        common = tuple(map(min, before, after))
        function = getattr(functional, f"conv_transpose{dimensions}d")
        y = function(x, weight, bias, stride, common, output_padding, groups, dilation)
        for axis, (b, a, c) in enumerate(zip(before, after, common), 2):
            y = y.narrow(axis, b - c, y.shape[axis] - (b - c) - (a - c))
        return y

    return reference


def _compute(dimensions: int) -> Callable[..., Any]:
    infer = _infer(dimensions)

    def compute(
        k: Any, types: Types, *operands: Any, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
    ) -> Any:
        x, weight, *bias = operands
        channels, *extents = types[0].concrete[1:]
        _, per_group, *kernel = types[1].concrete
        attrs = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        result = infer(types, {**attrs, "groups": groups})[0]
        zero = k.const(0.0, types[0].dtype)

        def element(n: Any, o: Any, *place: Any) -> Any:
            def term(i: Any, *tap: Any) -> Any:
                spread = [y + p - r * d for y, p, r, d in zip(place, padding, tap, dilation)]
                at = [t if s == 1 else t // s for t, s in zip(spread, stride)]
                exact = [t % s == 0 for t, s in zip(spread, stride) if s > 1]
                channel = (o // per_group) * (channels // groups) + i if groups > 1 else i
                within = k.all(*exact, inside(k, at, tuple(extents)))
                own = o % per_group if groups > 1 else o
                return k.select(within, x(n, channel, *at), zero) * weight(channel, own, *tap)

            return k.sum((channels // groups, *kernel), term)

        summed = k.stage(result.concrete, element)
        return (lambda n, o, *place: summed(n, o, *place) + bias[0](o)) if bias else summed

    return compute


def _macs(types: Types, attrs: Attributes) -> Dim:
    return types[0].elements * product(types[1].shape[1:])


def _example(dimensions: int) -> Callable[[random.Random], tuple[list[TensorType], dict[str, Any]]]:
    def example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
        groups = rng.choice((1, 1, 2, 3))
        inputs, per_group = groups * rng.choice((1, 2, 3)), rng.choice((1, 2, 3, 8))
        k = tuple(rng.choice((1, 2, 3, 4)) for _ in range(dimensions))
        d = tuple(rng.choice((1, 1, 2)) for _ in range(dimensions))
        stride = tuple(rng.choice((1, 2, 2, 3)) for _ in range(dimensions))
        extra = tuple(rng.randrange(max(s, e)) for s, e in zip(stride, d))
        extents = tuple(rng.randint(1, 7 - dimensions) for _ in range(dimensions))
        most = [(e - 1) * s + f * (r - 1) + x for e, s, f, r, x in zip(extents, stride, d, k, extra)]
        before = tuple(rng.randint(0, min(2, m)) for m in most)
        after = tuple(rng.randint(0, min(2, m - b)) for m, b in zip(most, before))
        types = [TensorType((rng.choice((1, 2)), inputs, *extents)), TensorType((inputs, per_group, *k))]
        if rng.random() < 0.5:
            types.append(TensorType((per_group * groups,)))
        attrs = {"stride": stride, "padding": before + after, "output_padding": extra, "dilation": d, "groups": groups}
        return types, attrs

    return example


def _transposed(dimensions: int) -> Operator:
    extents, padding = EXTENTS[dimensions], PADDINGS[dimensions]
    return Operator(
        f"conv_transpose{dimensions}d",
        f"Transposed convolution of {SHAPES[dimensions]}: `p` is cut off the result, `output_padding` added.",
        ("x", "weight", "bias?"),
        _infer(dimensions),
        _reference(dimensions),
        _example(dimensions),
        attributes=(
            Argument("stride", extents, 1),
            Argument("padding", padding, 0),
            Argument("output_padding", extents, 0),
            Argument("dilation", extents, 1),
            Argument("groups", "int", 1),
        ),
        arguments=(
            Argument("out", "int"),
            Argument("k", extents, 1),
            Argument("s", extents, 1),
            Argument("p", padding, 0),
            Argument("output_padding", extents, 0),
            Argument("d", extents, 1),
            Argument("groups", "int", 1),
            Argument("bias", "bool", True),
        ),
        spell=_spell(dimensions),
        weights=2,
        compute=_compute(dimensions),
        macs=_macs,
    )


RECORDS = tuple(map(_transposed, (1, 2, 3)))
