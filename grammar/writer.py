"""Graph --> spec: every operator as one line of the language, with the names of the graph's parameters.

    graph N                                             network N(x: [1, 3, 8, 8]):
    input x: float32[1, 3, 8, 8]                            layer1[0]["conv"] = conv2d(x, 4)
    param layer1.0.conv.weight: float32[4, 3, 1, 1] ... --> relu_1 = relu(layer1[0]["conv"])
    %0 ... = conv2d(x, @layer1.0.conv.weight, ...)          return relu_1
    %1 ... = relu(%0)
    return %1

A call brings its own weights where the graph has them as a call of the language makes them: named `path.role`, read by
this call alone, of the type and the beginning that `spell` gives. All others are declared by `param` and handed over by
name. A name of the graph that the language cannot say becomes one that it can, and a `rename` table lets checkpoints
keep the old one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from specc import ops
from specc.diagnostics import Label, SpeccError, error
from specc.grammar import operators
from specc.grammar import syntax as s
from specc.grammar.literals import abbreviated, extents, literal, negated
from specc.grammar.parameters import INITIALIZERS
from specc.grammar.printer import print_file
from specc.ir.body import Body
from specc.ir.congruence import named
from specc.ir.cost import count_macs, count_params
from specc.ir.graph import Graph, Node, Value
from specc.ops import calls
from specc.ops.record import REQUIRED, Operator, Weight

ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_WORDS = "if, elif, else, for, in, and, or, not, true, false, none, return, param, buffer, require, ensure"
RESERVED = frozenset(_WORDS.split(", "))
"""Words with which no line can begin as a name."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INIT = re.compile(r"(\w+)(?:\((.*)\))?")


def write_graph(graph: Graph, docstring: str | None = None, checked: bool = False) -> str:
    """The text of a spec whose only network is `graph`, one line an operator.

    `checked` adds what the network costs as a `check`. Layouts are left out. Raises S0711 for a graph that the language
    has no words for.
    """
    return print_file(graph_file(graph, docstring, checked))


def graph_file(graph: Graph, docstring: str | None = None, checked: bool = False) -> s.File:
    """As `write_graph`, the syntax tree."""
    graph = without_layouts(graph)
    writer = _Writer(graph)
    definition = writer.definition()
    items: list[s.Item] = [definition]
    if writer.names.renamed:
        table = tuple(s.Renaming(old, new) for old, new in writer.names.renamed.items() if old != new)
        items.append(s.Rename(s.Name(definition.name), table))
    if checked:
        items += checks(graph, definition)
    return s.File(1, docstring, (), tuple(items))


def checks(graph: Graph, definition: s.Definition) -> list[s.Check]:
    """What the network costs, where its dimensions have values to count with."""
    from specc.ir.specialize import specialize

    try:
        fixed = specialize(graph)
    except SpeccError:
        return []
    counts = {"params": count_params(fixed), "macs": count_macs(fixed)}
    expected = tuple(s.Expectation(s.Name(q), "==", s.Number(abbreviated(n))) for q, n in counts.items())
    return [s.Check("", s.Name(definition.name), (), expected)]


def input_parameters(graph: Graph) -> tuple[s.Parameter, ...]:
    """The inputs of a network as its definition declares them: `image: [n = 1, 3, h = 224, w = 224]`."""
    defaults = dict(graph.defaults)
    parameters = []
    for identity in graph.inputs:
        node = graph.node(identity)
        dimensions = []
        for dim in node.types[0].shape:
            found = named(dim)
            default = defaults.pop(found[0], None) if found else None
            size = s.Name(found[0]) if found else literal(dim)
            dimensions.append(s.Dimension(size, None if default is None else literal(default)))
        parameters.append(s.Parameter(node.attrs["name"], tensor(dimensions, node.types[0].dtype)))
    return tuple(parameters)


def requirements(graph: Graph) -> list[s.Statement]:
    """`require h % 7 == 0`: what is known of the dimensions of the inputs."""
    dims = [dim for identity in graph.inputs for dim in graph.node(identity).types[0].shape]
    known = dict(found for found in map(named, dims) if found is not None)
    return [
        s.Require(s.Binary("==", s.Binary("%", s.Name(name), literal(modulus)), literal(remainder)), None)
        for name, (modulus, remainder) in known.items()
        if modulus > 1
    ]


