"""What is known of a dimension that is not fixed yet: which number it leaves when it is divided by another.

A dimension h that is known to leave r when divided by m is written as m * ((h - r) // m) + r. Where it does, that is h
itself, and it is a polynomial in a floor that the arithmetic of `specc.ir.dims` need not look into:

    h = 7*(h//7)        (h//7) * 7 == h,  h % 7 == 0,  h // 14 == (h//7) // 2

So no other rule has to know of facts. Whoever gives h a value holds it to what is known: `h = 15` is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from specc.ir.dims import Dim, Monomial, floordiv, substitute, symbol, symbols

LARGEST = 2**31
"""The greatest number by which a dimension is known to be divided."""


class Congruence(NamedTuple):
    """A dimension leaves `remainder`, at least 0, when it is divided by the greater `modulus`."""

    modulus: int
    remainder: int

    def __str__(self) -> str:
        return f"a multiple of {self.modulus}" + (f", and {self.remainder} more" if self.remainder else "")


NOTHING = Congruence(1, 0)


def written(name: str, known: Congruence) -> Dim:
    """The dimension `name`, written with what is known of it."""
    return floordiv(symbol(name) - known.remainder, known.modulus) * known.modulus + known.remainder


def named(dim: Dim) -> tuple[str, Congruence] | None:
    """The inverse of `written`: the name and what is known of it; None where `dim` is no such thing."""
    names = symbols(dim)
    if isinstance(dim, int) or len(names) != 1:
        return None
    (name,) = names
    constant = sum(coefficient for monomial, coefficient in dim.terms if not monomial)
    modulus = max(coefficient for monomial, coefficient in dim.terms if monomial)
    known = Congruence(modulus, constant % modulus) if modulus > 0 else NOTHING
    return (name, known) if written(name, known) == dim else None


def learned(dim: Dim, modulus: int, remainder: int, known: Mapping[str, Congruence]) -> tuple[str, Congruence] | None:
    """What `dim % modulus == remainder` says of one of the dimensions in `dim`, beyond what is `known` already.

    None where it says nothing that a congruence of one of them is equal to: where other names take part, where a floor
    does of which nothing is known, and where it never holds.
    """
    if isinstance(dim, int) or modulus < 1:
        return None
    terms = {monomial: c % modulus for monomial, c in dim.terms if monomial and c % modulus}
    rest = remainder - sum(c for monomial, c in dim.terms if not monomial)
    if len(terms) != 1:
        return None
    ((monomial, coefficient),) = terms.items()
    common = math.gcd(coefficient, modulus)
    found = _belongs(monomial, known)
    if found is None or rest % common:
        return None
    # the floor leaves `first` when it is divided by `factor`, and name = before * floor + added
    name, before, added = found
    factor = modulus // common
    first = rest // common * pow(coefficient // common, -1, factor) % factor
    if factor == 1 or before * factor > LARGEST:
        return None
    return name, Congruence(before * factor, (before * first + added) % (before * factor))


def equal_where(left: Dim, right: Dim) -> tuple[str, int] | None:
    """The name, and the least modulus up to 64, for which two extents are equal wherever the name is a multiple of it.

    None where no such name makes them equal: where they differ by a number, or by floors of several names.
    """
    for name in sorted(symbols(left - right)):
        for modulus in range(2, 65):
            multiple = {name: symbol(name) * modulus}
            if substitute(left, multiple) == substitute(right, multiple):
                return name, modulus
    return None


def _belongs(monomial: Monomial, known: Mapping[str, Congruence]) -> tuple[str, int, int] | None:
    """The (name, modulus, summand) for which name = modulus * the one factor of `monomial` + summand."""
    if len(monomial) != 1:
        return None
    if isinstance(monomial[0], str):
        return monomial[0], 1, 0
    for name in symbols(monomial[0].numerator) & known.keys():
        dim = written(name, known[name])
        terms = {} if isinstance(dim, int) else dict(dim.terms)
        if monomial in terms:
            return name, terms[monomial], terms.get((), 0)
    return None
