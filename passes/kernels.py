"""Sums of convolution kernels: where the taps of two kernels meet on one grid.

A convolution reads, for the result at y, the elements y * stride - padding + tap * dilation. Two convolutions of
one tensor with equal strides add up to one when both sets of offsets {-padding + tap * dilation} lie on one grid:
the merged kernel spans the union of the offsets, and each kernel is padded with zeros (between its taps too, where its
dilation is coarser than the grid) to that span. Zero padding takes care of itself: both read zeros outside of the
tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from specc.ir.graph import Value
from specc.passes.rewrite import Match


@dataclass(frozen=True, slots=True)
class Taps:
    """The taps of a kernel on one axis: offsets -before, -before + dilation, ..., and the padding behind the axis."""

    count: int
    dilation: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid that holds the taps of two kernels, and how many grid points lie in front of each kernel's first tap."""

    taps: Taps
    leads: tuple[int, int]


def union(a: Taps, b: Taps) -> Grid:
    """The coarsest grid that holds both kernels' taps."""
    steps = [taps.dilation for taps in (a, b) if taps.count > 1]
    step = math.gcd(*steps, abs(a.before - b.before)) or 1
    before = max(a.before, b.before)
    last = max(taps.dilation * (taps.count - 1) - taps.before for taps in (a, b))
    count = (last + before) // step + 1
    # Behind the axis: as far as `a` or `b` reaches, so that the number of places stays the same.
    after = max(t.after + t.before - before + step * (count - 1) - t.dilation * (t.count - 1) for t in (a, b))
    return Grid(Taps(count, step, before, after), ((before - a.before) // step, (before - b.before) // step))


def embed(match: Match, weight: Value, axis: int, taps: Taps, lead: int, into: Taps) -> Value:
    """The kernel `weight` on the grid `into` along `axis`: zeros between its taps, in front of them and behind them."""
    shape = list(match.type(weight).shape)
    spread = taps.dilation // into.dilation if taps.count > 1 else 1
    if spread > 1:
        # [.., k, ..] -> [.., k, 1, ..] -> [.., k, spread, ..] -> [.., k * spread, ..], then cut behind the last tap
        apart = match.apply("reshape", weight, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
        zeros = [0] * (len(shape) + 1)
        zeros[axis + 1] = spread - 1
        apart = match.apply("pad", apart, before=(0,) * len(zeros), after=tuple(zeros))
        joined = match.apply("reshape", apart, shape=(*shape[:axis], shape[axis] * spread, *shape[axis + 1 :]))
        shape[axis] = (taps.count - 1) * spread + 1
        weight = match.apply("slice", joined, axis=axis, start=0, stop=shape[axis])
    before, after = [0] * len(shape), [0] * len(shape)
    before[axis], after[axis] = lead, into.count - lead - (taps.count - 1) * spread - 1
    if not before[axis] and not after[axis]:
        return weight
    return match.apply("pad", weight, before=tuple(before), after=tuple(after))
