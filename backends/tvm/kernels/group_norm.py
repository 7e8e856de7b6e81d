"""group_norm of plain tensors and of blocks of channels: statistics of each channel first, then those of the groups.

    mean_c, square_c    the mean of a channel's P places, and the sum of the squared differences from it
    mean                the mean of mean_c over the G channels of a group
    var                 (sum of square_c + P * sum of (mean_c - mean)^2) / (G P)
    y                   (x - mean) * (1 / sqrt(var + eps)) * weight + bias

The second line is how samples are joined whose statistics are known (Chan, Golub and LeVeque 1983). So a sweep over
memory gives both, the second sweep of a channel finds it in a cache, and no sum has more than a lane's share of a
channel's places in a row. A vector is neighbours of a plain tensor's last dimension, or the channels of a block, and
groups may begin within a block. Threads share out the channels, or the blocks. The last sweep reads each element and
writes that of the result: it may be in the same place.

One core of the Granite Rapids generation, plain tensors, microseconds of processor time in turns, by the general
template (it adds up one number after the other where there are fewer groups than lanes) and by this one: 512 channels
of 2001 places in one group 2379 and 523, 320 of 64x64 in 32 groups 1134 and 673, 128 of 56x56 in 32 groups 361 and 193.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template, Tensor, on_stack
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.halves import stored
from specc.ir.types import TensorType, block_of
from specc.targets import Target

_PARALLEL = 8192
"""Elements from which threads share them; below, starting them costs more."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group_norm with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "group_norm" or not target.vectors:
        return None
    x = group.step(anchor).type
    if x.dtype != "float32" or group.result.shape != x.shape or group.result.layout != x.layout or 0 in x.concrete:
        return None
    if x.rank < 3 or block_of(x.layout) not in (0, target.lanes):
        return None
    over = group.step(anchor).operands[:1] if group.single and group.result == x else ()
    return Template(lambda emitter: _GroupNorm(emitter, anchor, target.lanes).emit(), once=True, over=over)


