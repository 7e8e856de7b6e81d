"""Elements of lists and families, by number and by name: `stages[i]`, `dims[1:]`."""

from __future__ import annotations

from specc.diagnostics import Label, Span, did_you_mean
from specc.grammar.arithmetic import known_int
from specc.grammar.session import Session
from specc.grammar.values import Family, Tensor, Value, kind, show


def element(session: Session, value: Value, index: Value, span: Span) -> Value:
    """`value[index]`; raises S0404 at `span` where there is no such element, S0402 where there are none at all."""
    if isinstance(value, Family):
        if isinstance(index, (int, str)) and index in value.members:
            return value.members[index]
        if isinstance(index, int) and -len(value.members) <= index < 0 and _counted(value):
            return value.listed()[index]
        known = list(map(str, value.members))
        message = f"there is no element {show(index)}; there are {', '.join(known)}"
        raise session.problem("S0404", message, Label(span), notes=did_you_mean(str(index), known))
    if isinstance(value, tuple):
        position = session.attempt(lambda: known_int(index, "an index"), span)
        if not -len(value) <= position < len(value):
            raise session.problem("S0404", f"there is no element {position}: the list has {len(value)}", Label(span))
        return value[position]
    raise session.problem("S0402", f"{kind(value)} has no elements to index", Label(span), notes=_instead(value))


def listed(session: Session, value: Value, span: Span) -> tuple[Value, ...]:
    """What a slice takes a part of; raises S0402 at `span` where that is no list."""
    value = value.listed() if isinstance(value, Family) else value
    if not isinstance(value, tuple):
        message = f"{kind(value)} has no elements to take some of"
        raise session.problem("S0402", message, Label(span), notes=_instead(value))
    return value


def _instead(value: Value) -> list[str]:
    return ["`slice(x, axis=1, stop=8)` takes part of a tensor"] if isinstance(value, Tensor) else []


def _counted(family: Family) -> bool:
    """Whether the members have numbers, so that `stages[-1]` is the last one."""
    return all(isinstance(key, int) and key >= 0 for key in family.members)
