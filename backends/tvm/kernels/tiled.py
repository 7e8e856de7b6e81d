"""Dense two-dimensional convolution in tiles of 16 x 16 results (`amx`): of bfloat16 with sums in float32, and of
integers with sums in 32 bits; any kernel, stride, dilation and padding.

    result[n, o, y, x] = epilogue(bias[o] + sum over i, r, s of
                                  input[n, i, y * sy + r * dy - top, x * sx + s * dx - left] * weight[o, i, r, s])

The operand is packed first (`panels`): then the results of an image are one axis, and every tap reads what lies at a
constant distance. A *unit* is some tiles of 16 results by some blocks of 16 output channels, as many sums as the tiles
of a thread hold. Its reduction runs over panels of channels and over taps; each step loads a tile of inputs for each 16
results and one of weights for each block. The sums go to memory on the stack, which the first-level cache holds, and
from there, vector by vector, through the epilogue to the result.

Two orders of the loops, as in `convolution`: threads share out strips of units and run through all output blocks for
each, or they share out the output blocks, so that each weight is read by one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template, on_stack
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import amx
from specc.backends.tvm.kernels.amx import DEPTHS, ROWS
from specc.backends.tvm.kernels.epilogue import Epilogue, flattens, operand_packings
from specc.backends.tvm.kernels.panels import Image, Panels, whole
from specc.backends.tvm.kernels.tiled_plan import Plan, plan_of
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import HALVES
from specc.ir.types import block_of
from specc.targets import Target

_WEIGHTS = {"bfloat16": ("conv2d", "bfloat16", "pairs"), "uint8": ("conv2d_integer", "int8", "dot")}
"""By the type of activations: the operator, the type of weights, how they are packed."""


def convolution(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a dense convolution of a type that the target's tiles multiply; None for
    another group or target, and where another template is faster."""
    anchor = group.anchor
    image = None if anchor is None or target.tile_product != "amx" else _image(group, anchor, target)
    if anchor is None or image is None:
        return None
    _, weight, *bias = group.step(anchor).operands
    packings = operand_packings(group, target.lanes, anchor)
    if packings is None:
        return None
    plan = plan_of(image, group.type(anchor).concrete[1], target, choices)
    if plan is None:
        return None
    packings[weight] = Packing(_WEIGHTS[image.dtype][2], target.lanes, image.depth)
    packings |= {value: Packing("padded", target.lanes) for value in bias}
    return Template(lambda emitter: _Convolution(emitter, anchor, image, plan, target).emit(), packings, once=True)


def _image(group: Group, anchor: int, target: Target) -> Image | None:
    """What an anchor reads and computes, if it is such a convolution."""
    step = group.step(anchor)
    if step.op not in ("conv2d", "conv2d_integer") or step.attrs["groups"] != 1:
        return None
    data, weight, *bias = step.operands
    x, w = group.type(data), group.type(weight)
    if x.dtype not in DEPTHS or (step.op, w.dtype) != _WEIGHTS[x.dtype][:2]:
        return None
    if block_of(x.layout) != target.lanes or not all(group.inputs[v].frozen for v in (weight, *bias)):
        return None
    (n, c, height, width), (rows, columns), kernel = x.concrete, step.type.concrete[2:], w.concrete[2:]
    attrs = step.attrs
    return Image(
        *(x.dtype, n, c, height, width, rows, columns, (kernel[0], kernel[1])),
        *(attrs["stride"], attrs["dilation"], attrs["padding"][:2]),
    )


@dataclass(frozen=True)
class _Unit:
    """Where a unit is: results from `first` on of image n, `blocks` output blocks from `block` on."""

    n: Any
    first: Any
    block: Any
    blocks: int


