"""A pass that changes what the network computes."""

from typing import Any, ClassVar

import tiny

from specc.diagnostics import SpeccError
from specc.ir.graph import Graph
from specc.passes.registry import Pass
from specc.verify import verify


class Spoil(Pass):
    """Twice the network's results."""

    name: ClassVar[str] = "spoil"
    summary: ClassVar[str] = "doubles what is to stay as it is"

    def __call__(self, graph: Graph, journal: Any = None) -> Graph:
        graph = graph.copy()
        graph.outputs = [graph.apply("add", [value, value]) for value in graph.outputs]
        return graph


(verdict,) = verify(tiny.graph(), per_pass=True, passes=(Spoil(),))
assert verdict.diagnostic is not None
raise SpeccError(verdict.diagnostic)
