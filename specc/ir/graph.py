"""The graph: operator applications joined by tensors, on a `networkx.MultiDiGraph`.

A node applies an operator record to values; a value is one result of a node. An edge carries a value to its user,
keyed by the operand's position. Inputs, parameters and constants are nodes without operands. A weight is an operand
like any other, so what a pass does to weights (scale them, pad them, add them) are nodes too, in the same graph;
everything that depends on no input is *frozen* and is computed once, when the graph is compiled.

A pass copies a graph, changes the copy and returns it. Nodes and values are immutable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx

from specc import ops
from specc.diagnostics import Frame, Span
from specc.ir.dims import Dim
from specc.ir.types import TensorType
from specc.ops.record import Operator, Spelling

MAX_ELEMENTS = 2**31 - 1
"""The elements of the largest tensor: kernels index with 32 bits."""


@dataclass(frozen=True, slots=True, order=True)
class Value:
    """Result number `result` of node number `node`."""

    node: int
    result: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """An application of the operator `op`.

    `path` is the scope in the state_dict and `span` the place in the spec that it comes from; both live through every
    pass. `group` is set by the fusion pass: the nodes of one group become one kernel.
    """

    op: str
    attrs: Mapping[str, Any]
    types: tuple[TensorType, ...]
    path: str = ""
    span: Span | None = None
    group: int | None = None

    @property
    def record(self) -> Operator:
        return ops.get(self.op)


@dataclass(frozen=True, slots=True)
class MergeClaim:
    """`ensure value merges into operators`: after re-parameterization one of them makes `value`, or nobody needs it.

    `value` follows what replaces it; `path` is where it was made.
    """

    value: Value
    path: str
    operators: tuple[str, ...]
    span: Span
    stack: tuple[Frame, ...] = ()


@dataclass(repr=False)
class Graph:
    """A network. `defaults` gives symbolic dimensions the value that they have where the caller names none.

    `renames` are the spec's rules from the names of a checkpoint to the network's own; see `specc.weights.rename`.
    `blocks` says for the path of each call of a block which block that is, and where it is called.
    """

    name: str
    structure: nx.MultiDiGraph = field(default_factory=nx.MultiDiGraph)
    outputs: list[Value] = field(default_factory=list)
    defaults: dict[str, int] = field(default_factory=dict)
    claims: list[MergeClaim] = field(default_factory=list)
    _next: int = 0
    # What is asked again and again, kept until an edge changes: a node's operands, the order, the frozen nodes.
    _operands: dict[int, tuple[Value, ...]] = field(default_factory=dict, repr=False, compare=False)
    _order: tuple[tuple[Value, ...], list[int]] | None = field(default=None, repr=False, compare=False)
    _frozen: set[int] | None = field(default=None, repr=False, compare=False)
    _shown: frozenset[int] | None = field(default=None, repr=False, compare=False)
    renames: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    blocks: dict[str, tuple[str, Span]] = field(default_factory=dict, compare=False, kw_only=True)

    # ---- building -------------------------------------------------------------------------------------------------

    def input(self, name: str, type: TensorType, span: Span | None = None) -> Value:
        """A tensor that the caller gives."""
        return self._add(Node("input", {"name": name, "type": type}, (type,), span=span), ())

    def parameter(
        self, key: str, type: TensorType, init: str = "zeros", trainable: bool = True, span: Span | None = None
    ) -> Value:
        """A tensor of the checkpoint."""
        attrs = {"key": key, "type": type, "init": init, "trainable": trainable}
        return self._add(Node("param", attrs, (type,), path=key.rpartition(".")[0], span=span), ())

    def constant(
        self, value: float, shape: tuple[Dim, ...] = (), dtype: str = "float32", span: Span | None = None
    ) -> Value:
        """A number, in every element of a tensor of `shape`."""
        return self.apply("constant", (), {"value": value, "shape": shape, "dtype": dtype}, span=span)

    def apply(
        self,
        op: str,
        operands: Sequence[Value],
        attrs: Mapping[str, Any] | None = None,
        path: str = "",
        span: Span | None = None,
    ) -> Value:
        """A node that applies `op`; its first result. Raises `specc.Illegal` when the call is not legal."""
        record = ops.get(op)
        completed = ops.complete(record, dict(attrs or {}))
        types = ops.infer(record, [self.type(operand) for operand in operands], completed)
        return self._add(Node(op, completed, types, path, span), operands)

    def call(
        self,
        op: str,
        operands: Sequence[Value],
        arguments: Mapping[str, Any] | None = None,
        path: str = "",
        span: Span | None = None,
        shared: Mapping[str, Value] | None = None,
    ) -> Value:
        """A call of the language: makes the operator's parameters, named `path.role`, then applies it.

        `shared` are values that take the place of parameters, by role; their types are those that `spell` says.
        Raises `specc.Illegal` when the call is not legal; nothing is added to the graph then.
        """
        types = [self.type(operand) for operand in operands]
        return self.spelled(op, operands, ops.spell(ops.get(op), types, dict(arguments or {})), path, span, shared)

    def spelled(
        self,
        op: str,
        operands: Sequence[Value],
        spelling: Spelling,
        path: str = "",
        span: Span | None = None,
        shared: Mapping[str, Value] | None = None,
    ) -> Value:
        """As `call`, for a call that comes to `spelling`."""
        record = ops.get(op)
        attrs = ops.complete(record, dict(spelling.attrs))
        types = [*map(self.type, operands), *(weight.type for weight in spelling.weights)]
        results = ops.infer(record, types, attrs)
        given = shared or {}
        weights = [
            given[w.role]
            if w.role in given
            else self.parameter(f"{path}.{w.role}" if path else w.role, w.type, w.init, w.trainable, span)
            for w in spelling.weights
        ]
        return self._add(Node(op, attrs, results, path, span), [*operands, *weights])

    def _add(self, node: Node, operands: Sequence[Value]) -> Value:
        identity = self._next
        self._next += 1
        self.structure.add_node(identity, node=node)
        for position, operand in enumerate(operands):
            self.structure.add_edge(operand.node, identity, key=position, result=operand.result)
        self._operands[identity] = tuple(operands)
        self._order = None
        if self._frozen is not None and node.op != "input" and all(o.node in self._frozen for o in operands):
            self._frozen.add(identity)  # nothing depends on the new node yet
            self._shown = None
        return Value(identity)

    def _forget(self) -> None:
        self._order = self._frozen = self._shown = None

    def copy(self) -> Graph:
        """An equal graph that can be changed on its own."""
        return Graph(
            self.name,
            self.structure.copy(),
            list(self.outputs),
            dict(self.defaults),
            list(self.claims),
            self._next,
            dict(self._operands),
            self._order,
            None if self._frozen is None else set(self._frozen),
            self._shown,
            renames=self.renames,
            blocks=dict(self.blocks),
        )

    # ---- looking --------------------------------------------------------------------------------------------------

    def node(self, identity: int) -> Node:
        node: Node = self.structure.nodes[identity]["node"]
        return node

    def op(self, value: Value) -> str:
        """The operator that makes `value`."""
        return self.node(value.node).op

    def type(self, value: Value) -> TensorType:
        return self.node(value.node).types[value.result]

    def operands(self, identity: int) -> tuple[Value, ...]:
        """The operands of a node, in order."""
        known = self._operands.get(identity)
        if known is None:
            edges = sorted((key, source, data["result"]) for source, _, key, data in self._incoming(identity))
            known = self._operands[identity] = tuple(Value(source, result) for _, source, result in edges)
        return known

    def users(self, value: Value) -> list[tuple[int, int]]:
        """The nodes that take `value` and the operand's position, in order; the graph's outputs are not among them."""
        edges = self.structure.out_edges(value.node, keys=True, data=True)
        return sorted((user, key) for _, user, key, data in edges if data["result"] == value.result)

    def uses(self, value: Value) -> int:
        """How often `value` is used, as an operand or as an output of the graph."""
        return len(self.users(value)) + self.outputs.count(value)

    def _incoming(self, identity: int) -> Any:
        return self.structure.in_edges(identity, keys=True, data=True)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order())

    def __len__(self) -> int:
        return len(self.structure)

    def __repr__(self) -> str:
        """The graph's text, so that a failing test shows it; of a broken graph, its name."""
        from specc.ir.text import print_graph

        try:
            return print_graph(self).rstrip()
        except (ValueError, KeyError):
            return f"<broken graph {self.name}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As IPython and hypothesis ask for it."""
        printer.text(repr(self))

    def order(self) -> list[int]:
        """All nodes, operands before users, in an order that depends on the graph alone and not on how it was built.

        Inputs first as they were declared, then depth first from the outputs, operands in order; then what no output
        needs. `ValueError` for a cycle.
        """
        outputs = tuple(self.outputs)
        if self._order is not None and self._order[0] == outputs:
            return list(self._order[1])
        placed: dict[int, bool] = {}  # False while the node's operands are being placed
        roots = [*self.inputs, *(value.node for value in self.outputs), *sorted(self.structure)]
        for root in roots:
            stack = [(root, iter(self.operands(root)))] if root not in placed else []
            if stack:
                placed[root] = False
            while stack:
                identity, pending = stack[-1]
                for operand in pending:
                    state = placed.get(operand.node)
                    if state is False:
                        raise ValueError(f"the graph has a cycle through node {operand.node}")
                    if state is None:
                        placed[operand.node] = False
                        stack.append((operand.node, iter(self.operands(operand.node))))
                        break
                else:
                    placed.pop(identity)
                    placed[identity] = True  # re-inserted: the dictionary's order is the order of completion
                    stack.pop()
        self._order = (outputs, list(placed))
        return list(placed)

    @property
    def inputs(self) -> list[int]:
        """The input nodes, as declared."""
        return sorted(i for i, data in self.structure.nodes(data=True) if data["node"].op == "input")

    @property
    def output_names(self) -> list[str]:
        """What the outputs are called: `output`, or `output0`, `output1`, ... where there are several."""
        return ["output"] if len(self.outputs) == 1 else [f"output{number}" for number in range(len(self.outputs))]

    @property
    def parameters(self) -> dict[str, TensorType]:
        """The checkpoint's keys that the graph reads, with their types, in order."""
        nodes = (self.node(i) for i in self.order())
        return {node.attrs["key"]: node.types[0] for node in nodes if node.op == "param"}

    @property
    def checkpoint(self) -> dict[str, TensorType]:
        """The keys of a checkpoint that was trained: the parameters, and state that training alone reads."""
        from specc.ir.body import nested

        keys = self.parameters
        for node in (graph.node(i) for graph in nested(self) for i in graph.order()):
            scope = f"{node.path}." if node.path else ""
            keys |= {f"{scope}{weight.role}": weight.type for weight in node.record.training_state}
        return keys

    def frozen(self) -> frozenset[int]:
        """The nodes that depend on no input: parameters, constants and what is computed from these alone."""
        if self._shown is None:  # asked at node after node: a copy for each is time by the square of their number
            self._shown = frozenset(self._known_frozen())
        return self._shown

    def is_frozen(self, identity: int) -> bool:
        """Whether the node depends on no input."""
        return identity in self._known_frozen()

    def _known_frozen(self) -> set[int]:
        if self._frozen is None:
            self._frozen = set()
            for identity in self.order():
                if self.node(identity).op != "input" and all(o.node in self._frozen for o in self.operands(identity)):
                    self._frozen.add(identity)
        return self._frozen

    def dependents(self, values: Iterable[Value]) -> set[int]:
        """The nodes that make `values`, and those that depend on them."""
        found = {value.node for value in values}
        for identity in self.order():
            if any(operand.node in found for operand in self.operands(identity)):
                found.add(identity)
        return found

    def live(self) -> list[int]:
        """The nodes that run with every inference, in order: neither frozen nor inputs."""
        frozen = self.frozen()
        return [i for i in self.order() if i not in frozen and self.node(i).op != "input"]

    def symbols(self) -> frozenset[str]:
        """The names of all dimensions of the inputs that are not fixed yet."""
        return frozenset().union(*(self.node(i).types[0].symbols() for i in self.inputs))

    def count(self, op: str) -> int:
        """How many nodes apply `op`."""
        return sum(data["node"].op == op for _, data in self.structure.nodes(data=True))

    # ---- changing -------------------------------------------------------------------------------------------------

    def replace(self, old: Value, new: Value) -> None:
        """Every use of `old`, by nodes and as an output, becomes a use of `new`."""
        for user, position in self.users(old):
            if user != new.node:
                self.set_operand(user, position, new)
        self.outputs = [new if value == old else value for value in self.outputs]
        self.claims = [replace(claim, value=new) if claim.value == old else claim for claim in self.claims]

    def set_operand(self, identity: int, position: int, value: Value) -> None:
        """Operand number `position` of a node becomes `value`; the types of what follows are left alone."""
        for source, _, key, _ in list(self._incoming(identity)):
            if key == position:
                self.structure.remove_edge(source, identity, key)
        self.structure.add_edge(value.node, identity, key=position, result=value.result)
        self._operands.pop(identity, None)
        self._forget()

    def update(self, identity: int, **changes: Any) -> None:
        """The node with some of its fields replaced."""
        self.structure.nodes[identity]["node"] = replace(self.node(identity), **changes)

    def infer(self) -> None:
        """Infers the type of every node anew; raises `Illegal` where a call is not legal any more."""
        for identity in self.order():
            node = self.node(identity)
            types = ops.infer(node.record, [self.type(o) for o in self.operands(identity)], dict(node.attrs))
            if types != node.types:
                self.update(identity, types=types)

    def prune(self) -> None:
        """Removes the nodes that no output needs; inputs stay, as they are the caller's."""
        needed = {*self.inputs}
        pending = [value.node for value in self.outputs]
        while pending:
            identity = pending.pop()
            if identity not in needed:
                needed.add(identity)
                pending += self.structure.predecessors(identity)
        self.remove([i for i in self.structure if i not in needed])

    def remove(self, identities: Iterable[int]) -> None:
        """Removes nodes whose results nobody uses."""
        for identity in identities:
            self.structure.remove_node(identity)
            self._operands.pop(identity, None)
            self._forget()


def describe(graph: Graph, values: Iterable[Value]) -> str:
    """The operators and paths of `values`, for a message: `conv2d at stem.conv1, add`."""
    nodes = [graph.node(value.node) for value in values]
    return ", ".join(f"{node.op} at {node.path}" if node.path else node.op for node in nodes)
