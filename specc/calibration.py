"""Calibration: samples of a network's inputs -> where its values lie, and which of its layers can be integers.

samples --gate--> the interval of every value that a layer reads, and the layers that are rounded (`specc.gate`)
        --pass--> these layers are; the others stay, and the journal has the reason of each
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from specc import arrays, sample
from specc.compare import finite
from specc.diagnostics import did_you_mean, error
from specc.gate import Accuracy, Decision, Inputs, Rewrite, Trial
from specc.ir.array import Array
from specc.ir.congruence import named
from specc.ir.graph import Graph, Value
from specc.ir.specialize import specialize
from specc.ir.text import print_graph
from specc.manifest import TensorSpec
from specc.passes import halve
from specc.passes.narrow import Narrowing
from specc.passes.quantize import QUANTIZING, hands_on, quantize, stands_apart
from specc.passes.registry import Pass
from specc.passes.rewrite import Journal
from specc.targets import Target

PRECISIONS = {"float32": "float32", "int8": "integers", "bf16": "bfloat16", "fp16": "float16"}
"""What a network can be computed in, and what its layers are called then."""

ROUNDED = 2.0
"""Two results that round a few elements otherwise may lie so many times as far apart as rounding puts one off: each is
off in a direction of its own."""

BOUND = 0.1
"""The error of an output that is allowed where nobody says: a tenth of its root mean square."""

DRAWN = 8
"""Samples that are drawn where none are given."""


# ---- samples --------------------------------------------------------------------------------------------------------


def read_samples(given: str | Mapping[str, Any], inputs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
    """The samples in an .npz file, or in arrays by name: each input's array, or several along a dimension in front.

    An input [1, c, h, w] may be given as [samples, c, h, w], too. Raises S1002 for a file that holds no arrays, S1003
    for other names, shapes or different numbers of samples, S0912 for another type, S0913 for what is no number.
    """
    names = [spec.name for spec in inputs]
    origin = given if isinstance(given, str) else "the samples"
    found = arrays.read(given, names) if isinstance(given, str) else {k: np.asarray(v) for k, v in given.items()}
    stacks: dict[str, Array] = {}
    for spec in inputs:
        if spec.name not in found:
            raise error("S1003", f"{origin} has no `{spec.name}`", notes=(f"the network takes {', '.join(names)}",))
        stacks[spec.name] = _stack(origin, spec, found[spec.name])
    counts = {name: len(stack) for name, stack in stacks.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} of `{name}`" for name, count in counts.items())
        raise error("S1003", f"{origin} has different numbers of samples: {said}")
    if not any(counts.values()):
        raise error("S1003", f"{origin} has no samples")
    return [dict(zip(stacks, each)) for each in zip(*stacks.values(), strict=True)]


def _stack(origin: str, spec: TensorSpec, array: Array) -> Array:
    """The samples of one input, [samples, *shape]."""
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        hint = f'convert it with `.astype("{spec.dtype}")`'
        raise error("S0912", f"`{spec.name}` in {origin} is {array.dtype}, and the network takes {spec}", notes=(hint,))
    if array.shape == spec.shape:
        array = array[None]
    elif array.shape[1:] == spec.shape[1:] and spec.shape[:1] == (1,):
        array = array[:, None]
    elif array.shape[1:] != spec.shape:
        message = f"`{spec.name}` in {origin} has the shape {list(array.shape)}, and the network takes {spec}"
        raise error("S1003", message, notes=("several samples lie one behind the other along the first dimension",))
    if not np.isfinite(array).all():
        raise error("S0913", f"`{spec.name}` in {origin} holds what is no number (NaN or infinity)")
    return array.astype(spec.dtype, copy=False)


def extents(given: str | Mapping[str, Any] | None, graph: Graph) -> dict[str, int]:
    """The extents that the graph's open dimensions have in the samples, as far as these say.

    An array that has as many dimensions as the input holds samples along the first one, if that is 1 or open: each
    has 1 there.
    """
    types = {graph.node(identity).attrs["name"]: graph.type(Value(identity)) for identity in graph.inputs}
    if given is None:
        return {}
    found = arrays.read(given, list(types)) if isinstance(given, str) else given
    known: dict[str, int] = {}
    for name, type in types.items():
        shape = np.shape(found[name]) if name in found else ()
        if len(shape) == type.rank and type.rank and (type.shape[0] == 1 or not isinstance(type.shape[0], int)):
            shape = (1, *shape[1:])
        elif len(shape) == type.rank + 1:
            shape = shape[1:]
        for dim, extent in zip(type.shape, shape) if len(shape) == type.rank else ():
            if (symbol := named(dim)) is not None:
                known.setdefault(symbol[0], extent)
    return known


def drawn_samples(inputs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
    """Samples that nobody gave."""
    names = [spec.name for spec in inputs]
    return [dict(zip(names, sample.draw(inputs, sample.SEED + number))) for number in range(DRAWN)]


def prepare(
    precision: str,
    inputs: Sequence[TensorSpec],
    weights: Mapping[str, Array],
    samples: str | Mapping[str, Any] | None,
    bound: float | None,
    told: Callable[[int, int], None],
    machine: Target,
    at: Mapping[str, int] = MappingProxyType({}),
) -> Calibrated:
    """The pass that brings a network to `precision`. Raises S1001 for one that does not exist, or needs no samples.

    `at` are the extents of open dimensions that its samples have.
    """
    if precision not in PRECISIONS:
        message = f"there is no precision `{precision}`; there are {', '.join(PRECISIONS)}"
        raise error("S1001", message, notes=did_you_mean(precision, PRECISIONS))
    if precision == "float32":
        others = ", ".join(name for name in PRECISIONS if name != precision)
        raise error("S1001", f"samples and a bound are for the precisions {others}, and all is to be float32")
    given = drawn_samples(inputs) if samples is None else read_samples(samples, inputs)
    asked = (weights, given, BOUND if bound is None else bound, samples is None, told)
    if precision == "int8":
        return Calibrated(*asked, at=at)
    macs = machine.picture_macs if precision == "bf16" and not at else None
    narrowing = halve.HALVING if macs is None else halve.pictures(macs)
    half_sums = machine.half_sums and not at  # kernels with open dimensions add up in float32
    return Halved(*asked, precision=precision, half_sums=half_sums, narrowing=narrowing, at=at)


# ---- the pass -------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a calibration came to: the layers that are rounded, those that stay and why, and the accuracy."""

    layers: int = 0
    kept: list[dict[str, str | None]] = field(default_factory=list)
    accuracy: Accuracy = field(default_factory=lambda: Accuracy({}, {}))

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for manifests and `--json`."""
        return {"layers": self.layers, "kept": self.kept, **self.accuracy.to_json()}


@dataclass(frozen=True)
class Calibrated(Pass):
    """`quantize` with intervals and layers that `samples` decide, so that no output's error is above `bound`.

    `told` hears how far it is; what it came to stands in `outcome`.
    """

    weights: Mapping[str, Array]
    samples: Sequence[Inputs]
    bound: float
    drawn: bool = False
    told: Callable[[int, int], None] = lambda done, total: None
    outcome: Outcome = field(default_factory=Outcome)
    _decided: dict[str, tuple[Decision, Rewrite]] = field(default_factory=dict, compare=False, repr=False)
    precision: str = "int8"
    half_sums: bool = False
    """As the reference takes it: how the machine adds up products of float16."""
    narrowing: Narrowing = QUANTIZING
    """Which layers can be rounded at all, on that machine."""
    at: Mapping[str, int] = field(default_factory=dict)
    """The extents that open dimensions have in the samples."""
    name = "quantize"
    summary = "convolutions and matrix products of integers of 8 bits, where samples allow it"
    exact = False

    def __str__(self) -> str:
        return f"{self.name}{{bound={self.bound}}}"

    def facts(self, apart: float) -> dict[str, Any]:
        """What the manifest says; `apart` is how far rounding puts the outputs off for the first sample.

        Its `tolerance` is how far results may be from the reference, which rounds as they do but sums in another order.
        """
        said = {"name": self.precision, "bound": self.bound, "samples": len(self.samples), "drawn": self.drawn}
        return {**said, "tolerance": finite(ROUNDED * apart), **self.outcome.to_json()}

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        journal = journal if journal is not None else Journal()
        graph, seen = self._sampled(graph)
        text = print_graph(graph)
        if text not in self._decided:  # a compilation within a limit of memory asks again and again
            layers, measured = self.narrowing.candidates(seen), self.measured(seen)
            rewrite = self.rewriting(seen)
            trial = Trial(seen, self.weights, self.samples, layers, measured, rewrite, self.told, self.half_sums)
            self._decided[text] = trial.decide(self.bound), rewrite
        decided, rewrite = self._decided[text]
        result = rewrite(graph, decided.intervals, decided.layers, journal)
        for identity, reason in decided.refused.items():
            self.narrowing.note(journal, graph.node(identity), reason)
        self.outcome.layers, self.outcome.accuracy = len(decided.layers), decided.accuracy
        self.outcome.kept = [
            {"path": event.path, "op": event.op, "place": str(event.span) if event.span else None, "why": event.reason}
            for event in journal.refused
        ]
        return result

    def _sampled(self, graph: Graph) -> tuple[Graph, Graph]:
        """The graph, and the same at the extents of the samples: those are what its costs are compared at."""
        at = {name: extent for name, extent in self.at.items() if name in graph.symbols()}
        if not at:
            return graph, graph
        graph = graph.copy()
        graph.defaults = {**graph.defaults, **at}
        return graph, specialize(graph, at)

    def measured(self, graph: Graph) -> set[Value]:
        """The values whose interval has to be known."""
        return {graph.operands(identity)[0] for identity in self.narrowing.candidates(graph)}

    def rewriting(self, graph: Graph) -> Rewrite:
        """What rounds layers of the graph."""
        from specc.backends.torch import freeze

        weights = {i: graph.operands(i)[1] for i in self.narrowing.candidates(graph) if hands_on(graph, i)}
        known = freeze(graph, self.weights, list(dict.fromkeys(weights.values())))
        return partial(quantize, apart={i for i, weight in weights.items() if stands_apart(known[weight])})


@dataclass(frozen=True)
class Halved(Calibrated):
    """`halve` for as many layers as keep every output's error over `samples` within `bound`."""

    precision: str = "bf16"
    narrowing: Narrowing = halve.HALVING
    name = "halve"
    summary = "factors of convolutions and matrix products in 16 bits, where samples allow it"

    def measured(self, graph: Graph) -> set[Value]:
        return set()

    def rewriting(self, graph: Graph) -> Rewrite:
        def rewrite(graph: Graph, _: Any, layers: Sequence[int], journal: Journal | None = None, /) -> Graph:
            return halve.halve(graph, PRECISIONS[self.precision], layers, journal, self.narrowing)

        return rewrite
