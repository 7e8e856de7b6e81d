"""Interpolation: neighbours and weights of each axis from tables, and one axis behind the other.

    row[x]                  = sum over the taps of all axes but the last of weight * input[n, c, ..., x]
    result[n, c, ..., x]    = epilogue(sum over taps t of weight[t, x] * row[first[x] + t])

The tables have, for every place of the result on an axis, the first of its neighbours and their weights, by what the
operator's record says (`specc.ops.resample`); they are computed once a run. A row of the input's width is made for each
row of the result, with as many copies of its outermost elements in front and behind as neighbours reach outside of it,
so that those of a place lie in a row. It stays in the first-level cache. The nearest element needs no such row.

In blocks, a vector is one block of channels, weights are broadcast, and threads share out blocks and strips of rows.
Where that reads and writes fewer vectors (as of bilinear neighbours for half as many places), all axes are added up at
once, and there is no row. In plain tensors, a vector is neighbours of the last axis. Places at most 31 elements of a
row apart, in vectors of 16, are picked from two vectors of it (`picking`); those farther apart, or on processors
without such an instruction, are read one by one.

One core of the Granite Rapids generation at 3.7 GHz, least times in microseconds, by the general template and by this
one (64 channels to 112x112 are 3.2 MB, which take 130 to be written):

                                             plain             in blocks of 16
    64 channels, 56x56 to 112x112, nearest    337    135       130   130
                                  bilinear   1792    159       133   137
                                  bicubic    7249    273       379   138
    128 channels, 28x28 to 75x75, bilinear   1596    176       152   104
                                  bicubic    6850    301       366   109
    256 channels, 14x14 to 28x28, bilinear    404     85        28    21
                                  bicubic    1473    128        94    26
    64 channels, 56x56 to 28x28, bilinear      52     25         7     9
    21 channels, 64x64 to 512x512, bilinear 13500   1090      1340  1270
    3 channels, 240x240 to 224x224, bicubic  1310     55
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import picking, tiles
from specc.backends.tvm.kernels.epilogue import Epilogue, operand_packings
from specc.backends.tvm.kernels.rows import share, take_strips
from specc.ir.dtypes import HALVES
from specc.ir.types import block_of, concrete
from specc.ops.resample import Axis, axes
from specc.targets import Target

_PIXELS = 4
"""Places of a row in blocks that are written out side by side, unless it is chosen otherwise."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of an interpolation with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "resize" or not target.vectors:
        return None
    step = group.step(anchor)
    x, y = group.type(step.operands[0]), step.type
    block = block_of(y.layout)
    if x.dtype not in ("float32", *HALVES) or group.result.shape != y.shape or 0 in (*x.concrete, *y.concrete):
        return None
    if block not in (0, target.lanes) or block_of(group.result.layout) != block:
        return None
    batch, channels, *places = y.concrete
    rows = places[-2] if len(places) > 1 else 1
    others = batch * prod(places[:-2]) * (-(-channels // block) if block else channels)
    strips = take_strips(choices, rows, share(rows, others))
    if not block:
        return Template(lambda emitter: _Plain(emitter, anchor, target).write(strips), once=True)
    packings = operand_packings(group, target.lanes, anchor)
    if packings is None:
        return None
    sizes = (tiles.balanced(places[-1], pixels)[0] for pixels in range(1, 9))
    pixels = choices.near("pixels", sizes, tiles.balanced(places[-1], _PIXELS)[0])
    return Template(lambda emitter: _Blocked(emitter, anchor, target, pixels).emit(strips), packings, once=True)


Made = Callable[[Any, Any], Any]
"""An element of a row by its column and lane."""


@dataclass(frozen=True)
class _Table:
    """An axis: `first[x]` is the first neighbour of place x, `weights[t, x]` the weight of neighbour t.

    There is no `first` where every element is kept, and are no `weights` where each is made of one neighbour.
    """

    axis: Axis
    first: Any = None
    weights: Any = None

    def neighbours(self, at: Any, front: int | None = None) -> list[tuple[Any, Any]]:
        """The index and the weight of each neighbour of a place; a weight of None is 1.

        Indices are those of the tensor's elements, or in a row that has `front` places in front of these.
        """
        if self.first is None:
            return [(at, None)]
        first = T.Bind(self.first[at])
        if self.weights is None:
            return [(first, None)]
        last = concrete(self.axis.extent) - 1
        taps = range(self.axis.taps)
        if front is None:
            indices = [T.Bind(tirx.max(tirx.min(first + tap, last), 0)) for tap in taps]
        else:
            indices = [first + front + tap for tap in taps]
        return [(indices[tap], T.Bind(self.weights[tap, at])) for tap in taps]


class _Resize:
    """What both layouts have in common: the tables, the loop over rows, and the sum over all axes but the last."""

    units: int
    """How many channels, or blocks of them, there are."""

    def __init__(self, emitter: Emitter, anchor: int, target: Target) -> None:
        self.emitter, self.anchor, self.lanes = emitter, anchor, target.lanes
        step = emitter.group.step(anchor)
        (self.data,) = step.operands
        self.input = emitter.input(self.data)
        self.axes = axes(self.input.type, step.attrs)
        self.batch, self.channels, *self.places = step.type.concrete
        self.width = self.input.type.concrete[-1]
        self.front, self.behind = self.axes[-1].outside

    def emit(self, strips: int) -> None:
        """All loops: threads share out channels, or blocks of them, and strips of rows."""
        emitter = self.emitter
        *tables, last = map(self._table, self.axes)
        *outer, rows = self.places[:-1] or (1,)
        with emitter.parallel(self.batch * self.units * prod(outer) * strips) as work:
            rest, strip = emitter.divmod(work, strips)
            index: list[Any] = []
            for extent in (*reversed(outer), self.units):
                rest, part = emitter.divmod(rest, extent)
                index.insert(0, part)
            row = self.room(last)
            with emitter.strip(rows, strips, strip) as y:
                place = (*index[1:], y)[: len(tables)]
                joined = self._joined([table.neighbours(at) for table, at in zip(tables, place, strict=True)])

                def made(x: Any, lane: Any, around: Any = joined, at: Index = (rest, index[0])) -> Any:
                    return self._sum(at, around, x, lane)

                if row is not None:
                    self.fill(row, made)
                self.finish((rest, index[0], *place), last, row, made)

    def room(self, last: _Table) -> Any:
        """Memory for a row of the input, with what its neighbours reach outside of it; None where none is made."""
        raise NotImplementedError

    def fill(self, row: Any, made: Made) -> None:
        """What lies in a row, by the sum over the other axes at a column and in a lane."""
        raise NotImplementedError

    def finish(self, place: Index, last: _Table, row: Any, made: Made) -> None:
        """A row of the result at [n, unit, ...]."""
        raise NotImplementedError

    def load(self, at: Index, rows: Index, x: Any, lane: Any) -> Any:
        """An element of the input."""
        raise NotImplementedError

    def _table(self, axis: Axis) -> _Table:
        """The table of an axis, with the statements that fill it."""
        if axis.kept:
            return _Table(axis)
        emitter, size = self.emitter, concrete(axis.size)
        room = -(-size // self.lanes) * self.lanes
        first = T.alloc_buffer((room,), "int32")
        weights = T.alloc_buffer((axis.taps, room), "float32") if axis.taps > 1 else None
        for start, count, lanes in tiles.vectors(room, self.lanes):
            with emitter.serial(count) as number, emitter.lanes(lanes) as lane:
                place = start + number * self.lanes + lane
                at = tirx.min(place, size - 1)
                begin, each = axis.around(emitter.math, at, "float32")
                emitter.store(first, begin, [place])
                for tap, weight in enumerate(each if weights is not None else ()):
                    emitter.store(weights, weight, [tap, place])
        return _Table(axis, first, weights)

    @staticmethod
    def _joined(axes: Sequence[list[tuple[Any, Any]]]) -> list[tuple[Index, Any]]:
        """The neighbours on several axes: their indices, and the products of their weights."""
        found: list[tuple[Index, Any]] = [((), None)]
        for neighbours in axes:
            found = [
                ((*index, at), other if weight is None else weight if other is None else T.Bind(weight * other))
                for index, weight in found
                for at, other in neighbours
            ]
        return found

    def _ends(self) -> list[tuple[int, range]]:
        """The outermost elements of a row, and the places outside of it that copies of these take."""
        front, end = self.front, self.front + self.width
        return [(front, range(front)), (end - 1, range(end, end + self.behind))]

    def _sum(self, at: Index, around: Sequence[tuple[Index, Any]], x: Any, lane: Any) -> Any:
        """The weighted sum of column x over the rows `around`."""
        return _weighted([(self.load(at, rows, x, lane), weight) for rows, weight in around])


class _Blocked(_Resize):
    """Writes the loops over a tensor in blocks of channels."""

    def __init__(self, emitter: Emitter, anchor: int, target: Target, pixels: int) -> None:
        super().__init__(emitter, anchor, target)
        self.units, self.pixels = -(-self.channels // self.lanes), pixels
        self.epilogue = Epilogue(emitter, anchor, self.lanes)

    def load(self, at: Index, rows: Index, x: Any, lane: Any) -> Any:
        return self.emitter.load(self.data, *at, *rows, x, lane)

    def room(self, last: _Table) -> Any:
        if last.weights is None or self._direct():
            return None
        return T.alloc_buffer((self.front + self.width + self.behind, self.lanes), "float32")

    def _direct(self) -> bool:
        """Whether fewer vectors are read and written without a row of the input's width."""
        others = prod(1 if axis.kept else axis.taps for axis in self.axes[:-1])
        own, size = self.axes[-1].taps, self.places[-1]
        return others * own * size <= (others + 1) * self.width + own * size

    def fill(self, row: Any, made: Made) -> None:
        emitter, front = self.emitter, self.front
        with emitter.serial(self.width) as x, emitter.lanes(self.lanes) as lane:
            emitter.store(row, made(x, lane), [front + x, lane])
        for end, places in self._ends():
            for place in places:
                with emitter.lanes(self.lanes) as lane:
                    emitter.store(row, row[end, lane], [place, lane])

    def finish(self, place: Index, last: _Table, row: Any, made: Made) -> None:
        emitter, (n, block, y) = self.emitter, place
        for first, count, pixels in tiles.runs(self.places[-1], self.pixels):
            with emitter.serial(count) as number:
                x = first + number * pixels
                around = [last.neighbours(x + p, self.front if row is not None else None) for p in range(pixels)]
                tile = self.epilogue.tile(pixels, [block])
                with emitter.lanes(self.lanes) as lane:
                    for p, neighbours in enumerate(around):
                        terms = [
                            (made(at, lane) if row is None else row[at, lane], weight) for at, weight in neighbours
                        ]
                        emitter.store(tile.accumulators, _weighted(terms), [p, lane])
                    tile.finish(n, y, x, lane)


class _Plain(_Resize):
    """Writes the loops over a plain tensor."""

    def __init__(self, emitter: Emitter, anchor: int, target: Target) -> None:
        super().__init__(emitter, anchor, target)
        self.units, self.result = self.channels, emitter.result()
        self.pick = picking.of(target) if (self.lanes - 1) * self.axes[-1].step <= 2 * self.lanes - 1 else None

    def write(self, strips: int) -> None:
        """All loops, with the instruction that they use."""
        with picking.imported(self.lanes if self.pick else 0):
            self.emit(strips)

    def load(self, at: Index, rows: Index, x: Any, lane: Any) -> Any:
        return self.emitter.load(self.data, *at, *rows, x)

    def room(self, last: _Table) -> Any:
        if last.weights is None and (last.first is None or self.pick is None):
            return None
        behind = self.behind + (2 * self.lanes if self.pick else 0)
        return T.alloc_buffer((self.front + self.width + behind,), "float32")

    def fill(self, row: Any, made: Made) -> None:
        emitter = self.emitter
        for start, count, lanes in tiles.vectors(self.width, self.lanes):
            with emitter.serial(count) as number, emitter.lanes(lanes) as lane:
                x = start + number * self.lanes + lane
                emitter.store(row, made(x, lane), [self.front + x])
        for end, places in self._ends():
            for place in places:
                emitter.store(row, row[end], [place])

    def finish(self, place: Index, last: _Table, row: Any, made: Made) -> None:
        emitter, group = self.emitter, self.emitter.group
        for start, count, lanes in tiles.vectors(self.places[-1], self.lanes):
            with emitter.serial(count) as number:
                first = start + number * self.lanes
                held = self._picked(last, row, first) if row is not None and self.pick else None
                with emitter.lanes(lanes) as lane:
                    x = first + lane
                    value = self._element(last, row, made, x, lane) if held is None else held[0, lane]
                    done = emitter.math.let(Scalar(value))

                    def leaf(value: int, index: Index, done: Scalar = done) -> Scalar:
                        return done if value == self.anchor else emitter.input(value)(*index)

                    index = (*place, x)
                    self.result.put(emitter.evaluate(group.last, index, leaf), self.result.position(index))

    def _element(self, last: _Table, row: Any, made: Made, x: Any, lane: Any) -> Any:
        """The element at column x of the result."""
        at = x if last.first is None else T.Bind(last.first[x])
        if row is None:
            return made(at, lane)
        return _weighted([(row[self.front + at + tap], last.weights[tap, x]) for tap in range(last.axis.taps)])

    def _picked(self, last: _Table, row: Any, first: Any) -> Registers:
        """A vector of the result from column `first` on, each of whose neighbours is one of two vectors of the row."""
        lanes, held = self.lanes, Registers(1, self.lanes, "float32")
        base = T.Bind(last.first[first])
        columns = tirx.Ramp(first, 1, lanes)
        places = T.Bind(tirx.BufferLoad(last.first, [columns]) - tirx.Broadcast(base, lanes))
        terms = []
        for tap in range(last.axis.taps):
            begin = self.front + base + tap
            near, far = (tirx.BufferLoad(row, [tirx.Ramp(begin + part * lanes, 1, lanes)]) for part in range(2))
            value = tirx.call_pure_extern(f"float32x{lanes}", self.pick, near, far, places)
            weight = None if last.weights is None else tirx.BufferLoad(last.weights, [tap, columns])
            terms.append((value, weight))
        T.buffer_store(held.vectors[0], _weighted(terms), [tirx.Ramp(0, 1, lanes)])
        return held


def _weighted(terms: Sequence[tuple[Any, Any]]) -> Any:
    """The sum of values times their weights; None is a weight of 1."""
    value, weight = terms[0]
    total = value if weight is None else value * weight
    for value, weight in terms[1:]:
        total = total + value * weight
    return total
