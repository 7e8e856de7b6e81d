"""Calls of operators: evaluated arguments --> nodes and parameters of the graph.

conv2d(x, 64, k=3)    the operands first (tensors), then the operator's arguments by position or by name
x * 0.5               a number beside a tensor becomes a constant
linear(x, 8, weight=table)    a parameter that is there already takes the place of a new one
"""

from __future__ import annotations

import math
from functools import cache

from specc import ops
from specc.diagnostics import Label, Span
from specc.grammar.nameless import nameless
from specc.grammar.scope import Place, Scope, Site, join
from specc.grammar.session import Session
from specc.grammar.suggest import suggest
from specc.grammar.values import Argument, Family, Tensor, Value, described, is_integer, kind, show, show_shape
from specc.ir.congruence import equal_where
from specc.ir.dims import Symbolic
from specc.ir.graph import Value as GraphValue
from specc.ir.types import TensorType
from specc.ops.record import REQUIRED, Illegal, Operator, Spelling

_ARITHMETIC = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floor_div",
    "%": "remainder",
    "**": "pow",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
    "==": "equal",
    "!=": "not_equal",
}
_INTERNAL = frozenset({"input", "param", "convert_layout"})


@cache
def names() -> tuple[str, ...]:
    """The operators that a spec can call."""
    return tuple(name for name in ops.OPERATORS if name not in _INTERNAL)


def find(name: str) -> Operator | None:
    """The operator that a spec calls by `name`."""
    return ops.get(name) if name in names() else None


def signature(record: Operator) -> str:
    """`conv2d(x, out, k=1, s=1)`: how the operator is called."""
    arguments = [a.name if a.default is REQUIRED else f"{a.name}={show(a.default)}" for a in record.signature]
    return f"{record.name}({', '.join([*record.call_operands, *arguments])})"


def arithmetic(session: Session, symbol: str, arguments: list[Argument], site: Site) -> Tensor:
    """`a + b` and the like, where at least one of the two is a tensor."""
    if symbol not in _ARITHMETIC:
        what = " and ".join(kind(argument.value) for argument in arguments)
        note = "between tensors there are + - * / // % ** and comparisons; operators such as `logical_and` do the rest"
        raise session.problem("S0402", f"`{symbol}` does not apply to {what}", Label(site.span), notes=[note])
    for argument in arguments:
        if not isinstance(argument.value, Tensor) and not _scalar(argument.value):
            raise _no_operand(session, argument, f"`{symbol}`")
    (result,) = _node(session, _ARITHMETIC[symbol], arguments, {}, site, f"the operands of `{symbol}`")
    return result


def apply(session: Session, name: str, positional: list[Argument], keywords: dict[str, Argument], site: Site) -> Value:
    """A call of the operator `name`: a tensor, or the list of its results where it has several."""
    record = ops.get(name)
    operands, rest = _operands(session, record, positional, site.span)
    shared = {n: a for n, a in keywords.items() if n in _roles(record) and isinstance(a.value, Tensor)}
    given = _bind(session, record, rest, {n: a for n, a in keywords.items() if n not in shared}, site.span)
    results = _node(session, name, operands, given, site, f"`{name}`", shared)
    return results[0] if len(results) == 1 else results


def _roles(record: Operator) -> list[str]:
    """The names of the weights that a call brings, or is given."""
    return [role.rstrip("?") for role in record.operands[len(record.call_operands) :]]


def _operands(
    session: Session, record: Operator, positional: list[Argument], span: Span
) -> tuple[list[Argument], list[Argument]]:
    """Splits the positional arguments into operands and the rest."""
    if record.variadic:
        flat = [item for argument in positional for item in _flattened(session, record, argument)]
        count = next((i for i, item in enumerate(flat) if not isinstance(item.value, Tensor)), len(flat))
        if not count:
            raise _missing_operand(session, record, flat, span)
        return flat[:count], flat[count:]
    wanted = record.call_operands
    operands: list[Argument] = []
    mixed = len(wanted) > 1 and record.elementwise
    for argument in positional[: len(wanted)]:
        if not isinstance(argument.value, Tensor) and not (mixed and _scalar(argument.value)):
            break
        operands.append(argument)
    if len(operands) < sum(not name.endswith("?") for name in wanted):
        raise _missing_operand(session, record, positional[len(operands) :], span)
    return operands, positional[len(operands) :]


def _missing_operand(session: Session, record: Operator, rest: list[Argument], span: Span) -> Exception:
    if rest:
        return _no_operand(session, rest[0], f"`{record.name}`", f"it is called as {signature(record)}")
    needs = ", ".join(record.call_operands)
    note = f"it is called as {signature(record)}"
    return session.problem("S0403", f"`{record.name}` lacks a tensor: it takes {needs}", Label(span), notes=[note])


