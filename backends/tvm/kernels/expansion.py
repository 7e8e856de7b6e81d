"""A 1x1 convolution and the depthwise convolution that alone reads it, in one kernel: the wide tensor between them, as
in an inverted residual, never exists as a whole.

    x --1x1 convolution--> (wider) --pointwise steps--> --depthwise k x k--> --pointwise steps--> result

The rows of the result are run through for some blocks of channels after the other. Each is computed as soon as the
rows of its window are there, which lie in a ring: row number y at place y modulo the rows of a window, in the
second-level cache, or the first. A step down by one row computes as many new rows as the stride has. Threads share out
the rows of all blocks in equal pieces; where one begins within a picture, the rows of a window are computed anew.

Both halves are those of the templates for one convolution (`convolution`, `depthwise`), the ring standing for the
result of the one and the input of the other. The fusion pass decides which groups are fused so, by a rule and its
measurements (`specc.passes.expansion`); a choice can take the two apart again: one behind the other then, through
memory of the kernel's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Template, Tensor
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.convolution import Convolution
from specc.backends.tvm.kernels.convolution_plan import Geometry, Schedule, schedule_of, take_unroll
from specc.backends.tvm.kernels.depthwise import Depthwise, packed, take_pixels
from specc.backends.tvm.kernels.epilogue import Epilogue, is_heavy, operand_packings
from specc.backends.tvm.kernels.fetch import take_inputs, take_soon
from specc.backends.tvm.kernels.rows import share, take_strips
from specc.backends.tvm.packing import Packing
from specc.ir.types import TensorType, block_of
from specc.targets import Target

_LEAST, _MOST = 4, 32
"""Into how many pieces the work is cut, so that as many threads get equal parts."""

_TWICE = 32
"""Of so many rows of the wide tensor, one may be computed twice for the sake of more pieces."""


@dataclass(frozen=True)
class Chain:
    """The values of a group: its 1x1 convolution, what the depthwise one reads, and that one."""

    first: int
    middle: int
    last: int


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a 1x1 convolution and a depthwise one behind it; None for another group."""
    chain = _chain(group, target)
    packings = operand_packings(group, target.lanes, chain.last) if chain else None
    if chain is None or packings is None:
        return None
    step = group.step(chain.first)
    n, channels, height, width = group.type(step.operands[0]).concrete
    wide, rows = step.type.concrete[1], group.type(chain.last).concrete[2]
    geometry = Geometry(n, channels, height, width, wide, height, width, (1, 1), (1, 1), (1, 1), (0, 0), False)
    packings[step.operands[1]] = Packing("convolution", target.lanes, target.lanes)
    packings |= {value: Packing("padded", target.lanes) for value in step.operands[2:]}
    packings |= packed(group, chain.last, target)
    fused = choices.take("fused", (True, False), True)
    first, last = choices.part("expand"), choices.part("depthwise")
    pixels = take_pixels(group, chain.last, target, last)
    blocks = -(-wide // target.lanes)
    if fused:
        schedule = _schedule(geometry, target, first)
        groups = n * -(-blocks // schedule.tile.blocks)
        default = _pieces(group, chain, groups)
        wanted = (p for p in (1, 2, 3, 4, 6, 8, 12, 16, 32) if p <= groups * rows)
        pieces = choices.near("pieces", wanted, default)
    else:
        schedule = schedule_of(geometry, target.lanes, target, first, heavy=is_heavy(group, chain.middle))
        pieces = take_strips(last, rows, share(rows, n * blocks))

    def write(emitter: Emitter) -> None:
        kernel = _Kernel(emitter, chain, geometry, schedule, pixels, pieces, target)
        if fused:
            kernel.emit()
        else:
            kernel.emit_apart()

    return Template(write, packings)


def _chain(group: Group, target: Target) -> Chain | None:
    """The convolutions of a group, if they are what this template is for."""
    if len(group.anchors) != 2:
        return None
    first, last = group.anchors
    expand, deep = group.step(first), group.step(last)
    if expand.op != "conv2d" or deep.op != "conv2d":
        return None
    middle, *weights = deep.operands
    weights += expand.operands[1:]
    data, channels = expand.operands[0], expand.type.concrete[1]
    if any(v >= len(group.inputs) for v in (data, *weights)) or not all(group.inputs[v].frozen for v in weights):
        return None
    between, behind = (group.reached(value) & set(group.anchors) for value in (middle, group.last))
    pictures = [group.type(value) for value in (data, first, middle, last)]
    if any(type.dtype != "float32" or block_of(type.layout) != target.lanes for type in pictures):
        return None
    dense = expand.attrs["groups"] == 1 == expand.attrs["stride"][0] == expand.attrs["stride"][1]
    pointwise = group.type(expand.operands[1]).concrete[2:] == (1, 1) and not any(expand.attrs["padding"])
    filters = deep.type.concrete[1]
    apart = deep.attrs["groups"] == channels == filters > 1 and group.type(middle) == expand.type
    if between != {first} or behind != {last} or len(set(weights)) < len(weights):
        return None
    return Chain(first, middle, last) if dense and pointwise and apart else None


def _schedule(geometry: Geometry, target: Target, choices: Choices) -> Schedule:
    """How the rows of the 1x1 convolution are computed: its weights and what it writes are in the caches."""
    blocks = -(-geometry.out_channels // target.lanes)
    tile = tiles.take(choices, geometry.columns, blocks, target)
    unroll, soon = take_unroll(choices, target.lanes), take_soon(choices, target)
    inputs = take_inputs(choices, target)
    return Schedule(tile, -(-blocks // tile.blocks), False, 1, 1, unroll, soon, False, inputs, False)


class _Ring(Tensor):
    """The last rows of some blocks of channels, from block `first` on, of a tensor of `type`, of one image."""

    def __init__(self, buffer: Any, type: TensorType, emitter: Emitter, first: Any) -> None:
        super().__init__(buffer, type, emitter.simplify)
        self.first = first

    def position(self, index: Index) -> list[Any]:
        _, block, row, column, lane = super().position(index)
        rows = int(self.buffer.shape[1])
        return [self.simplify(block - self.first), tirx.truncmod(row, rows), column, lane]


class _Kernel:
    """Writes the kernel."""

    def __init__(
        self,
        emitter: Emitter,
        chain: Chain,
        geometry: Geometry,
        schedule: Schedule,
        pixels: int,
        pieces: int,
        target: Target,
    ) -> None:
        self.emitter, self.chain, self.geometry, self.schedule = emitter, chain, geometry, schedule
        self.pixels, self.pieces, self.target = pixels, pieces, target
        self.type = emitter.group.type(chain.middle)

    def _halves(self, middle: Tensor) -> tuple[Convolution, Depthwise]:
        """What writes the tensor in the middle, and what reads it."""
        emitter, chain, target = self.emitter, self.chain, self.target
        epilogue = Epilogue(emitter, chain.first, target.lanes, chain.middle, middle)
        expand = Convolution(emitter, chain.first, self.geometry, self.schedule, target.lanes, target, None, epilogue)
        return expand, Depthwise(emitter, chain.last, self.pixels, target, middle)

    def emit_apart(self) -> None:
        """All of the one, then all of the other."""
        buffer = T.alloc_buffer(self.type.physical, "float32")
        expand, deep = self._halves(Tensor(buffer, self.type, self.emitter.simplify))
        expand.emit()
        deep.emit(self.pieces)

    def emit(self) -> None:
        """All loops of the fused form; the last group of output blocks may have fewer of them."""
        emitter, size = self.emitter, self.schedule.tile.blocks
        n, blocks, height, width, lanes = self.type.physical
        groups, rest = -(-blocks // size), blocks % size
        rows = emitter.group.type(self.chain.last).concrete[2]
        whole = n * groups * rows
        with emitter.parallel(self.pieces) as piece:
            shape = min(size, blocks), min(_window(emitter.group, self.chain.last)[0], height), width, lanes
            ring = T.alloc_buffer(shape, "float32")
            with emitter.strip(whole, self.pieces, piece) as place:
                begins = emitter.divmod(place, -(-whole // self.pieces))[1]
                outer, y = emitter.divmod(place, rows)
                image, group = emitter.divmod(outer, groups)
                if not rest:
                    self._row(ring, image, group * size, size, y, begins)
                elif groups == 1:
                    self._row(ring, image, 0, rest, y, begins)
                else:
                    with T.If(group < groups - 1):
                        with T.Then():
                            self._row(ring, image, group * size, size, y, begins)
                        with T.Else():
                            self._row(ring, image, blocks - rest, rest, y, begins)

    def _row(self, ring: Any, n: Any, first: Any, count: int, y: Any, place: Any) -> None:
        """A row of the result, of `count` blocks of channels from `first` on; it is number `place` of its piece."""
        emitter, height = self.emitter, self.geometry.in_height
        window, stride, padding = _window(emitter.group, self.chain.last)
        expand, deep = self._halves(_Ring(ring, self.type, emitter, first))
        top = y * stride - padding
        known: Any = 0
        if not isinstance(y, int):
            known = tirx.Select(tirx.min(y, place) > 0, max(0, window - stride), 0)
        low = T.Bind(tirx.max(0, top + known))
        new = T.Bind(tirx.max(0, tirx.min(top + window, height) - low))
        with emitter.serial(new, low) as row:
            expand.row(n, [first + j for j in range(count)], row)
        with emitter.serial(count) as j:
            deep.row(n, first + j, y)


def _window(group: Group, anchor: int) -> tuple[int, int, int]:
    """The rows of a convolution's window, from its first to its last one, its step, and its padding above."""
    step = group.step(anchor)
    taps = group.type(step.operands[1]).concrete[2]
    return (taps - 1) * step.attrs["dilation"][0] + 1, step.attrs["stride"][0], step.attrs["padding"][0]


def _pieces(group: Group, chain: Chain, groups: int) -> int:
    """How many pieces all rows of all `groups` of blocks are shared out in.

    As many as add no more than a part in `_TWICE` to the rows of the wide tensor; four in any case.
    """
    window, stride, _ = _window(group, chain.last)
    height, rows = group.type(chain.first).concrete[2], group.type(chain.last).concrete[2]
    found = min(_LEAST, groups * rows)
    for pieces in range(2 * _LEAST, min(_MOST, groups * rows) + 1, _LEAST):
        size = -(-groups * rows // pieces)
        cuts = sum(number * size % rows > 0 for number in range(1, pieces))
        if _TWICE * cuts * max(0, window - stride) <= groups * height:
            found = pieces
    return found
