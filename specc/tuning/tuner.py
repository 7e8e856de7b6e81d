"""The search: rounds of configurations, what they show, and the comparison at the end."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specc.compare import TOLERANCE, difference
from specc.diagnostics import error
from specc.ir.array import Array
from specc.records import Configuration, Log, Record, Records
from specc.tuning.variants import Pick, Round, Variants

if TYPE_CHECKING:
    from specc.backends.tvm.measure import Boards, Here, Times

WIDTH, DEPTH = 48, 6
"""Configurations in a round, and of one kernel among them, at most."""
ROUND_SECONDS, ROUND_TURNS = 3.0, (9, 40)
"""How long the variants of a round are measured; turns, at least and at most."""
LAST_SECONDS, LAST_TURNS = 6.0, (15, 200)
"""The same for the comparison at the end."""
GAIN, WINS = 0.99, 0.8
"""What is better takes at most this part of the time, in the median, and less time in this part of the turns."""


@dataclass(frozen=True)
class Standing:
    """How far a run is. Milliseconds are those of the last round's runs: as the cost models have it, and at best."""

    seconds: float
    tried: int
    kernels: int
    better: int
    default_ms: float
    best_ms: float

    @property
    def gain(self) -> float:
        """The part of the time that is saved."""
        return 1 - self.best_ms / self.default_ms


