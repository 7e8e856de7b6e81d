"""Strips: the first stages of a network, a few rows at a time, so that their large tensors never exist as a whole.

    y = f(x)  =>  y = concat(f1(x[rows 1]), f2(x[rows 2]), ...)        along the rows

f is everything between the inputs and y, and each of its operators makes a row of its result from a few rows of its
operands: convolutions, pools, elementwise operators. The rows of x that two strips both need are read twice, and what
is computed of them is computed twice. Inside of the picture a strip has real rows where the padding was; at its borders
it keeps the padding, so the result is the same. (Lin et al., "MCUNetV2: memory-efficient patch-based inference",
arXiv:2110.15352, with patches as wide as the picture.)

The stage is the one with which the network holds least at one time (`specc.ir.liveness`). Where no stage makes that
less, the graph stays as it is, and the journal says why. The pass is repeated until it finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from specc.ir.cost import count_macs
from specc.ir.graph import Graph, Node, Value
from specc.ir.liveness import peak
from specc.ir.placement import size
from specc.passes.rewrite import Event, Journal, Refused

WINDOWS = ("conv2d", "max_pool2d", "avg_pool2d")
"""Operators with a window of rows."""

ROWS = 2
"""The dimension of the rows of [n, c, h, w]."""


@dataclass(frozen=True)
class Stage:
    """Everything that `exit` is computed from: the live nodes, in order, the last of which makes it."""

    exit: Value
    nodes: tuple[int, ...]


def strips(graph: Graph, count: int, journal: Journal | None = None) -> Graph:
    """`graph` with its first stages in `count` strips of rows, if it holds less at one time then."""
    journal = journal if journal is not None else Journal()
    rule = f"f(x) => {count} strips of rows"
    if graph.symbols() or count < 2:
        return graph.copy()
    while True:
        before, fullest = peak(graph)
        best, least, exit = None, before, None
        for stage in stages(graph, fullest):
            if size(graph.type(stage.exit)) * (1 if stage.exit in graph.outputs else 2) >= least:
                continue  # the strips of the result, and the result: as much as that is held in any case
            try:
                cut = split(graph, stage, count)
            except Refused as refused:
                _note(journal, graph, stage.exit.node, rule, refused.reason)
                continue
            if peak(cut)[0] < least:
                best, least, exit = cut, peak(cut)[0], stage.exit.node
        if best is None or exit is None:
            if fullest is not None:
                _note(journal, graph, fullest, rule, _reason(graph, fullest, before))
            return graph.copy()
        more = count_macs(best) / max(count_macs(graph), 1) - 1
        done = f"{rule}: {before / 1e6:.3g} MB held at one time become {least / 1e6:.3g} MB, {more:.1%} more operations"
        _note(journal, graph, exit, done, None)
        graph = best


def _note(journal: Journal, graph: Graph, identity: int, rule: str, reason: str | None) -> None:
    node = graph.node(identity)
    journal.events.append(Event(rule, node.op, node.path, node.span, reason))


def _reason(graph: Graph, fullest: int, before: int) -> str:
    """Why nothing makes the most that is held, at the node `fullest`, less."""
    held = f"{before / 1e6:.3g} MB are held at one time here"
    barriers = {identity: why for identity in graph.live() if (why := _whole(graph, identity)) is not None}
    above = [identity for identity in graph.live() if identity in barriers and _leads(graph, identity, fullest)]
    if above:
        node = graph.node(above[0])
        return f"{held}; `{node.op}`{f' at {node.path}' if node.path else ''} before it {barriers[above[0]]}"
    return f"{held}, and no stage that ends behind it makes that less"


def _leads(graph: Graph, source: int, goal: int) -> bool:
    return goal in graph.dependents([Value(source)])


def stages(graph: Graph, fullest: int | None) -> list[Stage]:
    """The stages that can be cut into strips and hold the node `fullest`, in order of their exits."""
    frozen = graph.frozen()
    order = [identity for identity in graph.live() if fullest is not None]
    place = {identity: position for position, identity in enumerate(order)}
    above: dict[int, frozenset[int]] = {}
    needing: dict[int, frozenset[int | None]] = {}
    """For each node of `above`, those that read what the nodes before it compute; None stands for the caller."""
    found = []
    for identity in order:
        if _whole(graph, identity) is not None:
            continue
        sources = [operand.node for operand in graph.operands(identity) if operand.node not in frozen]
        if any(source in place and source not in above for source in sources):
            continue
        before = [source for source in sources if source in place]
        above[identity] = frozenset({identity}).union(*(above[source] for source in before))
        needing[identity] = frozenset().union(*(needing[source] | _users(graph, source) for source in before))
        if fullest in above[identity] and needing[identity] <= above[identity]:  # nobody outside needs what is inside
            found.append(Stage(Value(identity), tuple(sorted(above[identity], key=place.__getitem__))))
    return found


def _users(graph: Graph, identity: int) -> frozenset[int | None]:
    """The nodes that read a node's result, and None where it is an output."""
    called: list[int | None] = [None] if Value(identity) in graph.outputs else []
    return frozenset([*called, *(user for user, _ in graph.users(Value(identity)))])