class _GroupNorm:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, anchor: int, lanes: int) -> None:
        self.emitter, self.anchor, self.lanes = emitter, anchor, lanes
        self.step = emitter.group.step(anchor)
        self.batch, self.channels, *self.places = self.step.type.concrete
        self.blocked = bool(self.step.type.layout)
        self.x, *self.weights = (emitter.input(operand) for operand in self.step.operands)
        self.result = emitter.result()
        self.means, self.scales = self._of_each(), self._of_each()

    def emit(self) -> None:
        """The three sweeps; `means` and `scales` are those of channels first, then those of their groups."""
        for first, lanes in self._units():
            with self._shared(first, lanes) as (n, channel):
                self._of_channels(n, channel, lanes)
        with self.emitter.serial(self.batch) as n, self.emitter.serial(self.step.attrs["groups"]) as number:
            self._of_group(n, number)
        for first, lanes in self._units():
            with self._shared(first, lanes) as (n, channel):
                self._finish(n, channel, lanes)

    def _of_each(self) -> Tensor:
        """A number of each channel."""
        kind = TensorType((self.batch, self.channels), "float32")
        return Tensor(T.alloc_buffer(kind.physical, "float32"), kind, self.emitter.simplify)

    # ---- loops ------------------------------------------------------------------------------------------------------

    def _units(self) -> list[tuple[range, int]]:
        """Where each run of channels begins that a vector loop takes, with their number: 1, or those of a block."""
        if not self.blocked:
            return [(range(self.channels), 1)]
        whole = self.channels // self.lanes * self.lanes
        runs = [
            (range(0, whole, self.lanes), self.lanes),
            (range(whole, self.channels, self.lanes), self.channels - whole),
        ]
        return [(first, lanes) for first, lanes in runs if first]

    @contextmanager
    def _shared(self, first: range, lanes: int) -> Iterator[tuple[Any, Any]]:
        """A loop that threads share: the picture, and the first channel of each run."""
        count, emitter = self.batch * len(first), self.emitter
        shares = count * lanes * prod(self.places) >= _PARALLEL
        with emitter.parallel(count) if shares else emitter.serial(count) as number:
            n, run = emitter.divmod(number, len(first))
            yield n, first.start + run * first.step

    def _sweep(self, n: Any, channel: Any, lanes: int, each: Callable[[Index, Any], None]) -> None:
        """`each` at every place of some channels, in vectors, with the logical index and the lane."""
        emitter = self.emitter
        if self.blocked:
            with self._nested(self.places) as place, emitter.lanes(lanes) as lane:
                each((n, channel + lane, *place), lane)
            return
        *outer, last = self.places
        whole, rest = divmod(last, self.lanes)
        with self._nested(outer) as place:
            for start, count, width in ((0, whole, self.lanes), (whole, 1, rest)):
                if count and width:
                    with emitter.serial(count, start) as number, emitter.lanes(width) as lane:
                        each((n, channel, *place, number * self.lanes + lane), lane)

    @contextmanager
    def _nested(self, extents: Sequence[int]) -> Iterator[Index]:
        with ExitStack() as loops:
            yield tuple(loops.enter_context(self.emitter.serial(extent)) for extent in extents)

    # ---- statistics -------------------------------------------------------------------------------------------------

    def _of_channels(self, n: Any, channel: Any, lanes: int) -> None:
        """The mean of each channel and the sum of squared differences from it."""
        emitter = self.emitter
        share = tirx.const(1.0 / prod(self.places), "float32")
        total, mean = (
            self._sum(n, channel, lanes, lambda index, _: self.x(*index).expr),
            on_stack((self.lanes,), "float32"),
        )
        with emitter.lanes(lanes) as lane:
            emitter.store(mean, total[lane] * share, [lane])

        def square(index: Index, lane: Any) -> Any:
            apart = emitter.math.let(Scalar(self.x(*index).expr - mean[lane if self.blocked else 0])).expr
            return apart * apart

        squares = self._sum(n, channel, lanes, square)
        with emitter.lanes(lanes) as lane:
            emitter.store(self.means.buffer, mean[lane], [n, channel + lane])
            emitter.store(self.scales.buffer, squares[lane], [n, channel + lane])

    def _sum(self, n: Any, channel: Any, lanes: int, term: Callable[[Index, Any], Any]) -> Any:
        """The sums of `term` over the places of `lanes` channels, a number each."""
        emitter, acc = self.emitter, Registers(1, self.lanes, "float32")
        with emitter.lanes(self.lanes) as lane:
            emitter.store(acc, tirx.const(0.0, "float32"), [0, lane])

        def add(index: Index, lane: Any) -> None:
            emitter.store(acc, acc[0, lane] + term(index, lane), [0, lane])

        self._sweep(n, channel, lanes, add)
        return acc.vectors[0] if self.blocked else self._folded(acc.vectors[0])

    def _folded(self, held: Any) -> Any:
        """All lanes of an accumulator in one number."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            halves = on_stack((lanes,), "float32")
            with self.emitter.lanes(lanes) as lane:
                self.emitter.store(halves, held[lane] + held[lane + lanes], [lane])
            held = halves
        return held

    def _of_group(self, n: Any, number: Any) -> None:
        """The mean and the scale of a group in the place of those of its channels."""
        emitter, groups = self.emitter, self.step.attrs["groups"]
        each, places = self.channels // groups, prod(self.places)
        sums = on_stack((2,), "float32")
        for slot in range(2):
            emitter.store(sums, tirx.const(0.0, "float32"), [slot])
        with emitter.serial(each) as c:
            emitter.store(sums, sums[0] + self.means.at(n, number * each + c), [0])
        mean = T.Bind(sums[0] * tirx.const(1.0 / each, "float32"))
        with emitter.serial(each) as c:
            apart = emitter.math.let(Scalar(self.means.at(n, number * each + c) - mean)).expr
            square = self.scales.at(n, number * each + c) + apart * apart * tirx.const(float(places), "float32")
            emitter.store(sums, sums[1] + square, [1])
        variance = sums[1] * tirx.const(1.0 / (each * places), "float32")
        scale = T.Bind(emitter.math.rsqrt(Scalar(variance + tirx.const(self.step.attrs["eps"], "float32"))).expr)
        with emitter.serial(each) as c:
            channel = number * each + c
            emitter.store(self.means.buffer, mean, [n, channel])
            weight = self.weights[0](channel).expr if self.weights else None
            emitter.store(self.scales.buffer, scale if weight is None else scale * weight, [n, channel])

    # ---- the result -------------------------------------------------------------------------------------------------

    def _finish(self, n: Any, channel: Any, lanes: int) -> None:
        """The normalized channels behind the epilogue; lanes beyond the last channel become 0."""
        emitter, group = self.emitter, self.emitter.group

        def each(index: Index, lane: Any) -> None:
            at = index[1]
            value = (self.x(*index).expr - self.means.at(n, at)) * self.scales.at(n, at)
            value = value + self.weights[1](at).expr if len(self.weights) > 1 else value
            done = emitter.math.let(Scalar(value))

            def leaf(number: int, place: Index) -> Scalar:
                return done if number == self.anchor else emitter.input(number)(*place)

            self.result.put(emitter.evaluate(group.last, index, leaf), self.result.position(index))

        self._sweep(n, channel, lanes, each)
        if self.blocked and lanes < self.lanes:
            with self._nested(self.places) as place, emitter.lanes(self.lanes - lanes) as lane:
                at = self.result.position((n, channel + lanes + lane, *place))
                emitter.store(self.result.buffer, tirx.const(0, stored(group.result.dtype)), at)
