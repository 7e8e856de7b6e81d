"""A graph with paths --> bodies: what happens in each module, as steps that call operators and other modules.

    layer1.0.conv1, layer1.0.bn1, layer1.0 (a relu), ...      layer1.0 is the body  conv1, bn1, relu, ...
    layer1.0, layer1.1, fc                                    the network is the body  layer1.0, layer1.1, fc

A module becomes a body of its own if it holds weights and at least two operators, gives one result, and nothing that
depends on it flows back into it. All others are *transparent*: their steps belong to the module around them, under
longer names, as do the members of containers (`nn.Sequential`), which a spec writes as a pipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import networkx as nx

from specc.grammar import writer
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType

Ref: TypeAlias = tuple[str, Any]
"""What a step reads: ("input", number), ("step", number), or ("number", an expression of the language)."""

CONTAINERS = frozenset({"", "Sequential", "ModuleList", "ModuleDict", "Identity"})


@dataclass
class Step:
    """A call in a body. `path` is its name as seen from the body; `owns` says that its weights are called by it.

    kind     "operator", "block" (`callee` is the path of another body), "param", or "loop"
    args     what the call is given besides tensors; values of the graph
    shared   weights that it is given, by role
    turns    the arguments of each turn, for a loop over members `path.start`, `path.start + 1`, ...
    """

    path: str
    kind: str
    callee: str
    operands: list[Ref]
    type: TensorType
    args: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Ref] = field(default_factory=dict)
    owns: bool = False
    node: int = -1
    turns: list[dict[str, Any]] = field(default_factory=list)
    start: int = 0


@dataclass
class Body:
    """What happens in the module at `path`."""

    path: str
    kind: str
    inputs: list[TensorType]
    steps: list[Step]
    results: list[Ref]


class Scopes:
    """The bodies of a graph; `classes` are the names of the modules' classes by path."""

    def __init__(self, graph: Graph, classes: Mapping[str, str]) -> None:
        self.graph, self.classes = graph, classes
        self.place = {identity: self._place(identity) for identity in graph.order()}
        self.owned = {
            i: weights
            for i in graph.order()
            if graph.node(i).record.weights and (weights := writer.own_weights(graph, i)) is not None
        }
        self.hidden = {
            value.node for i, weights in self.owned.items() for value in graph.operands(i)[-len(weights) :] if weights
        } | {i for i in graph.order() if self._number(i)}
        self.members: dict[str, set[int]] = {"": set()}
        for identity in graph.order():
            if identity not in self.hidden and graph.node(identity).op != "input":
                for scope in ["", *_prefixes(self.place[identity])]:
                    self.members.setdefault(scope, set()).add(identity)
        self.blocks = {scope for scope in self.members if scope and self._worthy(scope)}

    def bodies(self) -> dict[str, Body]:
        """A body for each module that has one, inner ones first; the network itself, path "", at the end."""
        while True:
            found: dict[str, Body] = {}
            try:
                here = [scope for scope in self.members if scope in self.blocks]  # of the graph's order, as no set has
                for scope in sorted(here, key=lambda scope: -scope.count(".")):
                    found[scope] = self._body(scope)
                found[""] = self._body("")
                return found
            except _Entangled as problem:
                self.blocks -= problem.scopes

    # ---- which modules are bodies

    def _place(self, identity: int) -> str:
        node = self.graph.node(identity)
        if node.op == "constant":
            users = self.graph.users(Value(identity))
            return self.graph.node(users[0][0]).path if users else ""
        return node.path

    def _number(self, identity: int) -> bool:
        """Whether a constant is a number in every expression that it is part of."""
        users = self.graph.users(Value(identity))
        return (
            self.graph.node(identity).op == "constant"
            and Value(identity) not in self.graph.outputs
            and all(writer.inline_constant(self.graph, user, at) is not None for user, at in users)
        )

    def _worthy(self, scope: str) -> bool:
        inside = self.members[scope]
        around, _, last = scope.rpartition(".")
        member = last.isdigit() and self.classes.get(around) == "Sequential"  # what a pipe calls has a name
        kind = self.classes.get(scope, "")
        contained = kind in CONTAINERS and not (member and kind == "Sequential")
        at_root = [i for i in inside if i in self.owned and self.place[i] == scope]
        weighty = any(i in self.owned or self.graph.node(i).op == "param" for i in inside)
        working = [i for i in inside if self.graph.node(i).op != "param"]
        outputs = self._outputs(scope)
        return weighty and bool(working) and len(outputs) == 1 and not contained and not at_root

    def _outputs(self, scope: str) -> set[Value]:
        inside = self.members[scope]
        return {
            Value(i)
            for i in inside
            if Value(i) in self.graph.outputs or any(user not in inside for user, _ in self.graph.users(Value(i)))
        }

    # ---- bodies

    def _body(self, scope: str) -> Body:
        graph = self.graph
        inside = self.members[scope]
        groups = {i: self._child(scope, i) for i in inside}
        order = {identity: number for number, identity in enumerate(graph.order())}
        condensed: nx.DiGraph[Any] = nx.DiGraph()
        first: dict[Any, int] = {}
        for identity in sorted(inside, key=order.__getitem__):
            group = groups[identity]
            condensed.add_node(group)
            first[group] = max(first.get(group, 0), order[identity])
            for operand in self._read(identity):
                if operand.node in inside and groups[operand.node] != group:
                    condensed.add_edge(groups[operand.node], group)
        if not nx.is_directed_acyclic_graph(condensed):
            tangled = {g for cycle in nx.strongly_connected_components(condensed) if len(cycle) > 1 for g in cycle}
            raise _Entangled({g for g in tangled if isinstance(g, str)})
        reader = _Body(self, scope, inside)
        for group in nx.lexicographical_topological_sort(condensed, key=first.__getitem__):
            if isinstance(group, str):
                reader.block(group)
            else:
                reader.node(group)
        results = graph.outputs if not scope else sorted(self._outputs(scope))
        if scope and not numbered(reader.steps):
            raise _Entangled({scope})
        types = [graph.type(value) for value in reader.inputs]
        return Body(scope, self.classes.get(scope, ""), types, reader.steps, [reader.ref(value) for value in results])

    def _child(self, scope: str, identity: int) -> Any:
        """The outermost body inside `scope` that the node is part of, or the node itself."""
        for inner in _prefixes(self.place[identity]):
            if inner in self.blocks and len(inner) > len(scope) and (not scope or inner.startswith(f"{scope}.")):
                return inner
        return identity

    def _read(self, identity: int) -> list[Value]:
        """The operands of a node that a spec writes."""
        return [value for value in self.graph.operands(identity) if value.node not in self.hidden]

    def reads(self, scope: str) -> list[Value]:
        """What flows into a module, in the order of its first use."""
        inside = self.members[scope]
        found: dict[Value, None] = {}
        for identity in self.graph.order():
            if identity in inside:
                found |= {value: None for value in self._read(identity) if value.node not in inside}
        return list(found)


