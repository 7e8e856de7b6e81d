"""Convolutions and matrix products, in tiles that a block of threads computes from shared memory.

    result[b, m, n] = epilogue(sum over k of left[b, m, k] * right[b, k, n])

A convolution is such a product without its matrix of patches in memory ("implicit GEMM"): m is an output channel of a
group, n a pixel of any picture, k a tap and an input channel; pixels are neighbours in memory, and so are the threads
that read them. A linear layer has rows as m and outputs as n. Frozen weights are stored with k outermost, so that a
block reads runs of them.

A block computes `rows` x `columns` results. For 16 steps of k after the other it brings both sides to shared memory, by
way of registers: while one such part is multiplied, the next one is on its way. Each thread holds a tile of 4x4 to 8x8
results in registers, and reads runs of four of each side. Where there are too few tiles for the GPU's
multiprocessors, k is split: each part is a block of its own, and a second launch adds them up.

Which tile, the time decides that a rough model gives: as many waves of blocks as there are, each as long as the tile's
multiplications take with as many warps as a multiprocessor has then. (Tiles in shared memory and registers: Volkov and
Demmel 2008; Kerr, Merrill and Tran, "CUTLASS", 2017.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod, sqrt
from typing import Any

from tvm import tirx

from specc.backends.tvm.cuda.threads import BLOCK, barrier, grid, local, only_if, shared, unravel, unrolled
from specc.backends.tvm.emitter import Emitter, Index, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group, Step
from specc.backends.tvm.packing import Packing
from specc.ir.types import TensorType
from specc.targets import Target

_STEP = 16
"""Terms of k that lie in shared memory at a time."""

_LEAST = 8
"""The least extent of rows, columns and terms for which a tile is worth its while."""

_PROCESSORS = 108
"""Multiprocessors of a GPU, for the choice of tiles: those of an A100; an L40 has 142, an H100 132."""

_LAUNCH = 400_000
"""What another launch costs, in multiplications that a multiprocessor does meanwhile: about 2 us."""


@dataclass(frozen=True)
class Tile:
    """Results of a block, and of each of its threads."""

    rows: int
    columns: int
    down: int
    across: int

    @property
    def threads(self) -> int:
        return self.rows * self.columns // (self.down * self.across)


TILES = (
    Tile(128, 128, 8, 8),
    Tile(128, 64, 8, 4),
    Tile(64, 128, 4, 8),
    Tile(64, 64, 4, 4),
    Tile(64, 32, 4, 4),
    Tile(32, 64, 4, 4),
    Tile(32, 32, 4, 4),
)
_SPLITS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Product:
    """What is multiplied. `left` and `right` read an element; `*_runs` says along which index they lie in memory."""

    batch: int
    rows: int
    columns: int
    terms: int
    left: Callable[[Any, Any, Any], Scalar]
    right: Callable[[Any, Any, Any], Scalar]
    left_runs: str
    right_runs: str
    place: Callable[[Any, Any, Any], Index]
    """The index in the result of [b, m, n]."""
    bias: Callable[[Index], Scalar] | None = None


def lower(group: Group, target: Target) -> Template | None:
    """The template of a group with a product that is worth a tile and pointwise steps behind it; None for another."""
    anchor = group.anchor if group.single else None
    if anchor is None:
        return None
    step = group.step(anchor)
    sizes = _sizes(group, step)
    if sizes is None or group.result.shape != step.type.shape or step.type.dtype != "float32":
        return None
    if any(operand >= len(group.inputs) or group.type(operand).layout for operand in step.operands):
        return None
    _, rows, columns, terms = sizes
    if min(rows, columns, terms) < _LEAST or rows * columns * terms < 32 * 32 * _STEP:
        return None
    weight = step.operands[1]
    packings = {}
    if step.op != "matmul" and group.inputs[weight].frozen:
        packings[weight] = Packing("terms")
    tile, splits = choose(*sizes)
    return Template(lambda emitter: _Tiles(emitter, anchor, tile, splits).emit(), packings)


def choose(batch: int, rows: int, columns: int, terms: int) -> tuple[Tile, int]:
    """The tile, and the number of parts of k, that take least time."""

    def cost(choice: tuple[Tile, int]) -> float:
        tile, splits = choice
        blocks = batch * -(-rows // tile.rows) * -(-columns // tile.columns) * splits
        waves = -(-blocks // _PROCESSORS)
        held = tile.down * tile.across
        # With more results to a thread, fewer values come from shared memory for each of them.
        rate = held / (held + 2 * (tile.down + tile.across) / 4 + 4)
        busy = sqrt(min(1.0, waves * tile.threads / BLOCK))
        taken = waves * tile.rows * tile.columns * -(-terms // splits) / (128 * rate * busy)
        added = (_LAUNCH / 128 + splits * batch * rows * columns * 8 / 1500) if splits > 1 else 0
        return taken + added

    def few(tile: Tile) -> bool:
        return batch * -(-rows // tile.rows) * -(-columns // tile.columns) < _PROCESSORS

    options = [(t, s) for t in TILES for s in _SPLITS if s == 1 or (few(t) and terms >= s * 4 * _STEP)]
    return min(options, key=cost)


def _sizes(group: Group, step: Step) -> tuple[int, int, int, int] | None:
    """Batch, rows, columns and terms of a step; None for one that is no product."""
    shape = step.type.concrete
    if step.op in ("conv1d", "conv2d", "conv3d"):
        out, *kernel = group.type(step.operands[1]).concrete
        groups = step.attrs["groups"]
        return groups, out // groups, shape[0] * prod(shape[2:]), prod(kernel)
    if step.op == "linear":
        return 1, prod(shape[:-1]), shape[-1], group.type(step.operands[0]).concrete[-1]
    if step.op == "matmul":
        return prod(shape[:-2]), shape[-2], shape[-1], group.type(step.operands[0]).concrete[-1]
    return None


def _product(emitter: Emitter, step: Step) -> Product:
    """The product that a step is."""
    sizes = _sizes(emitter.group, step)
    assert sizes is not None
    if step.op == "matmul":
        return _matmul(emitter, step, sizes)
    return _linear(emitter, step, sizes) if step.op == "linear" else _convolution(emitter, step, sizes)


def _convolution(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> Product:
    group, (_, rows, _, _) = emitter.group, sizes
    data, weight, *bias = step.operands
    _, per_group, *kernel = group.type(weight).concrete
    extents, places = group.type(data).concrete[2:], step.type.concrete[2:]
    stride, dilation, padding = (step.attrs[name] for name in ("stride", "dilation", "padding"))
    x, math = emitter.input(data), emitter.math

    def term(k: Any) -> tuple[Index, Any]:
        """The tap and the input channel, within its group, of term k."""
        tap, channel = emitter.divmod(k, per_group)
        return unravel(emitter, tap, tuple(kernel)), channel

    def left(b: Any, m: Any, k: Any) -> Scalar:
        if emitter.packings[weight].kind == "terms":
            return Scalar(tirx.BufferLoad(emitter.buffers[weight], [k, emitter.simplify(b * rows + m)]), reads=True)
        tap, channel = term(k)
        return emitter.input(weight)(b * rows + m, channel, *tap)

    def right(b: Any, k: Any, n: Any) -> Scalar:
        tap, channel = term(k)
        picture, *place = unravel(emitter, n, (step.type.concrete[0], *places))
        at = [y * s + r * d - p for y, s, r, d, p in zip(place, stride, tap, dilation, padding)]
        inside = []
        for index, extent, p, out, s, d, taps in zip(at, extents, padding, places, stride, dilation, kernel):
            inside.append(index >= 0 if p else True)
            inside.append(index < extent if (out - 1) * s + (taps - 1) * d - p >= extent else True)
        read = x(picture, b * per_group + channel, *at)
        return math.select(math.all(*inside), read, math.const(0.0, "float32"))

    def place(b: Any, m: Any, n: Any) -> Index:
        picture, *pixel = unravel(emitter, n, (step.type.concrete[0], *places))
        return (picture, b * rows + m, *pixel)

    frozen = emitter.packings[weight].kind == "terms"
    shift = (lambda index: emitter.input(bias[0])(index[1])) if bias else None
    return Product(*sizes, left, right, "m" if frozen else "k", "n", place, shift)


def _linear(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> Product:
    data, weight, *bias = step.operands
    lead = step.type.concrete[:-1]
    x, frozen = emitter.input(data), emitter.packings[weight].kind == "terms"

    def left(b: Any, m: Any, k: Any) -> Scalar:
        return x(*unravel(emitter, m, lead), k)

    def right(b: Any, k: Any, n: Any) -> Scalar:
        return Scalar(tirx.BufferLoad(emitter.buffers[weight], [k, n] if frozen else [n, k]), reads=True)

    def place(b: Any, m: Any, n: Any) -> Index:
        return (*unravel(emitter, m, lead), n)

    shift = (lambda index: emitter.input(bias[0])(index[-1])) if bias else None
    return Product(*sizes, left, right, "k", "n" if frozen else "k", place, shift)


def _matmul(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> Product:
    lead = step.type.concrete[:-2]

    def operand(number: int) -> Callable[..., Scalar]:
        own = emitter.group.type(number).concrete[:-2]
        access = emitter.input(number)

        def at(b: Any, row: Any, column: Any) -> Scalar:
            outer = unravel(emitter, b, lead)[len(lead) - len(own) :]
            return access(*(0 if extent == 1 else i for extent, i in zip(own, outer)), row, column)

        return at

    def place(b: Any, m: Any, n: Any) -> Index:
        return (*unravel(emitter, b, lead), m, n)

    return Product(*sizes, operand(step.operands[0]), operand(step.operands[1]), "k", "n", place)


@dataclass
class _Side:
    """One side of the product on its way: from the tensor by registers to shared memory, [2, 16, extent]."""

    extent: int
    runs: bool
    """Whether neighbours along this side's own index, not along k, are neighbours in memory."""
    threads: int
    read: Callable[[Any, Any], Scalar]
    """The element at the index within the tile, and at term k."""
    registers: Any = field(init=False)
    memory: Any = field(init=False)

    def __post_init__(self) -> None:
        self.count = self.extent * _STEP // self.threads
        self.registers = local(self.count, "float32")
        # Threads that write a column of 16 terms: a row that is 4 longer spreads them over the banks.
        self.memory = shared((2, _STEP, self.extent + (0 if self.runs else 4)), "float32")

    def _at(self, emitter: Emitter, thread: Any, j: Any) -> tuple[Any, Any]:
        """The index, and the term within 16, of the element number j of a thread."""
        number = j * self.threads + thread
        if self.runs:
            term, index = emitter.divmod(number, self.extent)
        else:
            index, term = emitter.divmod(number, _STEP)
        return index, term

    def fetch(self, emitter: Emitter, thread: Any, first: Any) -> None:
        """Reads the terms from `first` on to registers."""
        with unrolled(emitter, self.count) as j:
            index, term = self._at(emitter, thread, j)
            emitter.store(self.registers, self.read(index, first + term), [j])

    def put(self, emitter: Emitter, thread: Any, half: Any) -> None:
        """Writes what is in registers to one half of the shared memory."""
        with unrolled(emitter, self.count) as j:
            index, term = self._at(emitter, thread, j)
            emitter.store(self.memory, self.registers[j], [half, term, index])


