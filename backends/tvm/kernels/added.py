"""The sum of two 1x1 convolutions, each of an operand of its own, in one kernel: as where a residual is one itself.

    x --1x1 convolution--.
                          + --pointwise steps--> result
    y --1x1 convolution--'

The two are one product of all their channels, [A B] times [x; y]: the sums of a register tile, or of tiles of AMX
(`tiled`), take the products of the one and then those of the other. So the result of neither is written and read
again, nor are the operands copied side by side. Each is read where it lies, at strides of its own. Where a step stands
between a convolution and the addition, as where integers become numbers of a scale of their own, tiles keep sums for
each, and the epilogue reads both.

The fusion pass decides which convolutions are added so (`specc.passes.addends`). A choice can take the two apart again,
and where no kernel has both, they are: one behind the other, each by the template that takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Group, cut
from specc.backends.tvm.kernels import tiled
from specc.backends.tvm.kernels.convolution import Convolution
from specc.backends.tvm.kernels.convolution_plan import UNROLL, Geometry, Schedule, geometry_of, schedule_of
from specc.backends.tvm.kernels.convolution_reads import Place
from specc.backends.tvm.kernels.epilogue import Epilogue, is_heavy, operand_packings
from specc.backends.tvm.kernels.pairs import DEPTH, Pairs, imported, take
from specc.backends.tvm.packing import Packing
from specc.ir.types import block_of
from specc.targets import Target

Select = Callable[[Group, Target, Choices], Template]


@dataclass(frozen=True)
class Pair:
    """The values of a group: its convolutions, the one with more channels first. They are added up `together` where
    nothing is done with either before."""

    first: int
    second: int
    together: bool


def lower(group: Group, target: Target, choices: Choices, select: Select) -> Template | None:
    """The template of a group whose anchors are two 1x1 convolutions that are added up; None for another group.

    `select` chooses those of the two parts where they are computed one behind the other.
    """
    pair = _pair(group)
    if pair is None:
        return None
    anchors = pair.first, pair.second
    fused = tiled.added(group, anchors, pair.together, target, choices.part("both"))
    fused = fused or _vectors(group, pair, target, choices.part("both"))
    if choices.take("fused", (True, False) if fused else (False,), fused is not None) and fused:
        return fused
    value = _term(group, pair.second)
    parts = cut(group, value)
    made = apart(value, parts, [select(part.group, target, choices.part(f"part{i}")) for i, part in enumerate(parts)])
    return Template(lambda emitter: made.write(emitter), made.packings, once=made.once)  # reports name this module


def _pair(group: Group) -> Pair | None:
    """The convolutions of a group, if they are what this template is for."""
    if not group.single or len(group.anchors) != 2 or not set(group.anchors) <= group.reached(group.last):
        return None
    weights = [operand for anchor in group.anchors for operand in group.step(anchor).operands[1:]]
    if len(set(weights)) < len(weights) or any(group.type(a) != group.type(group.anchors[0]) for a in group.anchors):
        return None
    for anchor in group.anchors:
        step = group.step(anchor)
        if step.op not in ("conv2d", "conv2d_integer") or step.attrs["groups"] != 1 or any(step.attrs["padding"]):
            return None
        if any(v >= len(group.inputs) for v in step.operands) or group.type(step.operands[1]).concrete[2:] != (1, 1):
            return None
        if not all(group.inputs[v].frozen for v in step.operands[1:]):
            return None
    first, second = sorted(group.anchors, key=lambda anchor: -group.type(group.step(anchor).operands[0]).concrete[1])
    users = [step for step in group.steps if {first, second} & set(step.operands)]
    return Pair(first, second, [(step.op, set(step.operands)) for step in users] == [("add", {first, second})])


def _term(group: Group, anchor: int) -> int:
    """The last value that is made of one of both anchors alone."""
    alone = (v for v in range(anchor, group.last + 1) if group.sources(v) & set(group.anchors) == {anchor})
    return max(alone)


def _vectors(group: Group, pair: Pair, target: Target, choices: Choices) -> Template | None:
    """The template of both convolutions in vectors of float32; None where they are not of these."""
    lanes, packings = target.lanes, operand_packings(group, target.lanes, pair.first)
    steps = [group.step(anchor) for anchor in (pair.first, pair.second)]
    data = [group.type(step.operands[0]) for step in steps]
    kinds = {group.type(step.operands[1]).dtype for step in steps} | {x.dtype for x in data}
    if packings is None or not pair.together or len(kinds) > 1 or not kinds <= {"float32", "bfloat16"}:
        return None
    if group.type(pair.first).dtype != "float32" or any(block_of(x.layout) != lanes for x in data):
        return None
    paired = kinds == {"bfloat16"}
    for step in steps:
        packings[step.operands[1]] = Packing("pairs" if paired else "convolution", lanes, lanes)
        packings |= {value: Packing("padded", lanes) for value in step.operands[2:]}
    pairs = take(choices, target) if paired else None
    geometries = _geometries(group, pair, target, choices)
    size, depth = (2, DEPTH) if pairs else (4, 1)
    registers, unroll = (pairs.tiled(target, reserve=4), pairs.written or UNROLL) if pairs else (target, UNROLL)
    channels = sum(g.in_channels for g in geometries)
    heavy = is_heavy(group, group.last)
    schedule = schedule_of(
        *(replace(geometries[0], in_channels=channels), lanes // depth, registers, choices, size),
        heavy=heavy,
        depth=depth,
        unroll=unroll,
        chunked=False,
    )

    def write(emitter: Emitter) -> None:
        with imported(pairs):
            _Added(emitter, pair, geometries, schedule, target, pairs).emit()

    return Template(write, packings, once=True)


def _geometries(group: Group, pair: Pair, target: Target, choices: Choices) -> list[Geometry]:
    """Those of both convolutions, with equal rows and columns of results."""
    found = [geometry_of(group, anchor, target, choices) for anchor in (pair.first, pair.second)]
    if all(g.flat for g in found):
        return found
    whole = []
    for anchor in (pair.first, pair.second):
        step = group.step(anchor)
        (n, c, height, width), (_, o, rows, columns) = group.type(step.operands[0]).concrete, step.type.concrete
        whole.append(
            Geometry(n, c, height, width, o, rows, columns, (1, 1), step.attrs["stride"], (1, 1), (0, 0), False)
        )
    return whole


class _Added(Convolution):
    """Writes the loops of the first convolution; every tile takes the products of the second one, too."""

    def __init__(
        self,
        emitter: Emitter,
        pair: Pair,
        geometries: list[Geometry],
        schedule: Schedule,
        target: Target,
        pairs: Pairs | None,
    ) -> None:
        epilogue = Epilogue(emitter, pair.first, target.lanes, within=[pair.second])
        rest = target.lanes, target, pairs, epilogue
        super().__init__(emitter, pair.first, geometries[0], schedule, *rest)
        asking = replace(schedule, results=False)
        self.other = Convolution(emitter, pair.second, geometries[1], asking, *rest)

    def _make_room(self) -> None:
        super()._make_room()
        self.other._make_room()

    def _start(self, block: Any, lane: Any) -> Any:
        biases = [each.bias[block * self.lanes + lane] for each in (self, self.other) if each.bias is not None]
        return sum(biases[1:], biases[0]) if biases else super()._start(block, lane)

    def _widen(self, place: Place) -> None:
        super()._widen(place)
        self.other._widen(place)

    def _sums(self, acc: Any, place: Place, lane: Any) -> None:
        super()._sums(acc, place, lane)
        self.other._sums(acc, place, lane)
