"""Reductions of rows in one launch: softmax, the norms, means, sums, maxima, argmax, and the pointwise steps behind.

    [rows, length] --maxima, sums--> [rows] --> [rows, length] or [rows]

A *row* is what one element of a reduction is computed from: a line along the axis, the channels of a group with all
their places. A team of threads has a row: each member takes every team'th element. Where a member has few elements,
they stay in its registers from the first pass over the row to the last one, so that memory is read once; a longer row
is read once for each pass. What the members have is joined by exchanges within a warp, then by way of shared memory;
all of them know the sum then.

Where neighbours along the row are neighbours in memory, a warp's threads stand along the row. Otherwise, as for a norm
over the channels of [n, c, h, w], they stand on 32 neighbouring rows, and other warps have other parts of these.

The operators' own `compute` says what is done, as in `elements`: a stage over rows is one reduction or more, a stage
over elements is computed in each pass, or kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import log2, prod
from typing import Any

from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda import occupancy
from specc.backends.tvm.cuda.threads import WARP, barrier, exchanged, grid, local, only_if, shared, unravel
from specc.backends.tvm.emitter import Emitter, Index, Template
from specc.backends.tvm.expression import Math, Scalar, least
from specc.backends.tvm.group import Group, Step
from specc.backends.tvm.kernels.general import as_read
from specc.ir.dtypes import HALVES
from specc.ops.reduce import normal_axes
from specc.targets import Target

_HELD = 16
"""Elements of a row that a thread keeps."""


@dataclass(frozen=True)
class Rows:
    """The rows that a step reduces: their shape, that of the elements of one, and the operand's element at both."""

    shape: tuple[int, ...]
    extents: tuple[int, ...]
    at: Callable[[Index, Index], Index]
    result: Callable[[Index], Index] | None = None
    """The index in the result of a row's only element; None where a row has as many as in the operand."""
    strided: bool = False
    """Whether neighbouring rows, not neighbours in a row, are neighbours in memory."""

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def length(self) -> int:
        return prod(self.extents)


