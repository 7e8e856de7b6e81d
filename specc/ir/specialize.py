"""Values for dimensions: a graph with symbols --> the same graph with numbers, or with fewer symbols."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Any

from specc import ops
from specc.diagnostics import Label, did_you_mean, error
from specc.ir.congruence import NOTHING, named
from specc.ir.dims import Dim, Symbolic, substitute
from specc.ir.graph import MAX_ELEMENTS, Graph
from specc.ops.record import Illegal


def specialize(graph: Graph, shapes: Mapping[str, int] | None = None, opened: Collection[str] = ()) -> Graph:
    """The graph with its dimensions fixed: by `shapes`, then by its defaults; all types become numbers.

    The dimensions in `opened` stay as they are.

    Raises S0703 for a dimension without a value, for one with a value that what is known of it excludes, and for a name
    in `shapes` that is no dimension, S0301 where an operator does not take the extents that follow, S0707 for a tensor
    that is too large.
    """
    chosen = {**graph.defaults, **(shapes or {})}
    chosen = {name: int(extent) if isinstance(extent, Integral) else extent for name, extent in chosen.items()}
    chosen = {name: extent for name, extent in chosen.items() if name not in opened}
    names = graph.symbols()
    for name in (*(shapes or {}), *opened):
        if name not in names and name not in graph.defaults:
            known = ", ".join(sorted(names | graph.defaults.keys())) or "none"
            hint = did_you_mean(name, names)
            raise error("S0703", f"`{graph.name}` has no dimension `{name}`; there are {known}", notes=hint)
    for name, extent in chosen.items():
        if not isinstance(extent, int):
            raise error("S0703", f"the dimension `{name}` is an integer, not {extent!r}")
        if extent < 1:
            raise error("S0703", f"the dimension `{name}` is at least 1, not {extent}")
    missing = sorted(names - chosen.keys() - set(opened))
    if missing:
        given = ",".join(f"{name}=..." for name in missing)
        raise error("S0703", f"the dimension `{missing[0]}` of `{graph.name}` has no value: give --shapes {given}")
    result = graph.copy()
    bindings: dict[str, Dim] = dict(chosen)
    for node in (graph.node(identity) for identity in graph.inputs):
        for dim in node.types[0].shape:
            name, congruence = named(dim) or ("", NOTHING)
            if name in chosen and chosen[name] % congruence.modulus != congruence.remainder:
                message = f"the dimension `{name}` of `{graph.name}` is {congruence}, and not {chosen[name]}"
                note = f"this is what the spec requires: {name} % {congruence.modulus} == {congruence.remainder}"
                raise error("S0703", message, *([Label(node.span, str(dim))] if node.span else []), notes=[note])
    for identity in result.order():
        node = result.node(identity)
        try:
            attrs = {name: bound(value, bindings) for name, value in node.attrs.items()}
            types = ops.infer(node.record, [result.type(o) for o in result.operands(identity)], attrs)
        except Illegal as problem:
            sizes = ", ".join(f"{name} = {extent}" for name, extent in chosen.items())
            labels = [Label(node.span, problem.reason)] if node.span else []
            message = f"`{node.op}` does not take the extents that follow from {sizes}: {problem.reason}"
            raise error("S0301", message, *labels) from None
        for type in types:
            if isinstance(type.elements, int) and type.elements > MAX_ELEMENTS:
                message = f"a result of `{node.op}` is {type} and has {type.elements} elements, at most {MAX_ELEMENTS}"
                raise error("S0707", message, *([Label(node.span)] if node.span else []))
        if attrs != node.attrs or types != node.types:
            result.update(identity, attrs=attrs, types=types)
    result.defaults = {name: extent for name, extent in graph.defaults.items() if name in opened}
    return result


def bound(value: Any, bindings: Mapping[str, Dim]) -> Any:
    """An attribute with the symbols in `bindings` replaced; raises `Illegal` where a body's call is not legal then."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, tuple):
        return tuple(bound(v, bindings) for v in value)
    if isinstance(value, Symbolic):
        return substitute(value, bindings)
    return value.substitute(bindings) if hasattr(value, "substitute") else value  # a type or a body
