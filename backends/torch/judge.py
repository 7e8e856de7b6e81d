"""A graph, weights and inputs -> the values of its nodes, in float64: what a pass and a kernel are judged by.

Every node is its record's PyTorch reference, for inference. Groups and layouts do not matter here: a layout is a way
to lie in memory, and the reference sees the logical tensor alone. Nor does it matter how a target adds up products,
unless it is asked for: with `half_sums`, products of float16 are added up in float16 (`runs`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from specc.backends.torch import runs
from specc.backends.torch.interface import bind, by_position
from specc.diagnostics import did_you_mean, error
from specc.ir import sums
from specc.ir.array import Array
from specc.ir.body import symbols_of
from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph, Value
from specc.ir.specialize import specialize


def evaluate(
    graph: Graph,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Array],
    dtype: str = "float64",
    half_sums: bool = False,
) -> list[Array]:
    """The outputs of the graph for checkpoint values by key and inputs by name, computed in `dtype`."""
    found = run(graph, weights, inputs, dtype, set(graph.outputs), half_sums=half_sums)
    values = {value: as_array(tensor) for value, tensor in found}
    return [values[value] for value in graph.outputs]


def intermediates(graph: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Array]) -> dict[Value, Array]:
    """The value of every result of every node, in the order of the graph, computed in float64."""
    wanted = {Value(identity, result) for identity in graph for result in range(len(graph.node(identity).types))}
    return {value: as_array(tensor) for value, tensor in run(graph, weights, inputs, "float64", wanted)}


def freeze(graph: Graph, weights: Mapping[str, Array], values: Sequence[Value] | None = None) -> dict[Value, Array]:
    """The frozen values that are `taken`, or `values` of these: computed in float64, given in the types of the graph;
    what is of 16 bits as float32.

    A parameter that is taken as it is stays the caller's array where its type is already the graph's.
    """
    wanted = taken(graph) if values is None else list(values)
    result: dict[Value, Array] = {}
    computed: set[Value] = set()
    for value in wanted:
        if graph.op(value) == "param":
            result[value] = np.asarray(_weight(graph, weights, value.node), graph.type(value).dtype)
        else:
            computed.add(value)
    for value, tensor in _values(graph, _ancestors(graph, computed), weights, {}, "float64", computed):
        dtype = graph.type(value).dtype
        result[value] = as_array(tensor).astype("float32" if dtype in HALVES else dtype, copy=False)
    return {value: result[value] for value in wanted}


def taken(graph: Graph) -> list[Value]:
    """The frozen values that live nodes or outputs take, each once.

    Where a dimension that is not fixed yet is part of one, what it is computed from stands for it.
    """
    frozen = graph.frozen()
    wanted = [operand for identity in graph.live() for operand in graph.operands(identity) if operand.node in frozen]
    wanted += [value for value in graph.outputs if value.node in frozen]
    return list(dict.fromkeys(_known_now(graph, wanted)))


def _known_now(graph: Graph, wanted: list[Value]) -> list[Value]:
    """`wanted`, and for those that depend on a symbolic dimension the values behind them that do not."""
    known: set[int] = set()
    for identity in graph.order():
        node = graph.node(identity)
        inside = [symbols_of(part) for part in (*node.types, *node.attrs.values())]
        if not any(inside) and all(operand.node in known for operand in graph.operands(identity)):
            known.add(identity)
    found: list[Value] = []
    pending = list(reversed(wanted))
    while pending:
        value = pending.pop()
        if value.node in known:
            found.append(value)
        else:
            pending += reversed(graph.operands(value.node))
    return found


def run(
    graph: Graph,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Array],
    dtype: str,
    wanted: Collection[Value],
    known: Mapping[Value, Any] = MappingProxyType({}),
    half_sums: bool = False,
) -> Iterator[tuple[Value, Any]]:
    """The values `wanted` as tensors, in the order of the graph, but for those that are `known`, which come first."""
    given = [np.asarray(array) for array in by_position(graph, (), inputs)]
    values = bind(graph, [array.shape for array in given])
    if values:
        graph = specialize(graph, values)
    tensors = {identity: as_tensor(array, dtype) for identity, array in zip(graph.inputs, given)}
    order = _ancestors(graph, [value for value in wanted if value not in known], known)
    yield from ((value, known[value]) for value in wanted if value in known)
    yield from _values(graph, order, weights, tensors, dtype, wanted, known, half_sums)


def _ancestors(graph: Graph, wanted: Iterable[Value], known: Collection[Value] = ()) -> list[int]:
    """The nodes that `wanted` depend on, in order; what is `known` depends on nothing."""
    needed: set[int] = set()
    pending = [value.node for value in wanted]
    while pending:
        identity = pending.pop()
        if identity not in needed:
            needed.add(identity)
            pending += (operand.node for operand in graph.operands(identity) if operand not in known)
    return [identity for identity in graph.order() if identity in needed]


@torch.no_grad()  # type: ignore[untyped-decorator]
def _step(graph: Graph, identity: int, operands: list[Any], half_sums: bool) -> tuple[Any, ...]:
    node = graph.node(identity)
    if half_sums and sums.in_halves(graph, identity):
        return (runs.layer(node.record.torch, operands, node.attrs),)
    result = node.record.torch(*operands, **node.attrs)
    return result if isinstance(result, tuple) else (result,)


def _values(
    graph: Graph,
    order: list[int],
    weights: Mapping[str, Array],
    tensors: Mapping[int, Any],
    dtype: str,
    wanted: Collection[Value],
    given: Mapping[Value, Any] = MappingProxyType({}),
    half_sums: bool = False,
) -> Iterator[tuple[Value, Any]]:
    """Runs the nodes of `order` and yields what is wanted; what no later node takes is dropped on the way.

    Operands that are `given` need not be computed.
    """
    waiting = Counter(operand for identity in order for operand in graph.operands(identity))
    known: dict[Value, Any] = dict(given)
    for identity in order:
        node = graph.node(identity)
        operands = graph.operands(identity)
        if node.op == "input":
            results: tuple[Any, ...] = (tensors[identity],)
        elif node.op == "param":
            results = (as_tensor(_weight(graph, weights, identity), dtype),)
        else:
            results = _step(graph, identity, [known[operand] for operand in operands], half_sums)
            results = tuple(r.to(getattr(torch, dtype)) if r.is_floating_point() else r for r in results)
        for operand in operands:
            waiting[operand] -= 1
            if not waiting[operand]:
                known.pop(operand, None)
        for number, tensor in enumerate(results):
            value = Value(identity, number)
            if waiting[value]:
                known[value] = tensor
            if value in wanted:
                yield value, tensor


def _weight(graph: Graph, weights: Mapping[str, Array], identity: int) -> Array:
    key, expected = graph.node(identity).attrs["key"], graph.node(identity).types[0].concrete
    if key not in weights:
        raise error("S0603", f"there is no value for `{key}` of `{graph.name}`", notes=did_you_mean(key, weights))
    array = np.asarray(weights[key])
    if array.shape != expected:
        raise error("S0603", f"the value for `{key}` is {list(array.shape)}, and `{graph.name}` takes {list(expected)}")
    return array


def as_tensor(array: Array, dtype: str) -> Any:
    """A copy; real numbers in the type that is computed in."""
    floating = np.issubdtype(array.dtype, np.floating)
    # asarray(order="C") and not ascontiguousarray, which makes a list of a number
    return torch.tensor(np.asarray(array, order="C"), dtype=getattr(torch, dtype) if floating else None)


def as_array(tensor: Any) -> Array:
    """The array that a tensor stands on."""
    result: Array = tensor.numpy()
    return result
