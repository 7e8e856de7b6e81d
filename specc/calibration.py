"""Calibration: samples of a network's inputs -> where its values lie, and which of its layers can be integers.

    samples --reference, float32--> the interval of every value that a layer reads
            --quantize------------> all layers that can be integers are
            --reference-----------> how far the outputs are from those of real numbers: within the bound, or
            --each layer alone----> the layers, by how much each harms the outputs for what it saves; as many of the
                                    least harmful ones become integers as the bound allows, the others stay

The interval of a value is that of its elements, or a part of it: elements beyond its ends become its ends, and all
others are told apart more finely. Of a few parts the one is the best that rounds a sample of the elements with the
least mean square error. Whether parts or whole intervals serve a network better is measured at its outputs, with all
layers integers: whole ones for ResNet-18 (an error of 0.0104 and not 0.0106; weights drawn), parts for RepViT-M0.9
(0.053 and not 0.076), whose activations have few elements far from the others.

The error of an output is the root of the mean square difference, over all samples, relative to the root of the mean
square of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specc import arrays, sample
from specc.artifact import Array, TensorSpec
from specc.compare import finite
from specc.diagnostics import did_you_mean, error
from specc.ir.cost import fixed, macs_of
from specc.ir.graph import Graph, Value
from specc.ir.text import print_graph
from specc.passes import halve
from specc.passes.quantize import QUANTIZING, Grid, Interval, quantize
from specc.passes.registry import Pass
from specc.passes.rewrite import Journal

PRECISIONS = {"float32": "float32", "int8": "integers", "bf16": "bfloat16", "fp16": "float16"}
"""What a network can be computed in, and what its layers are called then."""

ROUNDED = 2.0
"""Two results that round a few elements otherwise may lie so many times as far apart as rounding puts one off: each is
off in a direction of its own."""

BOUND = 0.1
"""The error of an output that is allowed where nobody says: a tenth of its root mean square."""

Inputs = Mapping[str, Array]
"""One array for each input, by name."""

PARTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""The parts of an interval that are tried."""

KEPT = 1 << 16
"""Elements of a value by which the parts of its interval are told apart."""

DRAWN = 8
"""Samples that are drawn where none are given."""

JUDGED = 8
"""Samples, evenly picked, by which layers are chosen: each choice runs the network on all of them."""


