"""Dimensions against plain integers: an expression of symbols, then given numbers, is the expression of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from specc.ir.dims import Dim, Symbolic, floordiv, parse_dim, product, substitute, symbol, symbols

NAMES = ("h", "n", "w")


def apply(operation: str, a: Dim, b: Dim) -> Dim:
    match operation:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
    return floordiv(a, b)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[Dim, Callable[[dict[str, int]], int]]:
    """A dimension, and the same in Python's integers."""
    kind = draw(st.sampled_from(("number", "name", "+", "-", "*", "//") if depth else ("number", "name")))
    if kind == "number":
        number = draw(st.integers(-9, 9))
        return number, lambda values: number
    if kind == "name":
        name = draw(st.sampled_from(NAMES))
        return symbol(name), lambda values: values[name]
    left, left_value = draw(expressions(depth=depth - 1))
    if kind == "//":
        divisor = draw(st.integers(1, 7))
        return floordiv(left, divisor), lambda values: left_value(values) // divisor
    right, right_value = draw(expressions(depth=depth - 1))
    plain: dict[str, Callable[[int, int], int]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
    }
    return apply(kind, left, right), lambda values: plain[kind](left_value(values), right_value(values))


VALUES = st.fixed_dictionaries({name: st.integers(1, 40) for name in NAMES})


@given(expressions(), VALUES)
def test_arithmetic_is_that_of_integers(expression: Any, values: dict[str, int]) -> None:
    dim, value = expression
    assert substitute(dim, values) == value(values)


@given(expressions())
def test_text_parses_back(expression: Any) -> None:
    dim, _ = expression
    assert parse_dim(str(dim)) == dim
    assert str(parse_dim(str(dim))) == str(dim)


@given(expressions(), expressions(), VALUES)
def test_equal_dimensions_hash_and_print_equal(first: Any, second: Any, values: dict[str, int]) -> None:
    a, b = first[0], second[0]
    assert a - a == 0 and a + b == b + a and a * b == b * a and (a + b) - b == a
    assert hash(a + b) == hash(b + a) and str(a + b) == str(b + a)
    assert (a == b) == (hash(a) == hash(b) and str(a) == str(b))
    if a == b:
        assert substitute(a, values) == substitute(b, values)


@given(expressions(), VALUES, st.sampled_from(NAMES), expressions(depth=1))
def test_substitution_in_two_steps(expression: Any, values: dict[str, int], name: str, inner: Any) -> None:
    dim, value = expression
    replacement = inner[1](values)
    assume(replacement >= 1)  # symbols stand for positive integers
    assert substitute(substitute(dim, {name: inner[0]}), values) == value({**values, name: replacement})


@given(expressions())
def test_symbols_are_those_that_matter(expression: Any) -> None:
    dim, _ = expression
    assert symbols(dim) <= set(NAMES)
    assert isinstance(dim, Symbolic) == bool(symbols(dim))
    assert not symbols(substitute(dim, {name: 5 for name in symbols(dim)}))


n, h, w = map(symbol, ("n", "h", "w"))

NORMAL_FORMS: list[tuple[Dim, Dim, str]] = [
    ((h + 1) * 2 - 2, 2 * h, "2*h"),
    (floordiv(4 * h + 7, 4), h + 1, "h + 1"),
    (floordiv(floordiv(h - 1, 2), 2), floordiv(h - 1, 4), "(h + 3)//4 - 1"),
    (floordiv(floordiv(h - 1, 2) + 1 - 1, 2) + 1, floordiv(h - 1, 4) + 1, "(h + 3)//4"),
    (floordiv(floordiv(h - 1, 2), 2), floordiv(floordiv(h - 1, 4), 1), "(h + 3)//4 - 1"),
    (floordiv(h + 1, 2), floordiv(h - 1, 2) + 1, "(h + 1)//2"),
    (floordiv(2 * w - 2, 4), floordiv(w - 1, 2), "(w + 1)//2 - 1"),
    (h * w - w * h + 3, 3, "3"),
    (floordiv(n * h * w * 8, h * w), 8 * n, "8*n"),
    (floordiv(6 * h * w, 2 * w), 3 * h, "3*h"),
    (floordiv(h + w, h + w), 1, "1"),
    (w + h + n * h, h * n + h + w, "h*n + h + w"),
    (-h, h * -1, "-h"),
    (3 - h, (h - 3) * -1, "-h + 3"),
]


@pytest.mark.parametrize("left, right, text", NORMAL_FORMS)
def test_normal_forms(left: Dim, right: Dim, text: str) -> None:
    assert left == right
    assert str(left) == str(right) == text


def test_a_chain_of_strided_windows_stays_one_division() -> None:
    extent: Dim = h
    for _ in range(5):
        extent = floordiv(extent - 1, 2) + 1
    assert str(extent) == "(h + 31)//32"


@pytest.mark.parametrize("text", ["", "h +", "h / 2", "h ** 2", "f(h)", "1.5", "True", "h if w else n", "'h'", "-" * 5])
def test_other_texts_are_no_dimensions(text: str) -> None:
    with pytest.raises(ValueError):
        parse_dim(text)


def test_impossible_divisions_are_refused() -> None:
    with pytest.raises(ZeroDivisionError):
        floordiv(h, 0)
    with pytest.raises(ValueError):
        floordiv(h, -2)
    assert product([]) == 1 and product([2, h, 3]) == 6 * h
