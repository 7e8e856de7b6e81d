"""Round steps and quantities with units."""

from __future__ import annotations

import pytest

from specc.waterline.axes import Linear, Logarithmic, amount, duration


@pytest.mark.parametrize(
    ("most", "top", "step"),
    [(1.0, 1.0, 0.2), (440.0, 500.0, 100.0), (500.0, 500.0, 100.0), (501.0, 600.0, 200.0), (0.013, 0.015, 0.005)],
)
def test_an_axis_ends_at_the_next_round_step(most: float, top: float, step: float) -> None:
    found = Linear.over(most)
    assert (found.top, found.step) == (pytest.approx(top), pytest.approx(step))


def test_an_axis_of_nothing_has_a_length() -> None:
    assert Linear.over(0.0).at(0.0) == 0.0


def test_ticks_have_units_but_for_nothing() -> None:
    assert [(t.at, t.label) for t in Linear.over(2000.0).ticks(" ms", 1e-3)] == [
        (0.0, "0"),
        (25.0, "0.5 ms"),
        (50.0, "1.0 ms"),
        (75.0, "1.5 ms"),
        (100.0, "2.0 ms"),
    ]


def test_decades_hold_both_ends() -> None:
    axis = Logarithmic.over(0.1, 240.0)
    assert (axis.low, axis.high) == (-1, 3)
    assert [(t.at, t.label) for t in axis.ticks()] == [
        (0.0, "0.1"),
        (25.0, "1"),
        (50.0, "10"),
        (75.0, "100"),
        (100.0, "1,000"),
    ]
    assert axis.at(10.0) == 50.0
    assert Logarithmic.over(10.0, 10.0).high == 2


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0.0, "0 µs"),
        (0.04, "40 ns"),
        (0.0994, "99 ns"),
        (0.0996, "0.1 µs"),
        (9.94, "9.9 µs"),
        (9.96, "10 µs"),
        (853.2, "853 µs"),
        (999.4, "999 µs"),
        (999.6, "1.00 ms"),
        (3891.0, "3.89 ms"),
        (12_700.0, "12.7 ms"),
        (999_600.0, "1.00 s"),
        (1_200_000.0, "1.20 s"),
    ],
)
def test_durations_have_three_digits(microseconds: float, text: str) -> None:
    assert duration(microseconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (12, "12 B"), (999, "999 B"), (1000, "1.00 kB"), (9_996, "10.0 kB"), (1_605_888, "1.61 MB"),
     (45e6, "45.0 MB"), (2.5e9, "2.50 GB"), (7e15, "7000 TB")],
)  # fmt: skip
def test_amounts_have_three_digits(count: float, text: str) -> None:
    assert amount(count, "B") == text
