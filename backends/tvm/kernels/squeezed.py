"""A depthwise convolution, its expansion in front of it if there is one, and the squeeze-excite of the picture that it
makes up to the scales, in one kernel of two results.

    x (--1x1 convolution--> --pointwise steps-->) --depthwise k x k--> --pointwise steps--> picture
    picture --mean--> (--1x1 convolution--> --pointwise steps-->)* scales

The convolution adds up the tiles of each row while it has them in registers (`depthwise.Loops`). What follows reads
these sums as a picture of fewer columns (`squeeze`): the picture itself is not read again. As each row has its sums by
itself, it is no matter which thread computes it.

The fusion pass decides which groups are computed so, by a rule and its measurements (`specc.passes.squeezed`). A choice
can take the two apart again: one behind the other then, each by its own template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Group, Input, Part, cut
from specc.backends.tvm.kernels import depthwise, expansion, squeeze
from specc.backends.tvm.kernels.depthwise import Loops
from specc.backends.tvm.kernels.stages import is_depthwise, is_pointwise, packings_of, stages_of
from specc.backends.tvm.packing import Packing
from specc.targets import Target

Select = Callable[[Group, Target, Choices], Template]


def lower(group: Group, target: Target, choices: Choices, select: Select) -> Template | None:
    """The template of a depthwise convolution and the squeeze-excite of its result; None for another group.

    `select` chooses those of the two parts where they are computed one behind the other.
    """
    picture = _picture(group)
    if picture is None:
        return None
    front, rest = cut(group, picture)
    found = _loops(front.group, target, choices.part("convolutions"))
    summed = _summed(rest, picture, found[0].spans) if found else None
    last = squeeze.lower(summed.group, target, choices.part("squeeze")) if summed else None
    fused = choices.take("fused", (True, False) if last else (False,), last is not None)
    if not (fused and found and summed and last):
        parts = front, rest
        made = apart(picture, parts, [select(p.group, target, choices.part(f"part{i}")) for i, p in enumerate(parts)])
        return Template(lambda emitter: made.write(emitter), made.packings)
    loops, packings = found

    def write(emitter: Emitter) -> None:
        sums = emitter.temporary(summed.group.type(summed.values.index(picture)))
        loops.write(emitter.part(front, packings, {}, emitter.outputs[0]), sums)
        last.write(emitter.part(summed, last.packings, {picture: sums.buffer}, emitter.outputs[1]))

    packed = [(front, packings), (summed, last.packings)]
    return Template(write, {part.values[number]: each for part, of in packed for number, each in of.items()})


def _summed(part: Part, picture: int, spans: int) -> Part:
    """The part, with a picture of so many columns in the place of `picture`."""
    number, inputs = part.values.index(picture), list(part.group.inputs)
    type = inputs[number].type
    inputs[number] = Input(replace(type, shape=(*type.shape[:3], spans)))
    return Part(replace(part.group, inputs=tuple(inputs)), part.values)


def _picture(group: Group) -> int | None:
    """The first of a group's two results, where all that reads it in the group is a mean; None for another group."""
    if len(group.results) != 2 or group.results[1] != group.last or any(len(step.types) > 1 for step in group.steps):
        return None
    picture = group.results[0]
    users = [step for step in group.steps if picture in step.operands]
    return picture if len(users) == 1 and squeeze.is_mean(users[0]) else None


def _loops(group: Group, target: Target, choices: Choices) -> tuple[Loops, dict[int, Packing]] | None:
    """What writes a depthwise convolution, or one with its expansion, and how its weights are stored."""
    stages = stages_of(group, target)
    if not 1 <= len(stages) <= 2 or not is_depthwise(group, stages[-1].anchor) or not group.result.layout:
        return None
    if len(stages) == 2 and not is_pointwise(group, stages[0].anchor):
        return None
    packings = packings_of(group, stages, target)
    if packings is None:
        return None
    if len(stages) == 2:
        return expansion.loops(group, stages, target, choices), packings
    return depthwise.loops(group, stages[0].anchor, target, choices), packings
