"""Dense convolution without dilation by Winograd's minimal filtering: F(m x m, r x r), fewer multiplications.

    result = A^T [ (G g G^T) * (B^T d B) ] A        for each tile of m x m results (Lavin and Gray, arXiv:1509.09308)

d is the (m + r - 1)^2 pixels that a tile reads, g the weights of one pair of channels, * the elementwise product.
Summed over the input channels, the products at each of the (m + r - 1)^2 places are a matrix product of pixels and
weights. It does (m + r - 1)^2 / m^2 multiplications a result in place of r^2: 2.25 instead of 9 for F(4 x 4, 3 x 3).
With a stride of s, tiles read ((m - 1) s + r)^2 pixels and have as many places (`filtering`): 6.25 for F(2 x 2, 3 x 3).

The weights are transformed, in float64, when the network is compiled. Tiles are dealt with in pieces whose pixels the
second-level cache holds:

    input transform     V[e, i, t]    of all input channels i and the tiles t of a piece
    products            M[e, t, o] = V[e, i, t] * U[e, i, o]    for some output blocks
    output transform    A^T M A, the bias, the epilogue

Either each thread has pieces of its own, with all output blocks; or, with few tiles, all threads transform the input,
and then share out the output blocks. While one place is computed, the weights of the next are asked for, and while one
block of input channels is summed up, the pixels of the next (`fetch`): the products take 0.85 to 0.9 of the time then.

One core of a Cascade Lake, beside the template for direct sums: 64 channels, 56 x 56, F(4 x 4): 0.41 of its time; 128
channels, 28 x 28: 0.37; 256 channels, 14 x 14, F(3 x 3): 0.46; with stride 2, F(2 x 2), from 28 x 28: 256 or 128 to 256
channels 0.78, 96 to 192 0.82. Transforming the weights in the kernel, to read 9 of them in place of 36, took longer
(0.52, 0.45, 0.71): what is written to the second-level cache and read again costs as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm import filtering
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template, on_stack
from specc.backends.tvm.filtering import Matrix, transforms
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import half, tiles
from specc.backends.tvm.kernels.epilogue import Epilogue, operand_packings
from specc.backends.tvm.kernels.fetch import Ahead, soon
from specc.backends.tvm.kernels.pairs import DEPTH
from specc.backends.tvm.kernels.winograd_plan import Plan, Shape, take
from specc.backends.tvm.packing import Packing
from specc.ir.types import block_of
from specc.targets import Target

_UNROLL = 2
"""Steps of the products written out in the innermost loop."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a convolution that is faster this way; None for another one."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "conv2d" or group.type(anchor).dtype != "float32":
        return None
    step = group.step(anchor)
    data, weight, *bias = step.operands
    lanes = target.lanes
    packings = operand_packings(group, lanes, anchor)
    if packings is None or step.attrs["groups"] != 1 or any(v >= len(group.inputs) for v in step.operands):
        return None
    if not all(group.inputs[v].frozen for v in (weight, *bias)) or block_of(group.type(data).layout) != lanes:
        return None
    if step.attrs["dilation"] != (1, 1) or not target.vectors:
        return None
    n, c, h, w = group.type(data).concrete
    _, o, rows, columns = step.type.concrete
    kh, kw = group.type(weight).concrete[2:]
    stride = step.attrs["stride"]
    if stride[0] > kh or stride[1] > kw:
        return None
    shape = Shape(n, -(-c // lanes), h, w, -(-o // lanes), rows, columns, (kh, kw), step.attrs["padding"][:2], stride)
    paired = group.type(data).dtype == group.type(weight).dtype == "bfloat16"
    faster = half.FASTER if half.adds_up(group, anchor, target) else 1
    plan = take(choices, shape, target, DEPTH if paired and target.pair_product else faster)
    if plan is None:
        return None
    packings[weight] = Packing("winograd", lanes, lanes, plan.m, stride, wide=True)
    packings |= {value: Packing("padded", lanes) for value in bias}
    count = shape.batch * -(-shape.rows // plan.m[0]) * -(-shape.columns // plan.m[1])
    once = count % plan.size == 0 and shape.outputs % plan.blocks == 0
    return Template(lambda emitter: _Winograd(emitter, anchor, shape, plan, target).emit(), packings, once=once)


class _Transform:
    """Multiplies vectors of expressions by a matrix, in a vector loop; what is used twice stays in registers."""

    def __init__(self, emitter: Emitter, matrix: Matrix, lanes: int) -> None:
        self.emitter, self.matrix = emitter, matrix
        self.kept = Registers(max(1, filtering.uses(matrix)), lanes, "float32")

    def __call__(self, values: Sequence[Any], lane: Any) -> list[Any]:
        """The products, as expressions that hold until the next call."""
        used = 0

        def keep(value: Any) -> Any:
            nonlocal used
            self.emitter.store(self.kept, value, [used, lane])
            used += 1
            return self.kept[used - 1, lane]

        return filtering.product(self.matrix, values, keep)


class _Winograd:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, anchor: int, shape: Shape, plan: Plan, target: Target) -> None:
        self.emitter, self.shape, self.plan, self.target, self.lanes = emitter, shape, plan, target, target.lanes
        data, weight, *bias = emitter.group.step(anchor).operands
        self.data, self.weight = data, emitter.buffers[weight]
        self.bias = emitter.buffers[bias[0]] if bias else None
        self.epilogue = Epilogue(emitter, anchor, self.lanes)
        self.matrices = [*map(transforms, plan.m, shape.kernel, shape.stride)]
        self.taken = plan.taken(shape)
        self.places = prod(self.taken)
        self.down, self.across = -(-shape.rows // plan.m[0]), -(-shape.columns // plan.m[1])

    def emit(self) -> None:
        """All loops. The last piece, and the last output blocks, begin early enough to be whole ones."""
        emitter, shape, size, blocks = self.emitter, self.shape, self.plan.size, self.plan.blocks
        count = shape.batch * self.down * self.across
        groups, pieces = -(-shape.outputs // blocks), -(-count // size)
        if self.plan.own:
            with emitter.parallel(pieces) as piece:
                first = _begin(piece, size, count)
                v = self._scratch(shape.inputs * size)
                with emitter.serial(shape.inputs) as c:
                    self._inputs(v, c, first)
                with emitter.serial(groups) as group:
                    self._blocks(v, _begin(group, blocks, shape.outputs), first)
            return
        v = self._scratch(shape.inputs * size)
        with emitter.serial(pieces) as piece:
            first = _begin(piece, size, count)
            with emitter.parallel(shape.inputs) as c:
                self._inputs(v, c, first)
            with emitter.parallel(groups) as group:
                self._blocks(v, _begin(group, blocks, shape.outputs), first)

    def _scratch(self, vectors: int) -> Any:
        """Memory for so many vectors at each place; and one more, lest all places fall on the same set of a cache."""
        return T.alloc_buffer((self.places, vectors + 1, self.lanes), "float32")

    # ---- input transform ------------------------------------------------------------------------------------------

    def _inputs(self, v: Any, c: Any, first: Any) -> None:
        """B^T d B for all tiles of a piece, and one block of input channels."""
        emitter, shape, (height, width) = self.emitter, self.shape, self.taken
        down, across = (_Transform(emitter, matrices[2], self.lanes) for matrices in self.matrices)
        half = Registers(height * width, self.lanes, "float32")
        read = Registers(width, self.lanes, "float32")
        with emitter.serial(self.plan.size) as t:
            n, y, x = self._place(first + t)
            top = y * self.plan.m[0] * shape.stride[0] - shape.padding[0]
            left = x * self.plan.m[1] * shape.stride[1] - shape.padding[1]

            def transform(checked: bool) -> None:
                with emitter.lanes(self.lanes) as lane:
                    for r in range(height):
                        row = [
                            self._pixel(n, c, top + r, left + s, lane, (read, s) if checked else None)
                            for s in range(width)
                        ]
                        for f, value in enumerate(across(row, lane)):
                            emitter.store(half, value, [r * width + f, lane])
                    for f in range(width):
                        for e, value in enumerate(down([half[r * width + f, lane] for r in range(height)], lane)):
                            emitter.store(v, value, [e * width + f, c * self.plan.size + t, lane])

            inside = emitter.math.all(top >= 0, left >= 0, top + height <= shape.height, left + width <= shape.width)
            if isinstance(inside, bool):
                transform(not inside)
            else:
                with T.If(inside):
                    with T.Then():
                        transform(checked=False)
                    with T.Else():
                        transform(checked=True)

    def _pixel(self, n: Any, c: Any, row: Any, column: Any, lane: Any, checked: tuple[Registers, int] | None) -> Any:
        """A vector of the input; if it is to be `checked`, zeros outside of it, by way of that register."""
        if checked is None:
            return self.emitter.load(self.data, n, c, row, column, lane)
        emitter, shape, (registers, number) = self.emitter, self.shape, checked
        math = emitter.math
        at = (n, c, math.clip(row, 0, shape.height - 1), math.clip(column, 0, shape.width - 1), lane)
        # What is read is always inside, and no branch is needed. It must not stand within the condition: TVM would
        # leave out the limits there, for they change nothing where it holds.
        emitter.store(registers, emitter.load(self.data, *at), [number, lane])
        inside = math.all(row >= 0, row < shape.height, column >= 0, column < shape.width)
        value, zero = registers[number, lane], tirx.const(0.0, "float32")
        return tirx.Select(inside, value, zero) if not isinstance(inside, bool) else value if inside else zero

    def _place(self, tile: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of a tile."""
        rest, x = self.emitter.divmod(tile, self.across)
        n, y = self.emitter.divmod(rest, self.down)
        return n, y, x

    # ---- products -------------------------------------------------------------------------------------------------

    def _blocks(self, v: Any, block: Any, first: Any) -> None:
        """The results of a piece in some output blocks from `block` on."""
        emitter, plan = self.emitter, self.plan
        m = self._scratch(plan.size * plan.blocks)
        self._products(v, m, block)
        with emitter.serial(plan.size) as t, emitter.serial(plan.blocks) as j:
            self._outputs(m, t * plan.blocks + j, block + j, first + t)

    def _products(self, v: Any, m: Any, block: Any) -> None:
        """At each place, the matrix product of the pixels of all tiles of a piece and the weights of some blocks."""
        emitter, lanes, plan, wide, inputs = self.emitter, self.lanes, self.plan, self.plan.blocks, self.shape.inputs
        pixels = tiles.choose(self.plan.size, wide, self.target, wide).pixels
        runs = tiles.runs(self.plan.size, pixels)
        rows = inputs * lanes
        ahead = Ahead(emitter, wide, rows, sum(count for _, count, _ in runs), rows // _UNROLL)
        done = 0
        with emitter.serial(self.places) as e:
            for start, count, size in runs:
                accumulators = Registers(size * wide, lanes, "float32")
                with emitter.serial(count) as number, emitter.lanes(lanes) as lane:
                    t = start + number * size
                    for i in range(size * wide):
                        emitter.store(accumulators, tirx.const(0.0, "float32"), [i, lane])
                    with emitter.serial(inputs) as c, emitter.serial(lanes // _UNROLL) as outer:
                        # Behind the last place lie the weights of the next output block.
                        step = c * (lanes // _UNROLL) + outer
                        ahead(done + number, step, self.weight, lambda j, row: (block + j, e + 1, row, 0))
                        following = tirx.Select(c == inputs - 1, size, (c + 1) * self.plan.size)
                        for k in (outer * _UNROLL + q for q in range(_UNROLL)):
                            if plan.soon:
                                for j in range(wide):
                                    soon(self.weight, block + j, e, c * lanes + k + plan.soon, 0)
                            if plan.inputs:
                                soon(v, e, following + t + k, 0)
                            for i in range(size):
                                pixel = v[e, c * self.plan.size + t + i, k]
                                for j in range(wide):
                                    weight = self.weight[block + j, e, c * lanes + k, lane]
                                    position = (i * wide + j, lane)
                                    emitter.store(accumulators, accumulators[position] + pixel * weight, position)
                    for i in range(size):
                        for j in range(wide):
                            emitter.store(m, accumulators[i * wide + j, lane], [e, (t + i) * wide + j, lane])
                done += count

    # ---- output transform -----------------------------------------------------------------------------------------

    def _outputs(self, m: Any, at: Any, block: Any, tile: Any) -> None:
        """A^T M A of one tile and one output block, with bias and epilogue."""
        emitter, shape, (height, width), (rows, columns) = self.emitter, self.shape, self.taken, self.plan.m
        n, y, x = self._place(tile)
        down = _Transform(emitter, self.matrices[0][0], self.lanes)
        half = on_stack((rows * width, self.lanes), "float32")
        with emitter.lanes(self.lanes) as lane:
            for f in range(width):
                for i, value in enumerate(down([m[e * width + f, at, lane] for e in range(height)], lane)):
                    emitter.store(half, value, [i * width + f, lane])
        whole = shape.rows % rows == 0
        with emitter.serial(rows if whole else T.Bind(tirx.min(rows, shape.rows - y * rows))) as i:
            place = (n, y * rows + i, x * columns)
            values = [(i * width + f) for f in range(width)]
            last = shape.columns % columns
            if not last or self.across == 1:
                self._row(half, values, block, place, last or columns)
            else:
                with T.If(x < self.across - 1):
                    with T.Then():
                        self._row(half, values, block, place, columns)
                    with T.Else():
                        self._row(half, values, block, place, last)

    def _row(self, half: Any, numbers: list[Any], block: Any, place: tuple[Any, Any, Any], count: int) -> None:
        """The first `count` results of a row of a tile, from vectors of `half`."""
        across = _Transform(self.emitter, self.matrices[1][0], self.lanes)
        tile = self.epilogue.tile(count, [block])
        with self.emitter.lanes(self.lanes) as lane:
            for p, value in enumerate(across([half[number, lane] for number in numbers], lane)[:count]):
                biased = value if self.bias is None else value + self.bias[block * self.lanes + lane]
                self.emitter.store(tile.accumulators, biased, [p, lane])
            tile.finish(*place, lane)
        tile.flush(*place)


def _begin(number: Any, size: int, extent: int) -> Any:
    """Where piece `number` of `size` begins."""
    return number * size if extent % size == 0 else tirx.min(number * size, extent - size)
