"""Linear layers of bfloat16 and of integers in tiles (`amx`): result[..., o] = epilogue(bias[o] + sum over i of
input[..., i] * weight[o, i]).

    for a strip of rows and a run of output blocks (shared out to threads)
        for a group of output blocks, for 16, 32, ... rows
            tiles <- 0;  for a depth of 64 bytes of inputs:  tiles <- tiles + inputs * weights
            scratch <- tiles;  result <- epilogue(scratch)

Rows are read where they lie, and the last tile of rows begins early enough to be whole: what it computes twice is
stored once. A tile of less than 16 rows has just these. Where inputs are no multiple of a tile's depth, the last ones
are read again, with zeros for weights (`Packing`, early).

The epilogue takes as long as the products where the reduction is short: 16 vectors to a tile, each some ten
instructions. Both go on at the same time: while the tiles of one turn are multiplied, the vectors of the turn before it
are finished, a few of them in each step of the reduction. 197 rows, 384 inputs and 1152 outputs of bfloat16 take 126
microseconds so on one core of the Granite Rapids generation, without the epilogue 139, the epilogue alone 30. With
GELU, 1536 outputs take 253, 174 and 112, and in integers 184, 71 and 121: little is gained there yet. Neither a
reciprocal by Newton's method in place of GELU's division nor the chains of 4 to 16 vectors side by side made it faster.

Products take 18 cycles only while tiles come from the first-level cache. In C, 2 x 2 tiles take 22 cycles a product
with all there, 29 where one factor comes from the second-level cache, 36 where both do, and 50 where weights come from
memory for the first time. Asking for the weights of the next group ahead takes that down to 44; layers of ViT-S
take 0.82 to 1.00 of the time. In several streams (`fetch`, abreast), layers of integers take 0.93 to 1.00 of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import amx, tiles
from specc.backends.tvm.kernels import linear as linears
from specc.backends.tvm.kernels.fetch import Abreast
from specc.backends.tvm.kernels.rows import take_order
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import HALVES
from specc.targets import Target

SHAPES = ("2x2", "1x4", "4x1", "1x3", "3x1", "1x2", "2x1", "1x1", "1x6", "6x1")
"""Tiles of rows by output blocks: their sums, the factors of the shorter side and one of the other are eight at
most."""

_PRODUCT, _NEAR, _FAR = 18, 20, 36
"""Cycles of a product, and of a load from the first- and from the second-level cache where all loads are such."""

_PIECES = 8
"""Pieces that are enough for threads to share out."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a linear layer of bfloat16 or of integers; None for another group, where
    the target has no tiles, or where they do not pay."""
    anchor = group.anchor
    if target.tile_product != "amx" or anchor is None or group.step(anchor).op not in ("linear", "linear_integer"):
        return None
    kinds = [group.type(operand) for operand in group.step(anchor).operands[:2]]
    kind = kinds[0].dtype
    if (kind, kinds[1].dtype) not in (("bfloat16", "bfloat16"), ("uint8", "int8")) or 0 in kinds[0].concrete:
        return None
    *lead, inputs = kinds[0].concrete
    depth = amx.DEPTHS[kind]
    if inputs < depth or not choices.take("tiles", (True, False), prod(lead) >= _ROWS[kind]):
        return None
    packed = Packing("pairs" if kind == "bfloat16" else "dot", amx.ROWS, depth, early=inputs % depth > 0)
    packings = linears.operands_of(group, anchor, packed, target)
    if packings is None:
        return None
    plan = plan_of(group, anchor, target, choices)
    return Template(lambda emitter: _Linear(emitter, anchor, plan, target).emit(), packings, once=True)


_ROWS = {"bfloat16": 4, "uint8": 8}
"""Rows from which on tiles pay, by the type of activations: with fewer, both ways wait for the weights. 2048 inputs and
1000 outputs, microseconds without and with tiles: bfloat16 141 and 143 for 2 rows, 156 and 146 for 4, 427 and 149 for
16; integers 68 and 76 for 4, 73 and 75 for 8, 113 and 77 for 16."""


@dataclass(frozen=True)
class Plan:
    """How a linear layer is computed: tiles of rows and of output blocks that are multiplied in one turn, rows of a
    tile, and into how many strips of rows and runs of groups the turns are cut for threads; whether the weights of the
    next group are asked for."""

    high: int
    wide: int
    rows: int
    strips: int
    runs: int
    ahead: bool


def plan_of(group: Group, anchor: int, target: Target, choices: Choices) -> Plan:
    """The plan that takes the fewest cycles, by a model: products, or the loads for them where these take longer."""
    kind = group.type(group.step(anchor).operands[0])
    *lead, inputs = kind.concrete
    size = 2 if kind.dtype == "bfloat16" else 1
    count, blocks = prod(lead), -(-group.type(anchor).concrete[-1] // amx.ROWS)
    rows = min(count, amx.ROWS)

    def cost(shape: str) -> float:
        high, wide = map(int, shape.split("x"))
        turns = -(-count // (high * rows)) * -(-blocks // wide)
        kept = 2 * size * wide * amx.ROWS * inputs <= target.l1_bytes and count > high * rows
        loads = _FAR * high + (_NEAR if kept else _FAR) * wide
        return turns * max(_PRODUCT * high * wide, loads)

    fitting = [s for s in SHAPES if int(s[0]) * rows <= max(count, rows) and int(s[2]) <= blocks]
    ranked = sorted(fitting, key=cost)
    found = choices.take("shape", ranked, ranked[0])
    high, wide = map(int, found.split("x"))
    down, across = -(-count // (high * rows)), -(-blocks // wide)
    wanted = take_order(choices, size * blocks * amx.ROWS * inputs, size * count * inputs, across, target)
    if wanted and down >= wanted:
        return Plan(high, wide, rows, even(down, wanted), 1, False)
    runs = even(across, min(_PIECES, across))
    strips = 1 if runs >= _PIECES // 2 else even(down, min(down, _PIECES // runs))
    ahead = choices.take("ahead", (True, False), down > 1 and 2 * size * wide * amx.ROWS * inputs <= target.l2_bytes)
    return Plan(high, wide, rows, strips, runs, ahead)


def even(count: int, wanted: int) -> int:
    """Into how many pieces to cut `count` things, `wanted` or up to twice as many, so that two and four threads get as
    equal shares as can be."""

    def worst(pieces: int) -> float:
        size = -(-count // pieces)
        return sum(min(count, -(-pieces // threads) * size) * threads / count for threads in (2, 4))

    return min((-(-count // -(-count // p)) for p in range(wanted, min(count, 2 * wanted) + 1)), key=worst)


class _Linear(linears.Linear):
    """Writes the loops of one linear layer."""

    def __init__(self, emitter: Emitter, anchor: int, plan: Plan, target: Target) -> None:
        shape = tiles.Tile(plan.high * plan.rows, plan.wide)
        super().__init__(emitter, anchor, linears.Schedule(shape, False, plan.strips, 1, 0, False), target)
        self.plan = plan
        self.kind = emitter.group.type(self.operands[0]).dtype
        self.depth = amx.DEPTHS[self.kind]
        self.steps = -(-self.inputs // self.depth)
        self.groups = -(-self.blocks // plan.wide)
        self.scratch: Any = None
        self.ahead: Abreast | None = None

    def emit(self) -> None:
        """The strips and runs, each with one configuration of the tiles."""
        emitter, plan = self.emitter, self.plan
        with (
            emitter.parallel(plan.strips * plan.runs) as work,
            amx.configured(amx.shapes(plan.high, plan.wide, plan.rows)),
        ):
            self._piece(*emitter.divmod(work, plan.strips))

    def _piece(self, run: Any, strip: Any) -> None:
        """The turns of a strip and a run: all tiles of rows for one group of output blocks, then for the next one."""
        emitter, plan = self.emitter, self.plan
        self.scratch = T.alloc_buffer((self.tile.pixels, plan.wide * amx.ROWS), self.dtype)
        down, first_row = self._share(self.tiles, plan.strips, strip)
        across, first_group = self._share(self.groups, plan.runs, run)
        turns = emitter.simplify(down * across)
        if plan.ahead:
            self.ahead = Abreast(emitter, plan.wide, self.steps * amx.ROWS, -(-self.tiles // plan.strips), self.steps)

        def place(turn: Any) -> tuple[list[Any], Any, Any]:
            """The output blocks of a turn; its first row, and the first one that no other turn stores."""
            number, tile = tirx.floordiv(turn, down), tirx.floormod(turn, down)
            row = (first_row + tile) * self.tile.pixels
            first = row if self.rows % self.tile.pixels == 0 else tirx.min(row, self.rows - self.tile.pixels)
            start = T.Bind(emitter.simplify(first_group + number)) * plan.wide
            blocks = [start + j for j in range(plan.wide)]
            if self.blocks % plan.wide:
                blocks = [tirx.min(block, self.blocks - 1) for block in blocks]
            return blocks, T.Bind(first), T.Bind(row - first)

        with emitter.serial(turns + 1) as turn:
            blocks, first, _ = place(tirx.min(turn, turns - 1))
            done = place(tirx.max(turn - 1, 0))
            with T.If(turn < turns), T.Then():
                for tile in range(plan.high * plan.wide):
                    self._begin(tile, blocks[tile % plan.wide])
            size = -(-self.tile.pixels // self.steps)
            with emitter.serial(self.steps) as step:
                with T.If(turn < turns), T.Then():
                    self._multiply(blocks, first, step)
                    if self.ahead:
                        self.ahead(
                            tirx.floormod(turn, down),
                            step,
                            self.weight,
                            lambda j, line: self._line(blocks[0] + (plan.wide + j), line),
                        )
                with T.If(turn > 0), T.Then():
                    self._finish(*done, step * size, size)
            with T.If(turn < turns), T.Then():
                for i in range(plan.high):
                    for j in range(plan.wide):
                        at = [i * plan.rows, j * amx.ROWS]
                        amx.store(i * plan.wide + j, self.scratch, at, plan.wide * amx.BYTES)

    def _share(self, count: int, pieces: int, number: Any) -> tuple[Any, Any]:
        """How many of `count` things piece `number` out of `pieces` has, and its first one."""
        size = -(-count // pieces)
        first = number * size
        return (size if size * pieces == count else T.Bind(tirx.min(size, count - first))), first

    def _begin(self, tile: int, block: Any) -> None:
        """What sums begin with: biases, in all rows."""
        if self.bias is None:
            amx.zero(tile)
        else:
            amx.load(tile, self.bias, [block * amx.ROWS], 0)

    def _multiply(self, blocks: list[Any], first: Any, step: Any) -> None:
        """Adds the products of 64 bytes of inputs."""
        column = step * self.depth
        if self.inputs % self.depth:
            column = tirx.min(column, self.inputs - self.depth)
        stride = self.inputs * amx.BYTES // self.depth

        def left(i: int, tile: int) -> None:
            amx.load(tile, self.data, self._row(first + i * self.plan.rows, column), stride)

        def right(j: int, tile: int) -> None:
            amx.load(tile, self.weight, self._line(blocks[j], step * amx.ROWS), amx.BYTES)

        amx.products(self.kind, self.plan.high, self.plan.wide, left, right)

    def _line(self, block: Any, number: Any) -> tuple[Any, ...]:
        """Where 64 bytes of an output block's weights begin."""
        if self.kind == "uint8":
            return block, number, 0
        return block, *self.emitter.divmod(number, amx.ROWS), 0

    def _finish(self, blocks: list[Any], first: Any, new: Any, start: Any, count: int) -> None:
        """The epilogue of `count` rows of the scratch from `start` on, less those that another turn stores."""
        emitter = self.emitter
        made = emitter.group.result.dtype
        done = Registers(len(blocks), self.lanes, "float32" if made in HALVES else made)
        begin = tirx.max(start, new)
        end = tirx.min(start + count, self.tile.pixels)
        with emitter.serial(T.Bind(tirx.max(0, end - begin)), T.Bind(begin)) as row:
            with emitter.lanes(self.lanes) as lane:
                for j, block in enumerate(blocks):
                    total = self.scratch[row, j * amx.ROWS + lane]
                    value = self._finished(Scalar(total), first + row, block * self.lanes + lane)
                    emitter.store(done, value, [j, lane])
            for j, block in enumerate(blocks):
                self._store(done, j, first + row, block)
