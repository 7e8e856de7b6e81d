"""The passes by name, and the pipelines `-O0`, `-O1`, `-O2` as data.

A pass is a plain function in a module of its own; what stands here is its shell: a frozen dataclass whose fields are
its options. `str(Layout(16))` is how the command line spells it: `layout{block=16}`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from specc.ir.graph import Graph
from specc.passes import canonicalize, fusion, layout, reparam
from specc.passes.rewrite import Journal
from specc.targets import Target


@dataclass(frozen=True)
class Pass:
    """The shell of a pass: `name`, what it does in a line, and its options as fields."""

    name: ClassVar[str]
    summary: ClassVar[str]

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        """The transformed graph; `graph` itself is left as it is. What was done and refused goes to `journal`."""
        raise NotImplementedError

    def __str__(self) -> str:
        options = "; ".join(f"{option.name}={getattr(self, option.name)!r}" for option in fields(self))
        return f"{self.name}{{{options}}}" if options else self.name


@dataclass(frozen=True)
class Canonicalize(Pass):
    """See `specc.passes.canonicalize`."""

    name = "canonicalize"
    summary = "identities, one form for each operator, common subexpressions, dead code"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return canonicalize.canonicalize(graph, journal)


@dataclass(frozen=True)
class Reparam(Pass):
    """See `specc.passes.reparam`."""

    name = "reparam"
    summary = "batch norms, scales, shifts and parallel branches into the convolutions and matrix products beside them"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return reparam.reparam(graph, journal)


@dataclass(frozen=True)
class Layout(Pass):
    """See `specc.passes.layout`."""

    block: int = 16
    name = "layout"
    summary = "plain or blocked activations, the cheapest choice over the whole graph"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return layout.layout(graph, self.block)


@dataclass(frozen=True)
class Fusion(Pass):
    """See `specc.passes.fusion`."""

    epilogues: bool = True
    name = "fusion"
    summary = "groups of nodes that become one kernel"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return fusion.fuse(graph, self.epilogues)


PASSES: dict[str, type[Pass]] = {p.name: p for p in (Canonicalize, Reparam, Layout, Fusion)}
"""Every pass, by name."""

LEVELS = (0, 1, 2)
"""0: what lowering needs and no more. 1: fewer operators. 2: fewer bytes moved too."""


def pipeline(level: int, target: Target) -> tuple[Pass, ...]:
    """The passes of `-O<level>`, in order; behind the last one, the graph can be lowered for `target`."""
    if level == 0:
        return (Fusion(epilogues=False),)
    if level == 1:
        return (Canonicalize(), Reparam(), Canonicalize(), Fusion(epilogues=False))
    return (Canonicalize(), Reparam(), Canonicalize(), Layout(target.lanes), Fusion())
