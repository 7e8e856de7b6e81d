"""Products of two tensors that are both computed: epilogue(sum over k of a[..., m, k] * b[..., k, n]).

A vector is neighbours of a row of `b`, which is read where it lies, and a number of `a` is broadcast. A tile is some
rows of the result by some vectors. Where their number does not divide into tiles, the last tile overlaps the one in
front of it, and so does the last vector of a row: equal values are stored twice, and nothing is read beyond an end.
Tiles of the same columns follow each other, so that these columns of `b` stay in a cache. Threads share out the tiles.

Weights that an input mixes (arXiv:1904.04971) are such a factor, and products of activations that are no attention.
One core of the Granite Rapids generation, GFLOP/s by processor time in turns, the general template and this one: 672 x
112 by 112 x 196 36 and 141, 192 x 1152 by 1152 x 49 22 and 121, four of 48 x 197 by 197 x 48 30 and 91.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels.linear import tile_of
from specc.backends.tvm.kernels.products import multiply_add
from specc.targets import Target

_PARALLEL = 1 << 15
"""Multiplications from which threads share them; below, starting them costs more."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a product of two inputs with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "matmul" or not target.vectors:
        return None
    step = group.step(anchor)
    numbers = range(group.last + 1)
    if any(group.type(number).dtype != "float32" or 0 in group.type(number).concrete for number in numbers):
        return None
    if group.result.shape != step.type.shape or any(operand >= len(group.inputs) for operand in step.operands):
        return None
    *_, rows, columns = step.type.concrete
    vectors = -(-columns // target.lanes)
    tile = tile_of(rows, vectors, 4 * group.type(step.operands[0]).concrete[-1], target, choices)
    size = tile.pixels
    once = rows % size == 0 and (columns % target.lanes == 0 or columns < target.lanes) and vectors % tile.blocks == 0
    return Template(lambda emitter: _Product(emitter, anchor, size, tile.blocks, target).emit(), once=once)


class _Product:
    """Writes the loops."""

    def __init__(self, emitter: Emitter, anchor: int, size: int, width: int, target: Target) -> None:
        self.emitter, self.anchor, self.size, self.width = emitter, anchor, size, width
        step = emitter.group.step(anchor)
        self.a, self.b = (emitter.input(operand) for operand in step.operands)
        *self.lead, self.rows, self.columns = step.type.concrete
        self.terms = self.a.type.concrete[-1]
        self.lanes = min(target.lanes, self.columns)
        self.result = emitter.result()

    def emit(self) -> None:
        """The tiles: those of the same columns one behind the other."""
        emitter = self.emitter
        groups = -(-self.columns // (self.lanes * self.width))
        count = -(-self.rows // self.size)
        work = prod(self.lead) * groups * count
        shares = prod(self.lead) * self.rows * self.columns * self.terms >= _PARALLEL
        with emitter.parallel(work) if shares else emitter.serial(work) as number:
            number, tile = emitter.divmod(number, count)
            number, group = emitter.divmod(number, groups)
            place: list[Any] = []
            for extent in reversed(self.lead):
                number, rest = emitter.divmod(number, extent)
                place.insert(0, rest)
            first = tile * self.size
            first = first if self.rows % self.size == 0 else tirx.min(first, self.rows - self.size)
            starts = [(group * self.width + j) * self.lanes for j in range(self.width)]
            if self.columns % (self.lanes * self.width):
                starts = [tirx.min(start, self.columns - self.lanes) for start in starts]
            self._tile(place, first, starts)

    def _tile(self, place: Sequence[Any], first: Any, starts: Sequence[Any]) -> None:
        """One register tile: rows from `first` on, and the vectors that begin at these columns."""
        emitter, width = self.emitter, self.width
        acc = Registers(self.size * width, self.lanes, "float32")
        a, b = self._own(place, self.a.type.concrete), self._own(place, self.b.type.concrete)
        with emitter.lanes(self.lanes) as lane:
            multiply_add(
                emitter,
                acc,
                self.size,
                width,
                lane,
                self.terms,
                lambda i, k: self.a.at(*a, first + i, k),
                lambda k, j: self.b.at(*b, k, starts[j] + lane),
            )
            for i in range(self.size):
                for j, start in enumerate(starts):
                    self._finish(Scalar(acc[i * width + j, lane]), (*place, first + i, start + lane))

    def _own(self, place: Sequence[Any], shape: Sequence[int]) -> Index:
        """Which matrix of an operand goes with that of the result: an extent of 1 is repeated."""
        own = shape[:-2]
        return tuple(0 if extent == 1 else i for extent, i in zip(own, place[len(place) - len(own) :], strict=True))

    def _finish(self, accumulator: Scalar, index: Index) -> None:
        emitter = self.emitter

        def leaf(number: int, at: Index) -> Scalar:
            return accumulator if number == self.anchor else emitter.input(number)(*at)

        self.result.put(emitter.evaluate(emitter.group.last, index, leaf), self.result.position(index))