def without_layouts(graph: Graph) -> Graph:
    """The same network with every tensor in the plain layout: where things lie in memory is no part of a spec."""
    result = graph.copy()
    for identity in graph.order():
        if graph.node(identity).op == "convert_layout":
            result.replace(Value(identity), result.operands(identity)[0])
            result.remove([identity])
    result.infer()
    return result


def tensor(dimensions: Sequence[s.Dimension], dtype: str) -> s.Tensor:
    """`[n, l] int64`, the type of a tensor."""
    return s.Tensor(tuple(dimensions), None if dtype == "float32" else s.Element(dtype))


def require_sayable(graph: Graph) -> None:
    """Raises S0711 where the graph holds something that the language has no words for."""
    bare = {found[0] for i in graph.inputs for found in map(named, graph.node(i).types[0].shape) if found}
    for name in sorted(graph.symbols() - bare):
        raise error("S0711", f"the dimension `{name}` of `{graph.name}` stands only inside other dimensions")
    if not graph.inputs:
        raise error("S0711", f"`{graph.name}` takes no tensor")
    for identity in graph.order():
        node = graph.node(identity)
        if node.op in ("input", "param"):
            continue
        elif operators.find(node.op) is None:
            raise _unsayable(node, "no spec calls this operator")
        elif any(isinstance(value, Body) for value in node.attrs.values()):
            raise _unsayable(node, "it runs a graph of its own, which has no flat form")


def _unsayable(node: Node, reason: str) -> SpeccError:
    where = f"`{node.op}`{f' at `{node.path}`' if node.path else ''}"
    return error("S0711", f"{where} cannot be said in a spec: {reason}", *([Label(node.span)] if node.span else []))


# ---- calls


def call_arguments(graph: Graph, identity: int) -> tuple[dict[str, Any], list[str]]:
    """The arguments of the call that makes a node, without defaults, and the roles of its weights.

    Raises S0711 where no call does.
    """
    node, record = graph.node(identity), graph.node(identity).record
    types = [graph.type(value) for value in graph.operands(identity)]
    count = len(types) if record.variadic else min(len(types), len(record.call_operands))
    found = calls.arguments(record, types[:count], node.attrs, types[count:])
    if found is None:
        raise _unsayable(node, "no call makes these attributes and weights")
    return found, [weight.role for weight in ops.spell(record, types[:count], found).weights]


def argument(record: Operator, name: str, value: Any) -> s.Expression:
    """The value of one argument of an operator as a spec writes it; `ValueError` where it cannot."""
    kind = next(a.kind for a in record.signature if a.name == name).removesuffix("?")
    return extents(value) if kind in ("pair", "padding") else literal(value)


def call(record: Operator, operands: list[s.Expression], given: dict[str, s.Expression]) -> s.Expression:
    """A call of an operator: what it always needs by position, the rest by name, arithmetic as arithmetic."""
    if record.name in ARITHMETIC:
        return s.Binary(ARITHMETIC[record.name], operands[0], operands[1])
    if record.name == "neg":
        return negated(operands[0])
    required = [argument.default is REQUIRED for argument in record.signature]
    leading = [a.name for a in record.signature[: sum(required)]] if all(required[: sum(required)]) else []
    positional = [*operands, *(given[name] for name in leading)]
    keywords = tuple(s.Keyword(name, value) for name, value in given.items() if name not in leading)
    return s.Call(s.Name(record.name), tuple(positional), keywords)


def inline_constant(graph: Graph, identity: int, position: int) -> s.Expression | None:
    """Operand number `position` as a number, where it is one beside a tensor, as in `x * 0.5`."""
    operands, record = graph.operands(identity), graph.node(identity).record
    constant = graph.node(operands[position].node)
    if constant.op != "constant" or constant.types[0].rank or not record.elementwise or len(operands) < 2:
        return None
    if all(_number(graph, value) for value in operands[: position + 1]) and position == len(operands) - 1:
        return None  # a call needs one tensor at least
    classes = record.classes(len(operands))
    peers = [v for key, v in zip(classes, operands) if key == classes[position] and not _number(graph, v)]
    if constant.types[0].dtype != (graph.type(peers[0]).dtype if peers else "float32"):
        return None  # a number has the element type of the tensors that it must agree with
    value = float(constant.attrs["value"])
    try:
        return literal(int(value) if value.is_integer() and abs(value) < 2**53 and str(value) != "-0.0" else value)
    except ValueError:
        return None