@dataclass(frozen=True)
class Outcome(Standing):
    """What a run came to. The milliseconds are medians of the last comparison, `spread` the 10th and 90th percentile of
    the ratio of two runs that stood side by side. `failed` configurations did not run, or computed something else."""

    network: str
    target: str
    file: str
    threads: int
    machine: str
    spread: tuple[float, float]
    undone: int
    failed: int

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `--json`."""
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "gain": self.gain}


Observer = Callable[[Standing], None]


class Tuner:
    """One run of the tuner."""

    def __init__(
        self,
        variants: Variants,
        runner: Here | Boards,
        known: Records,
        log: Log,
        where: str,
        told: Observer,
    ) -> None:
        from specc.backends.tvm.search import Search

        network, default = variants.network, variants.default
        self.variants, self.runner, self.log, self.where, self.told = variants, runner, log, where, told
        self.name, self.target, self.threads = network.name, network.machine.name, variants.threads
        self.best = dict(network.lowered(known.best(self.target)).configurations)
        tried: dict[str, list[Configuration]] = {name: [] for name in default.groups}
        for record in known.tried(self.target):
            if record.kernel in tried:
                tried[record.kernel].append(record.configuration)
        self.searches = {
            name: Search(name, group, network.machine, tried[name], self.best.get(name, {}))
            for name, group in default.groups.items()
        }
        self.count = Counter({name: len(found) for name, found in tried.items()})
        self.calls = {
            name: [i for i, call in enumerate(variants.program.calls) if call.kernel == name]
            for name in default.kernels
        }
        self.share = dict.fromkeys(self.calls, 1.0)
        self.waiting: deque[tuple[Pick, ...]] = deque()
        self.again: list[Pick] = []
        self.proposed = self.tried = self.failed = 0
        self.begin = time.perf_counter()
        self.standing = Standing(0.0, 0, len(self.calls), len(self.best), 1.0, 1.0)
        self.flying: dict[Future[Times], tuple[Round, float]] = {}
        """The rounds that are being measured, and when they were begun."""

    # ---- the run --------------------------------------------------------------------------------------------------

    def run(self, seconds: float, trials: int | None) -> Outcome:
        """Rounds until the time is over, or the trials, or what there is to try; then the last comparison."""
        # On this machine nothing is compiled while something is measured; boards get the next round at once.
        most = self.runner.parallel + self.runner.ahead
        self._learn(self._measured(self.variants.round((), self.best, ROUND_SECONDS, ROUND_TURNS)))
        pool = ThreadPoolExecutor(self.runner.parallel)
        flying = self.flying
        longest = 0.0
        try:
            while True:
                left = seconds - LAST_SECONDS - (time.perf_counter() - self.begin) - longest
                while len(flying) < most and (left > 0 or (not self.tried and not flying)):
                    start = time.perf_counter()
                    picks = self._picks(None if trials is None else trials - self.proposed)
                    if not picks:
                        break
                    round_ = self.variants.round(picks, self.best, ROUND_SECONDS, ROUND_TURNS)
                    flying[pool.submit(self._measure, round_)] = round_, start
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    round_, start = flying.pop(future)
                    longest = max(longest, time.perf_counter() - start)
                    self._judge(round_, future)
        except BaseException:
            self.runner.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return self._finish()

    def _picks(self, most: int | None) -> tuple[Pick, ...]:
        """The next round's: what failed together with others, what was faster once, then new ones.

        A kernel with twice the share of the run gets twice as many (by D'Hondt's method).
        """
        if self.waiting:
            return self.waiting.popleft()
        picks, self.again = self.again, []
        here = Counter(pick.kernel for pick in picks)
        ready = {name for name, search in self.searches.items() if search.open}
        room = WIDTH if most is None else min(WIDTH, max(0, most))
        while ready and room > 0:
            name = max(ready, key=lambda name: (self.share[name] / (self.count[name] + 1), name))
            found = self.searches[name].propose() if here[name] < DEPTH else None
            if found is None:
                ready.remove(name)
                continue
            picks.append(Pick(name, found))
            here[name] += 1
            self.count[name] += 1
            self.proposed += 1
            room -= 1
        return tuple(picks)

    # ---- measuring and judging ------------------------------------------------------------------------------------

    def _measure(self, round_: Round) -> Times:
        from specc.backends.tvm.measure import Failed

        times = self.runner.measure(round_.job)
        expected = self.variants.results(times.outputs[0])
        for outputs in times.outputs[1:]:
            for actual, wanted in zip(self.variants.results(outputs), expected, strict=True):
                if not difference(actual, wanted) <= TOLERANCE:
                    raise Failed("a configuration computes something else")
        return times

    def _measured(self, round_: Round) -> tuple[Round, Times]:
        """A round that must not fail: it has no new configurations. Raises S1205."""
        from specc.backends.tvm.measure import Failed

        try:
            return round_, self._measure(round_)
        except Failed as problem:
            note = "a machine that a tracker lends needs TVM's runtime, libgomp, and a processor for this target"
            message = f"`{self.name}` cannot be measured: {problem}"
            raise error("S1205", message, notes=(note,)) from None

    def _judge(self, round_: Round, future: Future[Times]) -> None:
        """What a round has shown, into records; what failed with others is tried in halves."""
        from specc.backends.tvm.measure import Failed

        try:
            times = future.result()
        except Failed:
            middle = len(round_.picks) // 2
            if middle:
                self.waiting += [round_.picks[:middle], round_.picks[middle:]]
            else:
                self._note(round_.picks[0], False, None, None, max(1, self.threads))
                self.failed += 1
                self.tried += 1
            return
        finally:
            self.variants.discard(round_, (other for other, _ in self.flying.values()))
        for pick, variant in zip(round_.picks, round_.variants, strict=True):
            taken = self._taken(times, variant, pick.kernel)
            better = _compared(taken, self._taken(times, round_.base, pick.kernel))[1]
            ratio, sound = _compared(taken, self._taken(times, 0, pick.kernel))
            current = round_.best.get(pick.kernel) == self.best.get(pick.kernel)
            if not better or not sound:
                self.tried += 1
                self._note(pick, False, ratio, taken, times.threads)
            elif pick.again and current:
                self.tried += 1
                self._note(pick, True, ratio, taken, times.threads)
                self.best[pick.kernel] = pick.configuration
                self.searches[pick.kernel].accept(pick.configuration)
            else:  # once more, in any case against what is the best one then
                self.again.append(replace(pick, again=True))
        self._learn((round_, times))

    def _note(self, pick: Pick, better: bool, ratio: float | None, taken: Array | None, threads: int) -> None:
        microseconds = None if taken is None else float(np.median(taken)) * 1e6
        self.log.add(
            Record(self.target, pick.kernel, pick.configuration, better, ratio, microseconds, threads, self.where)
        )

    def _taken(self, times: Times, variant: int, kernel: str) -> Array:
        """The seconds that all calls of a kernel took, for each turn."""
        found: Array = times.seconds[variant][:, self.calls[kernel]].sum(axis=1)
        return found

    def _learn(self, measured: tuple[Round, Times]) -> None:
        """How the time of a run is shared among kernels, and how far the run is."""
        round_, times = measured
        taken = {name: float(np.median(self._taken(times, round_.base, name))) for name in self.calls}
        self.share = {name: seconds / sum(taken.values()) for name, seconds in taken.items()}
        default, best = (1e3 * float(np.median(times.seconds[v].sum(axis=1))) for v in (0, round_.base))
        seconds = time.perf_counter() - self.begin
        self.standing = Standing(seconds, self.tried, len(self.calls), len(self.best), default, best)
        self.told(self.standing)

    def _finish(self) -> Outcome:
        """The last comparison; what is not faster in it is undone, by a record of the cost model's configuration."""
        round_, times = self._measured(self.variants.round((), self.best, LAST_SECONDS, LAST_TURNS))
        undone = 0
        for name in sorted(round_.best):
            taken, default = self._taken(times, round_.base, name), self._taken(times, 0, name)
            if np.median(taken / default) >= 1:
                self._note(
                    Pick(name, round_.best[name]), False, float(np.median(taken / default)), taken, times.threads
                )
                del self.best[name]
                undone += 1
        if undone:
            round_, times = self._measured(self.variants.round((), self.best, LAST_SECONDS, LAST_TURNS))
        default, best = (times.seconds[v].sum(axis=1) for v in (0, round_.base))
        low, high = np.percentile(best / default, (10, 90))
        return Outcome(
            time.perf_counter() - self.begin,
            self.tried,
            len(self.calls),
            len(self.best),
            1e3 * float(np.median(default)),
            1e3 * float(np.median(best)),
            self.name,
            self.target,
            str(self.log.path),
            times.threads,
            self.where,
            (float(low), float(high)),
            undone,
            self.failed,
        )


def _compared(taken: Array, other: Array) -> tuple[float, bool]:
    """The median ratio of two kernels' times, turn by turn, and whether the first one is faster by more than noise."""
    ratio = float(np.median(taken / other))
    return ratio, ratio < GAIN and float(np.mean(taken < other)) >= WINS