@dataclass(frozen=True)
class Accuracy:
    """How near outputs are to those of real numbers, by the name of the output, over all samples.

    `errors` are relative root mean squares, `agreement` is the share of equal answers: of places along dimension 1 (the
    classes) at which the greatest element is the same one, for outputs that have such a dimension.
    """

    errors: Mapping[str, float]
    agreement: Mapping[str, float]

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for manifests and `--json`."""
        errors = {name: finite(apart) for name, apart in self.errors.items()}
        return {"errors": errors, "agreement": dict(self.agreement)}


def accuracy(names: Sequence[str], found: Sequence[list[Array]], expected: Sequence[list[Array]]) -> Accuracy:
    """The accuracy of `found`, the outputs for each sample."""
    errors, agreement = {}, {}
    for number, name in enumerate(names):
        pairs = [(a[number].astype(np.float64), b[number].astype(np.float64)) for a, b in zip(found, expected)]
        apart = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
        scale = sum(float((b**2).sum()) for _, b in pairs)
        errors[name] = float(np.sqrt(apart / scale)) if scale else (float("inf") if apart else 0.0)
        if not np.isfinite(errors[name]):  # a number beyond those of 16 bits
            errors[name] = float("inf")
        if pairs[0][1].ndim > 1 and pairs[0][1].shape[1] > 1:
            agreement[name] = float(np.mean([np.mean(a.argmax(1) == b.argmax(1)) for a, b in pairs]))
    return Accuracy(errors, agreement)


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
) -> Calibrated:
    """The pass that brings a network to `precision`. Raises S1001 for one that does not exist, or needs no samples."""
    if precision not in PRECISIONS:
        message = f"there is no precision `{precision}`; there are {', '.join(PRECISIONS)}"
        raise error("S1001", message, notes=did_you_mean(precision, PRECISIONS))
    if precision == "float32":
        others = ", ".join(name for name in PRECISIONS if name != precision)
        raise error("S1001", f"samples and a bound are for the precisions {others}, and all is to be float32")
    given = drawn_samples(inputs) if samples is None else read_samples(samples, inputs)
    asked = (weights, given, BOUND if bound is None else bound, samples is None, told)
    return Calibrated(*asked) if precision == "int8" else Halved(*asked, precision=precision)


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
    _decided: dict[str, _Decision] = field(default_factory=dict, compare=False, repr=False)
    precision: str = "int8"
    name = "quantize"
    summary = "convolutions and matrix products of integers of 8 bits, where samples allow it"
    exact = False
    narrowing = QUANTIZING

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
        text = print_graph(graph)
        if text not in self._decided:  # a compilation within a limit of memory asks again and again
            trial = _Trial(self, graph)
            self._decided[text] = trial.decide(self.bound)
        decided = self._decided[text]
        result = self.rewrite(graph, decided.intervals, decided.layers, journal)
        for identity, reason in decided.refused.items():
            self.narrowing.note(journal, graph.node(identity), reason)
        self.outcome.layers, self.outcome.accuracy = len(decided.layers), decided.accuracy
        self.outcome.kept = [
            {"path": event.path, "op": event.op, "place": str(event.span) if event.span else None, "why": event.reason}
            for event in journal.refused
        ]
        return result

    def measured(self, graph: Graph) -> set[Value]:
        """The values whose interval has to be known."""
        return {graph.operands(identity)[0] for identity in self.narrowing.candidates(graph)}

    def rewrite(
        self,
        graph: Graph,
        intervals: Mapping[Value, Interval],
        layers: Sequence[int],
        journal: Journal | None = None,
    ) -> Graph:
        """The graph with these layers rounded."""
        return quantize(graph, intervals, layers, journal)


@dataclass(frozen=True)
class Halved(Calibrated):
    """`halve` for as many layers as keep every output's error over `samples` within `bound`."""

    precision: str = "bf16"
    name = "halve"
    summary = "factors of convolutions and matrix products in 16 bits, where samples allow it"
    narrowing = halve.HALVING

    def measured(self, graph: Graph) -> set[Value]:
        return set()

    def rewrite(
        self,
        graph: Graph,
        intervals: Mapping[Value, Interval],
        layers: Sequence[int],
        journal: Journal | None = None,
    ) -> Graph:
        return halve.halve(graph, PRECISIONS[self.precision], layers, journal)


@dataclass(frozen=True)
class _Decision:
    """What the samples say of one graph."""

    intervals: Mapping[Value, Interval]
    layers: Sequence[int]
    refused: Mapping[int, str]
    accuracy: Accuracy


