"""Tuning: a network -> records of which configurations of its kernels are faster than the cost models'.

    round    for every kernel some configurations that have not been tried (`search`), more for those that take longer;
             the first of each kernel make the first variant of the network, the second ones the second, ...
    build    a library for each variant, one with the best configurations so far, one with the cost models'
    measure  all of these in turns, call by call (`measure`): a round is as many experiments as it has configurations
    judge    what is faster than the best one, by more than the turns differ, is measured once more in the next round;
             if it is faster there too, it is the best one
    at last  the best and the cost models' network are compared; of a kernel that is not faster, it is taken back

Every configuration that was measured is a record, written at once. So a run that is interrupted has lost its last round
alone, and the next one goes on from the records that it finds.

Why this is not TVM's MetaSchedule stands in docs/tuning.md.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specc import driver, records, sample, targets
from specc.artifact import Array, TensorSpec
from specc.compare import TOLERANCE, difference
from specc.diagnostics import error
from specc.ir.graph import Graph, specialize
from specc.ir.placement import aligned
from specc.optimize import run_passes
from specc.records import Configuration, Log, Record, Records
from specc.targets import Target

if TYPE_CHECKING:
    from specc.backends.tvm import Lowered
    from specc.backends.tvm.measure import Boards, Here, Job, Times

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


def tune(
    graph: Graph,
    target: str | Target = "native",
    weights: driver.Weights | None = None,
    shapes: Mapping[str, int] | None = None,
    level: int = 2,
    tuning: str | Path | None = None,
    minutes: float = 10.0,
    trials: int | None = None,
    threads: int | None = None,
    tracker: str | None = None,
    key: str | None = None,
    progress: Observer | None = None,
) -> Outcome:
    """Searches for better configurations of the kernels of `graph` for `target`.

    tuning    the file of records, which is gone on with; None: where `compile` looks for it
    minutes   how long, about
    trials    at most so many configurations
    threads   of a run; None: as many as there are cores
    tracker   HOST:PORT of a tracker of TVM's, whose machines called `key` measure instead of this one
    progress  is told of every round

    Raises S1001 for options that make no sense, S1203 where the target's code cannot be run here, S1204 for a tracker
    that cannot be reached or knows no such machine, and what `compile` raises.
    """
    machine = targets.find(target)
    path = records.place(tuning)
    if path is None:
        raise error("S1001", "tuning needs a file for its records: name one with --tuning")
    if (tracker is None) != (key is None):
        raise error("S1001", "--tracker and --key stand together: a tracker lends machines by their key")
    _check_runs(machine, tracker is not None)
    known = records.read(path) if path.exists() else Records()
    from specc.backends.tvm.measure import Boards, Here

    runner = Here() if tracker is None or key is None else Boards(tracker, key)
    where = _processor() if tracker is None else f"{key} of {tracker}"
    network = _Network(graph, machine, weights, shapes, level)
    log = Log(path)
    try:
        with tempfile.TemporaryDirectory(prefix="specc-") as folder:
            tuner = _Tuner(network, runner, known, log, threads or 0, where, Path(folder), progress or (lambda _: None))
            return tuner.run(60 * minutes, trials)
    finally:
        runner.close()
        log.close()


def _check_runs(machine: Target, elsewhere: bool) -> None:
    """Raises S1203 unless somebody can run what is compiled for `machine`."""
    if not machine.vectors or machine.gpu or machine.architecture == "wasm32":
        raise error("S1203", f"kernels for {machine.name} are not tuned", notes=("nothing here can time them",))
    missing = targets.missing_features(machine.architecture, machine.requires)
    if missing and not elsewhere:
        what = "is another processor" if missing == (machine.architecture,) else f"lacks {', '.join(missing)}"
        note = "--tracker HOST:PORT --key KEY measures on such machines (see docs/tuning.md)"
        raise error("S1203", f"kernels for {machine.name} cannot be timed here: this machine {what}", notes=(note,))


def _processor() -> str:
    """What the system calls this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


class _Network:
    """A network that is lowered again and again, with other configurations."""

    def __init__(
        self,
        graph: Graph,
        machine: Target,
        weights: driver.Weights | None,
        shapes: Mapping[str, int] | None,
        level: int,
    ) -> None:
        from specc.backends.torch import freeze
        from specc.backends.tvm.lowering import Made
        from specc.passes.registry import pipeline

        spec = specialize(graph, shapes)
        values, _ = driver.find_weights(spec, weights)
        self.name, self.machine = graph.name, machine
        self.inputs, self.outputs = driver.interface(spec)
        self._graph, _ = run_passes(spec, pipeline(level, machine, 1))
        self._frozen = freeze(self._graph, values)
        self._made = Made()

    def lowered(self, configurations: Mapping[str, Configuration]) -> Lowered:
        from specc.backends import tvm as backend

        return backend.lower(self._graph, self.machine, self._frozen, configurations, self._made)


@dataclass(frozen=True)
class _Pick:
    """A configuration to measure; `again` where it was faster once."""

    kernel: str
    configuration: Configuration
    again: bool = False


