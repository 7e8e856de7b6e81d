"""The gate of accuracy: a network, samples and a way to round layers -> the layers that can be rounded.

    the network in float32  --each sample-->  its outputs, and the interval of every value that a layer reads
    all layers rounded      --a run-------->  within the bound: all of them are
    each layer alone        --a run-------->  how much each harms the outputs for what it saves
    as many of the least harmful ones as the bound allows, by a search of few runs; over all samples in the end

The interval of a value is that of its elements, or a part of it: elements beyond its ends become its ends, and all
others are told apart more finely. Of a few parts the one is the best that rounds a sample of the elements with the
least mean square error. Whether parts or whole intervals serve a network better is measured at its outputs, with all
layers integers: whole ones for ResNet-18 (an error of 0.0104 and not 0.0106; weights drawn), parts for RepViT-M0.9
(0.053 and not 0.076), whose activations have few elements far from the others.

The error of an output is the root of the mean square difference, over all samples, relative to the root of the mean
square of the output. It is measured in float32, whose own rounding is far below any bound of use.

What keeps the time short: rounded weights are computed once for all trials; a trial of one layer alone begins at that
layer, with what the network of float32 has found in front of it (`specc.backends.torch.shared`), and takes only
`RANKED` samples, as it gives an order and no verdict. Runs go side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from specc.compare import finite
from specc.ir.array import Array
from specc.ir.cost import fixed, macs_of
from specc.ir.graph import Graph, Value
from specc.passes.quantize import Grid, Interval
from specc.passes.rewrite import Journal

if TYPE_CHECKING:
    from specc.backends.torch import Form

Inputs = Mapping[str, Array]
"""One array for each input, by name."""


class Rewrite(Protocol):
    """A graph, intervals of values and some of its layers -> the graph with these layers rounded."""

    def __call__(
        self,
        graph: Graph,
        intervals: Mapping[Value, Interval],
        layers: Sequence[int],
        journal: Journal | None = None,
        /,
    ) -> Graph: ...


JUDGED = 8
"""Samples, evenly picked, by which layers are chosen: each choice runs the network on all of them."""

RANKED = 2
"""Of these, the samples by which layers are ranked: each layer is tried alone."""

PARTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""The parts of an interval that are tried."""

KEPT = 1 << 16
"""Elements of a value by which the parts of its interval are told apart."""


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


@dataclass(frozen=True)
class Decision:
    """What the samples say of one graph: the layers that are rounded, and why each of the others is not."""

    intervals: Mapping[Value, Interval]
    layers: Sequence[int]
    refused: Mapping[int, str]
    accuracy: Accuracy


