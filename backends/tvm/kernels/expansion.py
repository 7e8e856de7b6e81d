"""A 1x1 convolution and the depthwise convolution that alone reads it, in one kernel: the wide tensor between them, as
in an inverted residual, never exists as a whole.

    x --1x1 convolution--> (wider) --pointwise steps--> --depthwise k x k--> --pointwise steps--> result

The rows of the result are run through for some blocks of channels after the other. Each is computed as soon as the
rows of its window are there, which lie in a ring: row number y at place y modulo the rows of a window, in the
second-level cache, or the first. A step down by one row computes as many new rows as the stride has. Threads share out
the rows of all blocks in equal pieces; where one begins within a picture, the rows of a window are computed anew.

Both halves are those of the templates for one convolution (`convolution`, `depthwise`), the ring standing for the
result of the one and the input of the other. The fusion pass decides which groups are fused so, by a rule and its
measurements (`specc.passes.expansion`); a choice can take the two apart again: one behind the other then, each by its
own template.

With a projection behind them, the two are the front of a whole inverted residual (`separable`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template, Tensor
from specc.backends.tvm.group import Group, cut
from specc.backends.tvm.kernels import convolution, depthwise
from specc.backends.tvm.kernels.convolution import Convolution
from specc.backends.tvm.kernels.convolution_plan import Geometry, Schedule
from specc.backends.tvm.kernels.depthwise import Depthwise, Loops, spans_of, take_pixels
from specc.backends.tvm.kernels.epilogue import Epilogue
from specc.backends.tvm.kernels.rows import Rows
from specc.backends.tvm.kernels.stages import (
    Stage,
    by_rows,
    is_depthwise,
    is_pointwise,
    packings_of,
    stages_of,
    window_of,
)
from specc.targets import Target

_LEAST, _MOST = 4, 32
"""Into how many pieces the work is cut, so that as many threads get equal parts."""

_TWICE = 32
"""Of so many rows of the wide tensor, one may be computed twice for the sake of more pieces."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a 1x1 convolution and a depthwise one behind it; None for another group."""
    stages = stages_of(group, target)
    if len(stages) != 2 or not is_pointwise(group, stages[0].anchor) or not is_depthwise(group, stages[1].anchor):
        return None
    packings = packings_of(group, stages, target)
    if packings is None:
        return None
    if not choices.take("fused", (True, False), True):
        front, rest = cut(group, stages[0].value)
        first = convolution.lower(front.group, target, choices.part("expand"))
        last = depthwise.lower(rest.group, target, choices.part("depthwise"))
        assert first is not None and last is not None
        made = apart(stages[0].value, (front, rest), (first, last))
        return Template(lambda emitter: made.write(emitter), made.packings, once=made.once)
    fused = loops(group, stages, target, choices)
    return Template(lambda emitter: fused.write(emitter, None), packings, once=True)


def loops(group: Group, stages: tuple[Stage, ...], target: Target, choices: Choices) -> Loops:
    """What writes an expansion and its depthwise convolution."""
    plan = plan_of(group, stages, target, choices)
    n, _, rows, _ = group.result.concrete
    groups = n * plan.groups
    wanted = (p for p in (1, 2, 3, 4, 6, 8, 12, 16, 32) if p <= groups * rows)
    pieces = choices.near("pieces", wanted, pieces_of(group, stages, groups))

    def write(emitter: Emitter, sums: Tensor | None) -> None:
        Expansion(emitter, stages, plan, target, sums=sums).emit(pieces)

    return Loops(len(spans_of(group, stages[1].anchor, plan.pixels)), write)


@dataclass(frozen=True)
class Plan:
    """How both convolutions are computed; the tiles of the depthwise one have `pixels` pixels."""

    geometry: Geometry
    schedule: Schedule
    pixels: int

    @property
    def groups(self) -> int:
        """The groups of blocks of channels that are computed together."""
        return self.schedule.groups


def plan_of(group: Group, stages: tuple[Stage, ...], target: Target, choices: Choices) -> Plan:
    """The plan for an expansion and a depthwise convolution, the first two stages of a group."""
    first, last = choices.part("expand"), choices.part("depthwise")
    pixels = take_pixels(group, stages[1].anchor, target, last)
    return Plan(*by_rows(group, stages[0].anchor, target, first), pixels)


