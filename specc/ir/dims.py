"""Arithmetic of dimensions: an extent is an `int` or a polynomial over symbols and floor divisions of polynomials.

`Dim` values are kept in one normal form, so that equal expressions compare and hash equal:

    (h + 1) * 2 - 2        ==  2*h
    (4*h + 7) // 4         ==  h + 1            what the divisor divides leaves the floor
    (h - 1) // 2 + 1       ==  (h + 1) // 2     so do multiples of it; nothing negative stays under the floor
    ((h + 1) // 2) // 2    ==  (h + 1) // 4     nested floors (divisors are positive)

Symbols stand for positive integers.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Union

Dim = Union[int, "Symbolic"]
Atom = Union[str, "FloorDiv"]
Monomial = tuple[Atom, ...]


@dataclass(frozen=True)
class FloorDiv:
    """`numerator // divisor` where the divisor does not divide every coefficient of the numerator."""

    numerator: Symbolic
    divisor: Dim

    @cached_property
    def _text(self) -> str:
        return f"{_bracketed(self.numerator)}//{_bracketed(self.divisor)}"

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True, eq=False)
class Symbolic:
    """A polynomial: sum of coefficient * product of atoms. Never a constant; those are plain `int`."""

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def _identity(self) -> frozenset[tuple[Monomial, int]]:
        return frozenset(self.terms)

    @cached_property
    def _hash(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symbolic) and self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        return _collect([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: int) -> Dim:
        return self * -1 + other

    def __mul__(self, other: Dim) -> Dim:
        return _collect([(a + b, p * q) for a, p in self.terms for b, q in _terms(other)])

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return floordiv(other, self)

    def __str__(self) -> str:
        text = ""
        for monomial, coefficient in self.terms:
            magnitude = abs(coefficient)
            # a sign in front binds tighter than //: -(h//2) is not (-h)//2
            alone = magnitude == 1 and len(monomial) == 1 and bool(text or coefficient > 0)
            factors = "*".join(str(a) if alone or isinstance(a, str) else f"({a})" for a in monomial)
            term = str(magnitude) if not factors else factors if magnitude == 1 else f"{magnitude}*{factors}"
            sign = "-" if coefficient < 0 else "+"
            text += f" {sign} {term}" if text else ("-" if coefficient < 0 else "") + term
        return text

    def __repr__(self) -> str:
        return f"Dim({self})"


def symbol(name: str) -> Symbolic:
    """The dimension that `name` stands for."""
    return Symbolic((((name,), 1),))


def floordiv(numerator: Dim, divisor: Dim) -> Dim:
    """`numerator // divisor` in normal form; `ZeroDivisionError` for a divisor of 0, `ValueError` below it."""
    if isinstance(divisor, int):
        if divisor < 0:
            raise ValueError("the divisor of a dimension is positive")
        if divisor == 0:
            raise ZeroDivisionError("a dimension divided by 0")
        return _floordiv_int(numerator, divisor)
    if numerator == divisor:
        return 1
    quotient = _exact(numerator, divisor)
    if quotient is not None:
        return quotient
    if isinstance(numerator, int):
        numerator = Symbolic((((), numerator),))
    return Symbolic((((FloorDiv(numerator, divisor),), 1),))


def _floordiv_int(numerator: Dim, divisor: int) -> Dim:
    """The one form of a floor: coefficients in [0, divisor), no common factor, no floor within a floor."""
    if isinstance(numerator, int):
        return numerator // divisor
    whole = _collect((m, c // divisor) for m, c in numerator.terms)
    rest = _collect((m, c % divisor) for m, c in numerator.terms)
    if isinstance(rest, int):
        return whole
    common = math.gcd(divisor, *(c for m, c in rest.terms if m))
    if common > 1:  # floor((g*r + k) / (g*d)) = floor((r + k // g) / d)
        return whole + _floordiv_int(_collect((m, c // common) for m, c in rest.terms), divisor // common)
    floors = [m[0] for m, c in rest.terms if c == 1 and len(m) == 1 and isinstance(m[0], FloorDiv)]
    if len(floors) == 1 and isinstance(floors[0].divisor, int):
        # floor((floor(a / b) + m) / d) = floor((a + b*m) / (b*d))
        (inner,), outer = floors, floors[0].divisor
        others = rest - Symbolic((((inner,), 1),))
        return whole + _floordiv_int(inner.numerator + others * outer, outer * divisor)
    return whole + Symbolic((((FloorDiv(rest, divisor),), 1),))


def substitute(dim: Dim, bindings: Mapping[str, Dim]) -> Dim:
    """`dim` with the symbols in `bindings` replaced."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        product: Dim = coefficient
        for atom in monomial:
            product = product * _substitute_atom(atom, bindings)
        total = total + product
    return total


