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

from collections.abc import Mapping
from pathlib import Path

from specc import driver, records, targets
from specc.diagnostics import error
from specc.files import scratch
from specc.ir.graph import Graph
from specc.records import Log, Records
from specc.runtime import check_threads
from specc.targets import Target
from specc.tuning.tuner import Observer, Outcome, Standing, Tuner
from specc.tuning.variants import Network, Variants

__all__ = ["Observer", "Outcome", "Standing", "tune"]


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
    if tracker is None:
        check_threads(threads)
    elif threads is not None and threads < 1:
        raise error("S0909", f"{threads} threads: there is one at least")
    known = records.read(path) if path.exists() else Records()
    from specc.backends.tvm.measure import Boards, Here

    runner = Here() if tracker is None or key is None else Boards(tracker, key)
    where = _processor() if tracker is None else f"{key} of {tracker}"
    network = Network(graph, machine, weights, shapes, level)
    log = Log(path)
    try:
        with scratch() as folder:
            variants = Variants(network, threads or 0, folder)
            return Tuner(variants, runner, known, log, where, progress or (lambda _: None)).run(60 * minutes, trials)
    finally:
        runner.close()
        log.close()


def _check_runs(machine: Target, elsewhere: bool) -> None:
    """Raises S1203 unless somebody can run what is compiled for `machine`."""
    if not machine.vectors or machine.gpu or machine.architecture == "wasm32":
        raise error("S1203", f"kernels for {machine.name} are not tuned", notes=("nothing here can time them",))
    what = targets.shortfall(machine.architecture, machine.requires)
    if what and not elsewhere:
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