class _Trial:
    """A network in real numbers, its samples and outputs, against which rounded forms of it are tried."""

    def __init__(self, rounding: Calibrated, graph: Graph) -> None:
        from specc.backends.torch import freeze

        weights, samples, told = rounding.weights, rounding.samples, rounding.told
        self.graph, self.weights, self.samples, self.told = graph, weights, samples, told
        self.rounding, self.possible = rounding, rounding.narrowing.candidates(graph)
        self.judged = [samples[i] for i in np.linspace(0, len(samples) - 1, min(JUDGED, len(samples))).astype(int)]
        frozen = freeze(graph, weights)
        self.expected: dict[int, list[Array]] = {}
        seen = {value: _Seen() for value in sorted(rounding.measured(graph))}
        for number, inputs in enumerate(samples):
            self.expected[id(inputs)] = self._observed(graph, frozen, inputs, seen)
            told(number + 1, len(samples))
        self.seen = seen
        self.intervals: dict[Value, Interval] = {}
        self.found: dict[tuple[int, tuple[int, ...]], Accuracy] = {}
        """What was measured already, on the samples that are judged, by intervals and layers."""

    @staticmethod
    def _observed(
        graph: Graph, frozen: Mapping[Value, Array], inputs: Inputs, seen: Mapping[Value, _Seen]
    ) -> list[Array]:
        """The outputs of real numbers; what the layers read is looked at on the way."""
        from specc.backends.torch import observe

        outputs: dict[Value, Array] = {}
        for value, array in observe(graph, frozen, inputs, {*graph.outputs, *seen}):
            if value in seen:
                seen[value].look(array)
            if value in graph.outputs:
                outputs[value] = array
        return [outputs[value] for value in graph.outputs]

    def accuracy(self, graph: Graph, samples: Sequence[Inputs]) -> Accuracy:
        """How near the outputs of `graph` are to the expected ones."""
        from specc.backends.torch import freeze

        frozen = freeze(graph, self.weights)
        found = [self._observed(graph, frozen, inputs, {}) for inputs in samples]
        return accuracy(graph.output_names, found, [self.expected[id(inputs)] for inputs in samples])

    def _cost(self, intervals: Mapping[Value, Interval], layers: Sequence[int]) -> float:
        """The error of the worst output with these layers rounded."""
        key = id(intervals), tuple(layers)
        if key not in self.found:
            self.found[key] = self.accuracy(self.rounding.rewrite(self.graph, intervals, layers), self.judged)
        return self.found[key].worst

    def decide(self, bound: float) -> _Decision:
        """As many layers as the bound allows, over all samples."""
        possible, limit = self.possible, bound
        kinds: list[dict[Value, Interval]] = [
            {value: each.whole for value, each in self.seen.items()},
            {value: each.part() for value, each in self.seen.items()},
        ]
        self.intervals = min(kinds, key=lambda kind: self._cost(kind, possible)) if kinds[0] != kinds[1] else kinds[0]
        while True:
            layers, refused = self.choose(possible, limit)
            known = (
                self.found.get((id(self.intervals), tuple(layers))) if len(self.judged) == len(self.samples) else None
            )
            found = known or self.accuracy(
                self.rounding.rewrite(self.graph, self.intervals, layers), list(self.samples)
            )
            if found.worst <= bound or not layers:
                return _Decision(self.intervals, layers, refused, found)
            limit *= 0.9 * bound / found.worst  # the samples that were judged are the easier ones

    def choose(self, possible: Sequence[int], bound: float) -> tuple[list[int], dict[int, str]]:
        """The layers that are rounded, and why each of the others is not."""

        def cost(layers: Sequence[int]) -> float:
            return self._cost(self.intervals, layers)

        if cost(possible) <= bound:
            return list(possible), {}
        alone = {}
        for number, layer in enumerate(possible):
            alone[layer] = cost([layer])
            self.told(number + 1, len(possible))
        # Errors of layers add up as squares do, more or less: the least of it for a multiplication comes first.
        macs = {layer: fixed(macs_of(self.graph, layer)) for layer in possible}
        ranked = sorted(possible, key=lambda layer: (alone[layer] > bound, alone[layer] ** 2 / macs[layer], layer))
        fitting, beyond = 0, sum(alone[layer] <= bound for layer in possible) + 1
        while beyond - fitting > 1:
            middle = (fitting + beyond) // 2
            fits = cost(ranked[:middle]) <= bound
            fitting, beyond = (middle, beyond) if fits else (fitting, middle)
        reasons = {}
        for layer in ranked[fitting:]:
            it = f"alone it puts the outputs off by {alone[layer]:.3g}"
            small = f"{it}, and with those that do less harm by more than {bound:.3g}"
            reasons[layer] = f"{it}, above the bound of {bound:.3g}" if alone[layer] > bound else small
        return sorted(ranked[:fitting], key=possible.index), reasons


@dataclass
class _Seen:
    """What was seen of a value: the ends of its elements, and some of them."""

    low: float = 0.0
    high: float = 0.0
    kept: list[Array] = field(default_factory=list)

    def look(self, array: Array) -> None:
        """Takes note of a sample."""
        if not array.size:
            return
        self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))
        flat = array.reshape(-1)
        rng = np.random.default_rng(len(self.kept))
        self.kept.append(flat if flat.size <= KEPT // 8 else rng.choice(flat, KEPT // 8))

    @property
    def whole(self) -> Interval:
        """The interval of all elements."""
        return self.low, self.high

    def part(self) -> Interval:
        """The part of the whole interval that rounds what was kept with the least mean square error."""
        elements = np.concatenate([*self.kept, np.zeros(1, np.float32)])
        elements = elements[:: -(-elements.size // KEPT)].astype(np.float64)

        def loss(part: float) -> float:
            grid = Grid.over((self.low * part, self.high * part))
            rounded = np.clip(np.round(elements / grid.scale), -grid.zero, 255 - grid.zero) * grid.scale
            return float(((rounded - elements) ** 2).mean())

        part = min(PARTS, key=loss)
        return self.low * part, self.high * part
