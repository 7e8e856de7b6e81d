"""`scan`: a graph run at every place along a dimension, with state carried from one place to the next.

    operands   sequences, initial states, tensors that every step reads, and of these last the frozen ones
    body       slices of the sequences, states, ... -> results of the step, new states
    results    the steps' results, stacked along `axis`; the last states

The loop is never unrolled: the graph, the kernel and the time to compile do not grow with the length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from specc.ir.dims import Dim
from specc.ir.types import TensorType
from specc.ops.record import Argument, Attributes, Illegal, Operator, Types

if TYPE_CHECKING:
    from specc.ir.body import Body
    from specc.ir.graph import Value


def _infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    body: Body = attrs["body"]
    sequences, states, axis = attrs["sequences"], attrs["states"], attrs["axis"]
    if sequences < 1 or states < 0 or sequences + states > len(body.inputs) or states > len(body.outputs):
        reason = f"{sequences} sequences and {states} states are not {len(body.inputs)} inputs of the body"
        raise Illegal(f"{reason} and {len(body.outputs)} results", argument="sequences")
    if len(types) != len(body.operands):
        raise Illegal(f"the body reads {len(body.operands)} tensors, not {len(types)}")
    length: Dim | None = None
    for position, (given, needed) in enumerate(zip(types, body.operands, strict=True)):
        if given.layout:
            raise Illegal(f"`scan` takes the plain layout, not {given.layout}", operand=position)
        if position < sequences:
            if not -given.rank <= axis < given.rank:
                raise Illegal(f"{given} has no dimension {axis}", operand=position)
            extent = given.shape[axis]
            if length is not None and extent != length:
                raise Illegal(f"the sequences are {length} and {extent} long", operand=position)
            length, given = extent, without(given, axis)
        if given != needed:
            raise Illegal(f"the body takes {needed}, not {given}", operand=position)
    assert length is not None
    stacked, carried = body.outputs[: len(body.outputs) - states], body.outputs[len(body.outputs) - states :]
    for number, (before, after) in enumerate(zip(body.inputs[sequences:], carried)):
        if before != after:
            raise Illegal(f"state {number} is {before} before a step and {after} behind it", argument="body")
    for type in stacked:
        if not -type.rank - 1 <= axis <= type.rank:
            raise Illegal(f"results of {type} cannot be stacked along dimension {axis}", argument="axis")
    return (*(_stacked(type, axis, length) for type in stacked), *carried)


def without(type: TensorType, axis: int) -> TensorType:
    """The type of a slice of one element along `axis`, without that dimension."""
    axis %= type.rank
    return TensorType((*type.shape[:axis], *type.shape[axis + 1 :]), type.dtype)


def _stacked(type: TensorType, axis: int, length: Dim) -> TensorType:
    axis %= type.rank + 1
    return TensorType((*type.shape[:axis], length, *type.shape[axis:]), type.dtype)


def _macs(types: Types, attrs: Attributes) -> Dim:
    """Those of the body, once for every place."""
    graph = attrs["body"].graph
    total: Dim = 0
    for identity in graph.live():
        node = graph.node(identity)
        if node.record.macs is not None:
            total = total + node.record.macs([graph.type(o) for o in graph.operands(identity)], node.attrs)
    return types[0].shape[attrs["axis"]] * total


def _reference(*operands: Any, **attrs: Any) -> Any:
    return _run(operands, training=False, **attrs)


def _training(*operands: Any, **attrs: Any) -> Any:
    return _run(operands, training=True, **attrs)


def _run(
    operands: tuple[Any, ...], *, training: bool, body: Body, sequences: int, states: int, axis: int, reverse: bool
) -> Any:
    import torch

    graph = body.graph
    known: dict[Value, Any] = dict(zip(body.sources, operands, strict=True))
    changing = list(body.sources[: sequences + states])
    varying = graph.dependents(changing)
    computed = [i for i in graph.order() if graph.node(i).op not in ("input", "param")]
    once, every = ([i for i in computed if (i in varying) == repeated] for repeated in (False, True))
    floats = next((tensor.dtype for tensor in operands if tensor.is_floating_point()), torch.float32)
    _steps(graph, once, known, training, floats)
    carried = list(operands[sequences : sequences + states])
    stacked: list[list[Any]] = [[] for _ in range(len(graph.outputs) - states)]
    places = range(operands[0].shape[axis])
    for place in reversed(places) if reverse else places:
        slices = [sequence.select(axis, place) for sequence in operands[:sequences]]
        values = known | dict(zip(changing, [*slices, *carried], strict=True))
        _steps(graph, every, values, training, floats)
        results = [values[value] for value in graph.outputs]
        carried = results[len(stacked) :]
        for all_, one in zip(stacked, results):
            all_.append(one)
    made = (*(torch.stack(all_[::-1] if reverse else all_, axis) for all_ in stacked), *carried)
    return made[0] if len(made) == 1 else made


def _steps(graph: Any, nodes: list[int], values: dict[Value, Any], training: bool, floats: Any) -> None:
    from specc.ir.graph import Value

    for identity in nodes:
        node = graph.node(identity)
        function = node.record.training if training and node.record.training else node.record.torch
        made = function(*(values[operand] for operand in graph.operands(identity)), **node.attrs)
        for number, tensor in enumerate(made if isinstance(made, tuple) else (made,)):
            fresh = "typed" in node.record.traits and tensor.is_floating_point()
            values[Value(identity, number)] = tensor.to(floats) if fresh else tensor


def _example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    """A recurrent layer with one or two sequences, one or two states, a result or none."""
    from specc.ir.body import Body
    from specc.ir.graph import Graph

    batch, inputs, hidden, length = (rng.choice((1, 2, 3, 8)) for _ in range(4))
    graph = Graph("Cell")
    x = graph.input("x", TensorType((batch, inputs)))
    gate = graph.input("gate", TensorType((batch, hidden))) if rng.random() < 0.4 else None
    h = graph.input("h", TensorType((batch, hidden)))
    c = graph.input("c", TensorType((batch, hidden))) if rng.random() < 0.4 else None
    bias = graph.input("bias", TensorType((hidden,))) if rng.random() < 0.3 else None
    a = graph.apply("linear", [x, graph.parameter("a", TensorType((hidden, inputs)), "kaiming")])
    b = graph.apply("linear", [h, graph.parameter("b", TensorType((hidden, hidden)), "kaiming")])
    total = graph.apply("add", [a, b])
    for more in (gate, bias):
        total = total if more is None else graph.apply("add", [total, more])
    new = graph.apply("tanh", [total])
    carried = [new] if c is None else [new, graph.apply("mul", [graph.apply("add", [c, new]), graph.constant(0.5)])]
    stacked = _chosen(rng, [new, graph.apply("relu", [total]), x])
    graph.outputs = [*stacked, *carried]
    body = Body.of(graph)
    axis = rng.choice((0, 1, 2, -1))
    sequences = 1 if gate is None else 2
    types = [_stacked(type, axis, length) if i < sequences else type for i, type in enumerate(body.operands)]
    counts = {"sequences": sequences, "states": len(carried)}
    return types, {"body": body, **counts, "axis": axis, "reverse": rng.random() < 0.4}


def _chosen(rng: random.Random, values: list[Any]) -> Iterator[Any]:
    return (value for value in values if rng.random() < 0.5)


RECORDS = (
    Operator(
        "scan",
        "Runs a block at every place along `axis`, with state that is carried from place to place.",
        ("*xs",),
        _infer,
        _reference,
        _example,
        attributes=(
            Argument("body", "graph"),
            Argument("sequences", "int", 1),
            Argument("states", "int", 1),
            Argument("axis", "int", 0),
            Argument("reverse", "bool", False),
        ),
        training=_training,
        macs=_macs,
        elements="any",
        traits=frozenset({"body"}),
    ),
)