def _number(graph: Graph, value: Value) -> bool:
    node = graph.node(value.node)
    return node.op == "constant" and not node.types[0].rank


def own_weights(graph: Graph, identity: int) -> tuple[Weight, ...] | None:
    """The weights that a call makes under the node's path, if all that the node reads are such; else None."""
    node, record = graph.node(identity), graph.node(identity).record
    operands = graph.operands(identity)
    if record.variadic or not node.path:
        return None
    count = min(len(operands), len(record.call_operands))
    types = [graph.type(value) for value in operands]
    found = calls.arguments(record, types[:count], node.attrs, types[count:])
    if found is None:
        return None
    weights = ops.spell(record, types[:count], found).weights
    for weight, value in zip(weights, operands[count:], strict=True):
        param = graph.node(value.node)
        made = {"key": f"{node.path}.{weight.role}", "type": weight.type, "init": weight.init}
        if param.op != "param" or param.attrs != {**made, "trainable": weight.trainable} or graph.uses(value) > 1:
            return None
    return weights


# ---- names


class Names:
    """The names that a spec gives: words of the graph where the language can say them, changed ones where not."""

    def __init__(self, taken: Iterator[str]) -> None:
        self.taken = set(taken) | RESERVED
        self.renamed: dict[str, str] = {}

    def fresh(self, stem: str) -> str:
        """`stem`, with a number where it is taken."""
        name = next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, len(self.taken) + 3))) if n not in self.taken)
        self.taken.add(name)
        return name


def sayable(path: str) -> str:
    """`path` with every part as the language can say it: `0.a-b` becomes `_0.a_b`."""
    head, *rest = [_part(part) for part in path.split(".")]
    head = f"_{head}" if head.isdigit() or head in RESERVED else head
    return ".".join([head, *rest])


def _part(part: str) -> str:
    if part.isdigit() and part.isascii() and str(int(part)) == part:
        return part
    clean = re.sub(r"[^A-Za-z0-9_]", "_", part)
    return clean if _NAME.fullmatch(clean) else f"_{clean}"


def target(path: str) -> s.Target:
    """`layer1.0.conv` as the left of an assignment: `layer1[0]["conv"]`."""
    head, *rest = path.split(".")
    return s.Target(head, tuple(literal(int(part) if part.isdigit() else part) for part in rest))


def reference(path: str) -> s.Expression:
    """`layer1.0.conv` where it is read."""
    where = target(path)
    result: s.Expression = s.Name(where.name)
    for index in where.indices:
        result = s.Index(result, index)
    return result


# ---- the flat form


