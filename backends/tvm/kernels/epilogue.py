"""What convolution templates do with finished accumulators: the pointwise steps behind the anchor, then the store.

The accumulators are one vector of channels a pixel. Lanes beyond the last channel are computed like the others, from
zeros, and stored as zeros, so that they stay finite; the result may also be plain row-major, and then they are left
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

from tvm import tirx

from specc.backends.tvm.emitter import Emitter, Index, Registers, Tensor, on_stack
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import HALVES


def is_heavy(group: Group, value: int) -> bool:
    """Whether one of the pointwise steps from an anchor to `value` is written once in a loop, not once an accumulator.

    Not sigmoid and SiLU: in a loop, LLVM keeps their constants in registers from before the sums on and spills
    accumulators for them (a 1x1 convolution of 16 to 96 channels at 112x112: 0.87 ms, without the loop 0.74 ms).
    """
    steps = (group.step(number) for number in group.reached(value) if number >= len(group.inputs))
    return any("heavy" in step.record.traits for step in steps)


def operand_packings(group: Group, lanes: int, anchor: int) -> dict[int, Packing] | None:
    """How the frozen operands of an epilogue with result [n, c, h, w] are stored; None for another result."""
    if group.result.rank != 4 or group.type(anchor).shape != group.result.shape:
        return None
    packings = {}
    for number, operand in enumerate(group.inputs):
        shape = operand.type.concrete
        if (
            not operand.frozen
            or operand.type.layout
            or any(number in (s.operands) for s in group.steps if not s.pointwise)
        ):
            continue
        aligned = (1,) * (4 - len(shape)) + shape
        if aligned[0] == aligned[2] == aligned[3] == 1 and aligned[1] > 1:
            packings[number] = Packing("padded", lanes)
        elif len(shape) == 4 and aligned[1] > 1:
            packings[number] = Packing("blocked", lanes)
    return packings


def flattens(group: Group, value: int | None = None) -> bool:
    """Whether height and width may be run through as one axis, the last, from an anchor to `value`, or to the result if
    none is given: every operand has both of them or neither."""
    height, width = group.result.concrete[2:]
    if width == 1 < height:
        return False  # an index on an axis of extent 1 is taken for a broadcast one
    for number in group.reached(group.last if value is None else value):
        shape = (1, 1, *group.type(number).concrete)
        if shape[-2:] not in ((1, 1), (height, width)) and (len(shape) > 3 or shape[-1] != 1):
            return False
    return True


class Epilogue:
    """Applies the pointwise steps from `anchor` to `value` to vectors of accumulators and stores them in `goal`.

    Where these are not given, the value and the goal are the group's result. The accumulators have the results of the
    anchors `within` in them, which are added to the anchor's own.
    """

    def __init__(
        self,
        emitter: Emitter,
        anchor: int,
        lanes: int,
        value: int | None = None,
        goal: Tensor | None = None,
        within: Sequence[int] = (),
    ) -> None:
        self.emitter, self.anchor, self.lanes, self.within = emitter, anchor, lanes, within
        group = emitter.group
        self.value = group.last if value is None else value
        self.reached = group.reached(self.value)
        self.channels = group.type(self.value).concrete[1]
        self.partial = self.channels % lanes != 0
        self.dtype = group.type(anchor).dtype
        self.heavy = is_heavy(group, self.value)
        self.result = goal or emitter.result()

    @cached_property
    def tensors(self) -> list[Tensor]:
        """What the epilogue reads or writes a vector of at every pixel, where that lies in blocks of channels."""
        emitter, group = self.emitter, self.emitter.group
        found = [
            emitter.input(number)
            for number, operand in enumerate(group.inputs)
            if number in self.reached and not operand.frozen and operand.type.shape == self.result.type.shape
        ]
        return [tensor for tensor in (*found, self.result) if tensor.block]

    def _leaf(self, accumulators: Mapping[int, Scalar]) -> Any:
        emitter = self.emitter

        def leaf(number: int, index: Index) -> Scalar:
            if number in accumulators:
                return accumulators[number]
            packing = emitter.packings[number]
            if packing.kind == "padded":
                channel = sum(index[1:], index[0])
                return Scalar(emitter.load(number, emitter.simplify(channel)), reads=True)
            tensor = emitter.input(number)
            if packing.kind == "blocked":
                tensor.block = packing.block
            elif self.partial and not tensor.block:
                shape = tensor.type.concrete
                axis = len(shape) - 3
                if axis >= 0 and shape[axis] > 1:
                    last = tirx.const(self.channels - 1, "int32")
                    index = (*index[:axis], tirx.min(index[axis], last), *index[axis + 1 :])
            return tensor(*index)

        return leaf

    def tile(self, pixels: int, blocks: Sequence[Any], summed: bool = False) -> Tile:
        """Accumulators for `pixels` of the channel blocks `blocks`; to be made outside of the vector loop. Where they
        are `summed`, their results are added up, too."""
        return Tile(self, pixels, blocks, summed)

    def value_at(
        self, accumulator: Scalar, index: Index, beside: Mapping[int, Scalar] = MappingProxyType({})
    ) -> Scalar:
        """The group's result at a logical index, from the anchor's, and from those of anchors `beside` it."""
        emitter = self.emitter
        known = {number: emitter.math.const(0.0, self.dtype) for number in self.within} | dict(beside)
        value = emitter.evaluate(self.value, index, self._leaf({self.anchor: accumulator, **known}))
        if self.partial and self.result.block:
            inside = index[1] < self.channels
            value = emitter.math.select(inside, emitter.math.let(value), emitter.math.const(0.0, value.dtype))
        return value


class Tile:
    """A register tile: `accumulators[i * len(blocks) + j, lane]` is pixel i of channel block j."""

    def __init__(self, epilogue: Epilogue, pixels: int, blocks: Sequence[Any], summed: bool) -> None:
        self.epilogue, self.pixels, self.blocks, self.summed = epilogue, pixels, blocks, summed
        self.accumulators = Registers(len(blocks) * pixels, epilogue.lanes, epilogue.dtype)
        self._looped = epilogue.heavy and pixels > 2
        self._held = self._memory(epilogue.dtype) if self._looped else []
        plain = not epilogue.result.block
        kind = epilogue.result.type.dtype
        self._staged = self._memory("float32" if kind in HALVES else kind) if plain else []
        self._sum = on_stack((epilogue.lanes,), "float32") if summed and self._looped else None

    def _memory(self, dtype: str) -> list[Any]:
        """For each block a buffer [pixels, lanes]."""
        return [on_stack((self.pixels, self.epilogue.lanes), dtype) for _ in self.blocks]

    def finish(self, n: Any, y: Any, x: Any, lane: Any) -> Any:
        """Applies the epilogue to pixels (y, x), (y, x + 1), ... and stores them; inside of the vector loop over
        `lane`. The sum of what it stores, where it is wanted.

        A heavy epilogue is a loop over copies of the accumulators: they could not stay in registers if it indexed them.
        """
        count = len(self.blocks)
        if self._looped:
            emitter = self.epilogue.emitter
            for i in range(self.pixels):
                for j, held in enumerate(self._held):
                    emitter.store(held, self.accumulators[i * count + j, lane], [i, lane])
            if self._sum is not None:
                emitter.store(self._sum, tirx.const(0.0, "float32"), [lane])
            with emitter.serial(self.pixels) as i:
                values = self._finish_pixel(n, y, x, i, lane)
                if self._sum is not None:
                    emitter.store(self._sum, self._sum[lane] + _total(values), [lane])
            return None if self._sum is None else self._sum[lane]
        values = [value for i in range(self.pixels) for value in self._finish_pixel(n, y, x, i, lane)]
        return _total(values) if self.summed else None

    def _finish_pixel(self, n: Any, y: Any, x: Any, i: Any, lane: Any) -> list[Any]:
        """The values of a pixel, one for each block."""
        epilogue, count, values = self.epilogue, len(self.blocks), []
        for j, block in enumerate(self.blocks):
            index = (n, block * epilogue.lanes + lane, y, x + i)
            accumulator = self._held[j][i, lane] if self._looped else self.accumulators[i * count + j, lane]
            value = epilogue.value_at(Scalar(accumulator), index)
            if self.summed:
                value = epilogue.emitter.math.let(value)
            values.append(value.expr)
            if self._staged:
                epilogue.emitter.store(self._staged[j], value, [i, lane])
            else:
                epilogue.result.put(value, epilogue.result.position(index))
        return values

    def flush(self, n: Any, y: Any, x: Any) -> None:
        """Behind the vector loop: where the result is plain row-major, scatters the real lanes to it."""
        if not self._staged:
            return
        epilogue, emitter = self.epilogue, self.epilogue.emitter
        for j, block in enumerate(self.blocks):
            left = epilogue.channels - block * epilogue.lanes
            real = tirx.min(left, epilogue.lanes) if epilogue.partial and not isinstance(left, int) else epilogue.lanes
            if isinstance(left, int):
                real = min(left, epilogue.lanes)
            with emitter.serial(real) as lane, emitter.serial(self.pixels) as i:
                value = self._staged[j][i, lane]
                position = [n, block * epilogue.lanes + lane, y, x + i]
                epilogue.result.put(value, position)


def _total(values: list[Any]) -> Any:
    """The sum of values, added up in pairs: no addition waits for many others."""
    while len(values) > 1:
        pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(values) // 2 * 2 :]
    return values[0]
