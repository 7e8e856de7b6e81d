"""The stopwatch: what it makes of a machine that changes its speed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from specc.bench import BLOCK, Contender, Timing, bench


def timing(name: str, *turns: tuple[float, ...]) -> Timing:
    return Timing(name, "", turns, None, None)


def test_a_ratio_compares_what_ran_in_one_turn() -> None:
    """Half of the turns are slow; the medians over all calls fall on different sides."""
    ours = timing("specc", (10.0, 10.0), (20.0, 20.0, 20.0), (10.0, 10.0), (20.0, 20.0, 20.0))
    peer = timing("peer", (15.0, 15.0, 15.0), (30.0, 30.0), (15.0, 15.0, 15.0), (30.0, 30.0))
    assert (ours.median, peer.median) == (20.0, 15.0)
    assert peer.ratio(ours) == pytest.approx(1.5) and ours.ratio(peer) == pytest.approx(1 / 1.5)
    assert peer.to_json(ours)["ratio"] == pytest.approx(1.5)


def test_contenders_have_equal_turns_and_errors_against_what_is_expected() -> None:
    def contender(name: str, seconds: float, result: float) -> Contender:
        def call() -> list[np.ndarray]:
            time.sleep(seconds)
            return [np.array([result], np.float32)]

        return Contender(name, name, call)

    right, wrong = bench([contender("right", 0.001, 2.0), contender("wrong", 0.004, 3.0)], 0.2, [np.array([2.0])])
    assert len(right.turns) == len(wrong.turns) > 1
    assert all(len(turn) >= BLOCK for found in (right, wrong) for turn in found.turns)
    assert (right.error, wrong.error) == (0.0, 0.5)
    assert len(right.milliseconds) == sum(map(len, right.turns)) and right.milliseconds[0] >= 1.0