class _Writer:
    def __init__(self, graph: Graph) -> None:
        require_sayable(graph)
        self.graph = graph
        inputs = {graph.node(i).attrs["name"] for i in graph.inputs} | graph.symbols()
        self.owned = self._owned(inputs)
        heads = {path.split(".")[0] for path in [*self._targets().values(), *graph.parameters]}
        self.names = Names(iter(inputs | heads | set(operators.names())))
        self.values: dict[Value, s.Expression] = {}
        self.declared: list[str] = []

    def _targets(self) -> dict[int, str]:
        return {identity: sayable(self.graph.node(identity).path) for identity in self.owned}

    def _owned(self, inputs: set[str]) -> set[int]:
        """The nodes whose calls bring their own weights: their paths are names, and no name is part of another's."""
        graph = self.graph
        found = {i for i in graph.order() if graph.node(i).record.weights and own_weights(graph, i) is not None}
        paths: dict[str, int] = {}
        for identity in sorted(found, key=lambda i: -graph.node(i).path.count(".")):
            path = sayable(graph.node(identity).path)
            clash = path.split(".")[0] in inputs or any(f"{p}.".startswith(f"{path}.") for p in paths)
            if not clash:
                paths[path] = identity
        return set(paths.values())

    def definition(self) -> s.Definition:
        body = requirements(self.graph)
        for identity in self.graph.order():
            node = self.graph.node(identity)
            if node.op == "input":
                self.values[Value(identity)] = s.Name(node.attrs["name"])
            elif node.op == "param":
                body += self._param(identity)
            elif not self._inlined(identity):
                body.append(self._call(identity))
        body.append(s.Return(tuple(self.values[value] for value in self.graph.outputs)))
        results = [self.graph.type(value) for value in self.graph.outputs]
        name = self.graph.name if _NAME.fullmatch(self.graph.name) and self.graph.name not in RESERVED else "Network"
        tensors = tuple(tensor([s.Dimension(literal(dim)) for dim in t.shape], t.dtype) for t in results)
        return s.Definition("network", name, input_parameters(self.graph), tensors, None, tuple(body))

    def _param(self, identity: int) -> Iterator[s.Statement]:
        """The declaration of a parameter, unless the only call that reads it brings it."""
        node, value = self.graph.node(identity), Value(identity)
        if any(user in self.owned for user, _ in self.graph.users(value)):
            return
        key = node.attrs["key"]
        said = sayable(key)
        while self._clashes(said):
            head, dot, rest = said.partition(".")
            said = f"{head}_{dot}{rest}"
        self.declared.append(said)
        if said != key:
            self.names.renamed[key] = said
        self.values[value] = reference(said)
        dimensions = tuple(s.Dimension(literal(extent)) for extent in node.types[0].shape)
        kind = "param" if node.attrs["trainable"] else "buffer"
        yield s.Param(
            kind,
            target(said),
            tensor(dimensions, node.types[0].dtype),
            initializer(node.attrs["init"], node.types[0].rank),
        )

    def _clashes(self, key: str) -> bool:
        """Whether a name that is given already is part of `key`, or `key` of it."""
        given = [*self._targets().values(), *self.declared]
        inputs = {self.graph.node(i).attrs["name"] for i in self.graph.inputs} | self.graph.symbols()
        return key.split(".")[0] in inputs or any(
            f"{key}.".startswith(f"{path}.") or f"{path}.".startswith(f"{key}.") for path in given
        )

    def _inlined(self, identity: int) -> bool:
        """Whether all users of a constant take it as a number."""
        value = Value(identity)
        return (
            self.graph.node(identity).op == "constant"
            and value not in self.graph.outputs
            and all(inline_constant(self.graph, user, at) is not None for user, at in self.graph.users(value))
        )

    def _call(self, identity: int) -> s.Statement:
        node, record = self.graph.node(identity), self.graph.node(identity).record
        operands = self.graph.operands(identity)
        found, roles = call_arguments(self.graph, identity)
        try:
            given = {name: argument(record, name, value) for name, value in found.items()}
        except ValueError as problem:
            raise _unsayable(node, str(problem)) from None
        count = len(operands) if record.variadic else min(len(operands), len(record.call_operands))
        taken = [inline_constant(self.graph, identity, at) or self.values[operands[at]] for at in range(count)]
        if identity in self.owned:
            path = sayable(node.path)
            if path != node.path:
                self.names.renamed[f"{node.path}.*"] = f"{path}.*"
        else:
            path = self.names.fresh(node.op)
            given |= {role: self.values[value] for role, value in zip(roles, operands[count:])}
        whole, results = reference(path), range(len(node.types))
        for number in results:  # several results are a list
            self.values[Value(identity, number)] = whole if len(results) == 1 else s.Index(whole, literal(number))
        return s.Assign((target(path),), call(record, taken, given))


def initializer(init: str, rank: int) -> s.Initializer | None:
    """How a parameter begins, as far as the language has a word for it; None, zeros, where it has not."""
    match = _INIT.fullmatch(init)
    if match is None or match[1] not in INITIALIZERS or match[1] == "zeros":
        return None
    if match[1] == "kaiming" and rank < 2:
        return None
    return s.Initializer(match[1], literal(float(match[2])) if match[2] else None)
