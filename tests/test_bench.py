"""The stopwatch: what it makes of a machine that changes its speed."""

from __future__ import annotations

import itertools
import os
import time

import numpy as np
import pytest

from specc.backends.tvm import roofline
from specc.bench import BLOCK, ENOUGH, Contender, Timing, bench
from specc.targets import find


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


def test_turns_where_threads_shared_a_core_are_told_apart() -> None:
    """Two turns of three had them; nobody asked about the peer's own median."""
    turns = ((10.0, 10.0, 10.0), (20.0, 20.0, 20.0), (10.0, 12.0, 14.0))
    ours = Timing("specc", "", turns, None, None, (True, False, True))
    peer = Timing("peer", "", ((15.0,) * 3, (20.0,) * 3, (24.0,) * 3), None, None, ours.own)
    assert peer.ratio(ours) == pytest.approx(1.5) and peer.own_ratio(ours) == pytest.approx((1.5 + 2.0) / 2)
    assert ours.own_median == pytest.approx(10.0)
    assert peer.to_json(ours)["own_cores"] == {"turns": 2, "median_ms": 19.5, "ratio": pytest.approx(1.75)}
    shared = Timing("specc", "", turns, None, None, (False,) * 3)
    assert (shared.own_ratio(shared), shared.own_median) == (None, None)
    assert timing("specc", *turns).to_json(ours)["own_cores"] is None


@pytest.mark.parametrize(
    ("parts", "patience", "own"),
    [
        pytest.param([1.0], 1.0, "all", id="own cores"),
        pytest.param([1.0, 0.5], 1.0, "none", id="a shared core before or after each turn"),
        pytest.param([0.5] * 30 + [1.0], 100.0, "enough", id="waited for"),
    ],
)
def test_a_turn_counts_as_one_with_own_cores_where_they_are_before_and_after_it(
    parts: list[float], patience: float, own: str
) -> None:
    asked = itertools.chain(parts, itertools.repeat(parts[-1])) if own == "enough" else itertools.cycle(parts)
    contender = Contender("net", "", lambda: [np.zeros(1, np.float32)])
    (found,) = bench([contender], 0.2, cores=lambda: next(asked), patience=patience)
    assert len(found.own) == len(found.turns)
    if own == "enough":
        assert found.own == (False,) * 30 + (True,) * ENOUGH
    else:
        assert set(found.own) == {own == "all"}
        assert len(found.turns) <= 6


def test_cores_are_parts_of_the_most_that_one_thread_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than cores cannot have one each."""
    most = len(os.sched_getaffinity(0))
    rates = iter([10.0, 6.0 * most, 20.0, 20.0 * most, 5.0, 20.0 * most])
    monkeypatch.setattr(roofline._Team, "rate", lambda team, work, amount: next(rates))
    cores = roofline.Cores(find("native"), most)
    assert [cores(), cores(), cores()] == pytest.approx([0.6, 1.0, 1.0])
    rates = iter([10.0, 10.0 * most])
    assert roofline.Cores(find("native"), 4 * most)() == pytest.approx(0.25)


def test_this_machine_multiplies() -> None:
    assert roofline.Cores(find("native"), len(os.sched_getaffinity(0)))() > 0
