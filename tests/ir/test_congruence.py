"""What is known of a dimension, held to the numbers that it may have."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from specc.ir.congruence import NOTHING, Congruence, equal_where, learned, named, written
from specc.ir.dims import Dim, floordiv, parse_dim, substitute, symbol


@st.composite
def congruences(draw: st.DrawFn) -> Congruence:
    modulus = draw(st.integers(1, 60))
    return Congruence(modulus, draw(st.integers(0, modulus - 1)))


Program = list[tuple[str, int]]
programs = st.lists(st.tuples(st.sampled_from(["+", "*", "//", "%"]), st.integers(1, 12)), max_size=5)


def computed(dim: Dim, program: Program) -> Dim:
    """`dim` after some arithmetic."""
    for operator, number in program:
        match operator:
            case "+":
                dim = dim + number
            case "*":
                dim = dim * number
            case "//":
                dim = floordiv(dim, number)
            case "%":
                dim = dim - floordiv(dim, number) * number
    return dim


@given(congruences(), programs, st.integers(0, 50))
def test_what_is_computed_of_a_known_dimension_has_the_value_that_it_has(
    known: Congruence, program: Program, times: int
) -> None:
    value = known.modulus * times + known.remainder
    dim = computed(written("h", known), program)
    assert substitute(dim, {"h": value}) == computed(value, program)
    assert substitute(parse_dim(str(dim)), {"h": value}) == computed(value, program)


@given(congruences(), st.integers(1, 12))
def test_a_multiple_is_divided_and_multiplied_away(known: Congruence, factor: int) -> None:
    dim = written("h", Congruence(known.modulus * factor, known.remainder * factor))
    assert floordiv(dim, factor) * factor == dim
    assert dim - floordiv(dim, factor) * factor == 0


@given(congruences())
def test_the_name_is_found_again(known: Congruence) -> None:
    assert named(written("h", known)) == ("h", known)


@pytest.mark.parametrize(
    "text", ["2*h", "h + 1", "h*w", "h//2", "3*(h//7)", "7*(h//7) + 8", "7*(h//7) + w", "h - h//2"]
)
def test_other_dimensions_are_not_taken_for_a_name(text: str) -> None:
    assert named(parse_dim(text)) is None


@given(congruences(), st.integers(1, 20), st.integers(-20, 20), st.integers(1, 40), st.integers(0, 39))
def test_what_is_learned_is_what_the_condition_says_no_more_and_no_less(
    before: Congruence, scale: int, added: int, modulus: int, remainder: int
) -> None:
    assume(remainder < modulus)
    known = {} if before == NOTHING else {"h": before}
    found = learned(written("h", before) * scale + added, modulus, remainder, known)
    for value in range(before.remainder, before.remainder + 3 * before.modulus * modulus, before.modulus):
        meets = (value * scale + added) % modulus == remainder
        if found is not None:
            assert meets == (value % found[1].modulus == found[1].remainder)
    solvable = (remainder - added - before.remainder * scale) % math.gcd(scale * before.modulus, modulus) == 0
    if found is None and solvable:  # it was known before: the condition holds for all that is left
        assert all(
            (value * scale + added) % modulus == remainder
            for value in range(before.remainder, before.remainder + 9 * before.modulus, before.modulus)
        )


@pytest.mark.parametrize("dim", [symbol("h") * symbol("w"), symbol("h") + symbol("w"), parse_dim("(h + 1)//2"), 8])
def test_nothing_is_learned_where_one_name_does_not_decide(dim: Dim) -> None:
    assert learned(dim, 7, 0, {}) is None


def test_a_second_condition_adds_to_the_first() -> None:
    once = learned(symbol("h"), 4, 3, {})
    assert once == ("h", Congruence(4, 3))
    twice = learned(written(*once), 3, 0, dict([once]))
    assert twice == ("h", Congruence(12, 3))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("2*(h//2)", "h", ("h", 2)),
        ("2*(h//4)", "h//2", ("h", 4)),
        ("7*(h//7)", "4*(h//4)", ("h", 28)),
        ("h*(w//3)*3", "h*w", ("w", 3)),
        ("(h + 1)//2", "h", None),
        ("h", "w", None),
        ("h", "h + 1", None),
    ],
)
def test_equal_where_a_name_is_a_multiple(left: str, right: str, expected: tuple[str, int] | None) -> None:
    a, b = parse_dim(left), parse_dim(right)
    assert equal_where(a, b) == equal_where(b, a) == expected
    if expected is not None:
        name, modulus = expected
        for value in range(modulus, 5 * modulus, modulus):
            at = {name: value}
            assert substitute(a, at) == substitute(b, at)
