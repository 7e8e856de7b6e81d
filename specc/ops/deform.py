"""Reading pictures at places that other tensors say: bilinear samples, and convolution over such samples.

An element between four others is their mean, weighted by nearness; beyond the border there are zeros, or with
`padding="border"` the nearest element.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from specc.ir.dims import Dim, product
from specc.ir.types import TensorType
from specc.ops.conv import kernel_extents, known_channels, require_positive, require_rank4, same_padding, window_extent
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types, Weight


def _sample(k: Any, read: Callable[[Any, Any], Any], y: Any, x: Any, extents: tuple[int, int], dtype: str) -> Any:
    """The bilinear sample at (y, x), with zeros outside."""
    one, zero = k.const(1.0, dtype), k.const(0.0, dtype)
    axes = []
    for at, extent in ((y, extents[0]), (x, extents[1])):
        first = k.let(k.floor(at))
        part = k.let(at - first)
        last = k.const(extent - 1, dtype)
        axes.append(
            [
                (k.index(place, extent), k.select((place >= zero) & (place <= last), weight, zero))
                for place, weight in ((first, one - part), (first + one, part))
            ]
        )
    total = None
    for row, weight_y in axes[0]:
        for column, weight_x in axes[1]:
            term = read(row, column) * (weight_y * weight_x)
            total = term if total is None else total + term
    return total


def torch_sample(x: Any, rows: Any, columns: Any) -> Any:
    """The bilinear samples of x [n, c, h, w] at rows and columns [n, places], with zeros outside: [n, c, places]."""
    import torch

    height, width = x.shape[2:]
    top, left = rows.floor(), columns.floor()
    total = x.new_zeros((*x.shape[:2], rows.shape[1]))
    for row, weight_y in ((top, 1 - (rows - top)), (top + 1, rows - top)):
        for column, weight_x in ((left, 1 - (columns - left)), (left + 1, columns - left)):
            within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            flat = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            places = flat.to(torch.int64)[:, None].expand(-1, x.shape[1], -1)
            total = total + x.flatten(2).gather(2, places) * (weight_y * weight_x * within)[:, None]
    return total


# ---- grid sampling


def _grid_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, grid = types
    require_rank4(types, "grid_sample")
    if grid.rank != 4 or grid.shape[3] != 2 or grid.shape[0] != x.shape[0]:
        raise Illegal(f"the grid of {x} is [{x.shape[0]}, h, w, 2], not {grid}", operand=1)
    if attrs["padding"] not in ("zeros", "border"):
        raise Illegal(f"`padding` is zeros or border, not {attrs['padding']}", argument="padding")
    return (TensorType((*x.shape[:2], *grid.shape[1:3]), x.dtype),)


def _grid_reference(x: Any, grid: Any, *, padding: str, align_corners: bool) -> Any:
    import torch.nn.functional as functional

    return functional.grid_sample(x, grid, "bilinear", padding, align_corners)


def _grid_compute(k: Any, types: Types, x: Any, grid: Any, *, padding: str, align_corners: bool) -> Any:
    height, width = types[0].concrete[2:]
    dtype = types[0].dtype

    def place(given: Any, extent: int) -> Any:
        """From -1 ... 1 to elements."""
        at = (given + 1.0) * ((extent - 1) / 2) if align_corners else (given + 1.0) * (extent / 2) - 0.5
        if padding == "border":
            at = k.min(k.max(at, k.const(0.0, dtype)), k.const(extent - 1.0, dtype))
        return k.let(at)

    def element(n: Any, c: Any, i: Any, j: Any) -> Any:
        y, z = place(grid(n, i, j, 1), height), place(grid(n, i, j, 0), width)
        return _sample(k, lambda row, column: x(n, c, row, column), y, z, (height, width), dtype)

    return element


def _grid_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    n = rng.choice((1, 2))
    x = TensorType((n, rng.choice((1, 3, 8)), rng.randint(1, 8), rng.randint(1, 8)))
    grid = TensorType((n, rng.randint(1, 8), rng.randint(1, 8), 2))
    return [x, grid], {"padding": rng.choice(("zeros", "border")), "align_corners": rng.random() < 0.5}


# ---- deformable convolution


def _deform_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, offset, mask, weight, *bias = types
    require_rank4(types, "deform_conv2d")
    require_positive(attrs, "stride", "dilation", "groups")
    if weight.rank != 4:
        raise Illegal(f"the weight of `deform_conv2d` is [out, in / groups, kh, kw], not {weight}", operand=3)
    out, per_group = weight.shape[:2]
    kernel, padding = kernel_extents(weight), attrs["padding"]
    if per_group * attrs["groups"] != x.shape[1]:
        reason = f"the weight takes {per_group} * {attrs['groups']} channels, and the operand has {x.shape[1]}"
        raise Illegal(reason, operand=3)
    if isinstance(out, int) and out % attrs["groups"]:
        raise Illegal(f"{out} channels do not divide into {attrs['groups']} groups", argument="groups")
    if bias and bias[0].shape != (out,):
        raise Illegal(f"the bias is [{out}], not {bias[0]}", operand=4)
    if min(padding) < 0:
        raise Illegal(f"`padding` is at least 0, not {padding}", argument="padding")
    axes = zip(x.shape[2:], kernel, attrs["stride"], padding, padding[2:], attrs["dilation"])
    places = tuple(window_extent(*axis) for axis in axes)
    taps, channels = math.prod(kernel), x.shape[1]
    sets = mask.shape[1] if mask.rank == 4 else 0
    known = isinstance(sets, int) and isinstance(channels, int)
    if not known or sets < 1 or sets % taps or channels % (sets // taps):  # type: ignore[operator]
        raise Illegal(f"the mask has {taps} channels for each of its groups, which divide {x.shape[1]}", operand=2)
    for position, (t, count) in enumerate(((offset, 2 * sets), (mask, sets)), 1):
        if t.shape != (x.shape[0], count, *places):
            needed = ", ".join(map(str, (x.shape[0], count, *places)))
            raise Illegal(f"{'the offset' if position == 1 else 'the mask'} is [{needed}], not {t}", operand=position)
    return (TensorType((x.shape[0], out, *places), x.dtype),)


def _deform_spell(types: Types, a: dict[str, Any]) -> Spelling:
    require_rank4(types, "deform_conv2d")
    require_positive(a, "out", "k", "s", "d", "groups")
    channels = known_channels(types, "deform_conv2d")
    for count, what in ((channels, "the operand's channels"), (a["out"], "the result's channels")):
        if count % a["groups"]:
            raise Illegal(f"{a['groups']} groups do not divide {what}, {count}", argument="groups")
    weights = [Weight("weight", TensorType((a["out"], channels // a["groups"], *a["k"]), types[0].dtype), "kaiming")]
    if a["bias"]:
        weights.append(Weight("bias", TensorType((a["out"],), types[0].dtype), "fan_in_bias"))
    padding = same_padding(a["k"], a["d"]) if a["p"] is None else a["p"]
    attrs = {"stride": a["s"], "padding": padding, "dilation": a["d"], "groups": a["groups"]}
    return Spelling(attrs, tuple(weights))


def _deform_reference(
    x: Any,
    offset: Any,
    mask: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    import torch

    n, channels = x.shape[:2]
    out, per_group, kh, kw = weight.shape
    height, width = mask.shape[2:]
    taps, sets = kh * kw, mask.shape[1] // (kh * kw)
    rows = (torch.arange(height, dtype=x.dtype, device=x.device) * stride[0] - padding[0])[:, None]
    columns = torch.arange(width, dtype=x.dtype, device=x.device) * stride[1] - padding[1]
    parts = []
    for part in range(sets):
        own = x[:, part * channels // sets : (part + 1) * channels // sets]
        for tap in range(taps):
            number = part * taps + tap
            y = rows + (tap // kw) * dilation[0] + offset[:, 2 * number]
            z = columns + (tap % kw) * dilation[1] + offset[:, 2 * number + 1]
            parts.append(torch_sample(own, y.flatten(1), z.flatten(1)) * mask[:, number].flatten(1)[:, None])
    # [sets, taps, n, c / sets, places] --> [n, c, taps, places]
    samples = torch.stack(parts).reshape(sets, taps, n, channels // sets, -1).permute(2, 0, 3, 1, 4)
    samples = samples.reshape(n, groups, per_group * taps, height * width)
    matrices = weight.reshape(groups, out // groups, per_group * taps)
    y = (matrices @ samples).reshape(n, out, height, width)
    return y if bias is None else y + bias[:, None, None]


def _deform_compute(
    k: Any,
    types: Types,
    x: Any,
    offset: Any,
    mask: Any,
    weight: Any,
    *bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    """Every sample is computed once, [n, c, taps, h, w]; then the products."""
    (n, channels, *extents), dtype = types[0].concrete, types[0].dtype
    out, per_group, kh, kw = types[3].concrete
    sets, height, width = types[2].concrete[1] // (kh * kw), *types[2].concrete[2:]
    taps = kh * kw

    def sample(b: Any, c: Any, tap: Any, i: Any, j: Any) -> Any:
        number = (c // (channels // sets)) * taps + tap
        y = k.number(i * stride[0] - padding[0] + (tap // kw) * dilation[0], dtype) + offset(b, number * 2, i, j)
        z = k.number(j * stride[1] - padding[1] + (tap % kw) * dilation[1], dtype) + offset(b, number * 2 + 1, i, j)
        y, z = k.let(y), k.let(z)
        found = _sample(k, lambda row, column: x(b, c, row, column), y, z, (extents[0], extents[1]), dtype)
        return found * mask(b, number, i, j)

    samples = k.stage((n, channels, taps, height, width), sample)

    def element(b: Any, o: Any, i: Any, j: Any) -> Any:
        def term(c: Any, r: Any, s: Any) -> Any:
            channel = (o // (out // groups)) * per_group + c if groups > 1 else c
            return samples(b, channel, r * kw + s, i, j) * weight(o, c, r, s)

        return k.sum((per_group, kh, kw), term)

    summed = k.stage((n, out, height, width), element)
    return (lambda b, o, i, j: summed(b, o, i, j) + bias[0](o)) if bias else summed


def _deform_macs(types: Types, attrs: Attributes) -> Dim:
    return product(_deform_infer(types, attrs)[0].shape) * product(types[3].shape[1:])


def _deform_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    groups, sets = rng.choice((1, 2)), rng.choice((1, 2))
    channels, out = groups * sets * rng.choice((1, 2, 3)), groups * rng.choice((1, 3, 8))
    k, d = (rng.choice((1, 2, 3)), rng.choice((1, 3))), (rng.choice((1, 1, 2)), rng.choice((1, 1, 2)))
    stride, padding = (rng.choice((1, 1, 2)), rng.choice((1, 2))), tuple(rng.choice((0, 1)) for _ in range(4))
    extents = [d[i] * (k[i] - 1) + rng.randint(1, 5) for i in range(2)]
    places = [window_extent(extents[i], k[i], stride[i], padding[i], padding[2 + i], d[i]) for i in range(2)]
    n, count = rng.choice((1, 2)), sets * k[0] * k[1]
    types = [
        TensorType((n, channels, *extents)),
        TensorType((n, 2 * count, *places)),
        TensorType((n, count, *places)),
        TensorType((out, channels // groups, *k)),
    ]
    types += [TensorType((out,))] * rng.randint(0, 1)
    return types, {"stride": stride, "padding": padding, "dilation": d, "groups": groups}


RECORDS = (
    Operator(
        "grid_sample",
        "The bilinear samples of x at the places [n, h, w, (x, y)] of the grid, from -1 to 1 across the picture.",
        ("x", "grid"),
        _grid_infer,
        _grid_reference,
        _grid_example,
        attributes=(Argument("padding", "str", "zeros"), Argument("align_corners", "bool", False)),
        compute=_grid_compute,
    ),
    Operator(
        "deform_conv2d",
        "Convolution whose taps are moved by the offsets (y, x) and scaled by the mask, as in torchvision.",
        ("x", "offset", "mask", "weight", "bias?"),
        _deform_infer,
        _deform_reference,
        _deform_example,
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
        spell=_deform_spell,
        weights=2,
        compute=_deform_compute,
        macs=_deform_macs,
    ),
)
