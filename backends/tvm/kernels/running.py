"""cumsum: a loop that carries the sum of what it has passed.

    result[..., i, ...] = epilogue(sum over j <= i of input[..., j, ...])

Along the last axis, a vector is neighbours of a row. It is added to itself, moved on by 1, 2, 4, ... lanes, and so
holds the sums from its first lane on; the sum of all vectors in front of it is added to that, and takes one addition
from vector to vector. Along another axis, a vector is neighbours of the last one, and the sums of some 500 of them wait
in the first-level cache while the axis is run through, so that what is read and written lies in runs of up to 2 KB.

Threads share out rows, or runs of columns.

One core of the Granite Rapids generation, least times in microseconds, by the general template, in which each element
adds up all before it, and by this one: 64 rows of 1000 30000 and 9, 8 of 4096 68000 and 5; 64 columns over 200 places,
64 times, 6370 and 220 (they move 6.6 MB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels.tiles import vectors
from specc.targets import Target

_LEAST, _RUN = 4, 32
"""Vectors of columns whose sums wait in memory: the least and the greatest number."""

_PIECES = 8
"""Pieces that threads are given to share out, where columns make them."""

_PARALLEL = 8192
"""Elements from which threads share them; below, starting them costs more."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a running sum with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "cumsum" or not target.vectors:
        return None
    step = group.step(anchor)
    if step.type.layout or group.result.layout or group.result.shape != step.type.shape or 0 in step.type.concrete:
        return None
    return Template(lambda emitter: _Running(emitter, anchor, target.lanes).emit(), once=True)


class _Running:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, anchor: int, lanes: int) -> None:
        self.emitter, self.anchor, self.lanes = emitter, anchor, lanes
        step = emitter.group.step(anchor)
        self.x, self.result = emitter.input(step.operands[0]), emitter.result()
        self.shape, self.dtype = step.type.concrete, step.type.dtype
        self.axis: int = step.attrs["axis"] % len(self.shape)

    def emit(self) -> None:
        """All loops: along the last axis, or along another one."""
        if self.axis == len(self.shape) - 1:
            with self._shared(self.shape[:-1]) as index:
                self._row(index)
            return
        others, columns = (*self.shape[: self.axis], *self.shape[self.axis + 1 : -1]), self.shape[-1]
        pieces = max(1, _PIECES // prod(others))
        run = min(max(columns // (pieces * self.lanes), _LEAST), _RUN) * self.lanes
        for first, count, width in vectors(columns, run):
            with self._shared((*others, count)) as index:
                self._columns(index[:-1], first + index[-1] * run, width)

    @contextmanager
    def _shared(self, extents: tuple[int, ...]) -> Iterator[Index]:
        """Loops that threads share where there is enough to do."""
        emitter, index = self.emitter, list[Any]()
        with ExitStack() as loops:
            if prod(self.shape) >= _PARALLEL:
                work = loops.enter_context(emitter.parallel(prod(extents)))
                for extent in reversed(extents):
                    work, part = emitter.divmod(work, extent)
                    index.insert(0, part)
            else:
                index = [loops.enter_context(emitter.serial(extent)) for extent in extents]
            yield tuple(index)

    # ---- along the last axis ----------------------------------------------------------------------------------------

    def _row(self, index: Index) -> None:
        """The sums along a row."""
        emitter, lanes, length = self.emitter, self.lanes, self.shape[-1]
        sums, before = Registers(1, lanes, self.dtype), Registers(1, lanes, self.dtype)
        with emitter.lanes(lanes) as lane:
            emitter.store(before, tirx.const(0, self.dtype), [0, lane])
        for start, count, width in vectors(length, lanes):
            with emitter.serial(count) as number:
                first = start + number * lanes
                whole, part = tirx.Ramp(0, 1, lanes), _ramp(0, width)
                with emitter.lanes(width) as lane:
                    emitter.store(sums, self.x(*index, first + lane), [0, lane])
                own = self._so_far(tirx.BufferLoad(sums.vectors[0], [part]), width)
                T.buffer_store(sums.vectors[0], own + tirx.BufferLoad(before.vectors[0], [part]), [part])
                if width == lanes:
                    passed = tirx.BufferLoad(before.vectors[0], [whole]) + tirx.Shuffle([own], [lanes - 1] * lanes)
                    T.buffer_store(before.vectors[0], passed, [whole])
                with emitter.lanes(width) as lane:
                    self._put((*index, first + lane), sums[0, lane])

    def _so_far(self, vector: Any, width: int) -> Any:
        """For each lane of a vector, the sum of those up to it."""
        if width == 1:
            return T.Bind(vector)
        zeros = tirx.Broadcast(tirx.const(0, self.dtype), width)
        vector, step = T.Bind(vector), 1
        while step < width:
            places = [width + lane - step if lane >= step else lane for lane in range(width)]
            vector, step = T.Bind(vector + tirx.Shuffle([zeros, vector], places)), 2 * step
        return vector

    # ---- along another axis -----------------------------------------------------------------------------------------

    def _columns(self, others: Index, first: Any, width: int) -> None:
        """The sums of `width` neighbouring columns from `first` on."""
        emitter, sums = self.emitter, T.alloc_buffer((width,), self.dtype)
        front, behind = others[: self.axis], others[self.axis :]

        def each(store: Callable[[Any], None]) -> None:
            """`store` for each of the columns."""
            for start, count, lanes in vectors(width, self.lanes):
                with emitter.serial(count) as number, emitter.lanes(lanes) as lane:
                    store(start + number * self.lanes + lane)

        def add(place: Any, column: Any) -> None:
            index = (*front, place, *behind, first + column)
            total = emitter.math.let(Scalar(sums[column] + self.x(*index).expr))
            emitter.store(sums, total, [column])
            self._put(index, total.expr)

        each(lambda column: emitter.store(sums, tirx.const(0, self.dtype), [column]))
        with emitter.serial(self.shape[self.axis]) as place:
            each(lambda column: add(place, column))

    def _put(self, index: Index, total: Any) -> None:
        """A sum behind the epilogue, at its place."""
        emitter, done = self.emitter, self.emitter.math.let(Scalar(total))

        def leaf(value: int, place: Index) -> Scalar:
            return done if value == self.anchor else emitter.input(value)(*place)

        self.result.put(emitter.evaluate(emitter.group.last, index, leaf), self.result.position(index))


def _ramp(first: Any, lanes: int) -> Any:
    """The indices of neighbours."""
    return first if lanes == 1 else tirx.Ramp(first, 1, lanes)
