"""The sizes of a network: a graph and the extents of its open dimensions --> graphs with numbers, what a caller gives
and gets.

    [{"n": 1}, {"n": None}] --specialize--> (Size, Graph) for each

A dimension that stays open has an extent in the sample alone: the one at which the graph here stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from specc.diagnostics import error
from specc.ir.congruence import NOTHING, named
from specc.ir.dims import symbols
from specc.ir.domains import domains
from specc.ir.graph import Graph, Node, Value
from specc.ir.specialize import specialize
from specc.ir.types import TensorType
from specc.manifest import Size, TensorSpec

Extents = Mapping[str, int | None]
Shapes = Extents | Sequence[Extents]
"""The extents of the dimensions to which a spec gives no number, by name: None for one that stays open, and is known
when the network is run. Several of them for several sizes."""


def specialize_all(
    graph: Graph, shapes: Shapes | None, sampled: Callable[[], Extents] = dict
) -> list[tuple[Size, Graph]]:
    """The sizes in `shapes` (without facts), each with the graph at the extents that it has, or has in its sample.

    Where dimensions stay open, `sampled` is asked for extents that the sample is to have.

    Raises what `specialize` raises, and S0703 where two sizes are the same.
    """
    wanted = [shapes] if shapes is None or isinstance(shapes, Mapping) else shapes
    for each in wanted:
        if not (each is None or isinstance(each, Mapping)):
            message = f"the extents of a size are given by name, and this is a {type(each).__name__}"
            raise error("S1001", message, notes=('for example shapes={"n": 1}, or a list of such',))
    types = [graph.type(Value(identity)) for identity in graph.inputs]
    names = list(dict.fromkeys(name for type in types for dim in type.shape for name in sorted(symbols(dim))))
    found: dict[str, tuple[Size, Graph]] = {}
    for each in wanted:
        left = [name for name, extent in (each or {}).items() if extent is None]
        said = sampled() if left else {}
        opened = tuple(name for name in names if name in left)
        rest = {name: extent for name, extent in (each or {}).items() if extent is not None}
        chosen = {**rest, **{name: said.get(name) or _sampled(graph, name) for name in left}}
        spec = specialize(graph, chosen)
        extents = {**graph.defaults, **chosen}
        inputs, outputs = interface(spec)
        if opened:
            general = specialize(graph, rest, opened)
            inputs = tuple(map(_patterned, inputs, [general.type(Value(i)) for i in general.inputs]))
            outputs = tuple(map(_patterned, outputs, map(general.type, general.outputs)))
        size = Size(tuple((name, int(extents[name])) for name in names), inputs, outputs, open=opened)
        if str(size) in found:
            found_twice = str(size).replace(",", ", ").replace("=", " = ") or "that without open dimensions"
            raise error("S0703", f"two sizes of `{graph.name}` are the same: {found_twice}")
        found[str(size)] = size, spec
    if not found:
        raise error("S0703", f"there is no size to compile `{graph.name}` for")
    return list(found.values())


def _sampled(graph: Graph, name: str) -> int:
    """The extent of an open dimension in the sample: its default where that is above 1, else the least that may be."""
    dims = [dim for identity in graph.inputs for dim in graph.type(Value(identity)).shape if name in symbols(dim)]
    known = next((found[1] for dim in dims if (found := named(dim))), NOTHING)
    default, least = graph.defaults.get(name, 1), known.remainder + known.modulus
    return default if default > 1 else least if least > 1 else least + known.modulus


def _patterned(spec: TensorSpec, type: TensorType) -> TensorSpec:
    """What a caller gives or gets, with its open dimensions."""
    pattern = tuple(dim if isinstance(dim, int) else str(dim) for dim in type.shape)
    return replace(spec, pattern=pattern) if type.symbols() else spec


def interface(graph: Graph) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What a caller gives and gets, of a graph whose dimensions are numbers: its inputs and its outputs, in order."""
    asked = domains(graph)
    inputs = tuple(_input(graph.node(identity), asked.get(Value(identity))) for identity in graph.inputs)
    types = map(graph.type, graph.outputs)
    return inputs, tuple(TensorSpec(name, t.concrete, t.dtype) for name, t in zip(graph.output_names, types))


def _input(node: Node, domain: tuple[float, float] | None) -> TensorSpec:
    limits = None if domain is None else tuple(limit if math.isfinite(limit) else None for limit in domain)
    return TensorSpec(node.attrs["name"], node.types[0].concrete, node.types[0].dtype, limits)  # type: ignore[arg-type]