@dataclass(frozen=True)
class _Round:
    """What is measured together. Variant 0 has the cost models' configurations, `base` is the variant with the best."""

    picks: tuple[_Pick, ...]
    variants: tuple[int, ...]
    """For each pick, the variant that it is in."""
    best: Mapping[str, Configuration]
    base: int
    job: Job


class _Tuner:
    """One run of the tuner."""

    def __init__(
        self,
        network: _Network,
        runner: Here | Boards,
        known: Records,
        log: Log,
        threads: int,
        where: str,
        folder: Path,
        told: Observer,
    ) -> None:
        from specc.backends.tvm.search import Search

        self.network, self.runner, self.log, self.folder, self.told = network, runner, log, folder, told
        self.threads, self.where = threads, where
        self.target = network.machine.name
        self.default = network.lowered({})
        (size,) = self.default.sizes
        self.program = size.program
        self.best = dict(network.lowered(known.best(self.target)).configurations)
        tried: dict[str, list[Configuration]] = {name: [] for name in self.default.groups}
        for record in known.tried(self.target):
            if record.kernel in tried:
                tried[record.kernel].append(record.configuration)
        self.searches = {
            name: Search(name, group, network.machine, tried[name], self.best.get(name, {}))
            for name, group in self.default.groups.items()
        }
        self.count = Counter({name: len(found) for name, found in tried.items()})
        self.calls = {
            name: [i for i, call in enumerate(self.program.calls) if call.kernel == name]
            for name in self.default.kernels
        }
        self.share = dict.fromkeys(self.calls, 1.0)
        self.waiting: deque[tuple[_Pick, ...]] = deque()
        self.again: list[_Pick] = []
        self.objects: dict[tuple[str, Any], Path] = {}
        self.proposed = self.tried = self.failed = self.libraries = 0
        self.begin = time.perf_counter()
        self.standing = Standing(0.0, 0, len(self.calls), len(self.best), 1.0, 1.0)
        given = sample.draw(network.inputs)
        self.inputs = _blob([np.asarray(array) for array in given])
        self.weights: dict[tuple[int, ...], Path] = {}
        self.flying: dict[Future[Times], tuple[_Round, float]] = {}
        """The rounds that are being measured, and when they were begun."""

    # ---- the run --------------------------------------------------------------------------------------------------

    def run(self, seconds: float, trials: int | None) -> Outcome:
        """Rounds until the time is over, or the trials, or what there is to try; then the last comparison."""
        # On this machine nothing is compiled while something is measured; boards get the next round at once.
        most = self.runner.parallel + self.runner.ahead
        self._learn(self._measured(self._round((), self.best, ROUND_SECONDS, ROUND_TURNS)))
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
                    round_ = self._round(picks, self.best, ROUND_SECONDS, ROUND_TURNS)
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

    def _picks(self, most: int | None) -> tuple[_Pick, ...]:
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
            picks.append(_Pick(name, found))
            here[name] += 1
            self.count[name] += 1
            self.proposed += 1
            room -= 1
        return tuple(picks)

    # ---- building -------------------------------------------------------------------------------------------------

    def _round(
        self, picks: Sequence[_Pick], best: Mapping[str, Configuration], seconds: float, turns: tuple[int, int]
    ) -> _Round:
        """The libraries of the variants that hold `picks`, ready to be measured."""
        best = dict(best)
        settings: list[dict[str, Configuration]] = [{}, best] if best else [{}]
        base, used = len(settings) - 1, Counter[str]()
        variants = []
        for pick in picks:
            place = base + 1 + used[pick.kernel]
            used[pick.kernel] += 1
            if place == len(settings):
                settings.append(dict(best))
            settings[place][pick.kernel] = pick.configuration
            variants.append(place)
        lowered = [self.network.lowered(configurations) for configurations in settings]
        libraries = self._built(lowered, settings)
        job = self._job(libraries, lowered, seconds, turns)
        return _Round(tuple(picks), tuple(variants), best, base, job)

    def _job(
        self, libraries: Sequence[Path], lowered: Sequence[Lowered], seconds: float, turns: tuple[int, int]
    ) -> Job:
        from specc.backends.tvm.measure import Job

        return Job(
            tuple(libraries),
            tuple(map(self._weights, lowered)),
            self.inputs,
            sum(aligned(_bytes(spec)) for spec in self.network.outputs),
            len(self.program.calls),
            self.threads,
            seconds,
            *turns,
        )

    def _built(self, lowered: Sequence[Lowered], settings: Sequence[Mapping[str, Configuration]]) -> list[Path]:
        """The libraries; kernels that have not been compiled yet are."""
        from specc.backends.tvm.driver import header
        from specc.backends.tvm.library import compile_kernel, link

        machine, wanted = self.network.machine, dict[tuple[str, Any], Any]()
        keys = [
            {name: (name, _key(configurations.get(name))) for name in variant.kernels}
            for variant, configurations in zip(lowered, settings)
        ]
        for variant, names in zip(lowered, keys):
            wanted |= {key: variant.kernels[name].function for name, key in names.items() if key not in self.objects}
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            folders = {key: self._new_folder() for key in wanted}
            made = {
                key: pool.submit(compile_kernel, function, key[0], machine, folders[key], key[1] is None)
                for key, function in wanted.items()
            }
            self.objects |= {key: future.result() for key, future in made.items()}

            def linked(variant: Lowered, names: Mapping[str, Any]) -> Path:
                folder, parts = self._new_folder(), [self.objects[key] for key in names.values()]
                library = link("driver.c", header(variant, machine), parts, machine, folder, "measured")
                (folder / "library.so").write_bytes(library)
                return folder / "library.so"

            return list(pool.map(linked, lowered, keys))

    def _new_folder(self) -> Path:
        self.libraries += 1
        folder = self.folder / str(self.libraries)
        folder.mkdir()
        return folder

    def _weights(self, lowered: Lowered) -> Path:
        """The file of the packed weights, written once."""
        key = tuple(map(id, lowered.weights))
        if key not in self.weights:
            path = self._new_folder() / "weights"
            _blob(lowered.weights).tofile(path)
            self.weights[key] = path
        return self.weights[key]

    def _discard(self, round_: _Round) -> None:
        """Removes the files that no other round needs."""
        needed = {self._weights(self.default)}.union(*(other.job.weights for other, _ in self.flying.values()))
        for path in {*round_.job.libraries, *round_.job.weights} - needed:
            path.unlink(missing_ok=True)
        self.weights = {key: path for key, path in self.weights.items() if path.exists()}

    # ---- measuring and judging ------------------------------------------------------------------------------------

    def _measure(self, round_: _Round) -> Times:
        from specc.backends.tvm.measure import Failed

        times = self.runner.measure(round_.job)
        expected = self._results(times.outputs[0])
        for outputs in times.outputs[1:]:
            for actual, wanted in zip(self._results(outputs), expected, strict=True):
                if not difference(actual, wanted) <= TOLERANCE:
                    raise Failed("a configuration computes something else")
        return times

    def _measured(self, round_: _Round) -> tuple[_Round, Times]:
        """A round that must not fail: it has no new configurations. Raises S1205."""
        from specc.backends.tvm.measure import Failed

        try:
            return round_, self._measure(round_)
        except Failed as problem:
            note = "a machine that a tracker lends needs TVM's runtime, libgomp, and a processor for this target"
            message = f"`{self.network.name}` cannot be measured: {problem}"
            raise error("S1205", message, notes=(note,)) from None

    def _results(self, blob: Array) -> list[Array]:
        found, first = [], 0
        for spec in self.network.outputs:
            found.append(blob[first : first + _bytes(spec)].view(spec.dtype).reshape(spec.shape))
            first += aligned(_bytes(spec))
        return found

    def _judge(self, round_: _Round, future: Future[Times]) -> None:
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
            self._discard(round_)
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

    def _note(self, pick: _Pick, better: bool, ratio: float | None, taken: Array | None, threads: int) -> None:
        microseconds = None if taken is None else float(np.median(taken)) * 1e6
        self.log.add(
            Record(self.target, pick.kernel, pick.configuration, better, ratio, microseconds, threads, self.where)
        )

    def _taken(self, times: Times, variant: int, kernel: str) -> Array:
        """The seconds that all calls of a kernel took, for each turn."""
        found: Array = times.seconds[variant][:, self.calls[kernel]].sum(axis=1)
        return found

    def _learn(self, measured: tuple[_Round, Times]) -> None:
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
        round_, times = self._measured(self._round((), self.best, LAST_SECONDS, LAST_TURNS))
        undone = 0
        for name in sorted(round_.best):
            taken, default = self._taken(times, round_.base, name), self._taken(times, 0, name)
            if np.median(taken / default) >= 1:
                self._note(
                    _Pick(name, round_.best[name]), False, float(np.median(taken / default)), taken, times.threads
                )
                del self.best[name]
                undone += 1
        if undone:
            round_, times = self._measured(self._round((), self.best, LAST_SECONDS, LAST_TURNS))
        default, best = (times.seconds[v].sum(axis=1) for v in (0, round_.base))
        low, high = np.percentile(best / default, (10, 90))
        return Outcome(
            time.perf_counter() - self.begin,
            self.tried,
            len(self.calls),
            len(self.best),
            1e3 * float(np.median(default)),
            1e3 * float(np.median(best)),
            self.network.name,
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


def _key(configuration: Configuration | None) -> Any:
    return None if configuration is None else frozenset(configuration.items())


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _blob(arrays: Sequence[Array]) -> Any:
    """The bytes of the arrays one behind the other, each at a multiple of 64."""
    from specc.backends.tvm.measure import packed
    from specc.backends.tvm.program import offsets

    places, end = offsets([array.nbytes for array in arrays])
    return packed(arrays, places, end)
