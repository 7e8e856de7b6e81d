"""Which layers a pass rounds to fewer bits, and what its journal says of those that stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specc.ir.cost import macs_of, nominal
from specc.ir.dims import Dim
from specc.ir.graph import Graph, Node
from specc.passes.rewrite import Event, Journal

SMALL_MACS = 1 << 17
"""A layer of no more multiplications is not worth the conversions; fusion computes such products where they are
read."""


@dataclass(frozen=True)
class Narrowing:
    """The rule `name` for the operators `layers`; `refusal` says why a layer stays as it is, None where it need not."""

    name: str
    layers: tuple[str, ...]
    refusal: Callable[[Graph, int], str | None]

    def candidates(self, graph: Graph, journal: Journal | None = None) -> list[int]:
        """The layers that can be rounded, in order; those that stay go to the journal with the reason."""
        found = []
        for identity in graph.live():
            node = graph.node(identity)
            if node.op not in self.layers:
                continue
            reason = self.refusal(graph, identity) or _small(graph, identity)
            if reason is None:
                found.append(identity)
            elif journal is not None:
                self.note(journal, node, reason)
        return found

    def note(self, journal: Journal, node: Node, reason: str | None = None) -> None:
        """Notes that a layer is rounded, or the `reason` for which it stays as it is."""
        journal.events.append(Event(self.name, node.op, node.path, node.span, reason))


def channels(count: Dim) -> str:
    """The words for so many channels that a layer reads."""
    return f"it reads {count} channel{'s' if count != 1 else ''}"


def _small(graph: Graph, identity: int) -> str | None:
    macs = nominal(macs_of(graph, identity), graph.defaults)
    return f"it is small: {macs} products are not worth conversions" if macs <= SMALL_MACS else None
