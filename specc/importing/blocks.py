"""Bodies --> blocks: modules that do the same, up to numbers and parts that some of them lack, become one block.

    conv1, bn1, relu, conv2, bn2, downsample, add, relu      layer2.0
    conv1, bn1, relu, conv2, bn2,             add, relu      layer2.1     one block; `downsample` is a part that not all
                                                                          have, in its place stands the block's input

Bodies of one class are aligned step by step, as a diff aligns lines. What a step reads must agree, or be a part that
the other lacks: what stands there instead is then the part's *stand-in*, and has to be the same wherever the part is
read. Where no alignment is found, the class becomes several blocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from specc import ops
from specc.importing.scopes import Body, Ref, Step
from specc.ir.types import TensorType

ABSENT: Any = object()
"""The value of an argument in a body that lacks the step."""
_MOST_OPTIONS = 2
"""Parts that a block may lack: with more, two blocks are easier to read than one."""


_SHORTEST_LOOP = 3


@dataclass
class Shared:
    """A step of a block: for each of its bodies the step there, or None where it lacks it."""

    steps: list[Step | None]
    operands: list[Ref]
    shared: dict[str, Ref]
    standin: Ref | None = None

    @property
    def one(self) -> Step:
        """The step of the first body that has it."""
        return next(step for step in self.steps if step is not None)

    @property
    def mask(self) -> tuple[bool, ...]:
        """In which bodies the step stands."""
        return tuple(step is not None for step in self.steps)

    @property
    def always(self) -> bool:
        return all(self.mask)


@dataclass
class Block:
    """Bodies as one block. References are to `steps` of the block."""

    bodies: list[Body]
    steps: list[Shared]
    results: list[Ref]
    name: str = ""
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def inputs(self) -> list[TensorType]:
        return self.bodies[0].inputs


def blocks_of(bodies: Sequence[Body], names: dict[str, str]) -> list[Block]:
    """As few blocks as cover the bodies; `names` are the blocks of the modules that they call, by path."""
    exact: list[Block] = []
    for body in bodies:
        block = next((b for b in exact if _skeleton(b.bodies[0], names) == _skeleton(body, names)), None)
        if block is None:
            shared = [Shared([step], list(step.operands), dict(step.shared)) for step in body.steps]
            exact.append(Block([body], shared, list(body.results)))
        else:
            block.bodies.append(body)
            for mine, step in zip(block.steps, body.steps, strict=True):
                mine.steps.append(step)
    merged: list[Block] = []
    for block in sorted(exact, key=lambda b: -len(b.steps)):
        for index, other in enumerate(merged):
            together = _merge(other, block, names)
            if together is not None:
                merged[index] = together
                break
        else:
            merged.append(block)
    return merged


def _key(step: Step, names: dict[str, str]) -> tuple[Any, ...]:
    callee = names[step.callee] if step.kind in ("block", "loop") else step.callee
    if is_activation(step):
        callee = "activation"
    return (step.path, step.kind, callee, len(step.operands), tuple(sorted(step.shared)), step.owns, step.start)


def is_activation(step: Step) -> bool:
    """Whether the step is an operator of one operand without arguments, which a block can be given."""
    if step.kind != "operator" or step.args or len(step.operands) != 1:
        return False
    record = ops.get(step.callee)
    return record.elementwise and not record.attributes


def _skeleton(body: Body, names: dict[str, str]) -> Any:
    ranks = [type_.rank for type_ in body.inputs]
    steps = [(_key(step, names), step.operands, step.shared) for step in body.steps]
    return ranks, steps, body.results


def _merge(a: Block, b: Block, names: dict[str, str]) -> Block | None:
    """Both as one block; None where they differ by more than parts that one of them lacks."""
    if [t.rank for t in a.inputs] != [t.rank for t in b.inputs] or len(a.results) != len(b.results):
        return None
    keys = [[_key(shared.one, names) for shared in block.steps] for block in (a, b)]
    matcher = SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    pairs: list[tuple[int | None, int | None]] = []
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            pairs += zip(range(i, i_end), range(j, j_end))
        else:
            pairs += [(n, None) for n in range(i, i_end)] + [(None, n) for n in range(j, j_end)]
    if sum(a_ is not None and b_ is not None for a_, b_ in pairs) * 2 < len(pairs):
        return None
    numbers: list[dict[int, int]] = [{}, {}]
    lost: list[set[int]] = [set(), set()]
    for number, pair in enumerate(pairs):
        for side in range(2):
            place = pair[side]
            if place is None:
                lost[side].add(number)
            else:
                numbers[side][place] = number
    merged = _Merge(numbers, lost)
    steps: list[Shared] = []
    for left, right in pairs:
        one, two = a.steps[left] if left is not None else None, b.steps[right] if right is not None else None
        columns = [
            *(one.steps if one else [None] * len(a.bodies)),
            *(two.steps if two else [None] * len(b.bodies)),
        ]
        sides = [(side, shared) for side, shared in enumerate((one, two)) if shared is not None]
        roles = sorted(sides[0][1].shared)
        operands = merged.all_agreed([[merged.moved(ref, side) for ref in x.operands] for side, x in sides])
        others = merged.all_agreed([[merged.moved(x.shared[role], side) for role in roles] for side, x in sides])
        if operands is None or others is None:
            return None
        standins = [merged.moved(x.standin, side) for side, x in sides if x.standin]
        if len(standins) == 2 and standins[0] != standins[1]:
            return None
        steps.append(Shared(columns, operands, dict(zip(roles, others)), standins[0] if standins else None))
    results = merged.agreed([merged.moved(r, 0) for r in a.results], [merged.moved(r, 1) for r in b.results])
    if results is None:
        return None
    for number, standin in merged.standins.items():
        if steps[number].standin not in (None, standin):
            return None
        steps[number].standin = standin
    block = Block([*a.bodies, *b.bodies], steps, results)
    return block if _sound(block) else None


@dataclass
class _Merge:
    numbers: list[dict[int, int]]
    lost: list[set[int]]
    standins: dict[int, Ref] = field(default_factory=dict)

    def moved(self, ref: Ref, side: int) -> Ref:
        """A reference of one of the two blocks as one of the block that both become."""
        return ("step", self.numbers[side][ref[1]]) if ref[0] == "step" else ref

    def all_agreed(self, sides: list[list[Ref]]) -> list[Ref] | None:
        """What a step of one side or of both reads."""
        return sides[0] if len(sides) == 1 else self.agreed(*sides)

    def agreed(self, left: list[Ref], right: list[Ref]) -> list[Ref] | None:
        """What both read, if it is the same, or a part that the other lacks."""
        found: list[Ref] = []
        for a, b in zip(left, right, strict=True):
            if a == b:
                found.append(a)
            elif b[0] == "step" and b[1] in self.lost[0] and self.standins.setdefault(b[1], a) == a:
                found.append(b)
            elif a[0] == "step" and a[1] in self.lost[1] and self.standins.setdefault(a[1], b) == b:
                found.append(a)
            else:
                return None
        return found


def _sound(block: Block) -> bool:
    """Whether a part that some lack is read by others only where a stand-in is known, and there are few such parts."""
    masks = {shared.mask for shared in block.steps if not shared.always}
    if len(masks) > _MOST_OPTIONS:
        return False
    readers: dict[int, list[tuple[bool, ...]]] = {}
    everywhere = (True,) * len(block.bodies)
    for shared in block.steps:
        for kind, number in [*shared.operands, *shared.shared.values()]:
            if kind == "step":
                readers.setdefault(number, []).append(shared.mask)
    for kind, number in block.results:
        if kind == "step":
            readers.setdefault(number, []).append(everywhere)
    for number, shared in enumerate(block.steps):
        if shared.always:
            continue
        outside = any(mask != shared.mask for mask in readers.get(number, []))
        prefix, _, last = shared.one.path.rpartition(".")
        if last.isdigit():  # members are numbered: a part that is lacking would give the others other numbers
            members = [other for other in block.steps if other.one.path.rpartition(".")[0] == prefix]
            if not prefix or any(other.mask != shared.mask for other in members):
                return False
        elif shared.standin is None and shared.one.owns:  # several lines: only a pipe says them as one choice
            return False
        if (outside and shared.standin is None) or (shared.standin and shared.standin[0] == "number"):
            return False
    return True


# ---- runs of members


def with_loops(bodies: Sequence[Body], names: dict[str, str], arguments: dict[str, dict[str, Any]]) -> list[Body]:
    """The bodies with chains of members `path.0`, `path.1`, ... that call one block as one step, a loop.

    That is done where one of the bodies has a long chain; others then have short ones at the same path.
    """
    longest: dict[str, int] = {}
    for body in bodies:
        for step in _chained(body, names, arguments, None).steps:
            longest[step.path] = max(longest.get(step.path, 0), len(step.turns))
    chosen = {path for path, length in longest.items() if length >= _SHORTEST_LOOP}
    return [_chained(body, names, arguments, chosen) for body in bodies]


def _chained(body: Body, names: dict[str, str], arguments: dict[str, dict[str, Any]], paths: set[str] | None) -> Body:
    steps: list[Step] = []
    moved: dict[int, int] = {}
    uses: dict[Ref, int] = {}
    for ref in [*(ref for step in body.steps for ref in [*step.operands, *step.shared.values()]), *body.results]:
        if ref[0] == "step":
            uses[ref] = uses.get(ref, 0) + 1

    def here(ref: Ref) -> Ref:
        return ("step", moved[ref[1]]) if ref[0] == "step" else ref

    for number, step in enumerate(body.steps):
        member = re.fullmatch(r"(.+)\.(\d+)", step.path) if step.kind == "block" else None
        if member and len(step.operands) == 1 and (paths is None or member[1] in paths):
            before = step.operands[0]
            last = steps[moved[before[1]]] if before[0] == "step" else None
            following = (
                last is not None
                and last.kind == "loop"
                and moved[before[1]] == len(steps) - 1
                and last.path == member[1]
                and names[last.callee] == names[step.callee]
                and last.start + len(last.turns) == int(member[2])
                and uses[before] == 1
            )
            if following:
                assert last is not None
                last.turns.append(arguments[step.callee])
                last.type = step.type
                moved[number] = len(steps) - 1
                continue
            turns = [arguments[step.callee]]
            loop = Step(
                member[1], "loop", step.callee, [here(before)], step.type, {}, {}, True, -1, turns, int(member[2])
            )
            moved[number] = len(steps)
            steps.append(loop)
            continue
        moved[number] = len(steps)
        shared = {role: here(ref) for role, ref in step.shared.items()}
        args = arguments[step.callee] if step.kind == "block" else step.args
        steps.append(
            Step(
                step.path,
                step.kind,
                step.callee,
                [here(r) for r in step.operands],
                step.type,
                args,
                shared,
                step.owns,
                step.node,
            )
        )
    return Body(body.path, body.kind, body.inputs, steps, [here(ref) for ref in body.results])
