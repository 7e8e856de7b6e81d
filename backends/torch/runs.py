"""Convolutions and linear layers whose products are added up in float16, a run at a time, as `specc.ir.sums` says.

To round after every term takes some hundred times as long as to add up products. So it is done at a few places of a
result, pixels or rows, evenly spread; every other place gets the error of one of these, drawn, with a sign that is
drawn. A result of no more places is what a kernel computes.

Sums that could leave float16 are looked for everywhere: one whose magnitudes add up to more than it holds is infinite.

A product of two float16, and its sum with a float16, are exact in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch

from specc.ir import sums

PLACES = 8
"""Of so many pixels or rows the sums are rounded as kernels do: for 64 channels, they are 512."""

_GREATEST = 65504.0
"""The greatest float16."""

_CACHED = 1 << 14
"""Sums that are rounded at a time: what is computed of them stays in a cache."""


def layer(compute: Callable[..., Any], operands: list[Any], attrs: Mapping[str, Any]) -> Any:
    """The result of a layer that `compute` computes with exact sums."""
    x, weight = operands[:2]
    result = compute(*operands, **attrs)
    windows = weight.ndim == 4
    axis = 1 if windows else result.ndim - 1
    if float(x.abs().max()) * float(weight.abs().flatten(1).sum(1).max()) >= _GREATEST:
        magnitudes = compute(x.abs(), weight.abs(), **attrs)
        result = torch.where(magnitudes < _GREATEST, result, torch.inf)
    moved = result.movedim(axis, -1)
    shape, count = moved.shape, prod(moved.shape[:-1])
    places = torch.linspace(0, count - 1, min(count, PLACES), dtype=torch.float64).round().long()
    taps = prod(weight.shape[2:])
    if windows:
        terms, factors = _windows(x, places, shape[1:3], weight, attrs), _ordered(weight)
    else:
        terms, factors = x.reshape(-1, x.shape[-1])[places], weight
    added = _added(terms, factors, sums.channels(taps) * taps)
    errors = added - terms.to(added.dtype) @ factors.to(added.dtype).T
    if count > len(places):
        draw = torch.Generator().manual_seed(count)
        signs = torch.randint(2, (count, 1), generator=draw) * 2 - 1
        errors = errors[torch.randint(len(places), (count,), generator=draw)] * signs
    return (moved + errors.reshape(shape).to(result.dtype)).movedim(-1, axis)


def _windows(x: Any, places: Any, extents: tuple[int, int], weight: Any, attrs: Mapping[str, Any]) -> Any:
    """What a convolution reads for the results at `places`, in the order of its sums: [places, terms]."""
    top, left, bottom, right = attrs["padding"]
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    n, pixel = places // prod(extents), places % prod(extents)
    steps = [torch.arange(weight.shape[2 + i]) * attrs["dilation"][i] for i in (0, 1)]
    rows = (pixel // extents[1] * attrs["stride"][0])[:, None] + steps[0]
    columns = (pixel % extents[1] * attrs["stride"][1])[:, None] + steps[1]
    found = padded[n[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return _ordered(found.permute(0, 3, 1, 2))


def _ordered(a: Any) -> Any:
    """[n, c, kh, kw] with the terms of a sum in their order: [n, ceil(c / 4) * kh * kw * 4], zeros beyond c."""
    n, c, kh, kw = a.shape
    lanes = sums.LANES
    blocks = torch.nn.functional.pad(a, (0, 0, 0, 0, 0, -c % lanes)).reshape(n, -1, lanes, kh * kw)
    return blocks.transpose(2, 3).reshape(n, -1)


def _added(x: Any, w: Any, terms: int) -> Any:
    """The products of [places, k] and [outputs, k], added up in runs of so many terms: [places, outputs]."""
    missing = -x.shape[1] % terms
    x, w = (torch.nn.functional.pad(a, (0, missing)).reshape(a.shape[0], -1, terms) for a in (x, w))
    x, w = (a.permute(2, 1, 0).to(torch.float64).contiguous() for a in (x, w))
    outputs = max(1, _CACHED // (x.shape[1] * x.shape[2]))
    return torch.cat([_rounded_sums(x, part).sum(0) for part in w.split(outputs, 2)], 1)


def _rounded_sums(x: Any, w: Any) -> Any:
    """The sums of the products of [terms, runs, places] and [terms, runs, outputs]: [runs, places, outputs]."""
    total = torch.zeros(x.shape[1], x.shape[2], w.shape[2], dtype=torch.float64)
    with np.errstate(over="ignore"):
        for left, right in zip(x, w):
            total = _to_half(total.addcmul_(left[:, :, None], right[:, None, :]))
    return total


def _to_half(a: Any) -> Any:
    """The nearest float16, of two the even one. PyTorch would convert by way of float32, and round twice."""
    return torch.from_numpy(a.numpy().astype(np.float16).astype(np.float64))
