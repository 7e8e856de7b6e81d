"""Linear layers: result[..., o] = epilogue(bias[o] + sum over i of input[..., i] * weight[o, i]).

All dimensions but the last are one axis of rows. Weights are packed [o block, i, o]: one step of the reduction reads
one vector of them for each output block and broadcasts one input a row. With a single row (a classifier at batch 1)
the kernel is bound by reading the weights; eight blocks side by side then hide the latency of the multiply-adds.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter, Index, Registers, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.rows import share
from specc.backends.tvm.packing import Packing
from specc.targets import Target


def lower(group: Group, target: Target) -> Template | None:
    """The template of a group whose anchor is a linear layer with frozen weights; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "linear" or group.result.dtype != "float32":
        return None
    step = group.step(anchor)
    shape = step.type.concrete
    if group.result.shape != step.type.shape or any(v >= len(group.inputs) for v in step.operands):
        return None
    _, weight, *bias = step.operands
    if not all(group.inputs[v].frozen for v in (weight, *bias)) or 0 in shape:
        return None
    packings = {weight: Packing("matrix", target.lanes)}
    packings |= {value: Packing("padded", target.lanes) for value in bias}
    for number, operand in enumerate(group.inputs):
        if number in step.operands:
            continue
        own = operand.type.concrete
        if operand.frozen and own and prod(own) == own[-1] == shape[-1]:
            packings[number] = Packing("padded", target.lanes)
        elif prod(own) != 1 and own != shape and prod(own) != own[-1]:
            return None
    return Template(lambda emitter: _Linear(emitter, anchor, target).emit(), packings)


class _Linear:
    """Writes the loops of one linear layer."""

    def __init__(self, emitter: Emitter, anchor: int, target: Target) -> None:
        self.emitter, self.anchor, self.lanes = emitter, anchor, target.lanes
        step = emitter.group.step(anchor)
        *lead, self.inputs = emitter.group.type(step.operands[0]).concrete
        self.rows, self.outputs = prod(lead), step.type.concrete[-1]
        self.rank = len(lead) + 1
        self.axis = max((i for i, extent in enumerate(lead) if extent > 1), default=0)
        self.blocks = -(-self.outputs // self.lanes)
        self.tile = tiles.choose(self.rows, self.blocks, target, widest=8)
        self.data, self.weight, *bias = (emitter.buffers[v] for v in step.operands)
        self.bias = bias[0] if bias else None
        self.value = emitter.group.last

    def emit(self) -> None:
        """Threads share out the groups of output blocks, so that each weight is read by one core."""
        emitter, width = self.emitter, self.tile.blocks
        groups, sizes = -(-self.blocks // width), tiles.balanced(self.rows, self.tile.pixels)
        strips = share(len(sizes), groups) if len(set(sizes)) == 1 else 1
        with emitter.parallel(groups * strips) as work:
            group, strip = emitter.divmod(work, strips)
            blocks = [group * width + j for j in range(width)]
            if strips > 1 or len(set(sizes)) == 1:
                with emitter.strip(len(sizes), strips, strip) as number:
                    self._tile(blocks, number * sizes[0], sizes[0])
            else:
                many = sizes.count(sizes[0])
                with emitter.serial(many) as number:
                    self._tile(blocks, number * sizes[0], sizes[0])
                with emitter.serial(len(sizes) - many) as number:
                    self._tile(blocks, many * sizes[0] + number * sizes[-1], sizes[-1])

    def _tile(self, blocks: list[Any], first: Any, rows: int) -> None:
        """One register tile. A block beyond the last one repeats it: equal values are stored twice."""
        emitter, width = self.emitter, len(blocks)
        if self.blocks % width:
            blocks = [emitter.simplify(tirx.min(block, self.blocks - 1)) for block in blocks]
        acc = Registers(rows * width, self.lanes, "float32")
        with emitter.lanes(self.lanes) as lane:
            for j, block in enumerate(blocks):
                for i in range(rows):
                    start = (
                        self.bias[block * self.lanes + lane] if self.bias is not None else tirx.const(0.0, "float32")
                    )
                    emitter.store(acc, start, [i * width + j, lane])
            unroll = 4 if self.inputs % 4 == 0 and rows * width <= 8 else 1
            with emitter.serial(self.inputs // unroll) as outer:
                for q in range(unroll):
                    k = outer * unroll + q
                    for i in range(rows):
                        value = self.data[self._row(first + i, k)]
                        for j, block in enumerate(blocks):
                            position = [i * width + j, lane]
                            weight = self.weight[block, k, lane]
                            emitter.store(acc, acc[tuple(position)] + value * weight, position)
            for i in range(rows):
                for j, block in enumerate(blocks):
                    value = self._finished(Scalar(acc[i * width + j, lane]), first + i, block * self.lanes + lane)
                    emitter.store(acc, value, [i * width + j, lane])
        for i in range(rows):
            for j, block in enumerate(blocks):
                self._store(acc, i * width + j, first + i, block)

    def _row(self, row: Any, column: Any) -> tuple[Any, ...]:
        """The index of an element: the last leading dimension of more than one row runs through all of them."""
        return (*(row if i == self.axis else 0 for i in range(self.rank - 1)), column)

    def _finished(self, accumulator: Scalar, row: Any, column: Any) -> Scalar:
        emitter = self.emitter

        def leaf(number: int, index: Index) -> Scalar:
            if number == self.anchor:
                return accumulator
            buffer = emitter.buffers[number]
            if emitter.packings[number].kind == "padded":
                return Scalar(tirx.BufferLoad(buffer, [index[-1]]), reads=True)
            if index and not isinstance(index[-1], int) and self.outputs % self.lanes:
                index = (*index[:-1], tirx.min(index[-1], self.outputs - 1))
            return Scalar(tirx.BufferLoad(buffer, list(index)), reads=True)

        return emitter.evaluate(self.value, self._row(row, column), leaf)

    def _store(self, values: Any, position: int, row: Any, block: Any) -> None:
        """Writes one vector to the result, or of the last block the lanes that there are."""
        emitter, rest = self.emitter, self.outputs % self.lanes

        def copy(lanes: int) -> None:
            with emitter.lanes(lanes) as lane:
                column = block * self.lanes + lane
                emitter.store(emitter.outputs[0], values[position, lane], self._row(row, column))

        if not rest:
            copy(self.lanes)
        elif isinstance(block, int):
            copy(rest if block == self.blocks - 1 else self.lanes)
        else:
            with T.If(block < self.blocks - 1):
                with T.Then():
                    copy(self.lanes)
                with T.Else():
                    copy(rest)
