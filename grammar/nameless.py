"""A call that brings weights and gets no name: the error, and what its author writes instead."""

from __future__ import annotations

from dataclasses import replace

from specc.diagnostics import Label, Span, SpeccError
from specc.grammar import syntax as s
from specc.grammar.printer import print_expression, print_target
from specc.grammar.scope import Place
from specc.grammar.session import Session


def nameless(session: Session, place: Place, owner: Span, whose: str) -> SpeccError:
    """S0205 for the call at `place` that lost its name; the weights belong to `owner`, in it."""
    assert place.nameless is not None
    labels = [Label(place.nameless), *([Label(owner, whose)] if place.nameless != owner else [])]
    notes = [
        "the name on the left of `=` becomes the key in the state_dict; only the outermost call of a line gets it",
        _advice(place),
    ]
    return session.problem("S0205", "this call has weights and no name", *labels, notes=notes)


def _advice(place: Place) -> str:
    match place.lost.within:
        case s.Assign(targets, value):
            names = ", ".join(map(print_target, targets))
            return f"a key has one name: `name = {print_expression(value)}`, and in the next line `{names} = name`"
        case s.Pipe(s.Call(_, (first, *rest)) as source, stages) as pipe if place.nameless == source.span:
            if not isinstance(first, s.Spread) and first != s.Name("_"):
                began = replace(pipe, source=first, stages=(replace(source, arguments=tuple(rest)), *stages))
                return f"what stands behind a `|>` is numbered and has a key: `name = {print_expression(began)}`"
    return "give this call a line of its own: `name = ...`"