class _Entangled(Exception):
    """These modules are no bodies: what depends on them flows back into them."""

    def __init__(self, scopes: set[str]) -> None:
        super().__init__(", ".join(sorted(scopes)))
        self.scopes = scopes


class _Body:
    def __init__(self, scopes: Scopes, scope: str, inside: Iterable[int]) -> None:
        self.scopes, self.scope = scopes, scope
        self.inputs = scopes.reads(scope) if scope else [Value(i) for i in scopes.graph.inputs]
        self.made: dict[Value, int] = {}
        self.steps: list[Step] = []

    def ref(self, value: Value) -> Ref:
        return ("step", self.made[value]) if value in self.made else ("input", self.inputs.index(value))

    def _add(self, value: Value, step: Step) -> None:
        self.made[value] = len(self.steps)
        self.steps.append(step)

    def _inner(self, path: str) -> str:
        return path[len(self.scope) + 1 :] if self.scope else path

    def block(self, scope: str) -> None:
        graph = self.scopes.graph
        operands = [self.ref(value) for value in self.scopes.reads(scope)]
        (output,) = self.scopes._outputs(scope)
        self._add(output, Step(self._inner(scope), "block", scope, operands, graph.type(output), owns=True))

    def node(self, identity: int) -> None:
        graph = self.scopes.graph
        node, value = graph.node(identity), Value(identity)
        path = self._inner(self.scopes.place[identity])
        if node.op == "param":
            attrs = {"shape": node.types[0].shape, "init": node.attrs["init"], "trainable": node.attrs["trainable"]}
            key = self._inner(node.attrs["key"])
            self._add(value, Step(key, "param", "param", [], node.types[0], attrs, owns=True, node=identity))
            return
        operands = graph.operands(identity)
        count = len(operands) if node.record.variadic else min(len(operands), len(node.record.call_operands))
        refs: list[Ref] = []
        for at in range(count):
            number = writer.inline_constant(graph, identity, at) if operands[at].node in self.scopes.hidden else None
            refs.append(("number", number) if number is not None else self.ref(operands[at]))
        args, roles = writer.call_arguments(graph, identity)
        owned = identity in self.scopes.owned and bool(self.scopes.owned[identity])
        shared = {} if owned else {role: self.ref(v) for role, v in zip(roles, operands[count:])}
        step = Step(path, "operator", node.op, refs, node.types[0], args, shared, owned, identity)
        self._add(value, step)


def numbered(steps: list[Step]) -> bool:
    """Whether members without a name, `0`, `1`, ..., are all that happens: a spec numbers the members of a pipe."""
    if not any(step.owns and step.path.split(".")[0].isdigit() for step in steps):
        return True
    chained = all(step.operands == [("step", number - 1)] for number, step in enumerate(steps) if number)
    return chained and [step.path for step in steps] == [str(number) for number in range(len(steps))]


def _prefixes(path: str) -> list[str]:
    """All modules around a path, outermost first: `a`, `a.b`, `a.b.c`."""
    parts = path.split(".") if path else []
    return [".".join(parts[: length + 1]) for length in range(len(parts))]
