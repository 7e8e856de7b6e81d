"""Latency of an artifact beside the peers that a user would take instead: one process, equal numbers of threads.

How it is measured, and why so:

- Every peer gets its best form (`specc.peers`).
- The contenders take turns in short blocks, round after round, in changing order: what else happens on the machine,
  and how its clock moves, then meets all alike. One long run after the other would compare different machines.
- A pool's threads spin for a while after its last call and take a core from the next contender. So a pause stands
  before each block, and the first calls in a block are not counted: they wake the pool and fill the caches.
- What each contender computes is judged by the graph in float64: a faster one that is wrong shows.
- Medians, with the 10th and 90th percentile as spread. The ratio of two contenders is the median of the ratios that
  their blocks of one turn have: a machine that changes its speed for seconds changes both, and one of two medians over
  all calls may come from the fast ones, the other from the slow ones.
- Two virtual cores may be two threads of one real core: at one moment they are, at the next one they are not, as the
  host has it. Kernels that are near a core's roof gain nothing from the second thread then, slower ones do, so the
  ratio is another. Before and after each turn, `bench` therefore asks how many cores' worth of work the threads do
  (`specc.backends.tvm.roofline.Cores`), and the ratio over the turns where each thread had a core of its own stands
  beside that over all turns.
- The memory of a run is what the process holds more at the peak of a contender's first call than before it, when its
  network is loaded already: the tensors in between, whoever allocates them, and without the weights.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specc.compare import finite, relative_error
from specc.ir.array import Array
from specc.memory import Growth
from specc.model import aligned_empty
from specc.runtime import Artifact

OURS = "specc"
BLOCK, WARM_UP, PAUSE = 3, 2, 0.05
"""Counted calls in a block at least, uncounted ones before them, and seconds of rest before these.

A block lasts as long as the rest at least: otherwise a network of microseconds would be waited for, not measured."""

OWN, ENOUGH = 0.85, 8
"""A thread has a core of its own where it does so much of what one alone does; and how many such turns are enough."""

Call = Callable[[], Sequence[Array]]


@dataclass(frozen=True)
class Timing:
    """The latency of one contender. `form` says what exactly ran; `error` is how far its results are from the expected
    ones (`specc.compare.relative_error`, of the worst output), None where they are not compared.

    `turns` are the milliseconds of the counted calls, turn by turn; all contenders of a run have as many turns.
    `own` says of each turn whether every thread had a core of its own; it is empty where nobody asked.
    `memory` is what a run takes beyond the loaded network, in bytes; None where the system does not say.
    """

    name: str
    form: str
    turns: tuple[tuple[float, ...], ...]
    error: float | None
    memory: int | None
    own: tuple[bool, ...] = ()

    @property
    def milliseconds(self) -> tuple[float, ...]:
        """Of all counted calls."""
        return tuple(itertools.chain.from_iterable(self.turns))

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile."""
        low, high = np.percentile(self.milliseconds, (10, 90))
        return float(low), float(high)

    def ratio(self, other: Timing) -> float:
        """How many times as long as `other` it takes."""
        return float(np.median(self._ratios(other)))

    def own_ratio(self, other: Timing) -> float | None:
        """`ratio` over the turns where every thread had a core of its own; None where there was none."""
        ratios = list(itertools.compress(self._ratios(other), self.own))
        return float(np.median(ratios)) if ratios else None

    @property
    def own_median(self) -> float | None:
        """`median` over these turns."""
        calls = list(itertools.chain.from_iterable(itertools.compress(self.turns, self.own)))
        return float(np.median(calls)) if calls else None

    def _ratios(self, other: Timing) -> list[float]:
        """Of each turn."""
        return [float(np.median(mine) / np.median(theirs)) for mine, theirs in zip(self.turns, other.turns)]

    def to_json(self, ours: Timing) -> dict[str, Any]:
        """A plain dictionary for `--json`; `ours` is the artifact's timing."""
        low, high = self.spread
        return {
            "name": self.name,
            "form": self.form,
            "calls": len(self.milliseconds),
            "median_ms": self.median,
            "p10_ms": low,
            "p90_ms": high,
            "ratio": self.ratio(ours),
            "turns": len(self.turns),
            "own_cores": {"turns": sum(self.own), "median_ms": self.own_median, "ratio": self.own_ratio(ours)}
            if self.own
            else None,
            "error": None if self.error is None else finite(self.error),
            "run_memory_bytes": self.memory,
        }


@dataclass(frozen=True)
class Contender:
    """Something to be measured: it makes its inputs ready once and is then called without arguments."""

    name: str
    form: str
    call: Call


def bench(
    contenders: Sequence[Contender],
    seconds: float = 5.0,
    expected: Sequence[Array] | None = None,
    cores: Callable[[], float] | None = None,
    patience: float = 1.0,
) -> list[Timing]:
    """Measures all contenders in turns for about `seconds` each, and how far each is from the `expected` results.

    `cores` says which part of a core of its own each thread has at this moment. With a `patience` above 1, it goes on
    for up to so many times `seconds`, until there are `ENOUGH` turns where that was all of it.
    """
    first = [_first_call(contender) for contender in contenders]
    errors = [
        None if expected is None else max(map(relative_error, results, expected), default=0.0) for results, _ in first
    ]
    times: dict[str, list[tuple[float, ...]]] = {contender.name: [] for contender in contenders}
    spent = dict.fromkeys(times, 0.0)
    turn = 0
    own: list[bool] = []
    before = cores() if cores else 0.0
    while (
        turn == 0
        or min(spent.values()) < seconds
        or (cores is not None and sum(own) < ENOUGH and min(spent.values()) < patience * seconds)
    ):
        for contender in [*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]]:
            time.sleep(PAUSE)
            begin = time.perf_counter()
            for _ in range(WARM_UP):
                contender.call()
            counted: list[float] = []
            while len(counted) < BLOCK or time.perf_counter() - begin < PAUSE:
                start = time.perf_counter()
                contender.call()
                counted.append((time.perf_counter() - start) * 1e3)
            times[contender.name].append(tuple(counted))
            spent[contender.name] += time.perf_counter() - begin
        turn += 1
        if cores:
            time.sleep(PAUSE)
            after = cores()
            own.append(min(before, after) >= OWN)
            before = after
    return [
        Timing(contender.name, contender.form, tuple(times[contender.name]), apart, memory, tuple(own))
        for contender, apart, (_, memory) in zip(contenders, errors, first)
    ]


def _first_call(contender: Contender) -> tuple[Sequence[Array], int | None]:
    """The results of a call, and the memory that it takes."""
    growth = Growth()
    results = contender.call()
    return results, growth.peak()


def ours(artifact: Artifact, inputs: Sequence[Array]) -> Contender:
    """The artifact itself, with inputs that are aligned: the driver would copy others in each call."""
    artifact.load()
    inputs = [_aligned(array) for array in inputs]
    precision = artifact.manifest.facts["precision"]["name"]
    form = (
        artifact.manifest.machine.target
        if precision == "float32"
        else f"{artifact.manifest.machine.target}, {precision}"
    )
    return Contender(OURS, form, lambda: artifact(*inputs))


def _aligned(array: Array) -> Array:
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def quick_median(call: Call) -> float:
    """The median of a few calls, in seconds: for choosing among forms of one contender."""
    samples = []
    for _ in range(WARM_UP + 3 * BLOCK):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return float(np.median(samples[WARM_UP:]))
