"""Normalization along rows: layer_norm, rms_norm and softmax over the last dimension, or over blocked channels.

    layer_norm   (x - mean) * (1 / sqrt(var + eps)) * weight + bias     var is the mean of (x - mean)^2
    rms_norm     x * (1 / sqrt(mean(x^2) + eps)) * weight
    softmax      exp(x - greatest) * (1 / sum of these)

A row is some vectors and, behind them, a part of one. Some rows are dealt with side by side: each has an accumulator,
whose lanes are added at the end by halves. A row is swept two or three times, and lies in the first-level cache after
the first. There is a division a row, none an element. Threads share out the rows. The last sweep reads each element and
writes that of the result: it may be in the same place.

One core of a Cascade Lake, layer_norm of [1, 197, 384]: 26 us (80 by the general template).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template, on_stack
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.halves import stored
from specc.backends.tvm.kernels.rows import Strip, index_of_row
from specc.ir.types import block_of
from specc.targets import Target

ROWS = 4
"""Rows side by side, unless it is chosen otherwise."""

_PARALLEL = 8192
"""Elements from which threads share them; below, starting them costs more."""

Each = Callable[[int, Any, Any], None]
"""What is done to row p at (column, lane), in a vector loop."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a normalization along rows with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op not in ("layer_norm", "rms_norm", "softmax") or not target.vectors:
        return None
    step = group.step(anchor)
    x, axis = step.type, step.attrs["axis"] % step.type.rank
    if x.dtype != "float32" or group.result.shape != x.shape or 0 in x.concrete:
        return None
    if axis != (1 if x.layout else x.rank - 1) or block_of(x.layout) not in (0, target.lanes):
        return None
    count = prod(x.concrete) // x.concrete[axis]
    rows = choices.near("rows", range(1, min(count, 8) + 1), min(count, ROWS))
    once = count % rows == 0
    over = step.operands[:1] if once and group.single and group.result == x else ()
    return Template(lambda emitter: Normalization(emitter, anchor, axis, rows, target).emit(), once=once, over=over)


