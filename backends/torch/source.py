"""A graph -> the Python text of its forward: straight lines of calls, with nothing left to interpret.

    def forward(self, image, mask):
        d_n = image.shape[0]
        v7 = conv2d(image, self._modules['stem']._parameters['weight'], stride=(2, 2), ...)
        v8 = batch_norm_training(v7, ...)
        ...
        return v21

Tracing compilers (torch.compile, torch.export, the ONNX exporter) see plain tensor code. Symbolic extents in attributes
become expressions of the dimensions, which are read off the inputs' shapes in the first lines. A graph inside a node is
an object that its reference runs; tracing compilers see its steps one behind the other.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Mapping
from typing import Any

from specc.backends.torch.interface import solutions
from specc.diagnostics import error
from specc.ir.body import Body
from specc.ir.dims import Symbolic, substitute, symbol, symbols
from specc.ir.graph import Graph, Node, Value

_TAKEN = re.compile(r"self|inf|nan|v\d+|d_.*|body_\d+|.*_reference|.*_training")
"""The names that the text gives to other things than inputs."""


def input_names(graph: Graph) -> list[str]:
    """The names of the forward's arguments: the inputs' own where Python takes them."""
    names = [graph.node(i).attrs["name"] for i in graph.inputs]
    fine = all(name.isidentifier() and not keyword.iskeyword(name) and not _TAKEN.fullmatch(name) for name in names)
    return names if fine else [f"input_{number}" for number in range(len(names))]


def forward_source(graph: Graph, held: Mapping[Value, str], training: bool, name: str) -> str:
    """The text of a function `name(self, inputs...)`; `held` says where the module keeps the values that it holds."""
    run = _needed(graph, held)
    last = _last_uses(graph, run)
    names = input_names(graph)
    value_of: dict[Value, str] = dict(held)
    value_of |= {Value(identity): f"v{identity}" for identity in graph.inputs}
    lines = [f"v{identity} = {argument}" for identity, argument in zip(graph.inputs, names)]
    lines = [f"def {name}({', '.join(['self', *names])}):", *lines, *_dimensions(graph, run)]
    for identity in run:
        node = graph.node(identity)
        several = len(node.types) > 1
        for result in range(len(node.types)):
            value_of[Value(identity, result)] = f"v{identity}[{result}]" if several else f"v{identity}"
        arguments = [value_of[operand] for operand in graph.operands(identity)]
        arguments += [f"{key}={_literal(value, identity)}" for key, value in node.attrs.items()]
        if training:
            lines += [f"{place}.add_({_steps(node, arguments)})" for place in state_places(node)]
        function = function_name(node, training)
        call = f"{function}({', '.join(arguments)})"
        # what names its own type is made exactly, and takes the floating type of the module
        lines.append(f"v{identity} = " + (f"self.adopt({call})" if "typed" in node.record.traits else call))
        if last.get(identity):
            lines.append(f"del {', '.join(f'v{i}' for i in last[identity])}")  # the peak of memory is the network's own
    returned = ", ".join(value_of[value] for value in graph.outputs)
    lines.append(f"return {returned}" if len(graph.outputs) == 1 else f"return ({returned},)")
    return "\n    ".join(lines) + "\n"


def functions(graph: Graph, held: Collection[Value]) -> dict[str, Any]:
    """What the names in the text of the forwards stand for."""
    found: dict[str, Any] = {"inf": float("inf"), "nan": float("nan")}
    for identity in _needed(graph, held):
        node = graph.node(identity)
        found[function_name(node, False)] = node.record.torch
        if node.record.training:
            found[function_name(node, True)] = node.record.training
        if "body" in node.record.traits:
            found[f"body_{identity}"] = node.attrs["body"]
    return found


def function_name(node: Node, training: bool) -> str:
    """The name that the text gives to the operator of `node` in that mode."""
    return f"{node.op}_training" if training and node.record.training else f"{node.op}_reference"


def place(key: str, kind: str) -> str:
    """The expression of what a module keeps under a state_dict key; `kind` is "_parameters" or "_buffers"."""
    *scopes, role = key.split(".")
    return "self" + "".join(f"._modules[{scope!r}]" for scope in scopes) + f".{kind}[{role!r}]"


def state_places(node: Node) -> list[str]:
    """Where the counters of a node's training steps are kept."""
    inner = node.attrs["body"].graph if "body" in node.record.traits else None
    if inner is not None:
        return [found for identity in inner.order() for found in state_places(inner.node(identity))]
    scope = f"{node.path}." if node.path else ""
    return [place(f"{scope}{weight.role}", "_buffers") for weight in node.record.training_state]


def _steps(node: Node, arguments: list[str]) -> str:
    """How often what is inside of a node runs: a scan, once for each place of its sequences."""
    return f"{arguments[0]}.shape[{node.attrs['axis']}]" if "body" in node.record.traits else "1"


def _needed(graph: Graph, held: Collection[Value]) -> list[int]:
    """The nodes that run, in order: those that an output needs and that are not held."""
    needed: set[int] = set()
    pending = list(graph.outputs)
    while pending:
        value = pending.pop()
        if value not in held and value.node not in needed:
            needed.add(value.node)
            pending += graph.operands(value.node)
    return [i for i in graph.order() if i in needed and graph.node(i).op != "input"]


def _last_uses(graph: Graph, run: list[int]) -> dict[int, list[int]]:
    """For each node, the computed nodes that nothing reads after it."""
    last: dict[int, int] = {}
    for identity in run:
        last |= {operand.node: identity for operand in graph.operands(identity)}
    kept = {value.node for value in graph.outputs}
    found: dict[int, list[int]] = {}
    for identity in run:
        if identity in last and identity not in kept:
            found.setdefault(last[identity], []).append(identity)
    return found


def _dimensions(graph: Graph, run: list[int]) -> list[str]:
    """Assignments of the dimensions that attributes name."""
    wanted: set[str] = set()
    for identity in run:
        for value in graph.node(identity).attrs.values():
            for part in value if isinstance(value, tuple) else (value,):
                wanted |= symbols(part) if isinstance(part, Symbolic) else set()
            wanted |= value.symbols() if isinstance(value, Body) else set()
    if not wanted:
        return []
    names = input_names(graph)
    known = solutions(graph)
    if missing := sorted(wanted - known.keys()):
        raise error("S0703", f"the dimension `{missing[0]}` of `{graph.name}` cannot be read off the inputs' shapes")
    lines = []
    for name, (number, axis, coefficient, rest) in reversed(known.items()):
        if name in wanted:
            wanted |= symbols(rest)
            extent = f"{names[number]}.shape[{axis}]"
            extent = extent if rest == 0 else f"({extent} - ({_literal(rest)}))"
            lines.append(f"d_{name} = {extent}" + (f" // {coefficient}" if coefficient != 1 else ""))
    return lines[::-1]


def _literal(value: Any, identity: int | None = None) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Symbolic):
        return str(substitute(value, {name: symbol(f"d_{name}") for name in symbols(value)}))
    if isinstance(value, Body):
        extents = ", ".join(f"{name!r}: d_{name}" for name in sorted(value.symbols()))
        return f"body_{identity}.substitute({{{extents}}})" if extents else f"body_{identity}"
    return repr(value)
