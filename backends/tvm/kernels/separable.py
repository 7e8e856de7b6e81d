"""A depthwise convolution and the 1x1 convolution that alone reads it, in one kernel; with an expansion in front of
them, a whole inverted residual.

    (x --1x1 convolution--> (wider) --pointwise steps-->) --depthwise k x k--> --pointwise steps--> (between)
        --1x1 convolution--> --pointwise steps--> result

Rows of what is between them are computed a batch at a time, for all channels, into memory of the thread, which the
nearer caches hold; the 1x1 convolution reads them there (`stages.Projection`). Threads share out the batches. An
expansion is computed as by itself (`expansion`), group of channels by group, into a ring that keeps the last rows of
all channels from one batch to the next. With all channels for each row, the weights of the expansion are read again
for each, and the two convolutions take 0.73 to 1.79 of the time of two kernels where they take 0.66 to 1.01 group by
group (one core of the Granite Rapids generation).

The fusion pass decides which groups are computed so, by a rule and its measurements (`specc.passes.separable`); a
choice can take the last convolution apart from the rest, and another one the rest (`front.fused`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Group, Part, cut
from specc.backends.tvm.kernels import convolution, depthwise, expansion
from specc.backends.tvm.kernels.depthwise import Depthwise, take_pixels
from specc.backends.tvm.kernels.epilogue import Epilogue
from specc.backends.tvm.kernels.expansion import Expansion, pieces_of, plan_of
from specc.backends.tvm.kernels.rows import Rows
from specc.backends.tvm.kernels.stages import (
    Stage,
    is_depthwise,
    is_pointwise,
    packings_of,
    projection_of,
    stages_of,
)
from specc.targets import Target


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that ends with a depthwise convolution and a 1x1 convolution; None for another group."""
    stages = stages_of(group, target)
    if not 2 <= len(stages) <= 3 or not all(is_pointwise(group, stage.anchor) for stage in (*stages[:-2], stages[-1])):
        return None
    if not is_depthwise(group, stages[-2].anchor):
        return None
    packings = packings_of(group, stages, target)
    if packings is None:
        return None
    if not choices.take("fused", (True, False), True):
        parts = cut(group, stages[-2].value)
        made = apart(stages[-2].value, parts, _alone(parts, target, choices))
        return Template(lambda emitter: made.write(emitter), made.packings, once=made.once)
    if len(stages) == 2:
        pixels = take_pixels(group, stages[0].anchor, target, choices.part("depthwise"))
        plan, projection = None, projection_of(group, stages[1], target, choices)
    else:
        pieces = pieces_of(group, stages, group.result.concrete[0])
        plan, projection = (
            plan_of(group, stages, target, choices),
            projection_of(group, stages[2], target, choices, pieces),
        )

    def write(emitter: Emitter) -> None:
        def front(rows: Rows) -> Callable[[Any, Any, Any], None]:
            if plan is None:
                return _filtered(emitter, stages[0], rows, pixels, target)
            return _expanded(Expansion(emitter, stages, plan, target, rows), rows)

        projection.emit(emitter, stages[-1], target, front)

    return Template(write, packings, once=True)


def _alone(parts: Sequence[Part], target: Target, choices: Choices) -> list[Template]:
    """The templates of what stands in front of the last 1x1 convolution, and of that."""
    front, rest = (part.group for part in parts)
    inner = choices.part("front")
    found = [expansion.lower(front, target, inner) or depthwise.lower(front, target, inner)]
    found.append(convolution.lower(rest, target, choices.part("project")))
    return [template for template in found if template is not None]


def _filtered(
    emitter: Emitter, stage: Stage, rows: Rows, pixels: int, target: Target
) -> Callable[[Any, Any, Any], None]:
    """What writes a batch of rows of a depthwise convolution."""
    epilogue = Epilogue(emitter, stage.anchor, target.lanes, stage.value, rows)
    deep = Depthwise(emitter, stage.anchor, pixels, target, epilogue=epilogue)

    def write(n: Any, y: Any, place: Any) -> None:
        with emitter.serial(deep.blocks) as block, emitter.serial(rows.rows, y) as row:
            deep.row(n, block, row)

    return write


def _expanded(expansion: Expansion, rows: Rows) -> Callable[[Any, Any, Any], None]:
    """What writes a batch of rows of an expansion and its depthwise convolution."""
    emitter, ring = expansion.emitter, expansion.ring(expansion.type.physical[1])

    def write(n: Any, y: Any, place: Any) -> None:
        with emitter.serial(expansion.plan.groups) as group, emitter.serial(rows.rows) as i:
            expansion.sized(group, lambda first, count: expansion.row(ring, n, first, count, y + i, place + i))

    return write