def _no_operand(session: Session, argument: Argument, taker: str, *notes: str) -> Exception:
    value = argument.value
    if isinstance(value, Symbolic):
        message = f"{taker} takes tensors; `{value}` is a dimension that is fixed only when the network is compiled"
        notes = (*notes, f"as a tensor of one integer it is `arange({value} + 1, start={value})`")
        return session.problem("S0405", message, Label(argument.span), notes=notes)
    if isinstance(value, (tuple, Family)):
        notes = (*notes, "an element of a list is written `name[0]`")
    message = f"{taker} takes a tensor here; this is {described(value)}"
    return session.problem("S0402", message, Label(argument.span), notes=notes)


def _bind(
    session: Session, record: Operator, rest: list[Argument], keywords: dict[str, Argument], span: Span
) -> dict[str, Argument]:
    """The operator's arguments by name."""
    declared = [argument.name for argument in record.signature]
    called = f"it is called as {signature(record)}"
    if len(rest) > len(declared):
        extra = rest[len(declared)]
        message = f"`{record.name}` takes no further argument; this is {show(extra.value)}"
        raise session.problem("S0403", message, Label(extra.span), notes=[called])
    given = dict(zip(declared, rest, strict=False))
    for name, argument in keywords.items():
        if name not in declared:
            notes = [*suggest(name, [*declared, *_roles(record)]), called]
            message = f"`{record.name}` has no argument `{name}`"
            raise session.problem("S0403", message, Label(argument.span), notes=notes)
        if name in given:
            message = f"`{name}` is given twice: by its position and by its name"
            raise session.problem("S0403", message, Label(argument.span), Label(given[name].span), notes=[called])
        given[name] = argument
    for name, argument in given.items():
        if isinstance(argument.value, Tensor):
            message = f"`{name}` of `{record.name}` is no tensor"
            raise session.problem("S0402", message, Label(argument.span), notes=[called])
    for argument_ in record.signature:
        if argument_.default is REQUIRED and argument_.name not in given:
            message = f"`{record.name}` lacks its argument `{argument_.name}`"
            raise session.problem("S0403", message, Label(span), notes=[called])
    return given


def _node(
    session: Session,
    name: str,
    operands: list[Argument],
    given: dict[str, Argument],
    site: Site,
    spoken: str,
    shared: dict[str, Argument] | None = None,
) -> tuple[Tensor, ...]:
    record, graph, place, span = ops.get(name), session.graph, site.place, site.span
    arguments = {key: _plain(argument.value) for key, argument in given.items()}
    types: list[TensorType] = []
    try:
        values = _graph_values(session, record, operands)
        types = [graph.type(value) for value in values]
        spelling = ops.spell(record, types, arguments)
        for weight in spelling.weights:
            session.bound_size(weight.type, span)
        taken = _shared(session, record, spelling, shared or {})
        _own(session, record, [w.role for w in spelling.weights if w.role not in taken], place, span)
        result = graph.spelled(name, values, spelling, place.path, span, taken)
    except Illegal as illegal:
        reason = illegal.reason if illegal.reason.startswith(spoken) else f"{spoken}: {illegal.reason}"
        notes = [*([illegal.note] if illegal.note else []), *_bindings(site.scope)]
        if illegal.argument in given:
            argument = given[illegal.argument]
            if isinstance(argument.value, Symbolic):
                unknown = f"`{argument.value}` is fixed only when the network is compiled"
                reason = f"`{illegal.argument}` must be known now, and {unknown}"
                raise session.problem("S0405", reason, Label(argument.span)) from None
            raise session.problem("S0302", reason, Label(argument.span), notes=notes) from None
        labels = _operand_labels(operands, illegal.operand, span)
        notes = [*_divisible(name, types, illegal.operand), *notes]
        raise session.problem("S0301", reason, *labels, notes=notes) from None
    session.count_nodes(span)
    types = list(graph.node(result.node).types)
    for type_ in types:
        session.bound_size(type_, span)
    return tuple(Tensor(GraphValue(result.node, number), type_, span) for number, type_ in enumerate(types))


def _shared(
    session: Session, record: Operator, spelling: Spelling, given: dict[str, Argument]
) -> dict[str, GraphValue]:
    """The weights that a call is given by name, if each has the type that the call needs and no input is part of it."""
    needed = {weight.role: weight.type for weight in spelling.weights}
    taken: dict[str, GraphValue] = {}
    for role, argument in given.items():
        assert isinstance(argument.value, Tensor)
        found = argument.value.type
        if needed.get(role) != found:
            needs = f"is {show_shape(needed[role])}" if role in needed else "does not exist"
            message = f"`{role}` of this `{record.name}` {needs}; the one that is given is {show_shape(found)}"
            labels = [Label(argument.span), Label(argument.value.span, show_shape(found))]
            raise session.problem("S0301", message, *labels)
        if not session.graph.is_frozen(argument.value.value.node):
            message = f"`{role}` of `{record.name}` depends on an input; weights are fixed when the network is compiled"
            raise session.problem("S0301", message, Label(argument.span))
        taken[role] = argument.value.value
    return taken


