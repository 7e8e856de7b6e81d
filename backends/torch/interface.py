"""What a caller gives -> the values of the graph's dimensions, or a message that says what does not fit.

The extents of the inputs are equations: `image: [n, 3, h, w]` given as [2, 3, 8, 8] says n = 2, 3 = 3, h = 8, w = 8.
An equation that is linear in one dimension, with every other one known, gives that dimension (`[2*h + 1]` given as [9]
says h = 4), and so does a dimension of which something is known (`[7*(h//7)]`, which is h); once all are known, every
equation has to hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specc.diagnostics import Label, SpeccError, did_you_mean, error
from specc.ir.congruence import named
from specc.ir.dims import Dim, Symbolic, substitute, symbols
from specc.ir.graph import Graph, Node


def solutions(graph: Graph) -> dict[str, tuple[int, int, int, Dim]]:
    """How every dimension is read off the inputs: name -> (input number, axis, coefficient, rest), in an order of work.

    The extent of that input along that axis is coefficient * dimension + rest, and the rest holds only dimensions that
    come earlier. A dimension that no input gives away is left out.
    """
    equations = [
        (number, axis, dim)
        for number, identity in enumerate(graph.inputs)
        for axis, dim in enumerate(graph.node(identity).types[0].shape)
        if isinstance(dim, Symbolic)
    ]
    equations.sort(key=lambda equation: len(equation[2].terms))  # a plain name before an expression of it
    found: dict[str, tuple[int, int, int, Dim]] = {}
    progress = True
    while progress:
        progress = False
        for number, axis, dim in equations:
            unknown = sorted(symbols(dim) - found.keys())
            if len(unknown) != 1:
                continue
            if named(dim) is not None:
                found[unknown[0]] = (number, axis, 1, 0)
                progress = True
                continue
            coefficient = next((c for monomial, c in dim.terms if monomial == (unknown[0],)), 0)
            rest = substitute(dim, {unknown[0]: 0})
            linear = Symbolic((((unknown[0],), coefficient),)) + rest if coefficient else 0
            if linear == dim:
                found[unknown[0]] = (number, axis, coefficient, rest)
                progress = True
    return found


def by_position(graph: Graph, given: Sequence[object], named: Mapping[str, object]) -> list[object]:
    """The graph's inputs in order from positional and named ones; raises S0907 when they are not the graph's."""
    names = [graph.node(i).attrs["name"] for i in graph.inputs]
    listed = f"`{graph.name}` takes {', '.join(names) or 'no inputs'}"
    if len(given) > len(names):
        raise error("S0907", f"{len(given)} inputs are given, and {listed}")
    for name in named:
        if name not in names:
            raise error("S0907", f"there is no input `{name}`: {listed}", notes=did_you_mean(name, names))
        if name in names[: len(given)]:
            raise error("S0907", f"the input `{name}` is given twice: {listed}")
    missing = [name for name in names[len(given) :] if name not in named]
    if missing:
        raise error("S0907", f"the input `{missing[0]}` is not given: {listed}")
    return [*given, *(named[name] for name in names[len(given) :])]


def bind(graph: Graph, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The values of the dimensions for inputs of these shapes, in order; raises S0907 where one does not fit."""
    nodes = [graph.node(i) for i in graph.inputs]
    for node, shape in zip(nodes, shapes, strict=True):
        if len(shape) != node.types[0].rank:
            raise _misfit(node, shape, f"{len(shape)} dimensions for {node.types[0].rank}")
    values: dict[str, int] = {}
    origin: dict[str, str] = {}
    for name, (number, axis, coefficient, rest) in solutions(graph).items():
        values[name] = (shapes[number][axis] - _number(rest, values)) // coefficient
        origin[name] = nodes[number].attrs["name"]
    missing = sorted(graph.symbols() - values.keys())
    if missing:
        raise error("S0703", f"the dimension `{missing[0]}` of `{graph.name}` cannot be read off the inputs' shapes")
    for node, shape in zip(nodes, shapes, strict=True):
        for axis, dim in enumerate(node.types[0].shape):
            expected = _number(dim, values)
            if expected != shape[axis]:
                because = ", ".join(f"{name} = {values[name]} from `{origin[name]}`" for name in sorted(symbols(dim)))
                said = f"{dim} = {expected}" if because else f"{expected}"
                reason = f"{shape[axis]} at dimension {axis} for {said}{f', with {because}' if because else ''}"
                raise _misfit(node, shape, reason)
    for name, value in values.items():
        if value < 1:
            raise error("S0907", f"the dimension `{name}` is at least 1, not {value} as `{origin[name]}` has it")
    return values


def _number(dim: Dim, values: Mapping[str, int]) -> int:
    number = substitute(dim, values)
    assert isinstance(number, int)
    return number


def _misfit(node: Node, shape: Sequence[int], reason: str) -> SpeccError:
    given = f"[{', '.join(map(str, shape))}]"
    labels = [Label(node.span, f"given as {given}")] if node.span else []
    return error("S0907", f"the input `{node.attrs['name']}: {node.types[0]}` is given as {given}: {reason}", *labels)
