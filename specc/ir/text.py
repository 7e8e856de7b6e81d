"""A graph as text, and back. Pass tests are written in this form, and `--dump` writes it.

    graph RepViT [n = 1, h = 224, w = 224]
    input image: float32[n, 3, h, w]
    param stem.c.weight: float32[32, 3, 3, 3] kaiming
    %0: float32[n, 32, (h + 1)//2, (w + 1)//2] = conv2d(image, @stem.c.weight) {stride=(2, 2)} in stem.c
    %1: float32[n, 32, (h + 1)//2, (w + 1)//2] = gelu(%0) in stem group 0
    return %1

Operands are inputs by name, parameters by `@key`, other nodes by `%number` (`%3.1` for the second result). Attributes
that have their default value are left out. The numbers follow `Graph.order`, so equal graphs have equal text. Places in
the spec are printed as `at file:line:column-line:column` on request; merge claims are not part of the text.

A node that holds a graph ends with `with`, and its graph follows, up to its own `return`:

    %2: float32[n, 8] = scan(x, h, @rnn.weight) {states=1; axis=1} in rnn with
        graph Cell
        input x: float32[n, 8]
        ...
        return %3
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from specc import ops
from specc.diagnostics import Label, Span, SpeccError, error
from specc.ir.dims import Symbolic, parse_dim
from specc.ir.dtypes import DTYPES
from specc.ir.graph import Graph, Node, Value
from specc.ir.types import TensorType, block_of
from specc.ops.record import REQUIRED, Illegal

if TYPE_CHECKING:
    from specc.ir.body import Body


def print_graph(graph: Graph, spans: bool = False) -> str:
    """The text of `graph`, one line a node; `parse_graph` is its inverse."""
    defaults = ", ".join(f"{name} = {extent}" for name, extent in sorted(graph.defaults.items()))
    lines = [f"graph {graph.name}" + (f" [{defaults}]" if defaults else "")]
    names: dict[int, str] = {}
    count = 0
    sources, body = [], []
    for identity in graph.order():
        node = graph.node(identity)
        tail = _tail(node, spans)
        if node.op == "input":
            names[identity] = node.attrs["name"]
            sources.append(f"input {node.attrs['name']}: {node.types[0]}{tail}")
        elif node.op == "param":
            names[identity] = f"@{node.attrs['key']}"
            buffer = "" if node.attrs["trainable"] else " buffer"
            sources.append(f"param {node.attrs['key']}: {node.types[0]} {node.attrs['init']}{buffer}{tail}")
        else:
            names[identity] = f"%{count}"
            count += 1
            operands = ", ".join(_reference(names, value) for value in graph.operands(identity))
            types = ", ".join(map(str, node.types))
            text = f"{names[identity]}: {types} = {node.op}({operands}){_attributes(node)}{_scope(node)}{tail}"
            inner = node.attrs.get("body") if "body" in node.record.traits else None
            body.append(text if inner is None else f"{text} with")
            if inner is not None:
                body += [f"    {line}" for line in print_graph(inner.graph, spans).splitlines()]
    returned = ", ".join(_reference(names, value) for value in graph.outputs)
    return "\n".join([*lines, *sources, *body, f"return {returned}"]) + "\n"


def _reference(names: dict[int, str], value: Value) -> str:
    return names[value.node] + (f".{value.result}" if value.result else "")


def _attributes(node: Node) -> str:
    shown = []
    for argument in node.record.attributes:
        value = node.attrs[argument.name]
        if argument.kind == "graph":
            continue
        if argument.default is REQUIRED or value != ops.normal_form(argument, argument.default):
            shown.append(f"{argument.name}={_literal(value)}")
    return f" {{{'; '.join(shown)}}}" if shown else ""


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return str(value) if isinstance(value, Symbolic) else repr(value)


def _scope(node: Node) -> str:
    return (f" in {node.path}" if node.path else "") + (f" group {node.group}" if node.group is not None else "")


def _tail(node: Node, spans: bool) -> str:
    if not spans or node.span is None:
        return ""
    span = node.span
    return f" at {span.file}:{span.line}:{span.column}-{span.end_line}:{span.end_column}"


_SPAN = re.compile(r" at (?P<file>\S.*):(\d+):(\d+)-(\d+):(\d+)$")
_HEADER = re.compile(r"graph (?P<name>\S+)(?: \[(?P<defaults>.*)\])?")
_INPUT = re.compile(r"input (?P<name>[^:\s]+): (?P<type>.*)")
_PARAM = re.compile(r"param (?P<key>[^:\s]+): (?P<type>.*\]) (?P<init>\S+)(?P<buffer> buffer)?")
_NODE = re.compile(
    r"%(?P<name>\d+): (?P<types>.*?) = (?P<op>\w+)\((?P<operands>[^)]*)\)(?: \{(?P<attrs>.*)\})?"
    r"(?: in (?P<path>\S+))?(?: group (?P<group>\d+))?"
)
_TYPE = re.compile(r"(?P<dtype>\w+)(?:@(?P<layout>\w+))?\[(?P<shape>.*)\]")


def parse_graph(text: str, name: str = "<text>") -> Graph:
    """The graph that `text` describes; raises S0702 with the line that is no part of one, S0301 for an illegal call."""
    reader = _Reader(name, text)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            reader.line(number, line.strip())
    if reader.graph is None:
        raise error("S0702", f"{name} is empty: a graph begins with `graph NAME`")
    if reader.inner is not None:
        raise error("S0702", f"{name} ends inside of a graph: that of a node ends with its own `return`")
    return reader.graph


class _Reader:
    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.graph: Graph | None = None
        self.values: dict[str, int] = {}
        self.done = False
        self.inner: _Reader | None = None
        self.holder = ""

    def line(self, number: int, line: str) -> None:
        """Reads a line: of the graph of the node above, where that is not done, or of the graph itself."""
        try:
            if self.inner is None:
                self._line(line)
                return
            self.inner.line(number, line)
            if self.inner.done and self.inner.inner is None:
                assert self.inner.graph is not None
                holder, inner = self.holder, self.inner.graph
                self.inner = None
                from specc.ir.body import Body

                self._line(holder, Body.of(inner))
        except Illegal as problem:
            raise self._at("S0301", number, line, problem.reason) from None
        except (ValueError, KeyError, SyntaxError) as problem:
            raise self._at("S0702", number, line, str(problem)) from None

    def _at(self, code: str, number: int, line: str, reason: str) -> SpeccError:
        span = Span(self.name, number, 1, number, len(line) + 1)
        found = error(code, f"line {number} is not part of a graph: {reason}", Label(span))
        found.sources[self.name] = self.text
        return found

    def _line(self, line: str, body: Body | None = None) -> None:
        if header := _HEADER.fullmatch(line):
            pairs = (pair.split("=") for pair in (header["defaults"] or "").split(",") if pair.strip())
            self.graph = Graph(header["name"], defaults={n.strip(): int(v) for n, v in pairs})
            return
        graph = self.graph
        if graph is None:
            raise ValueError("a graph begins with `graph NAME`")
        if line.endswith(" with") and body is None:
            self.holder, self.inner = line, _Reader(self.name, self.text)
            return
        line = line.removesuffix(" with") if body is not None else line
        span = None
        if place := _SPAN.search(line):
            line, span = line[: place.start()], Span(place["file"], *(int(place[i]) for i in range(2, 6)))
        if match := _INPUT.fullmatch(line):
            self._name(match["name"], graph.input(match["name"], parse_type(match["type"]), span))
        elif match := _PARAM.fullmatch(line):
            value = graph.parameter(
                match["key"], parse_type(match["type"]), match["init"], match["buffer"] is None, span
            )
            self._name(f"@{match['key']}", value)
        elif match := _NODE.fullmatch(line):
            if match["op"] not in ops.OPERATORS:
                raise ValueError(f"there is no operator `{match['op']}`")
            operands = [self._operand(text) for text in match["operands"].split(",") if text.strip()]
            attrs = dict(_attribute(text) for text in (match["attrs"] or "").split("; ") if text)
            if body is not None:
                attrs["body"] = body
            value = graph.apply(match["op"], operands, attrs, match["path"] or "", span)
            if match["group"]:
                graph.update(value.node, group=int(match["group"]))
            inferred = ", ".join(map(str, graph.node(value.node).types))
            if inferred != match["types"]:
                raise ValueError(f"the type is given as {match['types']} and follows as {inferred}")
            self._name(f"%{match['name']}", value)
        elif line.startswith("return"):
            graph.outputs = [self._operand(text) for text in line.removeprefix("return").split(",") if text.strip()]
            self.done = True
        else:
            raise ValueError("it is none of `input`, `param`, `%n: type = op(...)` and `return`")

    def _name(self, name: str, value: Value) -> None:
        if name in self.values:
            raise ValueError(f"`{name}` stands twice")
        self.values[name] = value.node

    def _operand(self, text: str) -> Value:
        text = text.strip()
        if text in self.values:
            return Value(self.values[text])
        name, _, result = text.rpartition(".")
        if name not in self.values or not result.isdigit():
            raise ValueError(f"`{text}` is not defined above")
        assert self.graph is not None
        if int(result) >= len(self.graph.node(self.values[name]).types):
            raise ValueError(f"the result `{text}` does not exist")
        return Value(self.values[name], int(result))


def parse_type(text: str) -> TensorType:
    """The inverse of `str` of a tensor type; `ValueError` for anything else."""
    match = _TYPE.fullmatch(text)
    if not match or match["dtype"] not in DTYPES:
        raise ValueError(f"`{text}` is not a tensor type")
    block_of(match["layout"] or "")
    shape = tuple(parse_dim(part) for part in match["shape"].split(",") if part.strip())
    return TensorType(shape, match["dtype"], match["layout"] or "")


def _attribute(text: str) -> tuple[str, Any]:
    name, _, literal = text.partition("=")
    return name, _value(literal)


def _value(literal: str) -> Any:
    try:
        return ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        pass
    if literal.startswith("("):
        return tuple(parse_dim(part) for part in literal[1:-1].split(",") if part.strip())
    return parse_dim(literal)