def _own(session: Session, record: Operator, roles: list[str], place: Place, span: Span) -> None:
    """Takes the keys of a call's weights; raises where the call has no name, or where a key is taken."""
    if not roles and not record.training_state:
        return
    if place.nameless:
        raise nameless(session, place, span, f"the {_listed(roles or ['state'])} of this")
    for role in [*roles, *(weight.role for weight in record.training_state)]:
        own_key(session, join(place.path, role), span)


def own_key(session: Session, key: str, span: Span) -> None:
    """Takes a key of the state_dict; raises S0206 where it is taken."""
    owner = session.owners.get(key)
    if owner is not None:
        labels = [Label(span)] if owner == span else [Label(span), Label(owner, "the first one")]
        notes = ["every call with weights needs a name of its own; in a loop, an indexed one: `blocks[i] = ...`"]
        raise session.problem("S0206", f"two weights have the same key, `{key}`", *labels, notes=notes)
    session.owners[key] = span


def _listed(roles: list[str]) -> str:
    return roles[0] if len(roles) == 1 else f"{', '.join(roles[:-1])} and {roles[-1]}"


def _operand_labels(operands: list[Argument], at_fault: int | None, span: Span) -> list[Label]:
    """The operands with their shapes, the one at fault first, and the places where they were made."""
    order = sorted(range(len(operands)), key=lambda i: i != at_fault)
    labels, made = [], []
    for i in order:
        value = operands[i].value
        if isinstance(value, Tensor):
            labels.append(Label(operands[i].span, show_shape(value.type)))
            if value.span.line != operands[i].span.line or value.span.file != operands[i].span.file:
                made.append(Label(value.span, f"{show_shape(value.type)} comes from here"))
    return [*labels, *made] or [Label(span)]


def _divisible(name: str, types: list[TensorType], at_fault: int | None) -> list[str]:
    """A note with what to require, where it would make equal the extents in which two operands differ."""
    if len(types) < 2:
        return []
    left, right = types[0], types[at_fault or 1]
    if left.rank != right.rank or left.dtype != right.dtype:
        return []
    moduli: dict[str, int] = {}
    for a, b in zip(left.shape, right.shape):
        if a == b or (isinstance(a, int) and isinstance(b, int) and name == "concat"):
            continue
        found = equal_where(a, b)
        if found is None:
            return []
        moduli[found[0]] = math.lcm(found[1], moduli.get(found[0], 1))
    conditions = " and ".join(f"{dimension} % {modulus} == 0" for dimension, modulus in moduli.items())
    return [f"they are equal where the network says `require {conditions}`"] if conditions else []


def _bindings(scope: Scope) -> list[str]:
    """A note with the dimensions of the block at work, where their values say more than their names."""
    shown = [f"{name} = {dim}" for name, dim in scope.dims.items() if str(dim) != name]
    return [f"in this call of `{scope.definition.name}`, {', '.join(shown)}"] if shown else []


def _flattened(session: Session, record: Operator, argument: Argument) -> list[Argument]:
    value = argument.value.listed() if isinstance(argument.value, Family) else argument.value
    if not isinstance(value, tuple) or not any(isinstance(item, Tensor) for item in value):
        return [argument]
    for item in value:
        if not isinstance(item, Tensor):
            message = f"`{record.name}` takes tensors; in this list there is also {described(item)}"
            raise session.problem("S0402", message, Label(argument.span))
    return [Argument(item, argument.span) for item in value]


def _scalar(value: Value) -> bool:
    return is_integer(value) or isinstance(value, float)


def _plain(value: Value) -> Value:
    return value.listed() if isinstance(value, Family) else value


def _graph_values(session: Session, record: Operator, operands: list[Argument]) -> list[GraphValue]:
    """The operands in the graph; a number has the element type of the tensors that it must agree with."""
    classes = record.classes(len(operands))
    known = {c: o.value.type.dtype for c, o in reversed(list(zip(classes, operands))) if isinstance(o.value, Tensor)}
    values = []
    for position, (key, operand) in enumerate(zip(classes, operands)):
        if isinstance(operand.value, Tensor):
            values.append(operand.value.value)
            continue
        assert isinstance(operand.value, (int, float))
        try:
            number = float(operand.value)
            values.append(session.graph.constant(number, dtype=known.get(key, "float32"), span=operand.span))
        except Illegal as illegal:
            raise Illegal(illegal.reason, operand=position, note=illegal.note) from None
    return values
