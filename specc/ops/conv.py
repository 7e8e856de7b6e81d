"""Convolution (cross-correlation, as in PyTorch) over one, two or three dimensions."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from specc.ir.dims import Dim, floordiv, product
from specc.ir.types import TensorType
from specc.ops.record import OPEN_EXTENT, Argument, Attributes, Illegal, Operator, Spelling, Types, Weight

SHAPES = {1: "[n, c, l]", 2: "[n, c, h, w]", 3: "[n, c, d, h, w]"}
"""The shape of what an operator over so many dimensions takes."""
EXTENTS = {1: "single", 2: "pair", 3: "triple"}
PADDINGS = {1: "padding1", 2: "padding", 3: "padding3"}
"""The kinds of the arguments of such operators (see `Argument`)."""


def window_extent(extent: Dim, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> Dim:
    """The number of places of a window: floor((extent + pads - dilation (kernel - 1) - 1) / stride) + 1."""
    reach = extent + (before + after - dilation * (kernel - 1) - 1)
    if isinstance(reach, int) and reach < 0:
        raise Illegal(
            f"a window of {dilation * (kernel - 1) + 1} does not fit into {extent} + {before + after} padding"
        )
    return floordiv(reach, stride) + 1


def same_padding(k: tuple[int, ...], d: tuple[int, ...]) -> tuple[int, ...]:
    """The padding that keeps the extents of an odd kernel at stride 1: before each dimension, then behind each."""
    return tuple(dilation * (kernel - 1) // 2 for kernel, dilation in zip(k, d)) * 2


def require_places(types: Types, name: str, dimensions: int) -> None:
    """Raises `Illegal` unless the first operand is [n, c] and so many dimensions."""
    if types[0].rank != dimensions + 2:
        raise Illegal(f"`{name}` takes {SHAPES[dimensions]}, not {types[0]}", operand=0)


def require_rank4(types: Types, name: str) -> None:
    """Raises `Illegal` unless the first operand is [n, c, h, w]."""
    require_places(types, name, 2)


def require_positive(attrs: Attributes, *names: str) -> None:
    """Raises `Illegal` unless every number of the attributes `names` is at least 1."""
    for name in names:
        values = attrs[name] if isinstance(attrs[name], tuple) else (attrs[name],)
        if any(isinstance(value, int) and value < 1 for value in values):
            raise Illegal(f"`{name}` is at least 1, not {attrs[name]}", argument=name)


def kernel_extents(weight: TensorType) -> tuple[int, ...]:
    """The extents of a kernel, [first channels, second channels, extents...]."""
    for extent in weight.shape[2:]:
        if not isinstance(extent, int):
            raise Illegal(f"the extent of a kernel is a number, not {extent}", operand=1)
    return tuple(extent for extent in weight.shape[2:] if isinstance(extent, int))


def known_channels(types: Types, name: str) -> int:
    """The number of channels of the first operand; raises `Illegal` where it is symbolic."""
    channels = types[0].shape[1]
    if not isinstance(channels, int):
        raise Illegal(f"`{name}` needs a known number of channels, not {channels}", operand=0, note=OPEN_EXTENT)
    return channels


def padded(x: Any, padding: tuple[int, ...], value: float = 0.0) -> Any:
    """The torch tensor with `value` around its last dimensions."""
    import torch.nn.functional as functional

    half = len(padding) // 2
    pairs = zip(reversed(padding[:half]), reversed(padding[half:]))
    return functional.pad(x, [pad for pair in pairs for pad in pair], value=value)


def inside(k: Any, places: list[Any], extents: tuple[int, ...]) -> Any:
    """The condition under which an index lies in a tensor of these extents."""
    return k.all(*(check for at, extent in zip(places, extents) for check in (at >= 0, at < extent)))


def _infer(dimensions: int) -> Callable[[Types, Attributes], tuple[TensorType, ...]]:
    name = f"conv{dimensions}d"

    def infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
        x, weight, *bias = types
        require_places(types, name, dimensions)
        require_positive(attrs, "stride", "dilation", "groups")
        if weight.rank != dimensions + 2:
            spelled = SHAPES[dimensions].replace("[n, c", "[out, in / groups")
            raise Illegal(f"the weight of `{name}` is {spelled}, not {weight}", operand=1)
        groups, padding = attrs["groups"], attrs["padding"]
        out, per_group = weight.shape[:2]
        if per_group * groups != x.shape[1]:
            reason = f"the weight takes {per_group} * {groups} channels, and the operand has {x.shape[1]}"
            raise Illegal(reason, operand=1)
        if isinstance(out, int) and out % groups:
            raise Illegal(f"{out} channels do not divide into {groups} groups", argument="groups")
        if bias and bias[0].shape != (out,):
            raise Illegal(f"the bias is [{out}], not {bias[0]}", operand=2)
        if min(padding) < 0:
            raise Illegal(f"`padding` is at least 0, not {padding}", argument="padding")
        axes = zip(
            x.shape[2:], kernel_extents(weight), attrs["stride"], padding, padding[dimensions:], attrs["dilation"]
        )
        places = tuple(window_extent(*axis) for axis in axes)
        return (TensorType((x.shape[0], out, *places), x.dtype, x.layout),)

    return infer


def _spell(dimensions: int) -> Callable[[Types, dict[str, Any]], Spelling]:
    name = f"conv{dimensions}d"

    def spell(types: Types, a: dict[str, Any]) -> Spelling:
        require_places(types, name, dimensions)
        require_positive(a, "out", "k", "s", "d", "groups")
        channels = known_channels(types, name)
        for count, what in ((channels, "the operand's channels"), (a["out"], "the result's channels")):
            if count % a["groups"]:
                raise Illegal(f"{a['groups']} groups do not divide {what}, {count}", argument="groups")
        kernel = TensorType((a["out"], channels // a["groups"], *a["k"]), types[0].dtype)
        weights = [Weight("weight", kernel, "kaiming")]
        if a["bias"]:
            weights.append(Weight("bias", TensorType((a["out"],), types[0].dtype), "fan_in_bias"))
        attrs = {
            "stride": a["s"],
            "padding": same_padding(a["k"], a["d"]) if a["p"] is None else a["p"],
            "dilation": a["d"],
            "groups": a["groups"],
        }
        return Spelling(attrs, tuple(weights))

    return spell


def _reference(dimensions: int) -> Callable[..., Any]:
    def reference(
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Any:
        import torch.nn.functional as functional

        before, after = padding[:dimensions], padding[dimensions:]
        if before != after:
            x, before = padded(x, padding), (0,) * dimensions
        return getattr(functional, f"conv{dimensions}d")(x, weight, bias, stride, before, dilation, groups)

    return reference


def _compute(dimensions: int) -> Callable[..., Any]:
    infer = _infer(dimensions)

    def compute(k: Any, types: Types, *operands: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        x, weight, *bias = operands
        extents = types[0].concrete[2:]
        out, per_group, *kernel = types[1].concrete
        result = infer(types, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups})[0]
        zero = k.const(0.0, types[0].dtype)

        def element(n: Any, o: Any, *place: Any) -> Any:
            def term(i: Any, *tap: Any) -> Any:
                at = [y * s + r * d - p for y, s, r, d, p in zip(place, stride, tap, dilation, padding)]
                channel = (o // (out // groups)) * per_group + i if groups > 1 else i
                return k.select(inside(k, at, extents), x(n, channel, *at), zero) * weight(o, i, *tap)

            return k.sum((per_group, *kernel), term)

        summed = k.stage(result.concrete, element)
        return (lambda n, o, *place: summed(n, o, *place) + bias[0](o)) if bias else summed

    return compute


def _macs(dimensions: int) -> Callable[[Types, Attributes], Dim]:
    infer = _infer(dimensions)
    return lambda types, attrs: product(infer(types, attrs)[0].shape) * product(types[1].shape[1:])


def _example(dimensions: int) -> Callable[[random.Random], tuple[list[TensorType], dict[str, Any]]]:
    def example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
        groups = rng.choice((1, 1, 2, 3))
        channels = (1, 2, 3, 7, 8, 17) if dimensions < 3 else (1, 2, 3)
        inputs, out = groups * rng.choice(channels), groups * rng.choice(channels)
        if rng.random() < 0.3:  # depthwise
            groups, out = inputs, inputs
        k = tuple(rng.choice((1, 2, 3, 5)[: 5 - dimensions]) for _ in range(dimensions))
        d = tuple(rng.choice((1, 1, 2)) for _ in range(dimensions))
        pads = tuple(rng.choice((0, 1, 2)) for _ in range(2 * dimensions))
        most = 9 if dimensions < 3 else 3
        extents = [rng.randint(d[i] * (k[i] - 1) + 1, d[i] * (k[i] - 1) + most) for i in range(dimensions)]
        types = [TensorType((rng.choice((1, 1, 2)), inputs, *extents)), TensorType((out, inputs // groups, *k))]
        if rng.random() < 0.5:
            types.append(TensorType((out,)))
        stride = tuple(rng.choice((1, 1, 2, 3)) for _ in range(dimensions))
        return types, {"stride": stride, "padding": pads, "dilation": d, "groups": groups}

    return example


def _convolution(dimensions: int) -> Operator:
    extents, padding = EXTENTS[dimensions], PADDINGS[dimensions]
    return Operator(
        f"conv{dimensions}d",
        f"Convolution of {SHAPES[dimensions]}; without `p`, padded so that an odd kernel at stride 1 keeps the extent.",
        ("x", "weight", "bias?"),
        _infer(dimensions),
        _reference(dimensions),
        _example(dimensions),
        attributes=(
            Argument("stride", extents, 1),
            Argument("padding", padding, 0),
            Argument("dilation", extents, 1),
            Argument("groups", "int", 1),
        ),
        arguments=(
            Argument("out", "int"),
            Argument("k", extents, 1),
            Argument("s", extents, 1),
            Argument("p", f"{padding}?", None),
            Argument("d", extents, 1),
            Argument("groups", "int", 1),
            Argument("bias", "bool", True),
        ),
        spell=_spell(dimensions),
        weights=2,
        compute=_compute(dimensions),
        macs=_macs(dimensions),
        traits=frozenset({"blocks", "open"} if dimensions == 2 else {"open"}),
    )


RECORDS = tuple(map(_convolution, (2, 1, 3)))
