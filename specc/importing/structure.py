"""A graph with paths --> a spec with blocks, loops and pipes, which is the same graph again.

The text is read again, and the graph that it gives is compared with the one that it was written from, node by node.
Where they are not the same, or where names of the network cannot be said, the network is written flat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from specc import grammar
from specc.diagnostics import SpeccError
from specc.grammar import syntax as s
from specc.grammar import writer
from specc.grammar.printer import print_file
from specc.importing.blocks import blocks_of, with_loops
from specc.importing.emit import emit
from specc.importing.parameters import Emitted
from specc.importing.scopes import Body, Scopes, numbered
from specc.ir.graph import Graph
from specc.ir.text import print_graph


def write_structured(graph: Graph, classes: Mapping[str, str], docstring: str) -> str:
    """The spec of `graph`; `classes` are the names of its modules' classes, by path."""
    writer.require_sayable(graph)
    keys = list(graph.checkpoint)
    if all(map(_sayable, keys)) and _apart(graph) and all(len(graph.node(i).types) == 1 for i in graph.order()):
        text = _structured(graph, classes, docstring)
        try:
            if text and anatomy(grammar.loads(text)) == anatomy(graph):
                return text
        except SpeccError:
            pass
    return writer.write_graph(graph, docstring, checked=True)


def anatomy(graph: Graph) -> str:
    """The graph's text without its name and without the paths of its nodes: what it computes, of which parameters."""
    bare = graph.copy()
    bare.name = "N"
    for identity in graph.order():
        bare.update(identity, path="")
    return print_graph(bare)


def _apart(graph: Graph) -> bool:
    """Whether no name of the network is that of an input or of a dimension."""
    heads = {key.split(".")[0] for key in graph.checkpoint}
    return not heads & (graph.symbols() | {graph.node(i).attrs["name"] for i in graph.inputs})


def _sayable(key: str) -> bool:
    """Whether the language can say a key as it is: `for.weight` is none, and `0.weight` is a member of a pipe."""
    head, _, rest = key.partition(".")
    return key == (f"{head}.{writer.sayable(f'_.{rest}')[2:]}" if head.isdigit() else writer.sayable(key))


def _structured(graph: Graph, classes: Mapping[str, str], docstring: str) -> str | None:
    """The text; None where the network itself has members without names that are no pipe."""
    bodies = Scopes(graph, classes).bodies()
    network = bodies.pop("")
    if not numbered(network.steps):
        return None
    names: dict[str, str] = {}
    arguments: dict[str, dict[str, Any]] = {}
    emitted: dict[str, Emitted] = {}
    pending = list(bodies.values())
    title = graph.name
    while pending:
        ready = _ready(pending, names)
        pending = [body for body in pending if body not in ready]
        looped = with_loops(ready, names, arguments)
        for block in blocks_of(looped, names):
            name = _free(block.bodies[0].kind or "Block", {title, *emitted})
            definition = emit(block, name, emitted, names)
            emitted[name] = definition
            for number, body in enumerate(block.bodies):
                names[body.path] = name
                arguments[body.path] = {p: values.values[number] for p, values in definition.parameters.items()}
    (block,) = blocks_of(with_loops([network], names, arguments), names)
    root = emit(block, title, emitted, names, "network", graph)
    definitions = {name: e.definition for name, e in emitted.items()}
    items: list[s.Item] = [*called_by(root.definition, definitions), root.definition]
    items += writer.checks(graph, root.definition)
    return grammar.format_text(print_file(s.File(1, docstring, (), tuple(items))))


def called_by(definition: s.Definition, definitions: dict[str, s.Definition]) -> Iterator[s.Definition]:
    """The blocks that `definition` calls, in the order of its calls, each behind those that it calls itself."""

    def names(of: s.Definition) -> Iterator[str]:
        return iter(re.findall(r"\w+", print_file(s.File(1, None, (), (of,)))))

    calling = [(definition, names(definition))]
    while calling:
        caller, called = calling[-1]
        inner = next((found for name in called if (found := definitions.pop(name, None))), None)
        if inner is not None:
            calling.append((inner, names(inner)))
            continue
        calling.pop()
        if caller is not definition:
            yield caller


def _ready(pending: list[Body], names: Mapping[str, str]) -> list[Body]:
    """The bodies of one class, all of whose calls are blocks already; some of a class that calls itself."""

    def settled(body: Body) -> bool:
        return all(step.callee in names for step in body.steps if step.kind == "block")

    for body in pending:
        alike = [other for other in pending if other.kind == body.kind]
        if all(map(settled, alike)):
            return alike
    for body in pending:
        if settled(body):
            return [other for other in pending if other.kind == body.kind and settled(other)]
    raise AssertionError("bodies call each other in a circle")


def _free(name: str, taken: set[str]) -> str:
    clean = writer.sayable(name.replace(".", "_"))
    return next(n for n in (clean, *(f"{clean}{i}" for i in range(2, 999))) if n not in taken)
