"""PyTorch's operations on pictures, sequences and volumes --> operators (see `specc.importing.aten`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specc.importing.builder import Builder, Convert, Unsupported
from specc.ir.dims import Dim
from specc.ir.graph import Value


def each(value: Any, count: int) -> tuple[int, ...]:
    """A number for every dimension, where one may stand for all."""
    if isinstance(value, int):
        return (value,) * count
    return tuple(value) * count if len(value) == 1 else tuple(value)


def _conv(dims: int) -> Convert:
    def convert(
        b: Builder,
        x: Value,
        weight: Value,
        bias: Value | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Value:
        stride, dilation = each(stride, dims), each(dilation, dims)
        operands = (x, weight) if bias is None else (x, weight, bias)
        pads = _pads(b, weight, padding, dilation)
        return b.apply(f"conv{dims}d", *operands, stride=stride, padding=pads, dilation=dilation, groups=groups)

    return convert


def _pads(b: Builder, weight: Value, padding: Any, dilation: Sequence[int]) -> tuple[int, ...]:
    """The padding in front of every dimension, then behind."""
    if padding == "valid":
        return (0,) * 2 * len(dilation)
    if padding == "same":
        reach = [d * (int(k) - 1) for k, d in zip(b.shape(weight)[2:], dilation)]  # type: ignore[arg-type]
        return (*(r // 2 for r in reach), *(r - r // 2 for r in reach))
    return each(padding, len(dilation)) * 2


def _conv_transpose(dims: int) -> Convert:
    def convert(
        b: Builder,
        x: Value,
        weight: Value,
        bias: Value | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Value:
        attrs = {
            "stride": each(stride, dims),
            "padding": each(padding, dims) * 2,
            "output_padding": each(output_padding, dims),
            "dilation": each(dilation, dims),
            "groups": groups,
        }
        return b.apply(f"conv_transpose{dims}d", *((x, weight) if bias is None else (x, weight, bias)), **attrs)

    return convert


def _max_pool(dims: int) -> Convert:
    def convert(
        b: Builder, x: Value, k: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, up: bool = False
    ) -> Value:
        if set(each(dilation, dims)) != {1}:
            raise Unsupported("a pooling with dilation")
        k, padding = each(k, dims), each(padding, dims) * 2
        return b.apply(f"max_pool{dims}d", x, **b.window(x, k, each(stride, dims) if stride else k, padding, up))

    return convert


def _avg_pool(dims: int) -> Convert:
    def convert(
        b: Builder,
        x: Value,
        k: Any,
        stride: Any = (),
        padding: Any = 0,
        up: bool = False,
        count: bool = True,
        divisor: int | None = None,
    ) -> Value:
        if divisor is not None:
            raise Unsupported("a pooling with a divisor of its own")
        k, padding = each(k, dims), each(padding, dims) * 2
        window = b.window(x, k, each(stride, dims) if stride else k, padding, up)
        if count and window["padding"] != padding:
            raise Unsupported("a pooling that counts its padding and rounds up")
        return b.apply(f"avg_pool{dims}d", x, **window, count_padding=count)

    return convert


def _adaptive(kind: str, dims: int) -> Convert:
    def convert(b: Builder, x: Value, goal: Any) -> Value:
        size = [own if wanted is None else wanted for wanted, own in zip(_all(goal, dims), b.shape(x)[2:])]
        if kind == "avg" and dims == 2:
            return b.adaptive_pool(x, size)
        if kind == "avg" and set(size) == {1}:
            return b.mean(x, range(2, 2 + dims), True)
        return b.apply(f"adaptive_{kind}_pool", x, size=tuple(size))

    return convert


def _all(goal: Any, dims: int) -> Sequence[Any]:
    return goal if isinstance(goal, (list, tuple)) else (goal,) * dims


def _resize(mode: str) -> Convert:
    """`upsample_*.vec`: the extents or the factors, and `align_corners` where the mode has it."""

    def convert(b: Builder, x: Value, size: Any, *rest: Any) -> Value:
        *aligned, factors = rest
        return b.resize(x, mode, size, factors, bool(aligned and aligned[0]))

    return convert


def _pad(b: Builder, x: Value, pads: Sequence[int], mode: Any = "constant", value: float | None = 0.0) -> Value:
    if not isinstance(mode, str):
        mode, value = "constant", mode
    rank, count = len(b.shape(x)), len(pads) // 2
    if mode != "constant":
        return _mirrored(b, x, pads, mode)
    if any(isinstance(p, int) and p < 0 for p in pads):
        raise Unsupported("padding that takes away")
    if not any(pads):
        return x
    before = [0] * (rank - count) + [pads[2 * i] for i in reversed(range(count))]
    after = [0] * (rank - count) + [pads[2 * i + 1] for i in reversed(range(count))]
    return b.apply("pad", x, before=tuple(before), after=tuple(after), value=float(value or 0.0))


def _mirrored(b: Builder, x: Value, pads: Sequence[int], mode: str) -> Value:
    """Padding by what is there: parts of the operand, in reverse (`reflect`), again (`circular`) or the edge's own."""
    for i in range(len(pads) // 2):
        axis, front, behind = len(b.shape(x)) - 1 - i, pads[2 * i], pads[2 * i + 1]
        extent = b.shape(x)[axis]
        if mode == "circular":
            parts = [b.part(x, axis, extent - front, extent)] if front else []
            parts += [x, *([b.part(x, axis, 0, behind)] if behind else [])]
        elif mode == "reflect":
            parts = [_flipped(b, x, axis, 1, 1 + front)] if front else []
            parts += [x, *([_flipped(b, x, axis, extent - 1 - behind, extent - 1)] if behind else [])]
        else:
            shape = b.shape(x)
            parts = [_repeated(b, b.part(x, axis, 0, 1), shape, axis, front)] if front else []
            last = b.part(x, axis, extent - 1, extent)
            parts += [x, *([_repeated(b, last, shape, axis, behind)] if behind else [])]
        if len(parts) > 1:
            x = b.apply("concat", *parts, axis=axis)
    return x


def _flipped(b: Builder, x: Value, axis: int, start: Dim, stop: Dim) -> Value:
    return b.apply("flip", b.part(x, axis, start, stop), axes=(axis,))


def _repeated(b: Builder, x: Value, shape: Sequence[Dim], axis: int, times: int) -> Value:
    return b.apply("expand", x, shape=tuple(times if i == axis else -1 for i in range(len(shape))))


def _roll(b: Builder, x: Value, shifts: Any, axes: Any = ()) -> Value:
    shifts, axes = ([v] if isinstance(v, int) else list(v) for v in (shifts, axes))
    if not axes:
        raise Unsupported("a roll of all dimensions as one")
    rank = len(b.shape(x))
    return b.apply("roll", x, shifts=tuple(shifts), axes=tuple(axis % rank for axis in axes))


def _pixel_shuffle(b: Builder, x: Value, factor: int) -> Value:
    n, c, h, w = b.shape(x)
    if not isinstance(c, int):
        raise Unsupported("a pixel shuffle of channels that are not known")
    parts = b.apply("reshape", x, shape=(n, c // factor**2, factor, factor, h, w))
    moved = b.apply("permute", parts, order=(0, 1, 4, 2, 5, 3))
    return b.apply("reshape", moved, shape=(n, c // factor**2, h * factor, w * factor))


def _pixel_unshuffle(b: Builder, x: Value, factor: int) -> Value:
    n, c, h, w = b.shape(x)
    parts = b.apply("reshape", x, shape=(n, c, h // factor, factor, w // factor, factor))
    moved = b.apply("permute", parts, order=(0, 1, 3, 5, 2, 4))
    return b.apply("reshape", moved, shape=(n, c * factor**2, h // factor, w // factor))


def _channel_shuffle(b: Builder, x: Value, groups: int) -> Value:
    n, c, *places = b.shape(x)
    parts = b.apply("reshape", x, shape=(n, groups, c // groups, *places))
    order = (0, 2, 1, *range(3, 3 + len(places)))
    return b.apply("reshape", b.apply("permute", parts, order=order), shape=(n, c, *places))


def _grid_sample(b: Builder, x: Value, grid: Value, mode: int, padding: int, align: bool) -> Value:
    if mode != 0 or padding not in (0, 1):
        raise Unsupported("samples of a grid that are not bilinear, or mirrored at the border")
    return b.apply("grid_sample", x, grid, padding=("zeros", "border")[padding], align_corners=align)


def _im2col(b: Builder, x: Value, k: Any, dilation: Any, padding: Any, stride: Any) -> Value:
    attrs = {"k": each(k, 2), "stride": each(stride, 2), "padding": each(padding, 2) * 2, "dilation": each(dilation, 2)}
    return b.apply("unfold", x, **attrs)


def _col2im(b: Builder, x: Value, size: Any, k: Any, dilation: Any, padding: Any, stride: Any) -> Value:
    attrs = {"k": each(k, 2), "stride": each(stride, 2), "padding": each(padding, 2) * 2, "dilation": each(dilation, 2)}
    return b.apply("fold", x, size=tuple(size), **attrs)


SPATIAL: dict[str, Convert] = {
    **{f"conv{dims}d": _conv(dims) for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _conv_transpose(dims) for dims in (1, 2, 3)},
    **{f"max_pool{dims}d": _max_pool(dims) for dims in (1, 2, 3)},
    **{f"avg_pool{dims}d": _avg_pool(dims) for dims in (1, 2, 3)},
    **{f"adaptive_avg_pool{dims}d": _adaptive("avg", dims) for dims in (1, 2, 3)},
    "upsample_nearest1d": _resize("nearest"),
    "upsample_nearest2d": _resize("nearest"),
    "upsample_nearest3d": _resize("nearest"),
    "upsample_linear1d": _resize("linear"),
    "upsample_bilinear2d": _resize("bilinear"),
    "upsample_bicubic2d": _resize("bicubic"),
    "upsample_trilinear3d": _resize("trilinear"),
    "pad": _pad,
    "constant_pad_nd": lambda b, x, pads, value=0.0: _pad(b, x, pads, "constant", value),
    "roll": _roll,
    "flip": lambda b, x, axes: b.apply("flip", x, axes=tuple(axis % len(b.shape(x)) for axis in axes)),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "grid_sampler": _grid_sample,
    "im2col": _im2col,
    "col2im": _col2im,
}
"""By the names of ATen."""
