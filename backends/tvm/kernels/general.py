"""Any group at all: the operators' own `compute`, in loops over the result's elements.

Every operator but a pointwise one says by `compute` how an element of its result comes from elements of its operands,
at logical indices; sums and maxima stand in stages (`specc.ops.record.KernelMath`). What such an operator reads is an
input or lies in a buffer of the kernel. A stage that is only read at the element just being computed needs no buffer:
it is computed there. Which stages these are shows when the kernel is written, so it is written again whenever one was
taken for such wrongly; likewise for loops that cannot be vectors, because a condition differs from lane to lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Again, Emitter, Index, Leaf, Registers, Template, Tensor
from specc.backends.tvm.expression import Math, Scalar, least
from specc.backends.tvm.group import Group
from specc.backends.tvm.halves import stored
from specc.ir.dtypes import HALVES, SMALL
from specc.ir.types import TensorType, block_of
from specc.targets import Target

_PARALLEL = 4096
"""Elements (times the terms of their reductions) from which threads share a loop; below, starting them costs more."""

_PIECES = 8
"""Into how many pieces at least such a loop is cut where it can be, unless it is chosen otherwise; 1: no threads."""

_NOMINAL = 16
"""The extent of a dimension that is known only when the kernel runs, for deciding what threads share."""


@dataclass
class Plan:
    """What is known of the kernel before it is written: grows until it is right."""

    stored: set[int] = field(default_factory=set)
    """The stages, by number, that lie in a buffer."""
    scalar: set[int] = field(default_factory=set)
    """The loop nests, by number, that are no vectors."""
    sums: dict[int, int] = field(default_factory=dict)
    """How many reductions each loop nest holds."""


def lower(group: Group, target: Target, choices: Choices) -> Template:
    """The template of any group."""
    plan = Plan()
    pieces = choices.near("pieces", (1, 2, 4, 16, 32, 64), _PIECES)
    return Template(lambda emitter: General(emitter, plan, pieces, target).emit(), once=not group.anchors)


@dataclass
class Nest:
    """The loops that are open: over the elements of a stage or of the result."""

    number: int
    shape: tuple[int, ...]
    point: Index
    lane: Any
    accumulators: Any
    sums: int = 0
    depth: int = 0
    """How many reductions are being written around the current statement."""
    known: dict[int, Scalar] = field(default_factory=dict)
    """Stages already computed at this point."""


class _StageMath(Math):
    """`KernelMath` with stages and reductions."""

    def __init__(self, general: General) -> None:
        self.general = general

    def stage(self, shape: Sequence[int], element: Callable[..., Scalar]) -> Callable[..., Scalar]:
        return self.general.stage(tuple(shape), element)

    def sum(self, extents: Sequence[int], term: Callable[..., Scalar]) -> Scalar:
        return self.general.reduce(tuple(extents), term, 0.0, lambda a, b: a + b)

    def max_over(self, extents: Sequence[int], term: Callable[..., Scalar]) -> Scalar:
        return self.general.reduce(tuple(extents), term, None, lambda a, b: self.max(b, a))

    def select(self, condition: Any, a: Scalar, b: Scalar) -> Scalar:
        return super().select(self.general.check(condition), a, b)


class General:
    """Writes one kernel after a plan."""

    def __init__(self, emitter: Emitter, plan: Plan, pieces: int, target: Target) -> None:
        self.emitter, self.plan, self.pieces, self.lanes = emitter, plan, pieces, target.lanes
        emitter.math = _StageMath(self)
        self.stages = 0
        self.nests = 0
        self.nest: Nest | None = None
        self.dtype = "float32"
        self.terms = 1

    # ---- the group ------------------------------------------------------------------------------------------------

    def emit(self) -> None:
        group, accesses = self.emitter.group, dict[int, Callable[..., Scalar]]()
        for number in range(len(group.inputs)):
            accesses[number] = self.emitter.input(number)
        read = set(accesses)  # what moves elements of these alone is read at another place, and is not stored

        def leaf(number: int, index: Index) -> Scalar:
            return accesses[number](*index)

        for number in group.anchors:
            step = group.step(number)
            if step.moves and read.issuperset(step.operands):
                read.add(number)
            for operand in () if number in read else step.operands:
                if operand not in accesses or not (
                    operand < len(group.inputs) or isinstance(accesses[operand], Tensor)
                ):
                    accesses[operand] = self._store_value(operand, leaf)
            types = [as_read(group.type(operand)) for operand in step.operands]
            self.dtype = _computed_in(types[0].dtype if types else step.type.dtype)
            compute = step.record.compute
            if compute is None:
                raise ValueError(f"`{step.op}` has no compute for kernels")
            computed = compute(
                self.emitter.math,
                types,
                *(accesses[operand] for operand in step.operands),
                **self.emitter.attributes(step),
            )
            several = computed if isinstance(computed, tuple) else (computed,)
            accesses |= dict(enumerate(several, number))
        for position, value in enumerate(group.results):
            self._write(self.emitter.result(position), partial(self._element, value, leaf))

    def _element(self, value: int, leaf: Leaf, *index: Any) -> Scalar:
        return self.emitter.evaluate(value, index, leaf)

    def _store_value(self, number: int, leaf: Leaf) -> Tensor:
        """A buffer that holds a value which an operator is about to read."""
        tensor = self.allocate(self.emitter.group.type(number))
        self._write(tensor, partial(self._element, number, leaf))
        return tensor

    # ---- stages and reductions ------------------------------------------------------------------------------------

    def allocate(self, type: TensorType) -> Tensor:
        """Memory for a value of the kernel's own."""
        emitter = self.emitter
        known = replace(type, shape=tuple(map(emitter.dimension, type.concrete)))
        if known.symbols():
            emitter.scratch.append(known)
        return Tensor(T.alloc_buffer(type.physical, stored(type.dtype)), type, emitter.simplify)

    def stage(self, shape: tuple[int, ...], element: Callable[..., Scalar]) -> Callable[..., Scalar]:
        number = self.stages
        self.stages += 1
        if number in self.plan.stored:
            tensor = self.allocate(TensorType(shape, self.dtype))
            self._write(tensor, element)
            return tensor

        def here(*index: Any) -> Scalar:
            nest = self.nest
            at_point = nest is not None and nest.shape == shape and all(a is b for a, b in zip(index, nest.point))
            if nest is None or nest.depth or not at_point:
                self.plan.stored.add(number)
                raise Again
            if number not in nest.known:
                nest.known[number] = self.emitter.math.let(element(*index))
            return nest.known[number]

        return here

    def reduce(
        self,
        extents: tuple[int, ...],
        term: Callable[..., Scalar],
        start: float | None,
        join: Callable[[Any, Any], Any],
    ) -> Scalar:
        nest, emitter = self.nest, self.emitter
        assert nest is not None and not nest.depth, "a reduction stands outermost in a stage"
        slot = nest.sums
        nest.sums += 1
        if nest.sums > self.plan.sums.get(nest.number, 0):
            self.plan.sums[nest.number] = nest.sums
            raise Again
        position = [slot, 0 if nest.number in self.plan.scalar else nest.lane]
        first = least(self.dtype) if start is None else tirx.const(start, self.dtype)
        emitter.store(nest.accumulators, first, position)
        nest.depth += 1
        with self._nested(extents) as index:
            value = emitter.math.cast(term(*index), self.dtype)
            emitter.store(nest.accumulators, join(Scalar(nest.accumulators[tuple(position)]), value), position)
        nest.depth -= 1
        return Scalar(nest.accumulators[tuple(position)])

    @contextmanager
    def _nested(self, extents: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
        if not extents:
            yield ()
            return
        with self.emitter.serial(extents[0]) as outer, self._nested(extents[1:]) as inner:
            yield (outer, *inner)

    def check(self, condition: Any) -> Any:
        """`condition` in simple terms; where it depends on the lane, this nest must not be vectors."""
        if isinstance(condition, (bool, Scalar)):
            return condition
        simple = self.emitter.simplify(condition)
        if isinstance(simple, tirx.IntImm):
            return bool(int(simple))
        nest = self.nest
        lane = None if nest is None or isinstance(nest.lane, int) else nest.lane
        if nest and lane is not None and nest.number not in self.plan.scalar and _mentions(simple, lane):
            self.plan.scalar.add(nest.number)
            raise Again
        return simple

    # ---- loops ----------------------------------------------------------------------------------------------------

    def _write(self, target: Tensor, element: Callable[..., Scalar]) -> None:
        """Loops over all elements of `target`. Lanes beyond the channels of a blocked tensor become 0."""
        shape, block = target.type.concrete, block_of(target.type.layout)
        if 0 in shape:
            return
        if block:
            n, c, h, w = shape
            for first, blocks, lanes in ((0, c // block, block), (c // block, 1, c % block)):
                if blocks and lanes:
                    channels = partial(_blocked_index, first, block)
                    self._loops((n, blocks, h, w), lanes, channels, target, element, fill=block - lanes)
        elif not shape:
            self._loops((), 1, lambda _, lane: (), target, element)
        else:
            whole, rest = self.emitter.divmod(shape[-1], self.lanes)
            for first, count, lanes in ((0, whole, self.lanes), (whole * self.lanes, 1, rest)):
                if not _is_zero(count) and not _is_zero(lanes):
                    columns = partial(_plain_index, first, self.lanes)
                    self._loops((*shape[:-1], count), lanes, columns, target, element)

    def _loops(
        self,
        outer: tuple[int, ...],
        lanes: int,
        index_of: Callable[[tuple[Any, ...], Any], Index],
        target: Tensor,
        element: Callable[..., Scalar],
        fill: int = 0,
    ) -> None:
        emitter, number = self.emitter, self.nests
        self.nests += 1
        if not isinstance(lanes, int):
            self.plan.scalar.add(number)  # a vector is of a length that is known
        vectors = number not in self.plan.scalar
        shared = 0
        nominal = [extent if isinstance(extent, int) else _NOMINAL for extent in (*outer, lanes)]
        if prod(nominal) * self._weight(number) >= _PARALLEL:
            while shared < len(outer) and prod(nominal[:shared]) < self.pieces:
                shared += 1
        with emitter.parallel(prod(outer[:shared])) as work, self._nested(outer[shared:]) as inner:
            index: list[Any] = []
            for extent in reversed(outer[:shared]):
                work, rest = emitter.divmod(work, extent)
                index.insert(0, rest)
            position = (*index, *inner)
            sums = self.plan.sums.get(number, 0)
            accumulators = Registers(sums, lanes if vectors else 1, self.dtype) if sums else None
            with emitter.lanes(lanes) if vectors else emitter.serial(lanes) as lane:
                point = index_of(position, lane)
                self.nest = Nest(number, target.type.concrete, point, lane, accumulators)
                value = element(*point)
                if target.type.dtype not in HALVES:
                    value = emitter.math.cast(value, target.type.dtype)
                target.put(value, target.position(point))
                self.nest = None
            if fill:
                with emitter.serial(fill, lanes) as lane:
                    point = index_of(position, lane)
                    emitter.store(target.buffer, tirx.const(0, stored(target.type.dtype)), target.position(point))

    def _weight(self, number: int) -> int:
        """A guess at the work of an element: a reduction is long."""
        return 64 if self.plan.sums.get(number) else 1


def as_read(type: TensorType) -> TensorType:
    """The type in which a kernel has an operand's elements."""
    return replace(type, dtype="float32") if type.dtype in HALVES else type


def _computed_in(dtype: str) -> str:
    """The type of stages and sums over operands of this type: 8 bits hold no sum."""
    return "int32" if dtype in SMALL else dtype


def _is_zero(extent: Any) -> bool:
    return isinstance(extent, int) and not extent


def _blocked_index(first: int, block: int, place: tuple[Any, ...], lane: Any) -> Index:
    """The logical index of a lane: `place` is [n, channel block behind `first`, h, w]."""
    n, b, y, x = place
    return n, (b + first) * block + lane, y, x


def _plain_index(first: int, lanes: int, place: tuple[Any, ...], lane: Any) -> Index:
    """The logical index of a lane: the last of `place` counts vectors behind `first`."""
    return (*place[:-1], first + place[-1] * lanes + lane)


def _mentions(expr: Any, variable: Any) -> bool:
    return any(variable.same_as(free) for free in tirx.analysis.undefined_vars(expr))
