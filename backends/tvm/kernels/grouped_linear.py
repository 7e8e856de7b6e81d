"""Convolutions of 1x1 over several images of one place each, in groups or not: linear layers, one for each group.

    result[n, g * o' + o] = epilogue(bias[g * o' + o] + sum over i of input[n, g * i' + i] * weight[g * o' + o, i])

for groups of i' inputs and o' outputs: what a matrix over the places of a picture becomes where channels share it
(arXiv:2112.11081). The images are the rows of a linear layer (`linear`), whose loops run for each group; weights are
packed by group, so that a group needs no whole number of blocks. A convolution has one row of one pixel for each image:
no weight that it loads is used twice.

One core of the Granite Rapids generation, milliseconds of processor time, the template of convolutions (of joined
groups) and this one: 64 images of one group of 3136 channels 124 and 7.5, 32 of 4 of 784 11.0 and 0.89, 16 of 16 of
196 5.5 and 0.14, 4 of 128 of 49 2.7 (the general template 0.94) and 0.025. RepMLP takes 0.14 of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels.linear import Linear, Schedule, Shape, schedule_of
from specc.backends.tvm.packing import Packing
from specc.ir.types import block_of
from specc.targets import Target


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a convolution in float32, of frozen weights, from several images of one
    place to as many; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "conv2d" or group.type(anchor).dtype != "float32":
        return None
    step = group.step(anchor)
    images, inputs, *places = group.type(step.operands[0]).concrete
    outputs, groups = step.type.concrete[1], step.attrs["groups"]
    data, weight, *bias = step.operands
    if images == 1 or any(extent != 1 for extent in (*places, *step.type.concrete[2:])):
        return None
    if group.type(weight).concrete[2:] != (1, 1) or group.result.shape != step.type.shape:
        return None
    if any(v >= len(group.inputs) for v in step.operands) or not all(group.inputs[v].frozen for v in (weight, *bias)):
        return None
    if any(kind.concrete[1] % (block_of(kind.layout) or 1) for kind in (group.type(data), group.result)):
        return None
    shape = Shape(images, inputs // groups, outputs // groups, groups)
    schedule = schedule_of(shape, target, choices)
    blocks = -(-shape.outputs // target.lanes)
    once = images % schedule.tile.pixels == 0 and blocks % schedule.tile.blocks == 0

    def write(emitter: Emitter) -> None:
        _Grouped(emitter, anchor, schedule, target, shape).emit()

    return Template(write, {weight: Packing("matrix", target.lanes, groups=groups)}, once=once)


class _Grouped(Linear):
    """Writes the loops: those of a linear layer for one group after the other, whose number is `part`."""

    def __init__(self, emitter: Emitter, anchor: int, schedule: Schedule, target: Target, shape: Shape) -> None:
        super().__init__(emitter, anchor, schedule, target, shape=shape)
        self.parts = shape.groups
        self.part: Any = 0

    def emit(self) -> None:
        """The tiles of all groups, in the better one of two orders."""
        emitter, strips = self.emitter, self.schedule.strips
        groups = -(-self.blocks // self.tile.blocks)
        if self.schedule.strips_first:
            with emitter.parallel(self.parts * strips) as work:
                self.part, strip = emitter.divmod(work, strips)
                with emitter.serial(groups) as group:
                    self._strip(group, strips, strip)
        else:
            with emitter.parallel(self.parts * groups * strips) as work:
                work, strip = emitter.divmod(work, strips)
                self.part, group = emitter.divmod(work, groups)
                self._strip(group, strips, strip)

    def _accumulate(self, acc: Registers, blocks: list[Any], first: Any, rows: int) -> None:
        super()._accumulate(acc, [self.part * self.blocks + block for block in blocks], first, rows)

    def _start(self, acc: Registers, blocks: list[Any], rows: int, lane: Any) -> None:
        """Zeros: the bias of a group begins anywhere, and is added behind the sums."""
        for number in range(rows * len(blocks)):
            self.emitter.store(acc, tirx.const(0.0, self.dtype), [number, lane])

    def _row(self, row: Any, column: Any) -> tuple[Any, ...]:
        """The index of a result: of lanes that only fill the last block, that of the group's last one."""
        if self.outputs % self.lanes:
            column = tirx.min(column, self.outputs - 1)
        return (row, self.part * self.outputs + column, 0, 0)

    def _read(self, row: Any, column: Any) -> Sequence[Any]:
        return self.emitter.input(self.operands[0]).position((row, self.part * self.inputs + column, 0, 0))

    def _place(self, row: Any, column: Any) -> Sequence[Any]:
        return self.emitter.result().position((row, self.part * self.outputs + column, 0, 0))

    def _finished(self, accumulator: Scalar, row: Any, column: Any) -> Scalar:
        emitter, index = self.emitter, self._row(row, column)
        if self.bias is not None:
            accumulator = Scalar(accumulator.expr + self.bias[index[1]])

        def leaf(number: int, at: Index) -> Scalar:
            return accumulator if number == self.anchor else emitter.input(number)(*at)

        return emitter.evaluate(self.value, index, leaf)
