"""Which steps of a group are attention, and where their elements come from: what its kernels have in common.

    scores = matmul(queries, keys)    weights = softmax(steps on scores)    mixed = matmul(weights, values) --> result

Between these stand steps that are pointwise, or move rows as they are; behind the last one, and in front of queries,
keys and values, any that move elements. So a kernel that computes an element of the one finds those of the others by
index arithmetic (`located`, `destination`).
"""

from __future__ import annotations

from dataclasses import dataclass

from specc.backends.tvm.emitter import Emitter, Index
from specc.backends.tvm.group import Group, Step
from specc.ir.dtypes import HALVES
from specc.ops.shape import moved
from specc.ops.windows import rolled


@dataclass(frozen=True)
class Parts:
    """The values of a group that is attention, by their numbers."""

    scores: int
    softmax: int
    mixed: int


def parts_of(group: Group) -> Parts | None:
    """Which steps are the two products and the softmax; None where the group is anything else."""
    anchors = [n for n in group.anchors if not group.step(n).moves]
    if [group.step(n).op for n in anchors] != ["matmul", "softmax", "matmul"]:
        return None
    if any(operand.type.layout or operand.type.dtype not in ("float32", *HALVES) for operand in group.inputs):
        return None
    scores, softmax, mixed = anchors
    if group.step(softmax).attrs["axis"] not in (-1, group.type(softmax).rank - 1):
        return None
    first, second = group.step(scores), group.step(mixed)
    whole = set(range(len(group.inputs), len(group.inputs) + len(group.steps)))
    behind = whole - _needed(group, mixed)
    steps = [group.step(n) for n in behind]
    if not all(step.op in ("permute", "reshape", "flatten", "roll") or step.rounds for step in steps):
        return None
    weights = between(group, second.operands[0], softmax)
    if weights is None or not all(group.step(n).moves or group.step(n).rounds for n in weights):
        return None
    if between(group, group.step(softmax).operands[0], scores) is None:
        return None
    reached = _needed(group, first.operands[0]) | _needed(group, first.operands[1]) | _needed(group, second.operands[1])
    return None if reached & set(anchors) else Parts(scores, softmax, mixed)


def _needed(group: Group, value: int) -> set[int]:
    """The steps from which a value is computed, with itself where it is one."""
    if value < len(group.inputs):
        return set()
    return {value}.union(*(_needed(group, operand) for operand in group.step(value).operands))


def between(group: Group, value: int, goal: int) -> list[int] | None:
    """The steps from `goal`, without it, to `value`; None unless they are pointwise or move its rows as they are."""
    found = sorted(_needed(group, value) - _needed(group, goal))
    if goal not in _needed(group, value) | {value}:
        return None
    for number in found:
        step = group.step(number)
        if not step.pointwise and (step.op not in ("reshape", "permute") or not _keeps_rows(group, step)):
            return None
    return found


def _keeps_rows(group: Group, step: Step) -> bool:
    """Whether the last two indices of a step's result are those of its operand's element."""
    shape, source = step.type.concrete, group.type(step.operands[0]).concrete
    if step.op == "permute":
        return tuple(step.attrs["order"][-2:]) == (len(shape) - 2, len(shape) - 1)
    return shape[-2:] == source[-2:]


def located(emitter: Emitter, value: int, index: Index, goal: int) -> Index:
    """The index of the element of `goal` from which the element of `value` at `index` is computed."""
    group = emitter.group
    while value != goal:
        step = group.step(value)
        operand = next(o for o in step.operands if goal == o or goal in _needed(group, o))
        if step.moves:
            index = emitter.moved(step, index, lambda *i: i)
        shape = group.type(operand).concrete
        index = tuple(0 if e == 1 else i for e, i in zip(shape, index[len(index) - len(shape) :], strict=True))
        value = operand
    return index


def destination(group: Group, parts: Parts, index: Index) -> Index:
    """Where the second product's element at `index` lies in the result."""
    for step in group.steps[parts.mixed + 1 - len(group.inputs) :]:
        source = group.type(step.operands[0]).concrete
        if step.op == "permute":
            index = tuple(index[axis] for axis in step.attrs["order"])
        elif step.op == "roll":
            index = rolled(index, source, step.attrs["shifts"], step.attrs["axes"])
        else:
            index = moved(index, source, step.type.concrete)
    return index
