"""Lowering: a graph after its passes -> kernels, packed weights, and a Relax program that calls the one with the other.

Every group of the graph becomes a kernel, every node outside of a group one of its own; equal groups share one, and
what no output needs has none. A view of a plainly stored tensor is no kernel but a Relax reshape, which the memory
planner turns into an alias. The program is

    main(inputs..., packed weights...) -> outputs

and calls kernels by name (`call_dps_packed`), so that they can be compiled apart from it and from each other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from tvm import relax

from specc.backends.tvm.emitter import Kernel, kernel_of
from specc.backends.tvm.group import Group, extract
from specc.backends.tvm.kernels import select
from specc.backends.tvm.packing import Packing, of_type
from specc.ir.cost import fixed, macs_of
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.targets import Target

Array = NDArray[Any]


@dataclass(frozen=True)
class Call:
    """A call of a kernel in the program: the place in the spec that it computes, and its multiplications."""

    kernel: str
    path: str
    macs: int


@dataclass(frozen=True)
class Lowered:
    """`program` is a Relax module whose `main` takes the inputs and then `weights`; `kernels` are the functions that
    it calls, `calls` these calls in order."""

    program: Any
    kernels: Mapping[str, Kernel]
    weights: list[Array]
    calls: list[Call]


def lower(graph: Graph, target: Target, frozen: Mapping[Value, Array]) -> Lowered:
    """The kernels and the program of a graph with fixed dimensions; `frozen` holds what needs no input, logically."""
    graph = graph.copy()
    graph.prune()
    return _Lowering(graph, target, frozen).run()


@dataclass
class _Lowering:
    graph: Graph
    target: Target
    arrays: Mapping[Value, Array]
    names: dict[Group, str] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    weights: dict[tuple[Value, Packing], tuple[Any, Array]] = field(default_factory=dict)
    computed: dict[Value, Any] = field(default_factory=dict)
    """The Relax variables of the inputs and of the results of groups."""

    def run(self) -> Lowered:
        graph = self.graph
        self.frozen = graph.frozen()
        pieces = self._pieces()
        groups = [None if self._is_view(piece) else extract(graph, piece, self.frozen) for piece in pieces]
        for identity in graph.inputs:
            node = graph.node(identity)
            self.computed[Value(identity)] = relax.Var(_identifier(node.attrs["name"]), _relax_type(node.types[0]))
        inputs = list(self.computed.values())
        made: list[Call] = []
        calls: list[tuple[list[Value], str | None, list[Any]]] = []
        for piece, group in zip(pieces, groups, strict=True):
            if group is None:
                (identity,) = piece
                (source,) = graph.operands(identity)
                calls.append(([Value(identity)], None, [source]))
                continue
            program, outside, results = group
            name = self._kernel(program)
            operands: list[Any] = []
            for value, packing in zip(outside, self.kernels[name].packings, strict=True):
                operands.append(self._weight(value, packing) if value.node in self.frozen else value)
            calls.append((results, name, operands))
            made.append(self._describe(name, piece))
        outputs = [self._weight(v, of_type(graph.type(v))) if v.node in self.frozen else v for v in graph.outputs]
        module = self._program(inputs, calls, outputs)
        return Lowered(module, self.kernels, [array for _, array in self.weights.values()], made)

    def _describe(self, kernel: str, piece: list[int]) -> Call:
        """What a call computes, told by the node of its group that multiplies most."""
        macs = {identity: fixed(macs_of(self.graph, identity)) for identity in piece}
        most = max(piece, key=lambda identity: macs[identity])
        return Call(kernel, self.graph.node(most).path, sum(macs.values()))

    def _pieces(self) -> list[list[int]]:
        """The groups' nodes and the single nodes, each in topological order, in an order in which they can run."""
        members: dict[Any, list[int]] = {}
        for identity in self.graph.live():
            group = self.graph.node(identity).group
            members.setdefault(("node", identity) if group is None else ("group", group), []).append(identity)
        # A group is convex, so there is an order of the groups; a node's place decides where several are ready.
        pieces = list(members.values())
        piece_of = {identity: number for number, piece in enumerate(pieces) for identity in piece}
        parts = nx.DiGraph()
        parts.add_nodes_from(range(len(pieces)))
        for source, user in self.graph.structure.edges():
            if source in piece_of and user in piece_of and piece_of[source] != piece_of[user]:
                parts.add_edge(piece_of[source], piece_of[user])
        place = {identity: position for position, identity in enumerate(self.graph.order())}
        order = nx.lexicographical_topological_sort(parts, key=lambda number: place[pieces[number][-1]])
        return [pieces[number] for number in order]

    def _is_view(self, piece: list[int]) -> bool:
        node = self.graph.node(piece[0])
        return len(piece) == 1 and "view" in node.record.traits and not node.types[0].layout

    def _kernel(self, group: Group) -> str:
        """The name of the kernel of `group`."""
        if group not in self.names:
            digest = hashlib.blake2b(repr(group).encode(), digest_size=6).hexdigest()
            name = f"{group.title[:60]}_{digest}"
            kernel = kernel_of(group, select.lower(group, self.target))
            self.names[group] = name
            self.kernels[name] = Kernel(kernel.function.with_attr("global_symbol", name), kernel.packings)
        return self.names[group]

    def _weight(self, value: Value, packing: Packing) -> Any:
        """The program's parameter for a frozen value in the form that a kernel takes."""
        key = (value, packing)
        if key not in self.weights:
            array = packing.apply(np.asarray(self.arrays[value]))
            variable = relax.Var(f"weight{len(self.weights)}", relax.TensorType(array.shape, str(array.dtype)))
            self.weights[key] = (variable, array)
        return self.weights[key][0]

    def _program(self, inputs: list[Any], calls: list[Any], outputs: list[Any]) -> Any:
        builder = relax.BlockBuilder()
        parameters = [*inputs, *(variable for variable, _ in self.weights.values())]

        def variable(operand: Any) -> Any:
            return self.computed[operand] if isinstance(operand, Value) else operand

        with builder.function("main", parameters, attrs={"num_input": len(inputs)}):
            with builder.dataflow():
                for values, name, operands in calls:
                    arguments = [variable(operand) for operand in operands]
                    types = [self.graph.type(value) for value in values]
                    if name is None:
                        call = relax.op.reshape(arguments[0], relax.ShapeExpr(types[0].concrete))
                    else:
                        call = relax.op.call_dps_packed(name, relax.Tuple(arguments), [*map(_relax_type, types)])
                    made = builder.emit(call)
                    for number, value in enumerate(values):
                        one = made if len(values) == 1 else builder.emit(relax.TupleGetItem(made, number))
                        self.computed[value] = one
                results = [builder.emit_output(variable(output)) for output in outputs]
            builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
        return builder.get()


def _relax_type(type: TensorType) -> Any:
    return relax.TensorType(type.physical, type.dtype)


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)
