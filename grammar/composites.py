"""Calls that move and contract dimensions by name --> reshape, permute, slice, sum and matmul nodes.

    split(x, [a, b], axis=1)                            slices of these extents, one behind the other
    chunk(x, 3, axis=-1)                                slices of one extent
    rearrange(x, "b (h d) l -> b h l d", h=8)           reshape, permute, reshape, as far as they are needed
    einsum("b h q d, b h k d -> b h q k", q, k)         two operands as matrices, their product, and so on
    full([4, 4], 0.5)                                   a number in every element: no operand at all

A pattern names dimensions; brackets join several into one, `1` is a dimension of extent 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from specc.diagnostics import Label, Span, SpeccError
from specc.grammar import operators
from specc.grammar.arithmetic import known_int
from specc.grammar.scope import Site
from specc.grammar.session import Session
from specc.grammar.values import Argument, Family, Tensor, Value, described, is_integer, show, show_shape
from specc.ir.dims import Dim, Symbolic, floordiv, product
from specc.ir.types import TensorType

Names = list[list[str]]

_Term = tuple[list[str], Tensor]
"""A tensor, and a name for each of its dimensions."""

_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(1)|([()]))")


@dataclass(frozen=True)
class _Call:
    """A composite call at work."""

    session: Session
    name: str
    site: Site

    @property
    def span(self) -> Span:
        return self.site.span

    def problem(self, code: str, message: str, *labels: Label, notes: Sequence[str] = ()) -> SpeccError:
        return self.session.problem(code, f"`{self.name}`: {message}", *(labels or [Label(self.span)]), notes=notes)

    def node(self, op: str, operands: Sequence[Tensor], **arguments: Value) -> Tensor:
        given = {name: Argument(value, self.span) for name, value in arguments.items()}
        taken = [Argument(operand, operand.span) for operand in operands]
        made = operators.apply(self.session, op, taken, given, self.site)
        assert isinstance(made, Tensor)
        return made

    def tensor(self, argument: Argument) -> Tensor:
        if isinstance(argument.value, Tensor):
            return argument.value
        found = f"a tensor is needed here; this is {described(argument.value)}"
        raise self.problem("S0402", found, Label(argument.span))

    def axis(self, argument: Argument, rank: int) -> int:
        axis = self.integer(argument, "`axis`")
        if not -rank <= axis < rank:
            raise self.problem("S0302", f"there is no dimension {axis} of {rank}", Label(argument.span))
        return axis % rank

    def integer(self, argument: Argument, what: str) -> int:
        return self.session.attempt(lambda: known_int(argument.value, what), argument.span, f"`{self.name}`: ")

    def reshape(self, x: Tensor, shape: Sequence[Dim]) -> Tensor:
        return x if tuple(shape) == x.type.shape else self.node("reshape", [x], shape=tuple(shape))

    def permute(self, x: Tensor, order: Sequence[int]) -> Tensor:
        return x if list(order) == list(range(len(order))) else self.node("permute", [x], order=tuple(order))


def call(session: Session, name: str, positional: list[Argument], keywords: dict[str, Argument], site: Site) -> Value:
    """The value of a call of the form `name`."""
    at = _Call(session, name, site)
    form, declared = FORMS[name]
    if name == "einsum":
        given = {"pattern": positional[0]} if positional else {}
        if given and isinstance(given["pattern"].value, Tensor):
            note = f"it is called as {USAGE[name]}"
            raise at.problem("S0402", "its pattern comes first", Label(given["pattern"].span), notes=[note])
        operands = [at.tensor(argument) for argument in positional[1:]]
        extra = list(keywords)
    else:
        given = dict(zip(declared, positional, strict=False))
        extra = [key for key in keywords if key in given or (key not in declared and name != "rearrange")]
        extra += [show(argument.value) for argument in positional[len(declared) :]]
        given |= keywords
        operands = []
    missing = [key for key in declared if key not in given and key not in ("axis", "operands")]
    if extra or missing or (name == "einsum" and not operands):
        raise session.problem("S0403", f"`{name}` is called as {USAGE[name]}", Label(site.span))
    return form(at, given, operands)


def _split(at: _Call, given: dict[str, Argument], _: list[Tensor]) -> Value:
    x, sizes = at.tensor(given["x"]), given["sizes"]
    axis = at.axis(given.get("axis", Argument(1, at.span)), x.type.rank)
    extents = sizes.value.listed() if isinstance(sizes.value, Family) else sizes.value
    if not isinstance(extents, tuple) or not all(is_integer(e) or isinstance(e, Symbolic) for e in extents):
        notes = [f"`chunk(x, {extents})` makes {extents} equal parts"] if is_integer(extents) else []
        message = f"the extents are a list of integers; this is {show(extents)}"
        raise at.problem("S0401", message, Label(sizes.span), notes=notes)
    least = next((extent for extent in extents if isinstance(extent, int) and extent < 1), None)
    if least is not None:
        note = f"what the other parts leave is written out: `shape(x)[{axis}] - ...`"
        raise at.problem("S0302", f"an extent is at least 1, not {least}", Label(sizes.span), notes=[note])
    total: Any = sum(extents, start=0)  # type: ignore[arg-type]
    if total != x.type.shape[axis]:
        message = f"the extents add up to {total}, and dimension {axis} has {x.type.shape[axis]}"
        raise at.problem("S0302", message, Label(sizes.span), Label(x.span, show_shape(x.type)))
    return _sliced(at, x, axis, list(extents))


def _chunk(at: _Call, given: dict[str, Argument], _: list[Tensor]) -> Value:
    x = at.tensor(given["x"])
    axis = at.axis(given.get("axis", Argument(1, at.span)), x.type.rank)
    parts, extent = at.integer(given["parts"], "the number of parts"), x.type.shape[axis]
    if parts < 1 or floordiv(extent, parts) * parts != extent:
        message = f"dimension {axis}, {extent}, does not divide into {parts} parts"
        raise at.problem("S0302", message, Label(given["parts"].span), Label(x.span, show_shape(x.type)))
    return _sliced(at, x, axis, [floordiv(extent, parts)] * parts)


def _sliced(at: _Call, x: Tensor, axis: int, extents: list[Any]) -> Value:
    result, start = [], 0
    for extent in extents:
        result.append(at.node("slice", [x], axis=axis, start=start, stop=start + extent))
        start = start + extent
    return tuple(result)


def _full(at: _Call, given: dict[str, Argument], _: list[Tensor]) -> Value:
    shape, value = given["shape"], given["value"].value
    extents: Any = shape.value.listed() if isinstance(shape.value, Family) else shape.value
    if not isinstance(extents, tuple) or not all(is_integer(e) and e >= 1 for e in extents):
        message = f"the shape is a list of integers of at least 1; this is {show(extents)}"
        raise at.problem("S0401", message, Label(shape.span))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"the value is a number; this is {described(value)}"
        raise at.problem("S0401", message, Label(given["value"].span))
    type_ = TensorType(tuple(extents))
    at.session.count_nodes(at.span)
    at.session.bound_size(type_, at.span)
    made = at.session.graph.constant(float(value), type_.shape, span=at.span)
    return Tensor(made, type_, at.span)


# ---- patterns


def _sides(at: _Call, argument: Argument) -> tuple[str, str]:
    text = argument.value
    if not isinstance(text, str) or text.count("->") != 1:
        message = f'a pattern is a text with one `->`, as in "b c h w -> b (h w) c"; this is {show(text)}'
        raise at.problem("S0307", message, Label(argument.span))
    left, right = text.split("->")
    return left, right


def _names(at: _Call, text: str, span: Span) -> Names:
    """The dimensions of one side: `b (h d) 1` --> [["b"], ["h", "d"], []]."""
    result: Names = []
    group: list[str] | None = None
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        misplaced = match is not None and match[3] is not None and (match[3] == "(") == (group is not None)
        if match is None or misplaced:
            message = f"`{text.strip()}` is no list of dimensions"
            raise at.problem("S0307", message, Label(span), notes=["names, `1`, and names in brackets: b (h d) 1"])
        position = match.end()
        if match[3] == "(":
            group = []
        elif match[3] == ")":
            assert group is not None
            result.append(group)
            group = None
        elif match[1] and group is not None:
            group.append(match[1])
        elif match[1]:
            result.append([match[1]])
        elif group is None:
            result.append([])
    flat = [name for names in result for name in names]
    twice = next((name for name in flat if flat.count(name) > 1), None)
    if group is not None or twice is not None:
        message = f"`{twice}` stands twice in `{text.strip()}`" if twice else f"a bracket of `{text.strip()}` is open"
        raise at.problem("S0307", message, Label(span))
    return result


def _extents(at: _Call, x: Tensor, names: Names, known: dict[str, Dim], span: Span) -> dict[str, Dim]:
    """The extent of every name; `known` are those that the call gives."""
    labels = [Label(span), Label(x.span, show_shape(x.type))]
    if len(names) != x.type.rank:
        message = f"the pattern has {len(names)} dimensions, and the tensor {x.type.rank}"
        raise at.problem("S0307", message, *labels)
    result = dict(known)
    for group, extent in zip(names, x.type.shape, strict=True):
        open_ = [name for name in group if name not in result]
        if len(open_) > 1:
            message = f"`{open_[0]}` and `{open_[1]}` of ({' '.join(group)}) are both open"
            raise at.problem("S0307", message, *labels, notes=[f"give one of them: {open_[0]}=..."])
        inside = product(result[name] for name in group if name not in open_)
        if open_:
            result[open_[0]] = floordiv(extent, inside)
        if product(result[name] for name in group) != extent:
            shown = " * ".join(f"{name} = {result[name]}" for name in group if name not in open_) or "1"
            message = f"{shown} does not give {extent}" if not open_ else f"{shown} does not divide {extent}"
            raise at.problem("S0307", message, *labels)
    return result


def _rearrange(at: _Call, given: dict[str, Argument], _: list[Tensor]) -> Value:
    x, pattern = at.tensor(given["x"]), given["pattern"]
    left, right = (_names(at, side, pattern.span) for side in _sides(at, pattern))
    known: dict[str, Dim] = {}
    before, after = ([name for group in side for name in group] for side in (left, right))
    for name, argument in given.items():
        if name in ("x", "pattern"):
            continue
        if name not in before:
            raise at.problem("S0307", f"the pattern has no `{name}`", Label(argument.span), Label(pattern.span))
        if isinstance(argument.value, Symbolic):
            known[name] = argument.value
            continue
        known[name] = at.integer(argument, f"`{name}`")
        if known[name] == 0 or str(known[name]).startswith("-"):
            raise at.problem("S0307", f"`{name}` is at least 1", Label(argument.span))
    lonely = next((name for name in (*before, *after) if (name in before) != (name in after)), None)
    if lonely is not None:
        raise at.problem("S0307", f"`{lonely}` stands on one side only", Label(pattern.span))
    extents = _extents(at, x, left, known, pattern.span)
    value = at.reshape(x, [extents[name] for name in before])
    value = at.permute(value, [before.index(name) for name in after])
    return at.reshape(value, [product(extents[name] for name in group) for group in right])


def _einsum(at: _Call, given: dict[str, Argument], operands: list[Tensor]) -> Value:
    pattern = given["pattern"]
    left, right = _sides(at, pattern)
    terms = left.split(",")
    if len(terms) != len(operands):
        message = f"the pattern has {len(terms)} operands, and the call {len(operands)}"
        raise at.problem("S0307", message, Label(pattern.span))
    labels = [_flat(at, term, pattern.span) for term in terms]
    goal = _flat(at, right, pattern.span)
    extents: dict[str, Dim] = {}
    for names, x in zip(labels, operands, strict=True):
        known = {name: extents[name] for name in names if name in extents}
        extents |= _extents(at, x, [[name] for name in names], known, pattern.span)
    stray = next((name for name in goal if name not in extents), None)
    if stray is not None:
        raise at.problem("S0307", f"`{stray}` of the result is in no operand", Label(pattern.span))
    result: _Term | None = None
    for number, term in enumerate(zip(labels, operands, strict=True)):
        needed = {*goal, *(name for names in labels[number + 1 :] for name in names)}
        if result is None:
            result = _summed(at, term, needed)
        else:
            result = _product(at, result, _summed(at, term, needed | {*result[0]}), needed, extents)
    assert result is not None
    names, value = result
    return at.permute(value, [names.index(name) for name in goal])


def _flat(at: _Call, text: str, span: Span) -> list[str]:
    """`b h q d`, or `bhqd` where no name is longer than a letter."""
    if " " not in text.strip():
        text = " ".join(text.strip())
    groups = _names(at, text, span)
    if any(len(group) != 1 for group in groups):
        raise at.problem("S0307", f"`{text.strip()}` has brackets or a 1: `rearrange` takes these", Label(span))
    return [group[0] for group in groups]


def _summed(at: _Call, term: _Term, needed: set[str]) -> _Term:
    """Summed over the dimensions that are not needed."""
    names, x = term
    axes = tuple(i for i, name in enumerate(names) if name not in needed)
    return ([name for name in names if name in needed], at.node("sum", [x], axes=axes)) if axes else term


def _product(at: _Call, left: _Term, right: _Term, needed: set[str], extents: dict[str, Dim]) -> _Term:
    """Both as [batch ..., rows, inner] and [batch ..., inner, columns]; the product with the names that are needed."""
    a, b = left[0], right[0]
    batch = [name for name in a if name in b and name in needed]
    inner = [name for name in a if name in b and name not in needed]
    rows = [name for name in a if name not in b]
    columns = [name for name in b if name not in a]
    matrices = []
    for (names, x), (first, second) in zip((left, right), ((rows, inner), (inner, columns)), strict=True):
        moved = at.permute(x, [names.index(name) for name in (*batch, *first, *second)])
        ends = [product(extents[name] for name in side) for side in (first, second)]
        matrices.append(at.reshape(moved, [*(extents[name] for name in batch), *ends]))
    names = [*batch, *rows, *columns]
    return names, at.reshape(at.node("matmul", matrices), [extents[name] for name in names])


Form = Callable[[_Call, dict[str, Argument], list[Tensor]], Value]
FORMS: dict[str, tuple[Form, tuple[str, ...]]] = {
    "split": (_split, ("x", "sizes", "axis")),
    "chunk": (_chunk, ("x", "parts", "axis")),
    "rearrange": (_rearrange, ("x", "pattern")),
    "einsum": (_einsum, ("pattern", "operands")),
    "full": (_full, ("shape", "value")),
}
"""Every form, and the names of its arguments."""

USAGE = {
    "split": "split(x, sizes, axis=1)",
    "chunk": "chunk(x, parts, axis=1)",
    "rearrange": 'rearrange(x, "b (h d) -> b h d", h=8)',
    "einsum": 'einsum("b i j, b j k -> b i k", x, y)',
    "full": "full(shape, value)",
}
