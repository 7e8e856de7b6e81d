"""What kernels of several convolutions share, each of which reads rows that the one before it has just made.

    x --convolution--> --pointwise steps--> rows --convolution--> --pointwise steps--> ... --> result

A stage leaves its rows in a ring (`rows.Rows`), and the next one reads them there: what is between two of them never
exists as a whole. The last rows of a window stay for the next row (`Window.fresh`). A 1x1 convolution at the end takes
a batch of rows at a time (`Projection`): its weights are read for many pixels, and its tiles lie along all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.convolution import Convolution
from specc.backends.tvm.kernels.convolution_plan import Geometry, Schedule, take_unroll
from specc.backends.tvm.kernels.depthwise import packed
from specc.backends.tvm.kernels.epilogue import flattens, is_heavy, operand_packings
from specc.backends.tvm.kernels.fetch import take_inputs, take_results, take_soon
from specc.backends.tvm.kernels.rows import Rows, share
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import DTYPES
from specc.ir.types import block_of
from specc.targets import Target

_ROWS, _PIXELS = 4, 56
"""Of a batch at least: a row of the input that several windows need is read again from one batch to the next, and tiles
lie along all of its pixels."""

_PART = 4
"""A batch fills such a part of the second-level cache at most."""

_PIECES = (1, 2, 3, 4, 6, 8, 12, 16, 32)


@dataclass(frozen=True)
class Stage:
    """A convolution of a group, and the value that pointwise steps make of it, which the next one reads."""

    anchor: int
    value: int


@dataclass(frozen=True)
class Window:
    """The rows that a convolution reads: of how many, from its first to its last one, its step, its padding above."""

    rows: int
    stride: int
    padding: int

    def fresh(self, y: Any, place: Any, height: int) -> tuple[Any, Any]:
        """The first of the rows, of `height`, that row `y` reads and the row before it has not, and how many they are.

        It is row number `place` of those that are computed one behind the other; to the first of them, all are new.
        """
        top = y * self.stride - self.padding
        known: Any = 0
        if not isinstance(y, int):
            known = tirx.Select(tirx.min(y, place) > 0, max(0, self.rows - self.stride), 0)
        low = T.Bind(tirx.max(0, top + known))
        return low, T.Bind(tirx.max(0, tirx.min(top + self.rows, height) - low))


def stages_of(group: Group, target: Target) -> tuple[Stage, ...]:
    """The convolutions of a group in float32 in blocks of channels, each of which reads the one before it alone; none
    for another group. All weights are frozen, and each is read once."""
    anchors, found = group.anchors, list[Stage]()
    read = [operand for step in group.steps for operand in step.operands]
    for number, anchor in enumerate(anchors):
        step = group.step(anchor)
        if step.op != "conv2d":
            return ()
        data, *weights = step.operands
        made = group.reached(data) & set(anchors)
        value = group.step(anchors[number + 1]).operands[0] if number + 1 < len(anchors) else group.last
        pictures = [group.type(each) for each in (data, anchor)]
        if any(v >= len(group.inputs) or not group.inputs[v].frozen or read.count(v) > 1 for v in weights):
            return ()
        if made != set(anchors[number - 1 : number]) or (not number and data >= len(group.inputs)):
            return ()
        if any(type.dtype != "float32" or block_of(type.layout) != target.lanes for type in pictures):
            return ()
        if group.type(value) != step.type and (value != group.last or group.type(value).shape != step.type.shape):
            return ()  # the last one may write another layout
        found.append(Stage(anchor, value))
    return tuple(found) if group.reached(group.last) & set(anchors) == {*anchors[-1:]} else ()


def is_depthwise(group: Group, anchor: int) -> bool:
    """Whether a convolution filters each channel by itself, once."""
    step = group.step(anchor)
    channels = group.type(step.operands[0]).concrete[1]
    return bool(step.attrs["groups"] == channels == step.type.concrete[1] > 1)


def is_pointwise(group: Group, anchor: int) -> bool:
    """Whether a convolution is one of 1x1 and nothing else."""
    attrs, kernel = group.step(anchor).attrs, group.type(group.step(anchor).operands[1]).concrete[2:]
    plain = attrs["groups"] == 1 and tuple(attrs["stride"]) == (1, 1) and not any(attrs["padding"])
    return plain and tuple(kernel) == (1, 1)


def packings_of(group: Group, stages: tuple[Stage, ...], target: Target) -> dict[int, Packing] | None:
    """How the weights of all stages and the operands of their epilogues are stored; None for another kind of result."""
    packings = operand_packings(group, target.lanes, stages[-1].anchor)
    if packings is None:
        return None
    for stage in stages:
        _, weight, *bias = group.step(stage.anchor).operands
        if is_depthwise(group, stage.anchor):
            packings |= packed(group, stage.anchor, target)
        else:
            packings[weight] = Packing("convolution", target.lanes, target.lanes)
            packings |= {value: Packing("padded", target.lanes) for value in bias}
    return packings


def window_of(group: Group, anchor: int) -> Window:
    """The rows that a convolution reads."""
    step = group.step(anchor)
    taps = group.type(step.operands[1]).concrete[2]
    return Window((taps - 1) * step.attrs["dilation"][0] + 1, step.attrs["stride"][0], step.attrs["padding"][0])


def by_rows(group: Group, anchor: int, target: Target, choices: Choices) -> tuple[Geometry, Schedule]:
    """How a convolution in blocks of channels is computed row by row (`Convolution.strip`): its weights and what it
    writes are in the caches."""
    step = group.step(anchor)
    n, c, h, w = group.type(step.operands[0]).concrete
    _, o, oh, ow = step.type.concrete
    kernel = group.type(step.operands[1]).concrete[2:]
    stride, dilation, padding = step.attrs["stride"], step.attrs["dilation"], step.attrs["padding"]
    geometry = Geometry(n, c, h, w, o, oh, ow, (kernel[0], kernel[1]), stride, dilation, padding[:2], False)
    return geometry, _schedule(geometry, oh, target, choices, take_inputs(choices, target), results=False)


def _schedule(g: Geometry, strips: int, target: Target, choices: Choices, inputs: bool, results: bool) -> Schedule:
    blocks = -(-g.out_channels // target.lanes)
    tile = tiles.take(choices, g.columns, blocks, target, g.kernel[1])
    unroll, soon = take_unroll(choices, target.lanes), take_soon(choices, target)
    return Schedule(tile, -(-blocks // tile.blocks), True, strips, 1, unroll, soon, False, inputs, results)


@dataclass(frozen=True)
class Projection:
    """How a 1x1 convolution at the end of a chain is computed: `batch` rows at a time, all of them in so many `pieces`
    of whole batches that threads share out."""

    batch: int
    pieces: int
    geometry: Geometry
    schedule: Schedule

    def emit(self, emitter: Emitter, stage: Stage, target: Target, front: Front) -> None:
        """All loops of the kernel, whose last stage is `stage`; `front` writes the rows in front of it."""
        group, g = emitter.group, self.geometry
        between = group.type(group.step(stage.anchor).operands[0])
        batches = self.schedule.strips
        whole = g.batch * batches
        with emitter.parallel(self.pieces) as piece:
            rows = Rows(emitter, between, between.physical[1], self.batch)
            write = front(rows)
            last = Convolution(emitter, stage.anchor, g, self.schedule, target.lanes, target, source=rows)
            with emitter.strip(whole, self.pieces, piece) as number:
                n, batch = emitter.divmod(number, batches)
                begins = emitter.divmod(number, -(-whole // self.pieces))[1]
                write(n, batch * self.batch, begins * self.batch)
                last.strip(n, batch)


Front = Callable[[Rows], Callable[[Any, Any, Any], None]]
"""Called once in a piece, with the rows that are to be written: gives what writes a batch of them, of an image, from
which row on, and as which row of its piece."""


def projection_of(group: Group, stage: Stage, target: Target, choices: Choices, pieces: int = 0) -> Projection:
    """How the 1x1 convolution `stage` at the end of a chain is computed; the batches are cut into so many
    `pieces`, if they are as many, or else as `share` says."""
    step = group.step(stage.anchor)
    n, channels, height, width = group.type(step.operands[0]).concrete
    counts = [rows for rows in range(1, height + 1) if height % rows == 0]
    size = DTYPES["float32"] * channels * width
    fitting = [rows for rows in counts if rows * size * _PART <= target.l2_bytes] or [1]
    default = next((rows for rows in fitting if rows >= _ROWS and rows * width >= _PIXELS), fitting[-1])
    batch = choices.near("rows", counts, default)
    batches = height // batch
    shared = min(n * batches, pieces) if pieces else n * share(batches, n)
    shared = choices.near("pieces", (p for p in _PIECES if p <= n * batches), shared)
    o = step.type.concrete[1]
    if flattens(group):
        extents = batches, batch * width
        geometry = Geometry(n, channels, *extents, o, *extents, (1, 1), (1, 1), (1, 1), (0, 0), True)
    else:
        geometry = Geometry(n, channels, height, width, o, height, width, (1, 1), (1, 1), (1, 1), (0, 0), False)
    blocks = -(-channels // target.lanes)
    results = take_results(choices, blocks, is_heavy(group, stage.value), target)
    return Projection(batch, shared, geometry, _schedule(geometry, batches, target, choices, False, results))
