"""Squeeze-excite: the mean over a picture, then small products of weights with one vector of channels.

    [n, c, h, w] --mean--> [n, c] --(1x1 convolution or linear layer, pointwise steps)*--> [n, o]

Each of these is a *phase*: a warp (or a block, if its pixels are many) has an element, its threads go along the pixels
or along the row of weights, as they lie in memory, and join their sums. Phases that are one launch are done by one
block for each picture, and what one leaves for the next lies in shared memory; a phase that is a launch of its own is
done by as many blocks as it has work for, and leaves a temporary. One block reads far slower than all of them, and
every launch takes time: a model of both decides where to part the phases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda.occupancy import LAUNCH, SHARED
from specc.backends.tvm.cuda.threads import WARP, barrier, exchanged, grid, local, only_if, shared, unravel
from specc.backends.tvm.emitter import Emitter, Index, Template
from specc.backends.tvm.expression import Scalar, constant
from specc.backends.tvm.group import Group, Step
from specc.ir.dtypes import HALVES
from specc.ir.types import TensorType
from specc.targets import Target

_WARPS = 16
"""Of a block that does several phases."""

_FEW_WARPS = 8
"""Of a block that does a part of one."""

_LONG = 1024
"""Terms from which all warps of such a block share one element."""


@dataclass(frozen=True)
class Phase:
    """One reduction: the step `anchor`, and the value that is stored behind it; what the next one reads, or the result.

    A picture has `count` elements, each of so many `terms`.
    """

    anchor: int
    value: int
    count: int
    terms: int


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that is a mean over pictures and products behind it; None for another group."""
    phases = _phases(group)
    if phases is None or any(4 * phase.count > SHARED // 4 for phase in phases):
        return None
    pictures = group.result.concrete[0]

    def cost(first: int) -> float:
        """With a launch for each of the phases in front of number `first`, and one for all others."""
        total = 0.0
        for number, phase in enumerate(phases):
            alone = number < first or first == len(phases) - 1
            blocks = pictures * (-(-phase.count // _elements(phase)) if alone else 1)
            rounds = 1 if alone else -(-phase.count // _WARPS)
            rounds *= -(-blocks // (target.processors * (8 if alone else 2)))
            # A warp gets some 2 bytes in a cycle; a multiprocessor some 10 when all of them read from memory.
            warps = _FEW_WARPS // _elements(phase) if alone else 1
            read = 4 * phase.terms * phase.count * pictures if not number else 0
            busy = min(blocks, target.processors)
            total += max(700 + rounds * 4 * phase.terms / warps / 2, read / 10 / busy)
        return total + LAUNCH * (first + 1)

    firsts = sorted(range(len(phases)), key=cost)
    first = choices.take("apart", firsts, firsts[0])
    return Template(lambda emitter: _Squeeze(emitter, phases, first).emit())


def _elements(phase: Phase) -> int:
    """The elements of a block that does a part of a phase: one for each warp, or one for all of them."""
    return 1 if phase.terms >= _LONG else _FEW_WARPS


def _phases(group: Group) -> list[Phase] | None:
    """The phases of a group; None for a group of another kind."""
    anchors = group.anchors
    if not group.single or len(anchors) < 2 or not _is_mean(group, group.step(anchors[0])):
        return None
    types = [type for step in group.steps for type in step.types]
    if any(type.layout or type.dtype not in ("float32", *HALVES) for type in types):
        return None
    source = group.type(group.step(anchors[0]).operands[0])
    values = [*(group.step(number).operands[0] for number in anchors[1:]), group.last]
    phases = []
    for number, (anchor, value) in enumerate(zip(anchors, values, strict=True)):
        step = group.step(anchor)
        if number and not _is_product(group, step):
            return None
        if _anchors_of(group, value) != {anchor} or group.type(value).shape != step.type.shape:
            return None
        terms = prod(source.concrete[2:]) if not number else group.type(step.operands[0]).concrete[1]
        phases.append(Phase(anchor, value, step.type.concrete[1], terms))
    return phases if prod(source.concrete) else None


def _is_mean(group: Group, step: Step) -> bool:
    if step.op not in ("mean", "global_avg_pool") or step.operands[0] >= len(group.inputs):
        return False
    if group.type(step.operands[0]).rank != 4:
        return False
    return step.op == "global_avg_pool" or tuple(sorted(axis % 4 for axis in step.attrs["axes"])) == (2, 3)


def _is_product(group: Group, step: Step) -> bool:
    """Whether a step multiplies vectors of channels with a matrix that comes from outside."""
    if step.op not in ("conv2d", "linear") or any(operand >= len(group.inputs) for operand in step.operands[1:]):
        return False
    if step.op == "linear":
        return step.type.rank == 2
    window = step.attrs["groups"] == 1 and not any(step.attrs["padding"])
    return window and group.type(step.operands[1]).concrete[2:] == (1, 1) and step.type.concrete[2:] == (1, 1)


def _anchors_of(group: Group, value: int) -> set[int]:
    """The anchors that a value is computed from by pointwise steps."""
    if value < len(group.inputs):
        return set()
    step = group.step(value)
    if not step.pointwise:
        return {value}
    return set[int]().union(*(_anchors_of(group, operand) for operand in step.operands))


class _Squeeze:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, phases: list[Phase], first: int) -> None:
        self.emitter, self.group, self.phases = emitter, emitter.group, phases
        self.pictures = self.group.result.concrete[0]
        self.launches = [[phase] for phase in phases[:first]] + [phases[first:]]
        self.stored: Callable[[Any, Any], Scalar] | None = None
        """What the last phase left, of a picture and a channel."""

    def emit(self) -> None:
        emitter = self.emitter
        between = [emitter.temporary(TensorType((self.pictures, phases[-1].count))) for phases in self.launches[:-1]]
        for number, phases in enumerate(self.launches):
            several = len(phases) > 1
            warps = _WARPS if several else _FEW_WARPS
            elements = warps if several else _elements(phases[0])
            parts = 1 if several else -(-phases[0].count // elements)
            self.members = warps * WARP // elements
            with grid(emitter, self.pictures * parts, warps * WARP) as (block, thread):
                picture, part = emitter.divmod(block, parts)
                own, self.member = emitter.divmod(thread, self.members)
                for position, phase in enumerate(phases):
                    last = position == len(phases) - 1
                    memory = None if last else shared((phase.count,), "float32")
                    kept = between[number].buffer if last and number < len(between) else None
                    with emitter.serial(-(-phase.count // elements) if several else 1) as step:
                        channel = emitter.simplify((part + step) * elements + own)
                        with only_if(phase.count % elements == 0 or channel < phase.count):
                            self._element(phase, (picture, channel), memory, kept)
                    if memory is not None:
                        barrier()
                        self.stored = lambda n, c, memory=memory: Scalar(memory[c])
            if number < len(between):
                self.stored = lambda n, c, made=between[number]: made(n, c)

    def _element(self, phase: Phase, place: tuple[Any, Any], memory: Any, kept: Any) -> None:
        """An element of a phase, by a warp or a block: to shared memory, to a temporary, or finished to the result."""
        emitter, group, math = self.emitter, self.group, self.emitter.math
        step, (picture, channel), result = group.step(phase.anchor), place, emitter.result()
        total = local(1, "float32")
        emitter.store(total, math.const(0.0, "float32"), [0])
        with emitter.serial(-(-phase.terms // self.members)) as turn:
            k = emitter.simplify(turn * self.members + self.member)
            with only_if(phase.terms % self.members == 0 or k < phase.terms):
                emitter.store(total, Scalar(total[0]) + self._term(step, picture, channel, k), [0])
        found = math.let(Scalar(total[0]))
        lanes = WARP // 2
        while lanes:
            found = math.let(found + exchanged(found, lanes))
            lanes //= 2
        if self.members > WARP:
            parts = shared((self.members // WARP,), "float32")
            warp, lane = emitter.divmod(self.member, WARP)
            with only_if(lane == 0):
                emitter.store(parts, found, [warp])
            barrier()
            found = Scalar(parts[0])
            for part in range(1, self.members // WARP):
                found = math.let(found + Scalar(parts[part]))
        if self.stored is None:
            found = found * Scalar(constant(1.0 / phase.terms, "float32"))
        elif len(step.operands) > 2:
            found = found + emitter.input(step.operands[2])(channel)
        found = math.let(found)

        def leaf(number: int, index: Index) -> Scalar:
            return found if number == phase.anchor else emitter.input(number)(*index)

        with only_if(self.member == 0):
            index = (picture, channel, *([0] * (step.type.rank - 2)))
            value = emitter.evaluate(phase.value, index, leaf)
            if memory is not None:
                emitter.store(memory, value, [channel])
            elif kept is not None:
                emitter.store(kept, value, [picture, channel])
            else:
                result.put(math.cast(value, result.type.dtype), result.position(index))

    def _term(self, step: Step, picture: Any, channel: Any, k: Any) -> Scalar:
        emitter = self.emitter
        if self.stored is None:
            places = self.group.type(step.operands[0]).concrete[2:]
            return emitter.input(step.operands[0])(picture, channel, *unravel(emitter, k, places))
        weight = emitter.input(step.operands[1])
        return self.stored(picture, k) * weight(channel, k, *([0] * (weight.type.rank - 2)))
