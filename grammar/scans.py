"""`scan(cell, xs..., state=[...], axis=1)` --> one node that holds the graph of the cell.

    gates = linear(x, 4 * d)
    ys, h, c = scan(LstmCell, gates, state=[h, c], axis=1, bias=false)

The cell is a block (or an operator). It is called once, on tensors that stand for one place of the sequences: with a
slice of each sequence, then the states, then what the call gives by name. It returns the results of the step, then as
many new states as there are states; the call gives the results stacked along `axis`, then the last states.

Weights of the cell are parameters of the network, under the name of the call. What is given by name is the same at
every step; where it depends on no input, the cell may use it as a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specc.diagnostics import Label, Span
from specc.grammar.arithmetic import known_int, truth
from specc.grammar.scope import Site
from specc.grammar.session import Session
from specc.grammar.values import Argument, Block, Family, Poison, Poisoned, Tensor, Value, described, show, show_shape
from specc.ir.body import Body
from specc.ir.graph import Graph
from specc.ir.graph import Value as GraphValue
from specc.ir.types import TensorType
from specc.ops.record import Illegal, Operator
from specc.ops.scan import without

if TYPE_CHECKING:
    from specc.grammar.expressions import Evaluator

USAGE = "scan(cell, xs..., state=[...], axis=1, reverse=false, name=value...)"
NOTE = "it is called as " + USAGE


def call(evaluator: Evaluator, positional: list[Argument], keywords: dict[str, Argument], site: Site) -> Value:
    """The stacked results and the last states: a list, or a tensor where there is one of all."""
    session, span = evaluator.session, site.span
    cell, sequences = _cell(session, positional, span)
    named = dict(keywords)
    states = _states(session, named.pop("state", None), span)
    axis_at, reverse_at = named.pop("axis", Argument(1, span)), named.pop("reverse", Argument(False, span))
    axis = session.attempt(lambda: known_int(axis_at.value, "`axis`"), axis_at.span)
    reverse = session.attempt(lambda: truth(reverse_at.value), reverse_at.span)
    slices = [_slice(session, argument, axis) for argument in sequences]

    inside = _Inside(session.graph, cell)
    given = [inside.changing(tensor, type_) for tensor, type_ in zip(sequences, slices, strict=True)]
    given += [inside.changing(state, _tensor(state).type) for state in states]
    invariant = {name: Argument(inside.invariant(name, a.value), a.span) for name, a in named.items()}
    outer, session.graph = session.graph, inside.graph
    try:
        result = evaluator.call_value(cell, given, invariant, site)
    finally:
        session.graph = outer
    if isinstance(result, Poison):
        raise Poisoned
    returned = _returned(session, inside.graph, cell, result, states, span)
    inside.graph.outputs = [tensor.value for tensor in returned]
    body = Body.of(inside.graph)
    attrs = {"body": body, "sequences": len(sequences), "states": len(states), "axis": axis, "reverse": reverse}
    try:
        made = outer.apply("scan", inside.operands(body), attrs, site.place.path, span)
    except Illegal as illegal:
        at_fault = [*sequences, *states][illegal.operand or 0]
        labels = [Label(argument.span, show_shape(_tensor(argument).type)) for argument in sequences]
        labels = labels if illegal.operand is not None else [Label(at_fault.span)]
        raise session.problem("S0301", f"`scan`: {illegal.reason}", *labels) from None
    session.count_nodes(span)
    results = []
    for number, type_ in enumerate(outer.node(made.node).types):
        session.bound_size(type_, span)
        results.append(Tensor(GraphValue(made.node, number), type_, span))
    return results[0] if len(results) == 1 else tuple(results)


class _Inside:
    """The graph of the cell while it grows, and where what it reads comes from."""

    def __init__(self, outer: Graph, cell: Block | Operator) -> None:
        self.outer, self.graph = outer, Graph(cell.name)
        self.sources: dict[str, GraphValue] = {}  # of inputs and parameters of the cell's graph, by their names
        if isinstance(cell, Block):
            self.names = [p.name for p in cell.definition.parameters]
        else:
            self.names = [name.strip("*?") for name in cell.operands]

    def changing(self, argument: Argument, type_: TensorType) -> Argument:
        """A tensor inside for a slice of a sequence, or a state."""
        tensor = _tensor(argument)
        position = len(self.sources)
        name = self._free(self.names[position] if position < len(self.names) else "x")
        self.sources[name] = tensor.value
        value = self.graph.input(name, type_, argument.span)
        return Argument(Tensor(value, self.graph.type(value), argument.span), argument.span)

    def invariant(self, name: str, value: Value) -> Value:
        """`value` with the tensors in it taken inside: as weights where no input is part of them."""
        if isinstance(value, Family):
            value = value.listed()
        if isinstance(value, tuple):
            return tuple(self.invariant(name, item) for item in value)
        if not isinstance(value, Tensor):
            return value
        if self.outer.is_frozen(value.value.node):
            key = self._free(f"${name}")  # no key of a spec begins so
            made = self.graph.parameter(key, value.type, span=value.span)
        else:
            key = self._free(name)
            made = self.graph.input(key, value.type, value.span)
        self.sources[key] = value.value
        return Tensor(made, value.type, value.span)

    def operands(self, body: Body) -> list[GraphValue]:
        """The operands of the node; the weights that the cell made become parameters of the network."""
        for identity in sorted(self.graph.structure):
            node = self.graph.node(identity)
            if node.op == "param" and node.attrs["key"] not in self.sources:
                attrs = node.attrs
                made = self.outer.parameter(attrs["key"], attrs["type"], attrs["init"], attrs["trainable"], node.span)
                self.sources[attrs["key"]] = made
        inputs = [body.graph.node(identity).attrs["name"] for identity in body.graph.inputs]
        return [self.sources[name] for name in (*inputs, *body.parameters)]

    def _free(self, name: str) -> str:
        return next(n for n in (name, *(f"{name}{i}" for i in range(len(self.sources) + 1))) if n not in self.sources)


def _cell(session: Session, positional: list[Argument], span: Span) -> tuple[Block | Operator, list[Argument]]:
    """The cell, and the sequences behind it."""
    if not positional or not isinstance(positional[0].value, (Block, Operator)):
        found = f"; this is {described(positional[0].value)}" if positional else ""
        where = positional[0].span if positional else span
        raise session.problem("S0402", f"`scan` takes a block first{found}", Label(where), notes=[NOTE])
    cell, *sequences = positional
    if not sequences:
        raise session.problem("S0403", "`scan` lacks a sequence to go over", Label(span), notes=[NOTE])
    assert isinstance(cell.value, (Block, Operator))
    for argument in sequences:
        if not isinstance(argument.value, Tensor):
            message = f"`scan` goes over tensors; this is {described(argument.value)}"
            raise session.problem("S0402", message, Label(argument.span), notes=[NOTE])
    return cell.value, sequences


def _states(session: Session, argument: Argument | None, span: Span) -> list[Argument]:
    """The initial states: one tensor, or a list of them."""
    if argument is None:
        raise session.problem("S0403", "`scan` lacks its argument `state`", Label(span), notes=[NOTE])
    value = argument.value.listed() if isinstance(argument.value, Family) else argument.value
    items = value if isinstance(value, tuple) else (value,)
    for item in items:
        if not isinstance(item, Tensor):
            message = f"a state is a tensor; this is {described(item)}"
            note = "`constant(0, [n, d])` makes one of zeros"
            raise session.problem("S0402", message, Label(argument.span), notes=[note])
    return [Argument(item, argument.span) for item in items]


def _slice(session: Session, argument: Argument, axis: int) -> TensorType:
    tensor = _tensor(argument)
    if not -tensor.type.rank <= axis < tensor.type.rank:
        message = f"`scan` goes along dimension {axis}, and this tensor has {tensor.type.rank} dimensions"
        raise session.problem("S0302", message, Label(argument.span, show_shape(tensor.type)))
    return without(tensor.type, axis)


def _returned(
    session: Session, graph: Graph, cell: Block | Operator, result: Value, states: Sequence[Argument], span: Span
) -> list[Tensor]:
    """What the cell returns, if its last results carry the states on."""
    items = result if isinstance(result, tuple) else (result,)
    tensors = [item for item in items if isinstance(item, Tensor)]
    labels = [Label(span)]
    if isinstance(cell, Block):
        labels.append(Label(cell.definition.name_span, "the block"))
    rule = "a block that is scanned returns the results of a step, then the new states"
    if len(tensors) < len(items):
        shown = next(show(item) for item in items if not isinstance(item, Tensor))
        raise session.problem("S0308", f"`{cell.name}` returns {shown}, which is no tensor", *labels, notes=[rule])
    if len(tensors) < max(len(states), 1):
        counts = f"{len(tensors)} tensor{'s' * (len(tensors) != 1)}, and {len(states)} states are carried"
        raise session.problem("S0308", f"`{cell.name}` returns {counts}", *labels, notes=[rule])
    for number, (state, new) in enumerate(zip(states, tensors[len(tensors) - len(states) :], strict=True)):
        before = _tensor(state)
        if before.type != new.type:
            which = "the state" if len(states) == 1 else f"state {number}"
            found = f"{show_shape(before.type)} before a step and {show_shape(new.type)} behind it"
            made = graph.node(new.value.node).span
            where = [Label(span), Label(before.span, show_shape(before.type))]
            where += [Label(made, show_shape(new.type))] if made else []
            raise session.problem("S0308", f"{which} of `{cell.name}` is {found}", *where, notes=[rule])
    return tensors


def _tensor(argument: Argument) -> Tensor:
    assert isinstance(argument.value, Tensor)
    return argument.value
