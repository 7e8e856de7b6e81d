"""Running passes: graph --each pass--> graph, with a record of what each one did, the text after it, and the claims.

A claim (`ensure bn merges into conv2d`) is asked once re-parameterization has run; one that does not hold is an error
at its place in the spec, with the reasons that the pass gave for refusing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from specc.claims import surroundings
from specc.diagnostics import Diagnostic, Label, SpeccError
from specc.files import replacing
from specc.ir.body import bodies, nested
from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph, MergeClaim
from specc.ir.text import print_graph
from specc.ir.verify import verify
from specc.ops import OPERATORS
from specc.passes.registry import Canonicalize, Pass, Reparam
from specc.passes.rewrite import Journal

MERGING: tuple[Pass, ...] = (Canonicalize(), Reparam())
"""The passes after which merge claims have to hold."""
_CONVOLUTIONS = frozenset(name for name, record in OPERATORS.items() if "conv" in name and record.macs is not None)
"""Passes make one of another, as `conv2d` of `conv1d`: they are counted together."""


@dataclass(frozen=True)
class Step:
    """A pass that ran: what it was given and gave, and what its rules did and refused."""

    transformation: Pass
    before: Graph
    after: Graph
    journal: Journal
    seconds: float

    @property
    def name(self) -> str:
        """The pass with its options."""
        return str(self.transformation)

    @cached_property
    def summary(self) -> str:
        """What the pass did, in a line: `348 nodes into 182, 116 convolutions into 95, 100 batch norms into 0`."""
        old, new = (Counter(graph.node(i).op for i in graph.live()) for graph in (self.before, self.after))
        changes = [f"{old.total()} nodes into {new.total()}"] if old.total() != new.total() else []
        integers = sum(new[op] - old[op] for op in ("conv2d_integer", "linear_integer"))
        changes += [f"{integers} layer{'s' * (integers > 1)} of integers"] if integers else []
        halves = (self._halves(self.before), self._halves(self.after))
        changes += [f"{halves[1] - halves[0]} layers of 16 bits"] if halves[1] > halves[0] else []
        for what, ops in (("convolution", _CONVOLUTIONS), ("batch norm", {"batch_norm"})):
            was, now = (sum(counts[op] for op in ops) for counts in (old, new))
            changes += [f"{was} {what}{'s' * (was != 1)} into {now}"] if was != now and not integers else []
        groups = count_groups(self.after)
        changes += [f"{new.total()} nodes into {groups} groups"] if groups != count_groups(self.before) else []
        rewrites = sum(event.fired for event in self.journal.events)
        return ", ".join(changes) or (f"{rewrites} rewrite{'s' * (rewrites > 1)}" if rewrites else "nothing to do")

    @staticmethod
    def _halves(graph: Graph) -> int:
        """The layers whose factors are of 16 bits."""
        return sum(
            graph.node(i).record.macs is not None and all(graph.type(o).dtype in HALVES for o in graph.operands(i)[:2])
            for i in graph.live()
        )

    def to_json(self) -> dict[str, Any]:
        """The record for a manifest; times are not in it, as they differ from run to run."""
        fired: dict[str, int] = {}
        for event in self.journal.events:
            if event.fired:
                fired[event.rule] = fired.get(event.rule, 0) + 1
        return {"pass": self.name, "summary": self.summary, "rules": fired}


def count_groups(graph: Graph) -> int:
    """How many groups the fusion pass made."""
    return len({graph.node(i).group for i in graph.structure} - {None})


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    dump: Path | None = None,
    verify_each: bool = False,
    observe: Callable[[Step], None] | None = None,
) -> tuple[Graph, list[Step]]:
    """The graph after all `passes`, and what each did.

    dump          a folder that gets the text of the graph before and after every pass, or, where one cannot be
                  written, none of them
    verify_each   holds every graph to the invariants of the IR
    observe       is told of every step as it is done
    Raises S0507 for claims that do not hold.
    """
    texts = _Texts(dump) if dump is not None else None
    if texts:
        texts.add("spec", graph)
    steps = []
    for transformation in passes:
        journal = Journal()
        start = time.perf_counter()
        after = transformation(graph, journal)
        step = Step(transformation, graph, after, journal, time.perf_counter() - start)
        if texts:
            texts.add(transformation.name, after)
        if verify_each:
            verify(after)
        if transformation.name == "reparam":
            check_claims(step)
        steps.append(step)
        if observe:
            observe(step)
        graph = after
    return graph, steps


class _Texts:
    """The texts of a graph between passes, in a folder: all of them or, where one cannot be written (S0002), none."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._written = folder, list[Path]()
        self._made = [each for each in (folder, *folder.parents) if not each.exists()]

    def add(self, name: str, graph: Graph) -> None:
        """Writes the next one."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise SpeccError(
                Diagnostic("S0002", f"{self._folder} is no folder to write to: {problem.strerror}")
            ) from None
        path = self._folder / f"{len(self._written):02}-{name}.txt"
        try:
            with replacing(path) as file:
                file.write(print_graph(graph).encode())
        except SpeccError:
            for each in self._written:
                each.unlink(missing_ok=True)
            for each in self._made:
                with suppress(OSError):  # others may have written there
                    each.rmdir()
            raise
        self._written.append(path)


def check_merges(graph: Graph) -> None:
    """Raises `SpeccError` for the merge claims of `graph` that will not hold; they are asked beside their values first.

    What the whole network's passes refuse is said only where one of them fails there.
    """
    inside = any(inner.claims for _, body in bodies(graph) for inner in nested(body.graph))
    if inside or (graph.claims and not _hold(surroundings(graph))):
        run_passes(graph, MERGING)


def _hold(graph: Graph) -> bool:
    try:
        run_passes(graph, MERGING)
    except SpeccError:
        return False
    return True


def check_claims(step: Step) -> None:
    """Raises `SpeccError` with one S0507 for every merge claim that does not hold in the graph after the step."""
    found: dict[tuple[object, str], Diagnostic] = {}
    for graph, claim in [(inner, claim) for inner in nested(step.after) for claim in inner.claims]:
        if claim.value.node in graph.structure and (left := graph.op(claim.value)) not in claim.operators:
            found.setdefault((claim.span, left), _broken_claim(step, claim, left))  # once for all instances of a block
    if found:
        raise SpeccError(*found.values())


def _broken_claim(step: Step, claim: MergeClaim, left: str) -> Diagnostic:
    wanted = " or ".join(f"`{op}`" for op in claim.operators)
    refusals = [event for event in step.journal.events if not event.fired and event.path == claim.path]
    reasons = list(dict.fromkeys(f"{event.rule}: {event.reason}" for event in refusals))
    return Diagnostic(
        "S0507",
        f"this does not merge into {wanted}: `{left}` is left",
        (Label(claim.span),),
        tuple(reasons or ["no rule of the pass `reparam` matches it"]),
        claim.stack,
    )
