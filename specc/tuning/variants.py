"""Variants of a network that is tuned: libraries with other configurations of their kernels, and their weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specc import driver, sample
from specc.ir.array import Array
from specc.ir.graph import Graph
from specc.ir.placement import aligned
from specc.ir.specialize import specialize
from specc.manifest import TensorSpec
from specc.optimize import run_passes
from specc.records import Configuration
from specc.sizes import interface
from specc.targets import Target

if TYPE_CHECKING:
    from specc.backends.tvm import Lowered
    from specc.backends.tvm.measure import Job


class Network:
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
        self.inputs, self.outputs = interface(spec)
        self._graph, _ = run_passes(spec, pipeline(level, machine, 1))
        self._frozen = freeze(self._graph, values)
        self._made = Made()

    def lowered(self, configurations: Mapping[str, Configuration]) -> Lowered:
        from specc.backends import tvm as backend

        return backend.lower(self._graph, self.machine, self._frozen, configurations, self._made)


@dataclass(frozen=True)
class Pick:
    """A configuration to measure; `again` where it was faster once."""

    kernel: str
    configuration: Configuration
    again: bool = False


@dataclass(frozen=True)
class Round:
    """What is measured together. Variant 0 has the cost models' configurations, `base` is the variant with the best."""

    picks: tuple[Pick, ...]
    variants: tuple[int, ...]
    """For each pick, the variant that it is in."""
    best: Mapping[str, Configuration]
    base: int
    job: Job


class Variants:
    """The variants of a network, built in `folder`. What was compiled for one of them is not compiled again."""

    def __init__(self, network: Network, threads: int, folder: Path) -> None:
        self.network, self.threads, self.folder = network, threads, folder
        self.default = network.lowered({})
        (size,) = self.default.sizes
        self.program = size.program
        self.objects: dict[tuple[str, Any], Path] = {}
        self.libraries = 0
        self.inputs = _blob([np.asarray(array) for array in sample.draw(network.inputs)])
        self.weights: dict[tuple[int, ...], Path] = {}

    def round(
        self, picks: Sequence[Pick], best: Mapping[str, Configuration], seconds: float, turns: tuple[int, int]
    ) -> Round:
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
        return Round(tuple(picks), tuple(variants), best, base, job)

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

    def discard(self, round_: Round, others: Iterable[Round]) -> None:
        """Removes the files of a round that none of the `others` needs."""
        needed = {self._weights(self.default)}.union(*(other.job.weights for other in others))
        for path in {*round_.job.libraries, *round_.job.weights} - needed:
            path.unlink(missing_ok=True)
        self.weights = {key: path for key, path in self.weights.items() if path.exists()}

    def results(self, blob: Array) -> list[Array]:
        """The outputs of a run that lie one behind the other in `blob`."""
        found, first = [], 0
        for spec in self.network.outputs:
            found.append(blob[first : first + _bytes(spec)].view(spec.dtype).reshape(spec.shape))
            first += aligned(_bytes(spec))
        return found


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
