"""Reducing: a graph that fails a check -> the smallest one found that still fails it.

The steps, tried over and over until none makes the graph smaller:

    end earlier      a value in the middle becomes the only output; what is behind it goes
    begin later      a value in the middle becomes an input; what is before it goes
    know less        a computed weight becomes a parameter of its own
    pass by          a node gives way to an operand of the same type
    step inside      one step of a scan takes its place
    shrink           an input's batch, height and width become smaller, and every type follows

A step is kept if the check still fails. The check gets whole, verified graphs alone; a graph on which it cannot be
made at all counts as not failing. This is delta debugging (Zeller and Hildebrandt, 2002) with the graph's own
structure in the place of lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from specc.diagnostics import SpeccError
from specc.ir.body import bodies, inline, nested
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.ops.record import Illegal

Check = Callable[[Graph], bool]
"""Whether a graph fails. Raising `SpeccError` or `Illegal` means that it cannot be told, which is no failure."""


def reduce(graph: Graph, fails: Check, progress: Callable[[int], None] | None = None) -> Graph:
    """The smallest graph found that still fails; `graph` itself where it does not fail. Dimensions must be numbers.

    `progress` is told the number of live nodes whenever it gets smaller.
    """
    told = progress or (lambda nodes: None)
    if not _fails(graph, fails):
        return graph
    current = graph.copy()
    current.prune()
    shrinking = True
    while shrinking:
        shrinking = False
        for step in (_end_earlier, _begin_later, _know_less, _pass_by, _step_inside, _shrink):
            smaller = _first(current, step(current), fails)
            while smaller is not None:
                current, shrinking = smaller, True
                told(len(current.live()))
                smaller = _first(current, step(current), fails)
    return current


def size(graph: Graph) -> tuple[int, int, int]:
    """What a step has to make smaller: live nodes, then all nodes, then the elements of the inputs and parameters.

    Nodes of graphs inside of nodes count too.
    """
    sources = [graph.node(i).types[0].elements for i in graph if graph.node(i).op in ("input", "param")]
    graphs = list(nested(graph))
    live, nodes = sum(len(each.live()) for each in graphs), sum(map(len, graphs))
    return live, nodes, sum(e for e in sources if isinstance(e, int))


def _first(current: Graph, candidates: Iterator[Graph], fails: Check) -> Graph | None:
    for candidate in candidates:
        candidate.prune()
        _drop_inputs(candidate)
        if size(candidate) < size(current) and _fails(candidate, fails):
            return candidate
    return None


def _fails(graph: Graph, fails: Check) -> bool:
    try:
        verify(graph)
        return fails(graph)
    except (SpeccError, Illegal):
        return False


def _end_earlier(graph: Graph) -> Iterator[Graph]:
    """One live value as the only output: the earliest first, as it leaves the least."""
    for identity in graph.live():
        for number in range(len(graph.node(identity).types)):
            result = graph.copy()
            result.outputs = [Value(identity, number)]
            yield result


def _begin_later(graph: Graph) -> Iterator[Graph]:
    """One live value as an input: the latest first, as it leaves the least."""
    outputs = {value.node for value in graph.outputs}
    for identity in reversed(graph.live()):
        if identity in outputs:
            continue
        result = graph.copy()
        for number, type in enumerate(graph.node(identity).types):
            fresh = result.input(_name(result, "cut"), TensorType(type.shape, type.dtype))
            value = fresh if not type.layout else result.apply("convert_layout", [fresh], {"layout": type.layout})
            result.replace(Value(identity, number), value)
        yield result


def _know_less(graph: Graph) -> Iterator[Graph]:
    frozen = graph.frozen()
    taken = {o for identity in graph.live() for o in graph.operands(identity) if o.node in frozen}
    for value in sorted(taken):
        if graph.op(value) not in ("param", "constant"):
            result = graph.copy()
            fresh = result.parameter(_name(result, "weight"), graph.type(value), "normal(1)")
            result.replace(value, fresh)
            yield result


def _pass_by(graph: Graph) -> Iterator[Graph]:
    for identity in reversed(graph.live()):
        for operand in graph.operands(identity):
            for number, type in enumerate(graph.node(identity).types):
                if graph.type(operand) == type:
                    result = graph.copy()
                    result.replace(Value(identity, number), operand)
                    yield result


def _step_inside(graph: Graph) -> Iterator[Graph]:
    """The first step of a scan in its place: the slices are inputs, and what is stacked is a single step's."""
    for identity, body in bodies(graph):
        if not graph.is_frozen(identity):
            result = graph.copy()
            operands = list(graph.operands(identity))
            for position in range(graph.node(identity).attrs["sequences"]):
                operands[position] = result.input(_name(result, "slice"), body.inputs[position])
            inside = inline(result, body, operands)
            results = range(len(graph.node(identity).types))
            stacked = len(results) - graph.node(identity).attrs["states"]
            for number in results:
                if number < stacked:
                    value = result.input(_name(result, "stacked"), graph.node(identity).types[number])
                else:
                    value = inside[number]
                result.replace(Value(identity, number), value)
            alone = [result.copy() for _ in inside]  # a graph that is given away changes
            yield result
            for candidate, value in zip(alone, inside, strict=True):
                candidate.outputs = [value]
                yield candidate


def _shrink(graph: Graph) -> Iterator[Graph]:
    """An input with a smaller batch, height or width; channels are bound to weights and stay."""
    for identity in graph.inputs:
        type = graph.node(identity).types[0]
        for axis in (a for a in range(type.rank) if a != 1):
            extent = type.shape[axis]
            assert isinstance(extent, int)
            for smaller in sorted({1, 2, 3, extent // 2}):
                if smaller < extent and smaller:
                    yield from _resized(graph, identity, axis, smaller)


def _resized(graph: Graph, identity: int, axis: int, extent: int) -> Iterator[Graph]:
    """The graph with one extent of an input changed, in all inputs of that extent at once or in this one alone."""
    old = graph.node(identity).types[0].shape[axis]
    for others in (graph.inputs, [identity]):
        result = graph.copy()
        for i in others:
            type = result.node(i).types[0]
            if type.rank > axis and type.shape[axis] == old:
                shape = (*type.shape[:axis], extent, *type.shape[axis + 1 :])
                new = TensorType(shape, type.dtype)
                result.update(i, attrs={**result.node(i).attrs, "type": new}, types=(new,))
        try:
            result.infer()
        except Illegal:
            continue
        yield result


def _drop_inputs(graph: Graph) -> None:
    """Removes inputs that nobody reads: here they are not a caller's any more."""
    outputs = {value.node for value in graph.outputs}
    unused = [i for i in graph.inputs if i not in outputs and not graph.users(Value(i))]
    graph.remove(unused)


def _name(graph: Graph, stem: str) -> str:
    names = {node.attrs.get("name") or node.attrs.get("key") for node in map(graph.node, graph)}
    return next(name for name in (f"{stem}{number}" for number in range(len(graph) + 1)) if name not in names)
