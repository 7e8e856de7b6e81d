"""Two linear layers, the second of which alone reads the first, in one kernel, and the norm in front of them: the
perceptron of vision transformers.

    x (--norm--> normal) --linear--> wide --pointwise steps--> wide --linear--> --pointwise steps--> result

All are computed for a strip of rows behind each other: what is between them lies in memory of the thread, which the
second-level cache holds beside the weights of both, and never exists for all rows. No row needs another one, so nothing
is computed twice, unless the last strip overlaps the one in front of it; threads share out the strips. Where none does,
a strip has read all that it reads of its rows when it writes them: the result may lie where `x` does, or the residual.

The fusion pass decides which groups are computed so, by a rule and its measurements (`specc.passes.perceptron_linear`);
a choice can take them apart again, first the norm, then the layers: one behind the other then, each by its own
template. How many rows a strip has matters little: of 3136 rows, 96 to 384 to 96 features, 49, 56 and 112 take the same
time within 1 %, of 784, 192 to 768 to 192, 28, 56 and 112 (one core of the Granite Rapids generation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Group, Part, cut
from specc.backends.tvm.kernels import linear, normalization
from specc.backends.tvm.kernels.fetch import take_soon
from specc.backends.tvm.kernels.linear import Linear, Shape
from specc.backends.tvm.kernels.normalization import Normalization
from specc.backends.tvm.kernels.rows import Strip
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import DTYPES
from specc.targets import Target

_PART = 8
"""What is between the layers fills such a part of the second-level cache at most."""

_STRIPS = 4
"""Two or four threads get equal parts of a multiple of this; there are to be twice as many where there can be."""

_NORMS = ("layer_norm", "rms_norm")

Select = Callable[[Group, Target, Choices], Template]


@dataclass(frozen=True)
class Plan:
    """A strip has `rows` rows; `norm` of them are normalized side by side. `schedules` are those of the two layers."""

    rows: int
    strips: int
    norm: int
    schedules: tuple[linear.Schedule, ...]


def lower(group: Group, target: Target, choices: Choices, select: Select) -> Template | None:
    """The template of a group that is two linear layers, one behind the other, or these behind a norm; None for another
    group. `select` chooses those of the parts where they are computed one behind the other."""
    parts = _parts(group)
    if parts is None:
        return None
    packings = _packings(parts, target)
    takes = packings is not None and (len(parts) == 2 or target.vectors)
    if not choices.take("fused", (True, False) if takes else (False,), takes) or packings is None:
        value = group.step(group.anchors[1]).operands[0]
        pieces = zip(cut(group, value), ("norm", "layers") if len(parts) > 2 else ("expand", "project"), strict=True)
        alone = [(part, select(part.group, target, choices.part(name))) for part, name in pieces]
        made = apart(value, [part for part, _ in alone], [template for _, template in alone])
        return Template(lambda emitter: made.write(emitter), made.packings, once=made.once)  # reports name this module
    plan = plan_of(group, parts, target, choices)
    once = _once(group, parts, plan, target)
    over = [v for v in parts[0].values if once and _over(group, v)]
    return Template(
        lambda emitter: _write(emitter, parts, packings, plan, target), packings, once=once, over=tuple(over)
    )


def _parts(group: Group) -> tuple[Part, ...] | None:
    """The norm, if there is one, and the two layers with the pointwise steps behind each; None for another group."""
    anchors = group.anchors
    *front, first, last = [group.step(anchor).op for anchor in anchors] if len(anchors) in (2, 3) else ["", ""]
    if not group.single or first != "linear" or last != "linear" or any(op not in _NORMS for op in front):
        return None
    values = [group.step(anchor).operands[0] for anchor in anchors[1:]]
    parts = cut(group, *values)
    handed = [[value for value in part.values if value >= len(group.inputs)] for part in parts]
    if handed != [[], *([value] for value in values)] or any(len(part.group.anchors) != 1 for part in parts):
        return None
    types = [group.type(number) for number in range(len(group.inputs), group.last + 1)]
    if any(type.dtype != "float32" or type.layout for type in types):
        return None
    return None if front and parts[0].group.anchors[0] != parts[0].group.last else parts


def _packings(parts: Sequence[Part], target: Target) -> dict[int, Packing] | None:
    """How the weights of the layers and the operands of their epilogues are stored; None where the kernel does not take
    them, or the norm."""
    packings: dict[int, Packing] = {}
    for part in parts:
        anchor = part.group.anchor
        if anchor is None or any(operand.type.dtype != "float32" for operand in part.group.inputs):
            return None
        step = part.group.step(anchor)
        if step.op in _NORMS:
            last = step.attrs["axis"] % step.type.rank == step.type.rank - 1
            found = dict[int, Packing]() if last else None
        else:
            found = linear.operands_of(part.group, anchor, Packing("matrix", target.lanes), target)
        if found is None or any(packings.get(part.values[n], each) != each for n, each in found.items()):
            return None
        packings |= {part.values[n]: each for n, each in found.items()}
    return packings


def plan_of(group: Group, parts: Sequence[Part], target: Target, choices: Choices) -> Plan:
    """How the strips are computed."""
    layers = [(part.group, anchor) for part in parts[-2:] if (anchor := part.group.anchor) is not None]
    (source, wide), (_, out) = (
        (layer.type(layer.step(anchor).operands[0]).concrete[-1], layer.type(anchor).concrete[-1])
        for layer, anchor in layers
    )
    count = prod(group.result.concrete) // out
    shapes = [(source, -(-wide // target.lanes)), (wide, -(-out // target.lanes))]
    size = _strip(count, wide, shapes, target)
    counts = {-(-count // strips) for strips in range(1, count + 1)}
    rows = choices.near("rows", (n for n in counts if size <= 8 * n and n <= 4 * size), size)
    schedules = []
    for (inputs, blocks), name in zip(shapes, ("expand", "project"), strict=True):
        part = choices.part(name)
        tile = linear.tile_of(rows, blocks, DTYPES["float32"] * inputs, target, part)
        unroll = linear.take_unroll(part, inputs, tile, None, target)
        schedules.append(linear.Schedule(tile, True, 1, unroll, take_soon(part, target), False))
    norm = min(rows, normalization.ROWS)
    norm = choices.near("norm", range(1, min(rows, 8) + 1), norm) if len(parts) > 2 else norm
    return Plan(rows, -(-count // rows), norm, tuple(schedules))


def _strip(count: int, wide: int, shapes: Sequence[tuple[int, int]], target: Target) -> int:
    """How many rows a strip has: of those that fit and make strips enough, the number whose tiles take the fewest
    cycles, with as many strips as threads get equal parts of; among equals, a divisor, then the greatest."""
    most = max(1, target.l2_bytes // (_PART * DTYPES["float32"] * wide))
    sizes = sorted({-(-count // strips) for strips in range(1, count + 1)} & {*range(1, most + 1)}) or [1]

    def rank(size: int) -> tuple[bool, float, bool, int]:
        strips = -(-count // size)
        costs = (linear.tile_costs(size, blocks, DTYPES["float32"] * n, target) for n, blocks in shapes)
        cycles = sum(n * min(each.values()) for (n, _), each in zip(shapes, costs, strict=True))
        shared = -(-strips // _STRIPS) * _STRIPS
        least = count * sum(n * blocks for n, blocks in shapes) / target.fma_per_cycle
        return strips < 2 * _STRIPS, round(shared * cycles / least, 2), count % size != 0, -size

    return min(sizes, key=rank)


def _once(group: Group, parts: Sequence[Part], plan: Plan, target: Target) -> bool:
    """Whether every element of the result is computed once, and no row of the operands is read after it is written."""
    *lead, out = group.result.concrete
    tile = plan.schedules[-1].tile
    return prod(lead) % plan.rows == 0 and plan.rows % tile.pixels == 0 and -(-out // target.lanes) % tile.blocks == 0


def _over(group: Group, number: int) -> bool:
    """Whether an input is of the result's type, and every step reads it at the rows that it computes."""
    users = [(step, [i for i, operand in enumerate(step.operands) if operand == number]) for step in group.steps]
    rowwise = all(step.pointwise or places in ([], [0]) for step, places in users)
    return not group.inputs[number].frozen and group.type(number) == group.result and rowwise


