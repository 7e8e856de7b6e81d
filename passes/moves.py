"""A permute and the slices behind it as one group: a kernel that reads each element at its place, and no others.

    slice(view(permute(x)))        views and slices in any order, each the only user of the one before

A transposed convolution that is a convolution and a pixel shuffle (`phases`) has such a chain where its border is cut
off; each slice would be a copy of nearly all that the permute has written. Views are index arithmetic in the kernel.
64 channels to 96x96 with k = 4, s = 2 and p = 1 take 0.90 of the time that a permute and two slices take with the same
convolution, 16 channels to 16x48x48 0.71 (one thread of the Granite Rapids generation, calls in turns).
"""

from __future__ import annotations

from collections.abc import Collection

from specc.ir.cost import nominal_bytes
from specc.ir.graph import Graph, Value
from specc.passes.rewrite import Event, Journal


def chains(graph: Graph, journal: Journal, taken: Collection[int]) -> list[list[int]]:
    """The nodes of each permute that slices follow, in topological order; none of them is among `taken`."""
    frozen, found = graph.frozen(), []
    for identity in graph.live():
        if graph.node(identity).op != "permute" or identity in frozen or identity in taken:
            continue
        members = _chain(graph, identity, taken)
        if len(members) > 1:
            node = graph.node(members[-1])
            saved = 2 * sum(nominal_bytes(graph, Value(m)) for m in members[:-1] if not _is_view(graph, m))
            journal.events.append(Event("slices behind permute", node.op, node.path, node.span, bytes=saved))
            found.append(members)
    return found


def _chain(graph: Graph, first: int, taken: Collection[int]) -> list[int]:
    """The permute `first`, and what follows it up to the last slice."""
    members, end = [first], 1
    while True:
        value = Value(members[-1])
        if graph.uses(value) != 1 or value in graph.outputs:
            return members[:end]
        ((user, _),) = graph.users(value)
        if user in taken or not (graph.node(user).op == "slice" or _is_view(graph, user)):
            return members[:end]
        members.append(user)
        if graph.node(user).op == "slice":
            end = len(members)


def _is_view(graph: Graph, identity: int) -> bool:
    return "view" in graph.node(identity).record.traits
