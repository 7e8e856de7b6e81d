"""Dense convolutions in float32 by Winograd's minimal filtering: three launches, fewer multiplications.

    result = A^T [ (G g G^T) * (B^T d B) ] A        for each tile of m x m results (Lavin and Gray, arXiv:1509.09308)

`kernels/winograd.py` has the algebra; the matrices (`filtering`), the points in them, the bound on rounding and the
packed weights G g G^T are the same here.

    input transform     V[e, i, t] = B^T d B                    a thread has an input channel i of a tile t
    products            M[e, o, t] = sum over i of U[e, i, o] * V[e, i, t]      `products`, with e as its batch
    output transform    A^T M A, the bias, the epilogue         a thread has an output channel o of a tile t

Tiles are innermost between the launches: what a warp writes, and what the products and the output transform read, are
runs. A thread keeps its tile in registers, 36 numbers for F(4 x 4, 3 x 3); borders are zeros that nobody reads. Where
the products are in parts, the output transform adds them up.

F(4 x 4, 3 x 3) multiplies a quarter as often as direct sums, and moves 2 * 36 / 16 numbers for each pixel of a channel
to memory and back. A model weighs this, and two more launches, against the one launch of direct sums (`products`). No
GPU was at hand to measure what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import gcd, prod
from typing import Any

from specc.backends.tvm import filtering
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda import products
from specc.backends.tvm.cuda.occupancy import LAUNCH, MEMORY_RATE, ROUND_TRIP, moved
from specc.backends.tvm.cuda.operands import Destination, Product, Results, anchor_of
from specc.backends.tvm.cuda.threads import BLOCK, WARP, grid, local, only_if, unravel
from specc.backends.tvm.emitter import Emitter, Index, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.filtering import Matrix, transforms
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels.winograd_plan import CHOICE
from specc.backends.tvm.packing import Packing
from specc.ir.types import TensorType
from specc.targets import Target

_GAIN = 0.9
"""Of the cycles that direct sums take: with more, the greater error and the memory are not worth it."""

_ALIKE = 1.05
"""Up to this factor, a model that nobody has measured does not tell which of two takes longer."""

_MOST = 2**31 - 1
"""Numbers between the launches: indices have 32 bits."""

_HELD = 81
"""Places of a tile that a thread holds in registers, at most: 9 x 9 take 128 registers or less, and none is spilled."""

_EACH = 6
"""Cycles of a multiprocessor that a warp of a transform takes for a place of its tiles: to read it, where the tiles of
a warp touch four lines of the cache, to compute it, and to write it."""


@dataclass(frozen=True)
class Shape:
    """A convolution by tiles of `m` results: `sizes` are those of its direct sums as one product (`products`)."""

    pictures: int
    channels: int
    outputs: int
    extents: tuple[int, int]
    places: tuple[int, int]
    kernel: tuple[int, int]
    padding: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    m: tuple[int, int] = (1, 1)

    @property
    def taken(self) -> tuple[int, int]:
        """Rows and columns that a tile reads; as many places have products."""
        rows, columns = ((m - 1) * s + k for m, s, k in zip(self.m, self.stride, self.kernel, strict=True))
        return rows, columns

    @property
    def grid(self) -> tuple[int, int, int]:
        """The tiles: of all pictures, down and across."""
        return self.pictures, -(-self.places[0] // self.m[0]), -(-self.places[1] // self.m[1])

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Batch, rows, columns and terms of the products."""
        return prod(self.taken), self.outputs, prod(self.grid), self.channels


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a convolution that is faster this way; None for another one."""
    found = anchor_of(group)
    if found is None:
        return None
    anchor, direct = found
    step = group.step(anchor)
    data, weight = step.operands[:2]
    if step.op != "conv2d" or step.attrs["groups"] != 1 or not group.inputs[weight].frozen:
        return None
    stride = step.attrs["stride"]
    if step.attrs["dilation"] != (1, 1) or not products.worth(direct):
        return None
    if group.type(data).dtype != "float32" or group.type(weight).dtype != "float32":
        return None
    n, c, h, w = group.type(data).concrete
    _, o, rows, columns = step.type.concrete
    kh, kw = group.type(weight).concrete[2:]
    top, left = step.attrs["padding"][:2]
    if stride[0] > kh or stride[1] > kw:
        return None
    tiles = filtering.tiles((kh, kw), target.rounding, stride)
    shapes = [Shape(n, c, o, (h, w), (rows, columns), (kh, kw), (top, left), stride, m) for m in tiles]
    shapes = [shape for shape in shapes if prod(shape.taken) <= _HELD]
    between = [prod(shape.taken) * prod(shape.grid) * max(c, o) for shape in shapes]
    shapes = [shape for shape, numbers in zip(shapes, between, strict=True) if numbers <= _MOST]
    shape = _choose(shapes, direct, target, choices)
    if shape is None:
        return None
    tile, splits = products.choose(shape.sizes, target, choices)
    packings = {weight: Packing("winograd", o, 1, shape.m, stride)}
    return Template(lambda emitter: _Winograd(emitter, anchor, shape, tile, splits).emit(), packings)


def _choose(shapes: list[Shape], direct: tuple[int, int, int, int], target: Target, choices: Choices) -> Shape | None:
    """The tiles of least time, or, of those that take about as long, of least rounding errors; of its own accord none
    where direct sums of these sizes take hardly more."""
    taken = {shape: cycles(shape, target) for shape in shapes}
    if not taken:
        return None
    near = [shape for shape in taken if taken[shape] <= _ALIKE * min(taken.values())]
    best = min(near, key=lambda shape: (prod(map(filtering.growth, shape.m, shape.kernel, shape.stride)), taken[shape]))
    ranked = [best, *sorted(taken, key=lambda shape: taken[shape])]
    found = {f"{shape.m[0]}x{shape.m[1]}": shape for shape in ranked}
    pays = taken[best] < _GAIN * direct_cycles(best, direct, target)
    return found.get(choices.take(CHOICE, (*found, "none"), next(iter(found)) if pays else "none"))


def cycles(shape: Shape, target: Target) -> float:
    """Cycles of the three launches, by the models of `products` and `occupancy`."""
    places, outputs, tiles, channels = shape.sizes
    source, result = _ends(shape)
    before, behind = 4 * places * channels * tiles, 4 * places * outputs * tiles

    def transform(threads: int, tensors: tuple[int, int]) -> float:
        warps = -(-threads // (WARP * target.processors))
        return ROUND_TRIP + max(warps * places * _EACH, moved(tensors, target))

    multiplied = _product(shape.sizes, (before, behind), target)
    ends = transform(channels * tiles, (source, before)) + transform(outputs * tiles, (behind, result))
    return ends + multiplied + 2 * LAUNCH


def direct_cycles(shape: Shape, sizes: tuple[int, int, int, int], target: Target) -> float:
    """Cycles of direct sums."""
    return _product(sizes, _ends(shape), target)


def _ends(shape: Shape) -> tuple[int, int]:
    """Bytes of the input and of the result."""
    pixels = shape.channels * prod(shape.extents), shape.outputs * prod(shape.places)
    return 4 * shape.pictures * pixels[0], 4 * shape.pictures * pixels[1]


def _product(sizes: tuple[int, int, int, int], tensors: tuple[int, int], target: Target) -> float:
    """Cycles of a launch with products, of so many bytes beside the weights. These a run reads once: from memory."""
    batch, rows, _, terms = sizes
    weights = 4 * batch * rows * terms / (MEMORY_RATE * target.processors)
    computed = products.cycles(*products.choose(sizes, target, Choices()), sizes, target)
    return ROUND_TRIP + max(computed, weights + moved(tensors, target))


class _Winograd:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, anchor: int, shape: Shape, tile: products.Tile, splits: int) -> None:
        self.emitter, self.anchor, self.shape, self.tile, self.splits = emitter, anchor, shape, tile, splits
        self.matrices = [transforms(*each) for each in zip(shape.m, shape.kernel, shape.stride, strict=True)]
        self.data, self.weight, *self.bias = emitter.group.step(anchor).operands
        places, outputs, tiles, channels = shape.sizes
        self.inputs = emitter.temporary(TensorType((places, channels, tiles)))
        self.sums = emitter.temporary(TensorType((splits, places, outputs, tiles)))

    def emit(self) -> None:
        self._each(self.shape.channels, self._input)
        self._multiply()
        self._each(self.shape.outputs, self._output)

    def _each(self, channels: int, write: Callable[[Any, Any], None]) -> None:
        """A launch with a thread for each tile of each channel; `write` has the numbers of both."""
        emitter, tiles = self.emitter, prod(self.shape.grid)
        count = channels * tiles
        with grid(emitter, -(-count // BLOCK), BLOCK) as (block, thread):
            number = block * BLOCK + thread
            with only_if(count % BLOCK == 0 or number < count):
                write(*emitter.divmod(number, tiles))

    def _transformed(self, matrix: Matrix, values: list[Scalar]) -> list[Scalar]:
        """`matrix` times a vector, in registers."""
        let = self.emitter.math.let
        return [let(value) for value in filtering.product(matrix, values, let)]

    def _corner(self, tile: Any) -> tuple[Any, Any, Any]:
        """The picture of a tile, and the row and the column of its first result."""
        picture, down, across = unravel(self.emitter, tile, self.shape.grid)
        return picture, self.emitter.simplify(down * self.shape.m[0]), self.emitter.simplify(across * self.shape.m[1])

    # ---- the launches -----------------------------------------------------------------------------------------------

    def _input(self, channel: Any, tile: Any) -> None:
        """B^T d B of a tile."""
        shape, (down, across) = self.shape, (matrices[2] for matrices in self.matrices)
        picture, *corner = self._corner(tile)
        height, width = shape.taken
        math, x = self.emitter.math, self.emitter.input(self.data)

        def pixel(r: int, s: int) -> Scalar:
            place, inside = [], []
            for axis, offset in enumerate((r, s)):
                at = self.emitter.simplify(corner[axis] * shape.stride[axis] + (offset - shape.padding[axis]))
                last = (shape.grid[axis + 1] - 1) * shape.m[axis] * shape.stride[axis] + offset - shape.padding[axis]
                inside += [at >= 0 if offset < shape.padding[axis] else True]
                inside += [at < shape.extents[axis] if last >= shape.extents[axis] else True]
                place.append(at)
            return math.let(math.select(math.all(*inside), x(picture, channel, *place), math.const(0.0, "float32")))

        rows = [self._transformed(across, [pixel(r, s) for s in range(width)]) for r in range(height)]
        for f in range(width):
            for e, value in enumerate(self._transformed(down, [row[f] for row in rows])):
                self.emitter.store(self.inputs.buffer, value, [e * width + f, channel, tile])

    def _multiply(self) -> None:
        """The products at all places."""
        emitter, buffer = self.emitter, self.inputs.buffer
        places, outputs, tiles, channels = self.shape.sizes

        def left(b: Any, m: Any, k: Any) -> Scalar:
            return Scalar(emitter.load(self.weight, 0, b, k, m), reads=True)

        def right(b: Any, k: Any, n: Any) -> Scalar:
            return Scalar(buffer[b, k, n], reads=True)

        def put(place: tuple[Any, Any, Any], split: Any, total: Scalar) -> None:
            emitter.store(self.sums.buffer, total, [split, *place])

        def same(b: Any, m: Any, n: Any) -> tuple[Any, Any, Any]:
            return b, m, n

        factors = Product(places, outputs, tiles, same, tiles, None, channels, left, right, "m", "n")
        products.Tiles(emitter, factors, self.tile, self.splits, put).emit()

    def _output(self, channel: Any, tile: Any) -> None:
        """A^T M A of a tile, finished."""
        emitter, shape, (down, across) = self.emitter, self.shape, (matrices[0] for matrices in self.matrices)
        (height, width), bias = shape.taken, self.bias
        picture, row, column = self._corner(tile)

        def total(e: int) -> Scalar:
            found = Scalar(self.sums.buffer[0, e, channel, tile])
            for split in range(1, self.splits):
                found = found + Scalar(self.sums.buffer[split, e, channel, tile])
            return emitter.math.let(found)

        def place(b: Any, m: Any, n: Any) -> Index:
            """The index of a result: b is a picture and a channel, m a row, n a column."""
            return (*b, m, n)

        shift = (lambda index: emitter.input(bias[0])(index[1])) if bias else None
        batch, run = shape.pictures * shape.outputs, gcd(shape.m[1], shape.places[1])
        destination = Destination(batch, *shape.places, place, run, shift)
        results = Results(emitter, self.anchor, destination)
        columns = [self._transformed(down, [total(e * width + f) for e in range(height)]) for f in range(width)]
        held = local(shape.m[1], "float32")

        def read(first: int, number: Any) -> Scalar:
            return Scalar(held[first + number])

        for i in range(shape.m[0]):
            y = emitter.simplify(row + i)
            with only_if(self._inside(y, i, 0)):
                for j, value in enumerate(self._transformed(across, [values[i] for values in columns])):
                    emitter.store(held, value, [j])
                for j in range(0, shape.m[1], results.run):
                    x = emitter.simplify(column + j)
                    with only_if(self._inside(x, j, 1)):
                        results.put_run(((picture, channel), y, x), 0, partial(read, j))

    def _inside(self, at: Any, offset: int, axis: int) -> Any:
        """Whether a result at an offset in its tile is one."""
        extent, m = self.shape.places[axis], self.shape.m[axis]
        return True if offset < (extent % m or m) else at < extent