class Layer(Linear):
    """Writes the loops of one linear layer for the rows of a strip."""

    def __init__(self, emitter: Emitter, anchor: int, schedule: linear.Schedule, target: Target, strip: Strip) -> None:
        step = emitter.group.step(anchor)
        inputs = emitter.group.type(step.operands[0]).concrete[-1]
        shape = Shape(strip.count, inputs, step.type.concrete[-1])
        super().__init__(emitter, anchor, schedule, target, shape=shape)
        self.strip = strip

    def emit(self) -> None:
        """The tiles, group of output blocks by group."""
        with self.emitter.serial(-(-self.blocks // self.tile.blocks)) as group:
            self._strip(group, 1, 0)

    def _row(self, row: Any, column: Any) -> tuple[Any, ...]:
        return super()._row(self.strip.first + row, column)

    def _read(self, row: Any, column: Any) -> Sequence[Any]:
        return self._row(row, column) if self.strip.source is None else (row, column)

    def _place(self, row: Any, column: Any) -> Sequence[Any]:
        return self._row(row, column) if self.strip.goal is None else (row, column)


def _write(emitter: Emitter, parts: Sequence[Part], packings: dict[int, Packing], plan: Plan, target: Target) -> None:
    """All loops of the kernel."""
    count = prod(emitter.group.result.concrete[:-1])
    with emitter.parallel(plan.strips) as number:
        first = number * plan.rows
        if count % plan.rows:
            first = T.Bind(tirx.min(first, count - plan.rows))
        source: Any = None
        made: dict[int, Any] = {}
        for place, part in enumerate(parts):
            inner_group, last = part.group, place == len(parts) - 1
            anchor = inner_group.anchor
            assert anchor is not None
            columns = inner_group.result.concrete[-1]
            goal = None if last else T.alloc_buffer((plan.rows, columns), "float32")
            packed = {n: packings[v] for n, v in enumerate(part.values) if v in packings}
            inner = emitter.part(part, packed, made, emitter.outputs[-1] if last else goal)
            strip = Strip(plan.rows, first, source, goal)
            if inner_group.step(anchor).op == "linear":
                schedule = plan.schedules[place - len(parts)]
                Layer(inner, anchor, schedule, target, strip).emit()
            else:
                axis = inner_group.type(anchor).rank - 1
                Normalization(inner, anchor, axis, plan.norm, target, strip).emit()
            if not last:
                following = parts[place + 1]
                made = {v: goal for v in following.values if v >= len(emitter.group.inputs)}
            source = goal
