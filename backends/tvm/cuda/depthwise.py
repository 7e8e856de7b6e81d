"""Depthwise convolutions: a tile of a channel's picture with its halo in shared memory, several results in each thread.

    result[n, c, y, x] = epilogue(sum over i, j of w[c, 0, i, j] * x[n, c // m, y * s + i * d - p, x * s + j * d - p])

A block has a tile of one plane, or of several where planes are small, and the weights of these. What the tile needs is
read from memory once, zeros around the picture. A thread has some results that lie below each other: for each column of
the kernel it reads the column of the tile that all of them need, and then multiplies from registers; neighbouring
threads read neighbouring words. Where the kernel is wider than high, the results lie beside each other and rows are
read: an odd number of them, so that the threads of a warp read from different banks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda import occupancy
from specc.backends.tvm.cuda.threads import WARP, barrier, grid, local, only_if, shared, unravel, unrolled
from specc.backends.tvm.emitter import Emitter, Index, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group, Step
from specc.ir.dtypes import DTYPES, HALVES
from specc.targets import Target

WRITTEN_OUT = 256
"""Multiplications of a thread up to which all are written out; beyond, a loop goes over one side of the kernel."""


@dataclass(frozen=True)
class Window:
    """The extents of a convolution: each a pair of height and width."""

    planes: int
    places: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    element: int = 4
    """Bytes of an element of the picture."""

    def needed(self, results: int, axis: int) -> int:
        """The extent of the input that so many results beside each other need."""
        return (results - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def offsets(self, results: int, axis: int) -> list[int]:
        """What a thread reads along an axis for so many results."""
        along, taps = range(results), range(self.kernel[axis])
        return sorted({r * self.stride[axis] + t * self.dilation[axis] for r in along for t in taps})


@dataclass(frozen=True)
class Tile:
    """The results of a block: planes, rows and columns; of a thread, `results` along the axis 0 (down) or 1."""

    planes: int
    extents: tuple[int, int]
    axis: int
    results: int

    @property
    def name(self) -> str:
        return (
            f"{self.planes}x{self.extents[0]}x{self.extents[1]}_{'down' if self.axis == 0 else 'across'}{self.results}"
        )

    @property
    def grid(self) -> tuple[int, int]:
        """The threads of a plane: rows and columns."""
        rows, columns = self.extents
        return (-(-rows // self.results), columns) if self.axis == 0 else (rows, -(-columns // self.results))

    @property
    def working(self) -> int:
        return self.planes * prod(self.grid)

    @property
    def threads(self) -> int:
        return -(-self.working // WARP) * WARP

    def inputs(self, window: Window) -> tuple[int, int]:
        """The extents of what lies in shared memory of a plane: of whole threads, though some results be none."""
        rows, columns = self.grid
        whole = (rows * self.results, columns) if self.axis == 0 else (rows, columns * self.results)
        return window.needed(whole[0], 0), window.needed(whole[1], 1)


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a depthwise convolution; None for another group."""
    anchor = group.anchor if group.single else None
    if anchor is None or group.step(anchor).op != "conv2d":
        return None
    step = group.step(anchor)
    if any(operand.type.layout or operand.type.dtype not in ("float32", *HALVES) for operand in group.inputs):
        return None
    per_group, shape = group.type(step.operands[1]).concrete[1], step.type.concrete
    if per_group != 1 or group.result.shape != step.type.shape or not prod(shape):
        return None
    tile = choose(window_of(group, step), target, choices)
    if tile is None:
        return None
    return Template(lambda emitter: _Tiles(emitter, anchor, tile).emit())


def window_of(group: Group, step: Step) -> Window:
    """The extents of a step that is a depthwise convolution."""
    n, c, *places = step.type.concrete
    kernel = group.type(step.operands[1]).concrete[2:]
    attrs = step.attrs
    height, width = places
    size, window = DTYPES[group.type(step.operands[0]).dtype], (kernel[0], kernel[1])
    return Window(n * c, (height, width), window, tuple(attrs["stride"]), tuple(attrs["dilation"]), size)