def _whole(graph: Graph, identity: int) -> str | None:
    """Why a row of a node's result is not made from a few rows of its operands; None where it is."""
    node, operands, frozen = graph.node(identity), graph.operands(identity), graph.frozen()
    if len(node.types) != 1 or node.types[0].rank != 4 or node.types[0].layout:
        return "makes no plain picture"
    live = [operand for operand in operands if operand.node not in frozen]
    if any(graph.type(operand).rank != 4 or graph.type(operand).layout for operand in live):
        return "reads no plain picture"
    if node.op in (*WINDOWS, "batch_norm"):
        return None if live == [operands[0]] else "computes its weights"
    if node.record.elementwise or (node.op in ("concat", "slice") and node.attrs["axis"] % 4 != ROWS):
        rows = node.types[0].shape[ROWS]
        return None if all(graph.type(o).shape[ROWS] == rows for o in live) else "repeats one row"
    return "needs all rows for one"


def split(graph: Graph, stage: Stage, count: int) -> Graph:
    """The graph with a stage in `count` strips, as equal as they can be; raises `Refused` for too few rows."""
    graph = graph.copy()
    rows = graph.type(stage.exit).concrete[ROWS]
    if rows < count:
        raise Refused(f"it has {rows} rows")
    node = graph.node(stage.exit.node)
    bounds = [rows * number // count for number in range(count + 1)]
    made = [_strip(graph, stage, first, last) for first, last in pairwise(bounds)]
    joined = graph.apply("concat", made, {"axis": ROWS}, node.path, node.span)
    graph.replace(stage.exit, joined)
    graph.prune()
    return graph


def _strip(graph: Graph, stage: Stage, first: int, last: int) -> Value:
    """The rows `first` to `last` of the exit, from slices of the inputs."""
    needed = {stage.exit: (first, last)}
    frozen = graph.frozen()
    for identity in reversed(stage.nodes):
        for operand in graph.operands(identity):
            if operand.node not in frozen:
                low, high = _rows(graph, identity, *needed[Value(identity)])[0]
                known = needed.get(operand, (low, high))
                needed[operand] = min(low, known[0]), max(high, known[1])
    made: dict[Value, Value] = {}

    def part(value: Value, low: int, high: int, like: Node) -> Value:
        """The rows `low` to `high` of an operand: of what this strip computes, of an input, or of a weight."""
        if value in made:
            start = needed[value][0]
            return _slice(graph, made[value], low - start, high - start, like)
        return _slice(graph, value, low, high, like)

    for identity in stage.nodes:
        node = graph.node(identity)
        (low, high), padding = _rows(graph, identity, *needed[Value(identity)])
        attrs = {**node.attrs, "padding": padding} if padding is not None else node.attrs
        rows = node.types[0].shape[ROWS]
        operands = []
        for position, operand in enumerate(graph.operands(identity)):
            shape = graph.type(operand).shape
            if node.op in (*WINDOWS, "batch_norm"):
                has_rows = position == 0
            else:
                has_rows = len(shape) > 1 and shape[-2] == rows
            operands.append(part(operand, low, high, node) if has_rows else operand)
        made[Value(identity)] = graph.apply(node.op, operands, attrs, node.path, node.span)
    return made[stage.exit]


def _slice(graph: Graph, value: Value, low: int, high: int, like: Node) -> Value:
    """The rows `low` to `high` of a value; the value where these are all."""
    type = graph.type(value)
    if (low, high) == (0, type.shape[-2]):
        return value
    attrs: Mapping[str, object] = {"axis": type.rank - 2, "start": low, "stop": high, "step": 1}
    return graph.apply("slice", [value], attrs, like.path, like.span)


Rows = tuple[int, int]
Padding = tuple[int, int, int, int]


def _rows(graph: Graph, identity: int, first: int, last: int) -> tuple[Rows, Padding | None]:
    """The rows of the operands that a node needs for the rows `first` to `last` of its result, and its padding then."""
    node = graph.node(identity)
    if node.op not in WINDOWS:
        return (first, last), None
    source = graph.operands(identity)[0]
    height = graph.type(source).concrete[ROWS]
    kernel = node.attrs["k"][0] if "k" in node.attrs else graph.type(graph.operands(identity)[1]).concrete[ROWS]
    top, left, _, right = node.attrs["padding"]
    stride, dilation = node.attrs["stride"][0], node.attrs["dilation"][0] if "dilation" in node.attrs else 1
    low, high = first * stride - top, (last - 1) * stride - top + (kernel - 1) * dilation + 1
    if min(high, height) <= max(low, 0):
        raise Refused(f"rows {first} to {last} of `{node.op}` see padding alone")
    return (max(low, 0), min(high, height)), (max(-low, 0), left, max(high - height, 0), right)