@dataclass(frozen=True)
class Team:
    """The threads of a row, and the rows of a block."""

    members: int
    rows: int

    @property
    def threads(self) -> int:
        return self.members * self.rows


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that reduces rows, with pointwise steps behind; None for another group."""
    anchor = group.anchor
    if anchor is None or any(operand.type.layout for operand in group.inputs):
        return None
    step = group.step(anchor)
    rows = rows_of(group, step)
    if rows is None or not rows.count or rows.length < 2:
        return None
    if group.type(step.operands[0]).dtype not in ("float32", *HALVES):
        return None
    if any(group.type(number).shape != step.type.shape for number in group.results):
        return None
    team = choose(rows, target, choices)
    return Template(lambda emitter: _Teams(emitter, anchor, rows, team).emit())


def rows_of(group: Group, step: Step) -> Rows | None:
    """The rows of a step; None where it is no reduction of them."""
    if not step.operands:
        return None
    shape, attrs = group.type(step.operands[0]).concrete, step.attrs
    if step.op in ("softmax", "layer_norm", "rms_norm", "argmax"):
        axis = attrs["axis"] % len(shape)
        outer, keep = shape[:axis] + shape[axis + 1 :], attrs.get("keep")

        def one(o: Index) -> Index:
            return (*o[:axis], 0, *o[axis:]) if keep else o

        strided = axis < len(shape) - 1 and prod(shape[axis + 1 :]) > 1
        at = partial(_on_axis, axis)
        return Rows(outer, shape[axis : axis + 1], at, one if step.op == "argmax" else None, strided)
    if step.op == "group_norm":
        each = shape[1] // attrs["groups"]
        return Rows((shape[0], attrs["groups"]), (each, *shape[2:]), partial(_in_group, each))
    if step.op in ("mean", "sum", "amax", "var_mean", "global_avg_pool"):
        axes = (2, 3) if step.op == "global_avg_pool" else normal_axes(attrs["axes"], len(shape))
        if not axes:
            return None
        strided = prod(shape[max(axes) + 1 :]) > 1
        extents = tuple(shape[axis] for axis in axes)
        return Rows(step.type.concrete, extents, partial(_over_axes, axes, attrs["keep"]), lambda o: o, strided)
    return None


def _on_axis(axis: int, o: Index, r: Index) -> Index:
    return (*o[:axis], r[0], *o[axis:])


def _in_group(each: int, o: Index, r: Index) -> Index:
    return (o[0], o[1] * each + r[0], *r[1:])


def _over_axes(axes: Sequence[int], keep: bool, o: Index, r: Index) -> Index:
    others = iter(o if not keep else [i for axis, i in enumerate(o) if axis not in axes])
    along = dict(zip(axes, r, strict=True))
    rank = len(axes) + len(o) - (len(axes) if keep else 0)
    return tuple(along[axis] if axis in along else next(others) for axis in range(rank))


def choose(rows: Rows, target: Target, choices: Choices) -> Team:
    """The team for which a model of latencies, waves of blocks and partly used sectors of memory gives least time."""
    if rows.strided:
        options = [Team(members, WARP) for members in (1, 2, 4, 8, 16, 32)]
    else:
        options = [Team(members, max(1, 128 // members)) for members in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)]

    def cost(team: Team) -> float:
        each = -(-rows.length // team.members)
        held = each <= _HELD
        registers = 24 + (2 * each if held else 8)
        blocks = -(-rows.count // team.rows)
        residents = occupancy.resident(team.threads, registers)
        # A load takes some 500 cycles; those of a loop overlap in part. Exchanges take some 30 each.
        passes = 500 + 12 * each if held else 3 * (500 + 40 * each)
        joins = 2 * (30 * log2(team.members) if team.members <= WARP and not rows.strided else 200 + 6 * team.members)
        waste = 1 if rows.strided else max(1.0, 8 / team.members)
        at_a_time = min(residents, -(-blocks // target.processors))
        # 12 bytes or so reach a multiprocessor in a cycle.
        traffic = at_a_time * team.rows * rows.length * 4 * waste / 12
        return occupancy.waves(blocks, residents, target) * max(passes + joins, traffic)

    found = {f"{team.members}x{team.rows}": team for team in sorted(options, key=cost)}
    return found[choices.take("team", found, next(iter(found)))]


class _RowMath(Math):
    """`KernelMath` with the stages of rows and of elements."""

    def __init__(self, teams: _Teams) -> None:
        self.teams = teams

    def stage(self, shape: Sequence[int], element: Callable[..., Scalar]) -> Callable[..., Scalar]:
        return self.teams.stage(tuple(shape), element)

    def sum(self, extents: Sequence[int], term: Callable[..., Scalar]) -> Scalar:
        return self.teams.reduce(term, 0.0, lambda a, b: a + b)

    def max_over(self, extents: Sequence[int], term: Callable[..., Scalar]) -> Scalar:
        return self.teams.reduce(term, None, self.max)


class _Teams:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, anchor: int, rows: Rows, team: Team) -> None:
        self.emitter, self.anchor, self.rows, self.team = emitter, anchor, rows, team
        self.step = emitter.group.step(anchor)
        self.source = emitter.input(self.step.operands[0])
        self.each = -(-rows.length // team.members)
        self.held = self.each <= _HELD
        self.kept: dict[tuple[int, int], Scalar] = {}
        """Of an element that this thread has, by its number: what it is (-1), and the stages over elements at it."""
        self.own: int | None = None
        self.inside: Any = True
        self.stages = 0
        emitter.math = _RowMath(self)

    def emit(self) -> None:
        emitter, rows, team = self.emitter, self.rows, self.team
        with grid(emitter, -(-rows.count // team.rows), team.threads) as (block, thread):
            self.thread = thread
            if rows.strided:
                self.member, row = emitter.divmod(thread, team.rows)
            else:
                row, self.member = emitter.divmod(thread, team.members)
            number = block * team.rows + row
            whole = rows.count % team.rows == 0
            # All threads reach every barrier: those that have no row compute the last one once more.
            inside = number if whole else tirx.min(number, rows.count - 1)
            self.row = unravel(emitter, inside, rows.shape)
            compute = self.step.record.compute
            assert compute is not None
            types = [as_read(emitter.group.type(operand)) for operand in self.step.operands]
            others = [emitter.input(operand) for operand in self.step.operands[1:]]
            computed = compute(emitter.math, types, self._element, *others, **emitter.attributes(self.step))
            several = computed if isinstance(computed, tuple) else (computed,)
            self.results = dict(enumerate(several, self.anchor))
            with only_if(whole or number < rows.count):
                if rows.result is None:
                    self._over_row(lambda index: self._store(rows.at(self.row, index)))
                else:
                    with only_if(self.member == 0):
                        self._store(rows.result(self.row))

    def _store(self, index: Index) -> None:
        emitter = self.emitter

        def leaf(number: int, at: Index) -> Scalar:
            if number in self.results:
                return emitter.math.let(self.results[number](*at))
            return self._element(*at) if number == self.step.operands[0] and self.held else emitter.input(number)(*at)

        for position, value in enumerate(emitter.group.results):
            result = emitter.result(position)
            found = emitter.math.cast(emitter.evaluate(value, index, leaf), result.type.dtype)
            result.put(found, result.position(index))

    # ---- passes over a row ------------------------------------------------------------------------------------------

    def _over_row(self, visit: Callable[[Index], None], guarded: bool = True) -> None:
        """`visit` at the place in the row of each element of this thread; without `guarded` at places behind it, too,
        where `inside` does not hold."""
        emitter, length, members = self.emitter, self.rows.length, self.team.members

        def one(place: Any, inside: Any) -> None:
            self.inside = inside
            with only_if(inside if guarded else True):
                visit(unravel(emitter, place, self.rows.extents))

        if self.held:
            for own in range(self.each):
                self.own = own
                place = emitter.simplify(own * members + self.member)
                one(place, (own + 1) * members <= length or place < length)
        else:
            with emitter.serial(self.each) as step:
                place = emitter.simplify(step * members + self.member)
                one(place, length % members == 0 or place < length)
        self.own = None

    def _element(self, *index: Any) -> Scalar:
        """The operand's element at the place of the pass that is being written."""
        if self.own is None:
            return self.source(*index)
        key = (-1, self.own)
        if key not in self.kept:
            math = self.emitter.math
            self.kept[key] = math.let(math.select(self.inside, self.source(*index), math.const(0.0, "float32")))
        return self.kept[key]

    def stage(self, shape: tuple[int, ...], element: Callable[..., Scalar]) -> Callable[..., Scalar]:
        """A stage over rows is computed here, for the row of this thread; one over elements wherever it is read."""
        number = self.stages
        self.stages += 1
        if len(shape) == len(self.rows.shape) or self.rows.result is not None:
            value = self.emitter.math.let(element(*self.row))
            return lambda *index: value

        def at(*index: Any) -> Scalar:
            if self.own is None:
                return element(*index)
            key = (number, self.own)
            if key not in self.kept:
                self.kept[key] = self.emitter.math.let(element(*index))
            return self.kept[key]

        return at

    def reduce(self, term: Callable[..., Scalar], start: float | None, join: Callable[[Any, Any], Any]) -> Scalar:
        """The terms of the whole row, joined: every member of the team has it."""
        emitter = self.emitter
        first = least("float32") if start is None else tirx.const(start, "float32")
        total = local(1, "float32")
        emitter.store(total, first, [0])

        def add(index: Index) -> None:
            value = emitter.math.select(self.inside, emitter.math.let(term(*index)), Scalar(first))
            emitter.store(total, join(Scalar(total[0]), value), [0])

        def add_inside(index: Index) -> None:
            emitter.store(total, join(Scalar(total[0]), term(*index)), [0])

        self._over_row(add if self.held else add_inside, guarded=not self.held)
        return self._joined(total[0], join)

    def _joined(self, own: Any, join: Callable[[Any, Any], Any]) -> Scalar:
        emitter, team = self.emitter, self.team
        value = emitter.math.let(Scalar(own))
        if not self.rows.strided:
            lanes = min(team.members, WARP) // 2
            while lanes:
                value = emitter.math.let(join(value, exchanged(value, lanes)))
                lanes //= 2
        parts = team.members if self.rows.strided else team.members // WARP
        if parts <= 1:
            return value
        # Each reduction has an array of its own: the next one need not wait for who still reads this one.
        if self.rows.strided:
            memory, place = shared((parts, team.rows), "float32"), emitter.divmod(self.thread, team.rows)
            emitter.store(memory, value, place)
        else:
            row, member = emitter.divmod(self.thread, team.members)
            warp, lane = emitter.divmod(member, WARP)
            memory, place = shared((parts, team.rows), "float32"), (warp, row)
            with only_if(lane == 0):
                emitter.store(memory, value, place)
        barrier()
        whole = Scalar(memory[0, place[1]])
        for part in range(1, parts):
            whole = emitter.math.let(join(whole, Scalar(memory[part, place[1]])))
        return whole