def _held(window: Window, tile: Tile) -> int:
    """Blocks that share a multiprocessor."""
    registers = tile.results + len(window.offsets(tile.results, tile.axis)) + 32
    return occupancy.resident(
        tile.threads, registers, 4 * tile.planes * (prod(tile.inputs(window)) + prod(window.kernel))
    )


def cycles(window: Window, tile: Tile, target: Target) -> float:
    """What a convolution takes, in cycles of a multiprocessor: halos come from the second-level cache."""
    blocks = -(-window.planes // tile.planes) * prod(-(-p // e) for p, e in zip(window.places, tile.extents))
    taps, other = prod(window.kernel), window.kernel[1 - tile.axis]
    # In a cycle, a multiprocessor multiplies with four warps, and one reads from shared memory.
    reads = other * len(window.offsets(tile.results, tile.axis)) + taps
    inputs = tile.planes * prod(tile.inputs(window))
    own = tile.threads / WARP * (tile.results * taps / 4 + reads) + inputs / WARP * 6
    resident = min(_held(window, tile), -(-blocks // target.processors))
    busy = max(
        resident * own, resident * inputs * window.element / occupancy.COPY_RATE, 4 * own / (tile.threads / WARP)
    )
    return occupancy.waves(blocks, resident, target) * (busy + occupancy.ROUND_TRIP)


def choose(window: Window, target: Target, choices: Choices) -> Tile | None:
    """The tile that a model of instructions, traffic and waves of blocks gives least time; None if none fits."""
    height, width = window.places

    def even(extent: int, most: int) -> int:
        return -(-extent // -(-extent // most))

    columns = {even(width, most) for most in (16, 32, 64)}
    options = [
        Tile(planes, (rows, each), axis, results)
        for axis, several in ((0, (1, 2, 4, 8)), (1, (3, 5, 7)))
        for results in several
        for each in columns
        for rows in {even(height, most) for most in (4, 8, 16, 32, 64)}
        for planes in (1, 2, 4, 8, 16)
    ]
    fitting = [t for t in options if 32 <= t.threads <= 512 and _held(window, t) and t.planes <= window.planes]
    found = {tile.name: tile for tile in sorted(fitting, key=lambda tile: cycles(window, tile, target))}
    return found[choices.take("tile", list(found)[:32], next(iter(found)))] if found else None


class _Tiles:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, anchor: int, tile: Tile) -> None:
        self.emitter, self.anchor, self.tile = emitter, anchor, tile
        self.step = emitter.group.step(anchor)
        self.window = window_of(emitter.group, self.step)
        self.channels = self.step.type.concrete[1]
        self.inputs = tile.inputs(self.window)

    def emit(self) -> None:
        emitter, tile, window = self.emitter, self.tile, self.window
        down, across = (-(-p // e) for p, e in zip(window.places, tile.extents))
        with grid(emitter, -(-window.planes // tile.planes) * down * across, tile.threads) as (block, thread):
            rest, column = emitter.divmod(block, across)
            number, row = emitter.divmod(rest, down)
            self.first = emitter.simplify(number * tile.planes)
            self.origin = (emitter.simplify(row * tile.extents[0]), emitter.simplify(column * tile.extents[1]))
            self.picture = shared((tile.planes, *self.inputs), "float32")
            self.weights = shared((tile.planes, *window.kernel), "float32")
            self._load(thread)
            barrier()
            with only_if(tile.working == tile.threads or thread < tile.working):
                plane, y, x = unravel(emitter, thread, (tile.planes, *tile.grid))
                steps = (tile.results, 1) if tile.axis == 0 else (1, tile.results)
                self._compute(plane, (emitter.simplify(y * steps[0]), emitter.simplify(x * steps[1])))

    def _plane(self, number: Any) -> tuple[Any, Any]:
        """The picture and the channel of plane `number` of the block; the last one's behind it."""
        plane = self.emitter.simplify(self.first + number)
        if self.window.planes % self.tile.planes:
            plane = tirx.min(plane, self.window.planes - 1)
        return self.emitter.divmod(plane, self.channels)

    def _load(self, thread: Any) -> None:
        """The pictures with their halo, and the weights, to shared memory."""
        emitter, tile, step, window = self.emitter, self.tile, self.step, self.window
        shape = emitter.group.type(step.operands[0]).concrete
        x, weight, math = emitter.input(step.operands[0]), emitter.input(step.operands[1]), emitter.math
        each = self.channels // shape[1]

        for extents, buffer in ((self.inputs, self.picture), (window.kernel, self.weights)):
            count = tile.planes * prod(extents)
            with emitter.serial(-(-count // tile.threads)) as turn:
                number = emitter.simplify(turn * tile.threads + thread)
                with only_if(count % tile.threads == 0 or number < count):
                    plane, row, column = unravel(emitter, number, (tile.planes, *extents))
                    n, c = self._plane(plane)
                    if buffer is self.weights:
                        value = weight(c, 0, row, column)
                    else:
                        at = [
                            emitter.simplify(origin * s + i - p)
                            for origin, s, i, p in zip(self.origin, window.stride, (row, column), step.attrs["padding"])
                        ]
                        inside = math.all(*(tirx.all(i >= 0, i < extent) for i, extent in zip(at, shape[2:])))
                        c = emitter.divmod(c, each)[0]
                        value = math.select(inside, x(n, c, *at), math.const(0.0, "float32"))
                    emitter.store(buffer, value, [plane, row, column])

    def _compute(self, plane: Any, place: tuple[Any, Any]) -> None:
        """The results of a thread, the first one of which lies at `place` in the tile."""
        emitter, tile, window, axis = self.emitter, self.tile, self.window, self.tile.axis
        sums = local(tile.results, "float32")
        with unrolled(emitter, tile.results) as i:
            emitter.store(sums, tirx.const(0.0, "float32"), [i])
        corner = [emitter.simplify(i * s) for i, s in zip(place, window.stride)]
        offsets = window.offsets(tile.results, axis)
        with self._over(window.kernel[1 - axis]) as other:
            beside = emitter.simplify(corner[1 - axis] + other * window.dilation[1 - axis])

            def read(buffer: Any, along: Any, beside: Any) -> Scalar:
                at = (along, beside) if axis == 0 else (beside, along)
                return emitter.math.let(Scalar(buffer[(plane, *at)]))

            values = {offset: read(self.picture, emitter.simplify(corner[axis] + offset), beside) for offset in offsets}
            for tap in range(window.kernel[axis]):
                factor = read(self.weights, tap, other)
                for i in range(tile.results):
                    value = values[i * window.stride[axis] + tap * window.dilation[axis]]
                    emitter.store(sums, Scalar(sums[i]) + value * factor, [i])
        self._store(plane, place, sums)

    @contextmanager
    def _over(self, extent: int) -> Iterator[Any]:
        """A loop over the other side of the kernel."""
        small = self.tile.results * prod(self.window.kernel) <= WRITTEN_OUT
        with (unrolled if small else Emitter.serial)(self.emitter, extent) as number:
            yield number

    def _store(self, plane: Any, place: tuple[Any, Any], sums: Any) -> None:
        emitter, tile, window, step = self.emitter, self.tile, self.window, self.step
        n, c = self._plane(plane)
        bias = step.operands[2:]
        whole = window.planes % tile.planes == 0 or self.emitter.simplify(self.first + plane) < window.planes
        for i in range(tile.results):
            steps = (i, 0) if tile.axis == 0 else (0, i)
            inner = [emitter.simplify(p + s) for p, s in zip(place, steps)]
            at = [emitter.simplify(o + p) for o, p in zip(self.origin, inner)]
            # A tile has no results in another one's place, though its threads come to more.
            limits = [
                True if e % (tile.results if axis == tile.axis else 1) == 0 else p < e
                for axis, (p, e) in enumerate(zip(inner, tile.extents))
            ]
            ends = [True if extent % e == 0 else p < extent for p, extent, e in zip(at, window.places, tile.extents)]
            with only_if(emitter.math.all(whole, *limits, *ends)):
                total = Scalar(sums[i])
                if bias:
                    total = total + emitter.input(bias[0])(c)
                total = emitter.math.let(total)

                def leaf(number: int, index: Index, total: Scalar = total) -> Scalar:
                    return total if number == self.anchor else emitter.input(number)(*index)

                result, index = emitter.result(), (n, c, *at)
                result.put(emitter.evaluate(emitter.group.last, index, leaf), result.position(index))
