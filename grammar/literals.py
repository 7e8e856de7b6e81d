"""Compile-time values --> the expressions that a spec says them with, for programs that write specs."""

from __future__ import annotations

import math
from typing import Any

from specc.grammar import syntax as s
from specc.ir.dims import Dim, FloorDiv, Monomial, Symbolic


def literal(value: Any) -> s.Expression:
    """The expression of a number, text, truth value, dimension, none, or a sequence of these.

    `ValueError` for what the language has no word for: infinities, and numbers that are none.
    """
    match value:
        case None | bool():
            return s.Constant(value)
        case int():
            return negated(s.Number(str(-value))) if value < 0 else s.Number(str(value))
        case float():
            return _float(value)
        case str():
            return s.String(value)
        case Symbolic():
            return _dimension(value)
        case tuple() | list():
            return s.ListOf(tuple(map(literal, value)))
    raise ValueError(f"no spec can say {value!r}")


def extents(value: Any) -> s.Expression:
    """A pair or a padding in its shortest form: `3`, `(1, 3)`, `(0, 0, 1, 1)`."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        return literal(value[0])
    if isinstance(value, tuple) and len(value) == 4 and value[:2] == value[2:]:
        value = value[:2]
    return s.TupleOf(tuple(map(literal, value))) if isinstance(value, tuple) else literal(value)


def negated(expression: s.Expression) -> s.Expression:
    """`-x`."""
    return s.Unary("-", expression)


def abbreviated(value: int) -> str:
    """A count as a check says it, with four digits: 11.69M for 11689512; exact below ten thousand."""
    for suffix, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= 10 * 10**3 and value >= scale:
            digits = max(0, 4 - len(str(value // scale)))
            return f"{value / scale:.{digits}f}{suffix}"
    return str(value)


def _float(value: float) -> s.Expression:
    if not math.isfinite(value):
        raise ValueError(f"no spec can say {value}")
    if value < 0 or (value == 0 and math.copysign(1, value) < 0):
        return negated(_float(-value))
    mantissa, e, exponent = repr(value).partition("e")
    return s.Number(f"{mantissa}{e}{int(exponent)}" if e else mantissa)


def _dimension(dim: Dim) -> s.Expression:
    if isinstance(dim, int):
        return literal(dim)
    total: s.Expression | None = None
    for monomial, coefficient in sorted(dim.terms, key=lambda term: term[1] < 0):
        term = _term(monomial, abs(coefficient))
        if total is None:
            total = negated(term) if coefficient < 0 else term
        else:
            total = s.Binary("-" if coefficient < 0 else "+", total, term)
    assert total is not None
    return total


def _term(monomial: Monomial, coefficient: int) -> s.Expression:
    factors: list[s.Expression] = [literal(coefficient)] if coefficient != 1 or not monomial else []
    for atom in monomial:
        if isinstance(atom, FloorDiv):
            factors.append(s.Binary("//", _dimension(atom.numerator), _dimension(atom.divisor)))
        else:
            factors.append(s.Name(atom))
    product = factors[0]
    for factor in factors[1:]:
        product = s.Binary("*", product, factor)
    return product
