"""Chains of members --> loops: which chains are written so, and how an argument follows from the turn.

A chain that is short, or whose turns differ in too many ways, is easier to read as its members, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from specc.grammar import syntax as s
from specc.grammar.literals import literal
from specc.importing.blocks import Block, Shared
from specc.importing.parameters import Parameter
from specc.importing.scopes import Ref, Step
from specc.ops.calls import same

RULES: dict[str, Callable[[int], bool]] = {
    "even": lambda i: i % 2 == 0,
    "odd": lambda i: i % 2 == 1,
    "only first": lambda i: i == 0,
    "only later": lambda i: i > 0,
}
"""Arguments of type bool, by the turn; turns are counted from 0."""


def unroll(block: Block, parameters: Callable[[Shared], dict[str, Parameter]]) -> None:
    """Writes the turns of short and of irregular loops one by one; `parameters` are those of a step's callee."""
    steps: list[Shared] = []
    moved: dict[int, int] = {}

    def here(ref: Ref) -> Ref:
        return ("step", moved[ref[1]]) if ref[0] == "step" else ref

    for number, shared in enumerate(block.steps):
        shared = replace(
            shared,
            operands=[here(ref) for ref in shared.operands],
            shared={role: here(ref) for role, ref in shared.shared.items()},
            standin=here(shared.standin) if shared.standin else None,
        )
        if shared.one.kind != "loop" or _is_loop(shared, parameters(shared)):
            moved[number] = len(steps)
            steps.append(shared)
            continue
        for turn in range(len(shared.one.turns)):
            columns = [step and _turn(step, turn) for step in shared.steps]
            source = shared.operands if turn == 0 else [("step", len(steps) - 1)]
            steps.append(Shared(columns, list(source), {}, shared.standin))
        moved[number] = len(steps) - 1
    block.steps = steps
    block.results = [here(ref) for ref in block.results]


def _is_loop(shared: Shared, parameters: dict[str, Parameter]) -> bool:
    counts = {len(step.turns) for step in shared.steps if step}
    if len(counts) > 1:
        return True
    (count,) = counts
    if count <= 3:
        return False
    irregular = [name for name in parameters if form(shared, name) is None]
    return len(irregular) <= 2


def form(shared: Shared, parameter: str) -> Any:
    """What the values of a parameter in a loop's turns are: "same", "first" and others, or a rule of `RULES`."""
    rows = [[turn[parameter] for turn in step.turns] for step in shared.steps if step]
    if all(all(same(v, row[0]) for v in row) for row in rows):
        return "same"
    booleans = all(isinstance(v, bool) for row in rows for v in row)
    if booleans:
        for name, holds in RULES.items():
            if all(v == holds(i) for row in rows for i, v in enumerate(row)):
                return name
    if all(all(same(v, row[1]) for v in row[1:]) for row in rows if len(row) > 1):
        return "first"
    return None


def rule(form: str) -> s.Expression:
    """A rule of `RULES` as an expression of the index `i`."""
    index, remainder = s.Name("i"), s.Binary("%", s.Name("i"), literal(2))
    match form:
        case "even":
            return s.Binary("==", remainder, literal(0))
        case "odd":
            return s.Binary("==", remainder, literal(1))
        case "only first":
            return s.Binary("==", index, literal(0))
    return s.Binary(">", index, literal(0))


def _turn(step: Step, turn: int) -> Step:
    path = f"{step.path}.{step.start + turn}"
    return Step(path, "block", step.callee, [], step.type, step.turns[turn], {}, True)