class Expansion:
    """Writes the rows of both convolutions, the first two stages of a group; those of the depthwise one to `goal`, or
    to the group's result if none is given. For `sums`, see `Loops`."""

    def __init__(
        self,
        emitter: Emitter,
        stages: tuple[Stage, ...],
        plan: Plan,
        target: Target,
        goal: Rows | None = None,
        sums: Tensor | None = None,
    ) -> None:
        self.emitter, self.plan, self.target, self.goal, self.sums = emitter, plan, target, goal, sums
        self.expand, self.deep, *_ = stages
        self.type = emitter.group.type(self.expand.value)
        self.window = window_of(emitter.group, self.deep.anchor)

    def emit(self, pieces: int) -> None:
        """All loops of a group that ends with the depthwise convolution."""
        emitter, (n, _, rows, _) = self.emitter, self.emitter.group.result.concrete
        groups = self.plan.groups
        whole = n * groups * rows
        with emitter.parallel(pieces) as piece:
            ring = self.ring(self.plan.schedule.tile.blocks)
            with emitter.strip(whole, pieces, piece) as place:
                begins = emitter.divmod(place, -(-whole // pieces))[1]
                outer, y = emitter.divmod(place, rows)
                image, group = emitter.divmod(outer, groups)
                self.sized(group, lambda first, count: self.row(ring.since(first), image, first, count, y, begins))

    def ring(self, blocks: int) -> Rows:
        """Room for the rows of a window of so many blocks of channels, or of all where these are fewer."""
        _, all_blocks, height, *_ = self.type.physical
        return Rows(self.emitter, self.type, min(blocks, all_blocks), min(self.window.rows, height))

    def sized(self, group: Any, write: Callable[[Any, int], None]) -> None:
        """What `write` writes for a group of blocks of channels: its first one, and their number. The last group may
        have fewer of them."""
        size, blocks, groups = self.plan.schedule.tile.blocks, self.type.physical[1], self.plan.groups
        rest = blocks % size
        if not rest:
            write(group * size, size)
        elif groups == 1:
            write(0, rest)
        else:
            with T.If(group < groups - 1):
                with T.Then():
                    write(group * size, size)
                with T.Else():
                    write(blocks - rest, rest)

    def row(self, ring: Rows, n: Any, first: Any, count: int, y: Any, place: Any) -> None:
        """A row of the result, of `count` blocks of channels from `first` on; it is number `place` of its piece."""
        emitter, lanes, target, plan = self.emitter, self.target.lanes, self.target, self.plan
        epilogue = Epilogue(emitter, self.expand.anchor, lanes, self.expand.value, ring)
        expand = Convolution(
            emitter, self.expand.anchor, plan.geometry, plan.schedule, lanes, target, epilogue=epilogue
        )
        behind = Epilogue(emitter, self.deep.anchor, lanes, self.deep.value, self.goal)
        deep = Depthwise(emitter, self.deep.anchor, plan.pixels, target, ring, behind, self.sums)
        low, new = self.window.fresh(y, place, plan.geometry.rows)
        with emitter.serial(new, low) as row:
            expand.row(n, [first + j for j in range(count)], row)
        with emitter.serial(count) as j:
            deep.row(n, first + j, y)


def pieces_of(group: Group, stages: tuple[Stage, ...], groups: int) -> int:
    """How many pieces all rows of all `groups` of blocks are shared out in.

    As many as add no more than a part in `_TWICE` to the rows of the wide tensor; four in any case.
    """
    window = window_of(group, stages[1].anchor)
    height, rows = group.type(stages[0].anchor).concrete[2], group.type(stages[1].anchor).concrete[2]
    found = min(_LEAST, groups * rows)
    for pieces in range(2 * _LEAST, min(_MOST, groups * rows) + 1, _LEAST):
        size = -(-groups * rows // pieces)
        cuts = sum(number * size % rows > 0 for number in range(1, pieces))
        if _TWICE * cuts * max(0, window.rows - window.stride) <= groups * height:
            found = pieces
    return found