class Trial:
    """A network in real numbers, its samples and outputs, against which rounded forms of it are tried."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        samples: Sequence[Inputs],
        layers: Sequence[int],
        measured: set[Value],
        rewrite: Rewrite,
        told: Callable[[int, int], None],
        half_sums: bool = False,
    ) -> None:
        """`layers` are those that can be rounded by `rewrite`, `measured` the values whose intervals it has to know;
        `told` hears how far it is; `half_sums` is as the reference takes it."""
        from specc.backends.torch import Shared, side_by_side

        self.graph, self.samples, self.layers, self.rewrite, self.told = graph, samples, layers, rewrite, told
        self.judged = _some(samples, JUDGED)
        self.shared = Shared(weights, half_sums=half_sums)
        self.real = self.shared.form(graph)
        self.seen = {value: Seen() for value in sorted(measured)}
        self.expected: dict[int, list[Array]] = {}
        found = side_by_side(self._observed, list(enumerate(samples)))
        for number, (inputs, (outputs, glimpses)) in enumerate(zip(samples, found, strict=True)):
            self.expected[id(inputs)] = outputs
            for value, glimpse in glimpses.items():
                self.seen[value].add(glimpse)
            told(number + 1, len(samples))
        self.intervals: dict[Value, Interval] = {}
        self.found: dict[tuple[int, tuple[int, ...]], Accuracy] = {}
        """What was measured already, on the samples that are judged, by intervals and layers."""

    def _observed(self, numbered: tuple[int, Inputs]) -> tuple[list[Array], dict[Value, Glimpse]]:
        """The outputs of real numbers for a sample; what the layers read is looked at on the way."""
        number, inputs = numbered
        outputs: dict[Value, Array] = {}
        glimpses: dict[Value, Glimpse] = {}
        for value, array in self.real.observe(inputs, {*self.graph.outputs, *self.seen}):
            if value in self.seen and array.size:
                glimpses[value] = Glimpse.of(array, number)
            if value in self.graph.outputs:
                outputs[value] = array
        return [outputs[value] for value in self.graph.outputs], glimpses

    def _outputs(self, form: Form, samples: Sequence[Inputs]) -> list[list[Array]]:
        """What a form gives for each of the samples."""
        from specc.backends.torch import side_by_side

        return list(side_by_side(form.outputs, samples))

    def _form(self, intervals: Mapping[Value, Interval], layers: Sequence[int]) -> Form:
        return self.shared.form(self.rewrite(self.graph, intervals, layers))

    def _accuracy(self, outputs: Sequence[list[Array]], samples: Sequence[Inputs]) -> Accuracy:
        return accuracy(self.graph.output_names, outputs, [self.expected[id(inputs)] for inputs in samples])

    def _cost(self, intervals: Mapping[Value, Interval], layers: Sequence[int]) -> float:
        """The error of the worst output with these layers rounded."""
        key = id(intervals), tuple(layers)
        if key not in self.found:
            form = self._form(intervals, layers)
            self.found[key] = self._accuracy(self._outputs(form, self.judged), self.judged)
        return self.found[key].worst

    def decide(self, bound: float) -> Decision:
        """As many layers as the bound allows, over all samples."""
        limit = bound
        kinds: list[dict[Value, Interval]] = [
            {value: each.whole for value, each in self.seen.items()},
            {value: each.part() for value, each in self.seen.items()},
        ]
        better = min(kinds, key=lambda kind: self._cost(kind, self.layers)) if kinds[0] != kinds[1] else kinds[0]
        self.intervals = better
        while True:
            layers, refused = self.choose(limit)
            known = self.found.get((id(better), tuple(layers))) if len(self.judged) == len(self.samples) else None
            if known is None:
                form = self._form(better, layers)
                known = self._accuracy(self._outputs(form, self.samples), self.samples)
            if known.worst <= bound or not layers:
                return Decision(better, layers, refused, known)
            limit *= 0.9 * bound / known.worst  # the samples that were judged are the easier ones

    def choose(self, bound: float) -> tuple[list[int], dict[int, str]]:
        """The layers that are rounded, and why each of the others is not."""
        if self._cost(self.intervals, self.layers) <= bound:
            return list(self.layers), {}
        alone = self.alone
        macs = {layer: fixed(macs_of(self.graph, layer)) for layer in self.layers}
        # The least harm for a multiplication comes first; errors of layers add up as squares do, more or less.
        ranked = sorted(self.layers, key=lambda layer: (alone[layer] > bound, alone[layer] ** 2 / macs[layer], layer))
        fitting, beyond = 0, sum(alone[layer] <= bound for layer in self.layers) + 1
        while beyond - fitting > 1:
            middle = (fitting + beyond) // 2
            fits = self._cost(self.intervals, ranked[:middle]) <= bound
            fitting, beyond = (middle, beyond) if fits else (fitting, middle)
        reasons = {}
        for layer in ranked[fitting:]:
            it = f"alone it puts the outputs off by {alone[layer]:.3g}"
            small = f"{it}, and with those that do less harm by more than {bound:.3g}"
            reasons[layer] = f"{it}, above the bound of {bound:.3g}" if alone[layer] > bound else small
        return sorted(ranked[:fitting], key=self.layers.index), reasons

    @cached_property
    def alone(self) -> dict[int, float]:
        """The error of the worst output with one layer rounded, by layer."""
        from specc.backends.torch import side_by_side

        samples = _some(self.judged, RANKED)
        forms = {layer: self._form(self.intervals, [layer]) for layer in self.layers}
        known = {self.real.key(value): value for value in self.real.values()}
        begin = {known[form.key(value)] for form in forms.values() for value in form.border(known)}
        outputs: dict[int, list[list[Array]]] = {layer: [] for layer in self.layers}
        for number, inputs in enumerate(samples):
            found = {self.real.key(value): array for value, array in self.real.observe(inputs, begin)}
            runs = side_by_side(partial(_outputs, inputs, found), list(forms.values()))
            for done, (layer, result) in enumerate(zip(forms, runs, strict=True), number * len(forms) + 1):
                outputs[layer].append(result)
                self.told(done, len(samples) * len(forms))
        return {layer: self._accuracy(each, samples).worst for layer, each in outputs.items()}


def _outputs(inputs: Inputs, known: Mapping[tuple[int, int], Array], form: Form) -> list[Array]:
    """What a form gives for a sample, beginning with what is known."""
    return form.outputs(inputs, known)


def _some(samples: Sequence[Inputs], count: int) -> list[Inputs]:
    """So many of the samples, evenly picked."""
    return [samples[i] for i in np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)]


@dataclass(frozen=True)
class Glimpse:
    """What one sample shows of a value: the ends of its elements, and some of them."""

    low: float
    high: float
    kept: Array

    @staticmethod
    def of(array: Array, number: int) -> Glimpse:
        """That of sample `number`, whose elements (at least one) are `array`."""
        flat = array.reshape(-1)
        kept = flat if flat.size <= KEPT // 8 else np.random.default_rng(number).choice(flat, KEPT // 8)
        return Glimpse(float(array.min()), float(array.max()), kept)


@dataclass
class Seen:
    """What all samples show of a value: the ends of its elements, with 0, and some of them."""

    low: float = 0.0
    high: float = 0.0
    kept: list[Array] = field(default_factory=list)

    def add(self, glimpse: Glimpse) -> None:
        """Takes note of a sample."""
        self.low, self.high = min(self.low, glimpse.low), max(self.high, glimpse.high)
        self.kept.append(glimpse.kept)

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
