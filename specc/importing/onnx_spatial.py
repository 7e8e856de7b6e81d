"""ONNX's operations on pictures, sequences and volumes --> operators (see `specc.importing.onnx_operators`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specc.importing.builder import Builder, Convert, Unsupported
from specc.ir.dims import Dim
from specc.ir.graph import Value


def _pads(a: dict[str, Any], spatial: int, strides: Sequence[int], reach: Sequence[int]) -> tuple[int, ...]:
    """The padding in front of every dimension, then behind; `reach` is how far a window goes, with its dilation."""
    if a.get("auto_pad", "NOTSET") == "VALID":
        return (0,) * 2 * spatial
    if a.get("auto_pad", "NOTSET") != "NOTSET":
        if any(stride != 1 for stride in strides):
            raise Unsupported("padding that depends on the extent")
        less, more = [(k - 1) // 2 for k in reach], [k // 2 for k in reach]
        return (*more, *less) if a["auto_pad"] == "SAME_LOWER" else (*less, *more)
    return tuple(a.get("pads", (0,) * (2 * spatial)))


def _conv(b: Builder, x: Value, weight: Value, bias: Value | None = None, **a: Any) -> Value:
    kernel = [int(extent) for extent in b.shape(weight)[2:]]  # type: ignore[arg-type]
    dims = len(kernel)
    strides, dilation = tuple(a.get("strides", (1,) * dims)), tuple(a.get("dilations", (1,) * dims))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    attrs = {
        "stride": strides,
        "padding": _pads(a, dims, strides, reach),
        "dilation": dilation,
        "groups": a.get("group", 1),
    }
    return b.apply(f"conv{dims}d", x, weight, *(() if bias is None else (bias,)), **attrs)


def _conv_transpose(b: Builder, x: Value, weight: Value, bias: Value | None = None, **a: Any) -> Value:
    dims = len(b.shape(weight)) - 2
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in a:
        raise Unsupported("a transposed convolution whose padding follows from its result")
    attrs = {
        "stride": tuple(a.get("strides", (1,) * dims)),
        "padding": tuple(a.get("pads", (0,) * 2 * dims)),
        "output_padding": tuple(a.get("output_padding", (0,) * dims)),
        "dilation": tuple(a.get("dilations", (1,) * dims)),
        "groups": a.get("group", 1),
    }
    return b.apply(f"conv_transpose{dims}d", x, weight, *(() if bias is None else (bias,)), **attrs)


def _pool(kind: str) -> Convert:
    def convert(b: Builder, x: Value, **a: Any) -> Value:
        kernel = a["kernel_shape"]
        strides = a.get("strides", (1,) * len(kernel))
        if any(d != 1 for d in a.get("dilations", ())):
            raise Unsupported("a pooling with dilation")
        pads = _pads(a, len(kernel), strides, kernel)
        window = b.window(x, kernel, strides, pads, bool(a.get("ceil_mode", 0)))
        op, count = f"{kind}_pool{len(kernel)}d", bool(a.get("count_include_pad", 0))
        if kind == "max":
            return b.apply(op, x, **window)
        if count and window["padding"] != pads:
            raise Unsupported("a pooling that counts its padding and rounds up")
        return b.apply(op, x, **window, count_padding=count)

    return convert


_MODES = {"nearest": ("nearest",) * 3, "linear": ("linear", "bilinear", "trilinear"), "cubic": ("", "bicubic", "")}
"""What a mode of ONNX is called for sequences, pictures and volumes; empty where no operator has it."""


def _resize(b: Builder, x: Value, roi: Any = None, scales: Any = None, sizes: Any = None, **a: Any) -> Value:
    """The elements that a resize reads must be those of `torch.nn.functional.interpolate`."""
    shape, mode = b.shape(x), a.get("mode", "nearest")
    rank, where = len(shape), a.get("coordinate_transformation_mode", "half_pixel")
    if not 3 <= rank <= 5 or any(name in a for name in ("axes", "keep_aspect_ratio_policy")) or a.get("antialias", 0):
        raise Unsupported("a resize of chosen dimensions, or that smooths")
    factors: Sequence[float] = ()
    if sizes is not None:
        goal = tuple(int(e) for e in sizes.reshape(-1)) if isinstance(sizes, np.ndarray) else tuple(sizes)
        if goal[:2] != tuple(shape[:2]):
            raise Unsupported("a resize of the batch or of the channels")
        size = goal[2:]
    else:
        factors = [float(factor) for factor in scales.reshape(-1)]
        if factors[:2] != [1, 1]:
            raise Unsupported("a resize of the batch or of the channels")
        factors = factors[2:]
    name = _MODES[mode][rank - 3]
    if not name:
        raise Unsupported(f"a {mode} resize of {rank} dimensions")
    if mode == "cubic" and (abs(a.get("cubic_coeff_a", -0.75) + 0.75) > 1e-6 or a.get("exclude_outside", 0)):
        raise Unsupported("a cubic resize of another curve than -0.75, or without the border")
    if mode == "nearest":
        if not factors:
            factors = _whole_factors(shape[2:], size)
        rounding, same = a.get("nearest_mode", "round_prefer_floor"), where == "asymmetric"
        # Between the centres of elements that are repeated a whole number of times, the nearest one is the one below.
        enlarged = all(f == int(f) for f in factors) and len(factors) == rank - 2 and where in _CENTRED
        if not (same and rounding == "floor") and not (enlarged and rounding.startswith("round")):
            raise Unsupported(f"the nearest element by `{where}` and `{rounding}`")
    elif where not in (*_CENTRED, "align_corners"):
        raise Unsupported(f"a resize by the coordinates `{where}`")
    if sizes is None:
        return b.resize(x, name, None, factors, where == "align_corners")
    if where == "pytorch_half_pixel" and any(e == 1 != own for e, own in zip(size, shape[2:])):
        raise Unsupported("a resize to one element by `pytorch_half_pixel`")
    return b.resize(x, name, size, None, where == "align_corners")


_CENTRED = ("half_pixel", "pytorch_half_pixel")


def _whole_factors(extents: Sequence[Dim], size: Sequence[Dim]) -> list[float]:
    """By how much every dimension grows, where that is a whole number; nothing else is said."""
    pairs = [(e, s) for e, s in zip(extents, size) if isinstance(e, int) and isinstance(s, int) and s % e == 0]
    return [s / e for e, s in pairs]


def _depth_to_space(b: Builder, x: Value, **a: Any) -> Value:
    n, c, h, w = b.shape(x)
    k = a["blocksize"]
    if not isinstance(c, int):
        raise Unsupported("channels that are not known as places")
    inner = c // k**2
    if a.get("mode", "DCR") == "CRD":
        parts, order = (n, inner, k, k, h, w), (0, 1, 4, 2, 5, 3)
    else:
        parts, order = (n, k, k, inner, h, w), (0, 3, 4, 1, 5, 2)
    moved = b.apply("permute", b.apply("reshape", x, shape=parts), order=order)
    return b.apply("reshape", moved, shape=(n, inner, h * k, w * k))


def _space_to_depth(b: Builder, x: Value, **a: Any) -> Value:
    n, c, h, w = b.shape(x)
    k = a["blocksize"]
    parts = b.apply("reshape", x, shape=(n, c, h // k, k, w // k, k))
    moved = b.apply("permute", parts, order=(0, 3, 5, 1, 2, 4))
    return b.apply("reshape", moved, shape=(n, c * k**2, h // k, w // k))


SPATIAL: dict[str, Convert] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool("max"),
    "AveragePool": _pool("avg"),
    "GlobalAveragePool": lambda b, x: b.mean(x, range(2, len(b.shape(x))), True),
    "GlobalMaxPool": lambda b, x: b.apply("amax", x, axes=tuple(range(2, len(b.shape(x)))), keep=True),
    "Resize": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
"""By the names of ONNX."""