def estimate(dim: Dim, values: Mapping[str, int]) -> int:
    """`dim` with numbers for all of its symbols, made up ones among them: no floor of it becomes 0."""
    if isinstance(dim, int):
        return dim
    return sum(c * math.prod(_estimate_atom(atom, values) for atom in monomial) for monomial, c in dim.terms)


def symbols(dim: Dim) -> frozenset[str]:
    """The names that occur in `dim`."""
    if isinstance(dim, int):
        return frozenset()
    names: set[str] = set()
    for monomial, _ in dim.terms:
        for atom in monomial:
            names |= {atom} if isinstance(atom, str) else symbols(atom.numerator) | symbols(atom.divisor)
    return frozenset(names)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all of `dims`; 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def parse_dim(text: str) -> Dim:
    """The inverse of `str`: integers, names, `+ - * //` and parentheses; `ValueError` for anything else."""
    try:
        return _from_expression(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, ZeroDivisionError) as problem:
        raise ValueError(f"`{text.strip()}` is not a dimension") from problem


def _from_expression(tree: ast.expr) -> Dim:
    match tree:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _from_expression(operand) * -1
        case ast.BinOp(left=left, op=operator, right=right):
            a, b = _from_expression(left), _from_expression(right)
            match operator:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.FloorDiv():
                    return floordiv(a, b)
    raise ValueError(f"`{ast.unparse(tree)}` is not a dimension")


def _substitute_atom(atom: Atom, bindings: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, str):
        return bindings.get(atom, symbol(atom))
    return floordiv(substitute(atom.numerator, bindings), substitute(atom.divisor, bindings))


def _estimate_atom(atom: Atom, values: Mapping[str, int]) -> int:
    if isinstance(atom, str):
        return values[atom]
    return max(1, estimate(atom.numerator, values) // max(1, estimate(atom.divisor, values)))


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return (((), dim),) if isinstance(dim, int) else dim.terms


def _collect(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    """Sums equal monomials; orders by degree (highest first), then by name, so that text is canonical."""
    sums: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        key = tuple(sorted(monomial, key=str)) if len(monomial) > 1 else monomial
        sums[key] = sums.get(key, 0) + coefficient
    kept = {m: c for m, c in sums.items() if c}
    if not kept:
        return 0
    if kept.keys() == {()}:
        return kept[()]
    if len(kept) > 1:
        kept = dict(sorted(kept.items(), key=lambda term: (-len(term[0]), tuple(map(str, term[0])))))
    return Symbolic(tuple(kept.items()))


def _exact(numerator: Dim, divisor: Symbolic) -> Dim | None:
    """`numerator / divisor` where the divisor is a single term that divides every term; else None."""
    if len(divisor.terms) != 1 or isinstance(numerator, int):
        return None
    ((monomial, coefficient),) = divisor.terms
    result: list[tuple[Monomial, int]] = []
    for atoms, c in numerator.terms:
        remaining = list(atoms)
        for atom in monomial:
            if atom not in remaining:
                return None
            remaining.remove(atom)
        if c % coefficient:
            return None
        result.append((tuple(remaining), c // coefficient))
    return _collect(result)


def _bracketed(dim: Dim) -> str:
    text = str(dim)
    return text if text.isidentifier() or text.isdigit() else f"({text})"