class Normalization:
    """Writes the kernel; where a `strip` is given, for its rows of a plain tensor alone."""

    def __init__(
        self, emitter: Emitter, anchor: int, axis: int, rows: int, target: Target, strip: Strip | None = None
    ) -> None:
        self.emitter, self.anchor, self.axis, self.rows, self.lanes = emitter, anchor, axis, rows, target.lanes
        self.step = emitter.group.step(anchor)
        self.shape = self.step.type.concrete
        self.extent, self.strip = self.shape[axis], strip
        self.x, *self.weights = (emitter.input(operand) for operand in self.step.operands)
        self.result = emitter.result()
        self.first: Any = 0
        """Which row of all, or of the strip, is the first of those side by side."""

    def emit(self) -> None:
        """The pieces of some rows; the last one begins early enough to be whole."""
        emitter, strip = self.emitter, self.strip
        count = strip.count if strip else prod(self.shape) // self.extent
        pieces = -(-count // self.rows)
        shared = strip is None and prod(self.shape) >= _PARALLEL
        with emitter.parallel(pieces) if shared else emitter.serial(pieces) as piece:
            first = piece * self.rows
            self.first = first = first if count % self.rows == 0 else tirx.min(first, count - self.rows)
            places = [self._place(first + p) for p in range(self.rows)]
            getattr(self, f"_{self.step.op}")(places)

    def _place(self, row: Any) -> Index:
        """The logical index of a row, without the one along it."""
        if self.strip:
            return index_of_row(self.shape[:-1], self.strip.first + row)
        index: list[Any] = []
        for extent in reversed([e for axis, e in enumerate(self.shape) if axis != self.axis][1:]):
            row, rest = self.emitter.divmod(row, extent)
            index.insert(0, rest)
        return (row, *index) if len(self.shape) > 1 else ()

    def _at(self, place: Index, column: Any) -> Index:
        return (*place[: self.axis], column, *place[self.axis :])

    # ---- operators ------------------------------------------------------------------------------------------------

    def _layer_norm(self, places: list[Index]) -> None:
        def value(p: int, column: Any) -> Any:
            return self.x(*self._at(places[p], column)).expr

        def square(p: int, column: Any) -> Any:
            centred = self.emitter.math.let(Scalar(value(p, column) - mean[p])).expr
            return centred * centred

        mean = [total * self._share() for total in self._sums(value)]
        mean = [T.Bind(each) for each in mean]
        scale = [self._reciprocal_root(total) for total in self._sums(square)]
        self._finish(places, lambda p, column: (value(p, column) - mean[p]) * scale[p])

    def _rms_norm(self, places: list[Index]) -> None:
        def value(p: int, column: Any) -> Any:
            return self.x(*self._at(places[p], column)).expr

        scale = [self._reciprocal_root(total) for total in self._sums(lambda p, c: value(p, c) * value(p, c))]
        self._finish(places, lambda p, column: value(p, column) * scale[p])

    def _softmax(self, places: list[Index]) -> None:
        emitter = self.emitter
        powers = T.alloc_buffer((self.rows, self.extent), "float32")
        power = Registers(self.rows, self.lanes, "float32")
        top = Registers(self.rows, self.lanes, "float32")
        total = Registers(self.rows, self.lanes, "float32")

        def greatest(p: int, column: Any, lane: Any) -> None:
            value = self.x(*self._at(places[p], column)).expr
            emitter.store(top, tirx.max(top[p, lane], value), [p, lane])

        def exponential(p: int, column: Any, lane: Any) -> None:
            value = self.x(*self._at(places[p], column)).expr
            emitter.store(power, emitter.math.exp(Scalar(value - most[p])), [p, lane])
            emitter.store(powers, power[p, lane], [p, column])
            emitter.store(total, total[p, lane] + power[p, lane], [p, lane])

        self._fill(top, tirx.min_value("float32"))
        self._sweep(greatest)
        most = [T.Bind(self._folded(top, p, tirx.max)) for p in range(self.rows)]
        self._fill(total, tirx.const(0.0, "float32"))
        self._sweep(exponential)
        one = tirx.const(1.0, "float32")
        scale = [T.Bind(one / self._folded(total, p, lambda a, b: a + b)) for p in range(self.rows)]
        self._finish(places, lambda p, column: powers[p, column] * scale[p])

    # ---- sweeps ---------------------------------------------------------------------------------------------------

    def _sweep(self, each: Each) -> None:
        """`each` for every element of all rows, in vectors: first the whole ones, then what is left."""
        emitter = self.emitter
        whole, rest = divmod(self.extent, self.lanes)
        for start, count, lanes in ((0, whole, self.lanes), (whole, 1, rest)):
            if count and lanes:
                with emitter.serial(count, start) as number, emitter.lanes(lanes) as lane:
                    for p in range(self.rows):
                        each(p, number * self.lanes + lane, lane)

    def _fill(self, registers: Registers, value: Any) -> None:
        with self.emitter.lanes(self.lanes) as lane:
            for p in range(self.rows):
                self.emitter.store(registers, value, [p, lane])

    def _sums(self, term: Callable[[int, Any], Any]) -> list[Any]:
        """The sums of `term` over each row."""
        acc = Registers(self.rows, self.lanes, "float32")

        def add(p: int, column: Any, lane: Any) -> None:
            self.emitter.store(acc, acc[p, lane] + term(p, column), [p, lane])

        self._fill(acc, tirx.const(0.0, "float32"))
        self._sweep(add)
        return [self._folded(acc, p, lambda a, b: a + b) for p in range(self.rows)]

    def _folded(self, registers: Registers, p: int, join: Callable[[Any, Any], Any]) -> Any:
        """All lanes of an accumulator in one number."""
        held, lanes = registers.vectors[p], self.lanes
        while lanes > 1:
            lanes //= 2
            halves = on_stack((lanes,), "float32")
            with self.emitter.lanes(lanes) as lane:
                self.emitter.store(halves, join(held[lane], held[lane + lanes]), [lane])
            held = halves
        return held[0]

    def _share(self) -> Any:
        return tirx.const(1.0 / self.extent, "float32")

    def _reciprocal_root(self, total: Any) -> Any:
        """1 / sqrt(mean + eps)."""
        mean = Scalar(total * self._share() + tirx.const(self.step.attrs["eps"], "float32"))
        return T.Bind(self.emitter.math.rsqrt(mean).expr)

    def _finish(self, places: list[Index], normal: Callable[[int, Any], Any]) -> None:
        """The weight, the bias and the epilogue, and the result; lanes beyond the last channel become 0."""
        emitter, group = self.emitter, self.emitter.group

        def each(p: int, column: Any, lane: Any) -> None:
            value = normal(p, column)
            for number, weight in enumerate(self.weights):
                value = value + weight(column).expr if number else value * weight(column).expr
            done = emitter.math.let(Scalar(value))

            def leaf(number: int, index: Index) -> Scalar:
                return done if number == self.anchor else emitter.input(number)(*index)

            at = self._at(places[p], column)
            value = emitter.evaluate(group.last, at, leaf)
            if self.strip:
                emitter.store(self.strip.goal, value, [self.first + p, column])
            else:
                self.result.put(value, self.result.position(at))

        self._sweep(each)
        rest = -self.extent % self.lanes
        if self.result.block and rest:
            with emitter.lanes(rest) as lane:
                for p in range(self.rows):
                    at = self.result.position(self._at(places[p], self.extent + lane))
                    emitter.store(self.result.buffer, tirx.const(0, stored(group.result.dtype)), at)