class _Convolution:
    """Writes the loops of one convolution."""

    def __init__(self, emitter: Emitter, anchor: int, image: Image, plan: Plan, target: Target) -> None:
        self.emitter, self.image, self.plan, self.lanes = emitter, image, plan, target.lanes
        step = emitter.group.step(anchor)
        data, self.weight, *bias = (emitter.buffers[v] for v in step.operands)
        self.bias = bias[0] if bias else None
        self.epilogue = Epilogue(emitter, anchor, self.lanes)
        self.blocks = -(-step.type.concrete[1] // self.lanes)
        self.flat = image.across == image.columns and flattens(emitter.group)
        self.size = ROWS * plan.tiles
        self.units = -(-image.results // self.size)
        outside = step.attrs.get("outside", 0)
        self.panels = Panels(emitter, image, data, self.lanes, whole(image.results, plan.tiles), outside)
        self.sums: Any = None

    def emit(self) -> None:
        """All loops: the operand's, then those of the products."""
        emitter, plan, batch = self.emitter, self.plan, self.image.batch
        self.panels.emit()
        groups = -(-self.blocks // plan.blocks)
        if plan.strips_first:
            with emitter.parallel(batch * plan.strips) as work:
                n, strip = emitter.divmod(work, plan.strips)
                with self._ready(), emitter.serial(groups) as group:
                    self._group(n, group, strip)
        else:
            with emitter.parallel(batch * groups * plan.strips) as work:
                outer, strip = emitter.divmod(work, plan.strips)
                n, group = emitter.divmod(outer, groups)
                with self._ready():
                    self._group(n, group, strip)

    def _ready(self) -> Any:
        """What is written in here can compute units."""
        self.sums = on_stack((self.size, self.plan.blocks, self.lanes), self.epilogue.dtype)
        return amx.configured()

    def _group(self, n: Any, group: Any, strip: Any) -> None:
        """The units of a strip, for one group of output blocks; the last one may have fewer than the others."""
        size, (many, rest) = self.plan.blocks, divmod(self.blocks, self.plan.blocks)

        def units(blocks: int) -> None:
            with self.emitter.strip(self.units, self.plan.strips, strip) as number:
                self._unit(_Unit(n, number * self.size, group * size, blocks))

        if not rest or not many:
            return units(rest or size)
        with T.If(group < many):
            with T.Then():
                units(size)
            with T.Else():
                units(rest)

    def _unit(self, unit: _Unit) -> None:
        """All products of a unit, and its epilogue."""
        plan, lanes = self.plan, self.lanes
        for j in range(unit.blocks):
            for i in range(plan.tiles):
                self._start(i * unit.blocks + j, (unit.block + j) * lanes)
        self._products(unit)
        for i in range(plan.tiles):
            for j in range(unit.blocks):
                amx.store(i * unit.blocks + j, self.sums, [ROWS * i, j, 0], 4 * lanes * plan.blocks)
        self._finish(unit)

    def _start(self, tile: int, channel: Any) -> None:
        """What sums begin with: their biases in all rows."""
        if self.bias is None:
            amx.zero(tile)
        else:
            amx.load(tile, self.bias, [channel], 0)

    def _products(self, unit: _Unit) -> None:
        """Adds all products of a unit to its tiles. What fewer tiles hold, inputs or weights, is loaded first."""
        emitter, image, tiles, blocks = self.emitter, self.image, self.plan.tiles, unit.blocks
        free = [*range(tiles * blocks, amx.TILES)]
        outer, inner = (tiles, blocks) if tiles <= blocks else (blocks, tiles)
        with emitter.serial(image.panels) as panel:
            for r in range(image.kernel[0]):
                for s in range(image.kernel[1]):

                    def read(tile: int, number: int, weights: bool, at: Any = (panel, r, s)) -> None:
                        if weights:
                            self._load_weights(tile, unit.block + number, *at)
                        else:
                            self._load_inputs(tile, unit, number, *at)

                    held, moving = free[:outer], free[outer:]
                    for number, tile in enumerate(held):
                        read(tile, number, weights=tiles > blocks)
                    for number in range(inner):
                        other = moving[number % len(moving)]
                        read(other, number, weights=tiles <= blocks)
                        for k, tile in enumerate(held):
                            i, j = (k, number) if tiles <= blocks else (number, k)
                            left, right = (tile, other) if tiles <= blocks else (other, tile)
                            amx.multiply(image.dtype, i * blocks + j, left, right)

    def _load_inputs(self, tile: int, unit: _Unit, number: int, panel: Any, r: int, s: int) -> None:
        phase, shift = self.image.tap(r, s)
        amx.load(tile, self.panels.buffer, [unit.n, panel, phase, unit.first + (ROWS * number + shift), 0], amx.BYTES)

    def _load_weights(self, tile: int, block: Any, panel: Any, r: int, s: int) -> None:
        amx.load(tile, self.weight, self._line(block, panel, r, s), amx.BYTES)

    def _line(self, block: Any, panel: Any, r: int, s: int) -> list[Any]:
        """Where the weights of a step begin."""
        if self.image.dtype == "bfloat16":
            return [block, panel, r, s, 0, 0]
        (kh, kw) = self.image.kernel
        return [block, (panel * (kh * kw) + r * kw + s) * ROWS, 0]

    def _finish(self, unit: _Unit) -> None:
        """The epilogue for those results of a unit that are used: runs of neighbours in a row."""
        emitter, image, first = self.emitter, self.image, unit.first
        across, size, minimum, maximum = image.across, self.size, tirx.min, tirx.max
        if self.flat:
            end = image.rows * image.columns
            count: Any = size if end % size == 0 else T.Bind(minimum(size, end - first))
            return self._run(unit, 0, first, 0, count)
        top = T.Bind(tirx.floordiv(first, across))
        bottom = minimum(image.rows, tirx.floordiv(first + (size - 1), across) + 1)
        with emitter.serial(T.Bind(bottom - top), top) as y:
            start = T.Bind(maximum(0, first - y * across))
            stop = T.Bind(minimum(image.columns, first + size - y * across))
            self._run(unit, y, start, T.Bind(y * across + start - first), T.Bind(maximum(0, stop - start)))

    def _run(self, unit: _Unit, y: Any, x: Any, number: Any, count: Any) -> None:
        """The epilogue for `count` neighbouring results of row y from x on, from number `number` of the unit on."""
        emitter, epilogue, lanes = self.emitter, self.epilogue, self.lanes
        result, plain = epilogue.result, not epilogue.result.block
        kind = "float32" if result.type.dtype in HALVES else result.type.dtype
        staged = [on_stack((self.size, lanes), kind) for _ in range(unit.blocks)] if plain else []
        with emitter.serial(count) as i, emitter.lanes(lanes) as lane:
            for j in range(unit.blocks):
                index = (unit.n, (unit.block + j) * lanes + lane, y, x + i)
                value = epilogue.value_at(Scalar(self.sums[number + i, j, lane]), index)
                if plain:
                    emitter.store(staged[j], value, [i, lane])
                else:
                    result.put(value, result.position(index))
        for j, buffer in enumerate(staged):
            channel = (unit.block + j) * lanes
            left = tirx.min(lanes, epilogue.channels - channel) if epilogue.partial else lanes
            with emitter.serial(left) as lane, emitter.serial(count) as i:
                result.put(buffer[i, lane], [unit.n, channel + lane, y, x + i])