class _Tiles:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, anchor: int, tile: Tile, splits: int) -> None:
        self.emitter, self.anchor, self.tile, self.splits = emitter, anchor, tile, splits
        self.product = _product(emitter, emitter.group.step(anchor))

    def emit(self) -> None:
        emitter, tile, p = self.emitter, self.tile, self.product
        down, across = -(-p.rows // tile.rows), -(-p.columns // tile.columns)
        parts = None
        if self.splits > 1:
            parts = emitter.temporary(TensorType((self.splits, p.batch, p.rows, p.columns)))
        with grid(emitter, p.batch * self.splits * down * across, tile.threads) as (block, thread):
            rest, column = emitter.divmod(block, across)
            rest, row = emitter.divmod(rest, down)
            b, split = emitter.divmod(rest, self.splits)
            place = (b, row * tile.rows, column * tile.columns)
            accumulators = self._multiply(place, split, thread)
            with unrolled(emitter, tile.down) as i, unrolled(emitter, tile.across) as j:
                m, n = self._own(thread, i, j)
                m, n = emitter.simplify(place[1] + m), emitter.simplify(place[2] + n)
                whole = p.rows % tile.rows == 0, p.columns % tile.columns == 0
                inside = emitter.math.all(whole[0] or m < p.rows, whole[1] or n < p.columns)
                value = Scalar(accumulators[i * tile.across + j])
                with only_if(inside):
                    if parts is None:
                        self._finish((b, m, n), value)
                    else:
                        emitter.store(parts.buffer, value, [split, b, m, n])
        if parts is not None:
            self._add_up(parts.buffer)

    def _own(self, thread: Any, i: Any, j: Any) -> tuple[Any, Any]:
        """Where the results of a thread lie in the tile: runs of four, 32 such runs of a warp beside each other."""
        tile = self.tile
        ty, tx = self.emitter.divmod(thread, tile.columns // tile.across)

        def spread(number: Any, own: Any, others: int, count: int) -> Any:
            if count <= 4:
                return own * count + number
            run, within = self.emitter.divmod(number, 4)
            return run * (others * 4) + own * 4 + within

        return (
            spread(i, ty, tile.rows // tile.down, tile.down),
            spread(j, tx, tile.columns // tile.across, tile.across),
        )

    def _multiply(self, place: tuple[Any, Any, Any], split: Any, thread: Any) -> Any:
        """The sums of a thread's results over the terms of one part, in registers."""
        emitter, tile, p = self.emitter, self.tile, self.product
        b, row, column = place
        steps = -(-p.terms // _STEP)
        steps = -(-steps // self.splits)
        start = split * (steps * _STEP)
        whole = p.terms == steps * _STEP * self.splits

        def read(side: Callable[..., Scalar], most: int, first: Any, left: bool, index: Any, k: Any) -> Scalar:
            at = emitter.simplify(first + index)
            at = at if most % (tile.rows if left else tile.columns) == 0 else tirx.min(at, most - 1)
            k = emitter.simplify(k)
            value = side(b, at, k) if left else side(b, k, at)
            return value if whole else emitter.math.select(k < p.terms, value, emitter.math.const(0.0, "float32"))

        sides = [
            _Side(tile.rows, p.left_runs == "m", tile.threads, partial(read, p.left, p.rows, row, True)),
            _Side(tile.columns, p.right_runs == "n", tile.threads, partial(read, p.right, p.columns, column, False)),
        ]
        accumulators = local(tile.down * tile.across, "float32")
        with unrolled(emitter, tile.down * tile.across) as number:
            emitter.store(accumulators, tirx.const(0.0, "float32"), [number])
        for side in sides:
            side.fetch(emitter, thread, start)
            side.put(emitter, thread, 0)
        barrier()
        if steps == 1:
            self._multiply_part(sides, accumulators, thread, 0)
            return accumulators
        with emitter.serial(steps) as step:
            with only_if(step + 1 < steps):
                for side in sides:
                    side.fetch(emitter, thread, emitter.simplify(start + (step + 1) * _STEP))
            self._multiply_part(sides, accumulators, thread, step % 2)
            with only_if(step + 1 < steps):
                for side in sides:
                    side.put(emitter, thread, (step + 1) % 2)
                barrier()
        return accumulators

    def _multiply_part(self, sides: list[_Side], accumulators: Any, thread: Any, half: Any) -> None:
        """Adds the products of 16 terms that lie in one half of the shared memory."""
        emitter, tile = self.emitter, self.tile
        left, right = local(tile.down, "float32"), local(tile.across, "float32")
        with unrolled(emitter, _STEP) as k:
            with unrolled(emitter, tile.down) as i:
                emitter.store(left, sides[0].memory[half, k, self._own(thread, i, 0)[0]], [i])
            with unrolled(emitter, tile.across) as j:
                emitter.store(right, sides[1].memory[half, k, self._own(thread, 0, j)[1]], [j])
            with unrolled(emitter, tile.down) as i, unrolled(emitter, tile.across) as j:
                at = i * tile.across + j
                emitter.store(accumulators, accumulators[at] + left[i] * right[j], [at])

    def _finish(self, place: tuple[Any, Any, Any], total: Scalar) -> None:
        """Stores the group's result at [b, m, n], whose sum is `total`."""
        emitter, index = self.emitter, self.product.place(*place)
        if self.product.bias is not None:
            total = total + self.product.bias(index)
        total = emitter.math.let(total)

        def leaf(number: int, at: Index) -> Scalar:
            return total if number == self.anchor else emitter.input(number)(*at)

        result = emitter.result()
        emitter.store(result.buffer, emitter.evaluate(emitter.group.last, index, leaf), result.position(index))

    def _add_up(self, parts: Any) -> None:
        """The second launch, where k was split: the sums of all parts."""
        emitter, p = self.emitter, self.product
        shape = (p.batch, p.rows, p.columns)
        elements = prod(shape)
        with grid(emitter, -(-elements // BLOCK), BLOCK) as (block, thread):
            number = block * BLOCK + thread
            with only_if(elements % BLOCK == 0 or number < elements):
                place = unravel(emitter, number, shape)
                total = Scalar(parts[(0, *place)])
                for split in range(1, self.splits):
                    total = total + Scalar(parts[(split, *place)])
                self._finish((place[0], place[1], place[2]), total)
