"""What one elaboration shares: the graph that grows, the messages so far, who owns which key, and the limits.

Errors do not end an elaboration: a statement that fails is reported, its names are poisoned, and the next one goes on,
so that several mistakes are shown in one run. Only the limits end it at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from specc.diagnostics import Diagnostic, Frame, Label, Span, SpeccError
from specc.grammar.arithmetic import bounded
from specc.grammar.syntax import NOWHERE
from specc.grammar.values import Unfit
from specc.ir.congruence import Congruence
from specc.ir.graph import Graph
from specc.ir.types import TensorType

T = TypeVar("T")

MOST_STEPS = 200_000
"""Statements and expressions evaluated, 1.4 seconds of them; RepViT-M2.3 needs 9,400."""
MOST_NODES = 12_000
MOST_ERRORS = 20
MOST_ELEMENTS = 2**40
"""In one tensor; 4 TB of float32."""
DEEPEST_CALLS = 40


class Learned(Exception):
    """A requirement says more of a dimension of the network than was known: the elaboration starts again with it."""

    def __init__(self, name: str, known: Congruence) -> None:
        super().__init__(name)
        self.name, self.known = name, known


class Stop(Exception):
    """The elaboration ends here; the reason is reported."""


@dataclass
class Session:
    """The state of one elaboration."""

    graph: Graph
    stack: list[Frame] = field(default_factory=list)
    owners: dict[str, Span] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    known: Mapping[str, Congruence] = field(default_factory=dict)
    """What `require` says of the dimensions of the network."""
    steps: int = 0
    latest: Span = NOWHERE
    """Where the elaboration is at work."""

    def problem(self, code: str, message: str, *labels: Label, notes: Iterable[str] = ()) -> SpeccError:
        """A diagnostic with the present stack of blocks, to be raised."""
        stack = tuple(self.stack) if len(self.stack) > 1 else ()
        return SpeccError(Diagnostic(code, message, labels, tuple(notes), stack))

    def attempt(self, compute: Callable[[], T], span: Span, spoken: str = "") -> T:
        """`compute()`, its `Unfit` located at `span`; `spoken` stands before the message."""
        try:
            return compute()
        except Unfit as unfit:
            raise self.located(unfit, span, spoken) from None

    def located(self, unfit: Unfit, span: Span, spoken: str = "") -> SpeccError:
        """What `unfit` says, at `span`."""
        return self.problem(unfit.code, spoken + unfit.message, Label(span), notes=unfit.notes)

    def report(self, problem: SpeccError) -> None:
        """Keeps the diagnostics of `problem`; the same mistake at the same place is kept once."""
        self.diagnostics += unreported(problem.diagnostics, self.diagnostics)
        if len(self.diagnostics) >= MOST_ERRORS:
            raise Stop

    def step(self, span: Span) -> None:
        """Counts one unit of work; ends the elaboration where there were too many."""
        self.steps += 1
        self.latest = span
        if self.steps > MOST_STEPS:
            self._exceeded(f"the elaboration takes more than {MOST_STEPS:,} steps", span)

    def count_nodes(self, span: Span) -> None:
        """Ends the elaboration where the graph has grown too large."""
        if len(self.graph) > MOST_NODES:
            self._exceeded(f"the graph has more than {MOST_NODES:,} nodes", span)

    def bound_size(self, type_: TensorType, span: Span) -> None:
        """Raises for a tensor that no machine holds, as far as its dimensions are known, and for endless formulas."""
        for dim in type_.shape:
            try:
                bounded(dim)
            except Unfit as unfit:
                raise self.located(unfit, span) from None
        known = math.prod(dim for dim in type_.shape if isinstance(dim, int))
        if known > MOST_ELEMENTS:
            raise self.problem("S0406", f"a tensor {type_} of more than {MOST_ELEMENTS:,} elements", Label(span))

    def _exceeded(self, message: str, span: Span) -> None:
        self.report(self.problem("S0406", message, Label(span)))
        raise Stop


def unreported(found: Sequence[Diagnostic], known: Sequence[Diagnostic]) -> list[Diagnostic]:
    """The diagnostics of `found` whose code and first place are not among the `known` ones."""
    seen = {_identity(diagnostic) for diagnostic in known}
    result = []
    for diagnostic in found:
        if _identity(diagnostic) not in seen:
            seen.add(_identity(diagnostic))
            result.append(diagnostic)
    return result


def _identity(diagnostic: Diagnostic) -> tuple[str, Span | str]:
    return diagnostic.code, diagnostic.labels[0].span if diagnostic.labels else diagnostic.message
