"""The judge: whether what a network was compiled to still computes what its spec says.

The spec's graph, before any pass, is evaluated by the reference in float64. Against it stand the graph after each pass,
in float64 too (passes may change the order of sums, nothing else), and the artifact, in float32. The measure is
`specc.compare.difference`.

Where a pass is at fault, the node is looked for from the results upwards: a value of the new graph that the old graph
computes as well is sound, so the first node on which nothing sound depends is where the two part. Values are compared
by fingerprints (their size, their norm and their products with two random vectors), so that one graph's values
need to be held at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from specc import sample, targets
from specc.calibration import PRECISIONS
from specc.compare import TOLERANCE, difference, finite
from specc.diagnostics import Diagnostic, Label, SpeccError
from specc.driver import (
    Observer,
    Progress,
    Weights,
    calibrated,
    compile,
    find_weights,
    passes_for_open,
    reference,
    sampled_sizes,
)
from specc.files import replacing
from specc.ir.array import Array
from specc.ir.graph import Graph
from specc.ir.text import print_graph
from specc.ir.verify import verify as check_invariants
from specc.passes.registry import Pass, pipeline
from specc.reduce import reduce
from specc.sizes import Shapes
from specc.targets import Target

PASS_TOLERANCE = 1e-8
"""What float64 may differ when sums are taken in another order and batch norms are folded."""


@dataclass(frozen=True)
class Verdict:
    """One comparison with the spec: after a pass, or of the artifact. `differences` has one number an output."""

    subject: str
    differences: Mapping[str, float]
    tolerance: float
    diagnostic: Diagnostic | None = None
    agreement: Mapping[str, float] | None = None
    """For a verdict on accuracy, the share of answers that stay the same (`specc.calibration`). Its `differences` are
    relative root mean squares, those of others max |difference| / max |output|."""

    @property
    def holds(self) -> bool:
        return all(apart <= self.tolerance for apart in self.differences.values())

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `--json`."""
        return {
            "subject": self.subject,
            "holds": self.holds,
            "differences": {name: finite(apart) for name, apart in self.differences.items()},
            "tolerance": self.tolerance,
            "agreement": None if self.agreement is None else dict(self.agreement),
            "diagnostic": self.diagnostic.to_json() if self.diagnostic else None,
        }


def verify(
    graph: Graph,
    target: str | Target = "native",
    weights: Weights | None = None,
    shapes: Shapes | None = None,
    level: int = 2,
    per_pass: bool = False,
    tolerance: float = TOLERANCE,
    progress: Observer | None = None,
    passes: Sequence[Pass] | None = None,
    verify_each: bool = False,
    reduce_to: Path | None = None,
    precision: str = "float32",
    samples: str | Mapping[str, Any] | None = None,
    bound: float | None = None,
    tuning: str | Path | None = None,
) -> list[Verdict]:
    """One verdict for each pass that is exact (with `per_pass`), one on what `precision` loses over the `samples`, and
    one for the artifact, at each of the sizes in `shapes`; the first that does not hold ends it.

    With the folder `reduce_to`, the graph behind which the first pass goes wrong is made as small as can be found, and
    written there as a spec with its weights and inputs.
    """
    from specc.backends.torch import evaluate

    told = progress or (lambda _: None)
    machine = targets.find(target)
    specs = sampled_sizes(graph, shapes, samples)
    values, _ = find_weights(graph, weights)
    verdicts: list[Verdict] = []
    quantizing = calibrated(precision, specs, values, samples, bound, passes, told, machine)
    if passes is not None:
        run = passes
    elif quantizing is not None and specs[0][0].open:
        run = passes_for_open(level, machine, quantizing)
    else:
        run = pipeline(level, machine, precision=quantizing)
    asked: list[tuple[str, dict[str, Array], dict[str, Array]]] = []
    for size, spec in specs:
        at = f" at {size}" if len(specs) > 1 else ""
        drawn = {spec_.name: array for spec_, array in zip(size.inputs, sample.draw(size.inputs))}
        given = drawn if quantizing is None else dict(quantizing.samples[0])
        expected = {output.name: array for output, array in zip(size.outputs, reference(spec, values, given))}
        before = spec
        for number, transformation in enumerate(run if per_pass else (), 1):
            after = transformation(before)
            if verify_each:
                check_invariants(after)
            results = evaluate(after, values, given)
            if not transformation.exact:  # from here on, the reference rounds as well
                before, expected = after, dict(zip(expected, results))
                continue
            apart = {name: difference(a, b) for a, (name, b) in zip(results, expected.items())}
            verdict = Verdict(f"{transformation}{at}", apart, PASS_TOLERANCE)
            if not verdict.holds:
                blamed = blame(str(transformation), before, after, values, given)
                if reduce_to is not None:
                    note = write_reduced(reduce_to, before, transformation, values, given, told)
                    blamed = replace(blamed, notes=(*blamed.notes, note))
                return [*verdicts, Verdict(verdict.subject, apart, PASS_TOLERANCE, blamed)]
            verdicts.append(verdict)
            before = after
            told(Progress("verify", number, len(run)))
        asked.append((at, given, expected))
    own = passes if quantizing is None else run
    artifact = compile(
        graph,
        machine,
        values,
        shapes,
        level,
        progress=progress,
        passes=own,
        verify_each=verify_each,
        tuning=tuning,
    )
    if quantizing is not None:
        outcome = quantizing.outcome
        kind = PRECISIONS[quantizing.precision]
        subject = f"{outcome.layers} layers of {kind} over {len(quantizing.samples)} samples"
        found = outcome.accuracy
        verdicts.append(Verdict(subject, found.errors, quantizing.bound, agreement=found.agreement))
        (one,) = artifact.contents.samples
        ((at, given, expected),) = asked
        asked = [(f", against the same rounding in float64{at}", given, dict(zip(expected, one.outputs)))]
        tolerance = max(tolerance, artifact.manifest.facts["precision"]["tolerance"] or 0.0)
    for at, given, expected in asked:
        apart = {name: difference(a, b) for a, (name, b) in zip(artifact(**given), expected.items())}
        verdicts.append(Verdict(f"artifact for {machine.name}{at}", apart, tolerance))
        if not verdicts[-1].holds:
            worst = max(apart, key=lambda name: apart[name])
            message = f"the artifact's `{worst}` differs by {apart[worst]:.3g} from the spec's, at most {tolerance:.3g}"
            return [*verdicts[:-1], replace(verdicts[-1], diagnostic=Diagnostic("S0706", message))]
    return verdicts


def write_reduced(
    folder: Path,
    graph: Graph,
    transformation: Pass,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Array],
    told: Observer,
) -> str:
    """Reduces a graph that `transformation` breaks, writes it to `folder`; a note that says what was found."""
    from specc.backends.torch import evaluate
    from specc.grammar import write_graph
    from specc.weights import random_inputs, random_weights, write_safetensors

    def data(part: Graph) -> tuple[dict[str, Array], dict[str, Array]]:
        """The values at hand where names and shapes are still those of the network, others drawn."""
        some, types = random_weights(part), part.parameters
        known = {key: weights[key] for key in types if key in weights and weights[key].shape == types[key].concrete}
        drawn = random_inputs(part)
        kept = {name: inputs[name] for name in drawn if name in inputs and inputs[name].shape == drawn[name].shape}
        return {**some, **known}, {**drawn, **kept}

    def fails(part: Graph) -> bool:
        values = data(part)
        before, after = evaluate(part, *values), evaluate(transformation(part), *values)
        return any(difference(b, a) > PASS_TOLERANCE for a, b in zip(before, after, strict=True))

    total = len(graph.live())
    smallest = reduce(graph, fails, lambda nodes: told(Progress("reduce", total - nodes, total)))
    used, given = data(smallest)
    folder.mkdir(parents=True, exist_ok=True)
    story = f"The smallest part of {graph.name} found that {transformation} changes."
    try:
        where, text = folder / "reduced.specc", write_graph(smallest, story)
    except SpeccError:  # a graph that no spec can say
        where, text = folder / "reduced.txt", print_graph(smallest)
    with replacing(where) as file:
        file.write(text.encode())
    write_safetensors(folder / "weights.safetensors", used)
    with replacing(folder / "inputs.npz") as file:
        np.savez(file, **given)  # type: ignore[arg-type]
    nodes = len(smallest.live())
    return f"the smallest graph found that it changes has {nodes} of {total} nodes, and stands in {where}"


@dataclass
class _Fingerprints:
    """Values -> a few numbers each, by which equal values are known again up to rounding."""

    vectors: dict[int, Array] = field(default_factory=dict)

    def __call__(self, value: Array) -> Array:
        flat = value.astype(np.float64).reshape(-1)
        if flat.size not in self.vectors:
            self.vectors[flat.size] = np.random.default_rng(flat.size).standard_normal((2, flat.size))
        norm = float(np.sqrt(flat @ flat))
        return np.array([norm, *(self.vectors[flat.size] @ flat)])


def blame(
    name: str, before: Graph, after: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Array]
) -> Diagnostic:
    """The message that names the node of `after` where it parts from `before`, which is known to be right."""
    from specc.backends.torch import intermediates

    fingerprint = _Fingerprints()
    sound: dict[int, list[Array]] = {}
    for value in intermediates(before, weights, inputs).values():
        sound.setdefault(value.size, []).append(fingerprint(value))
    table = {size: np.stack(prints) for size, prints in sound.items()}
    known = {
        value.node
        for value, array in intermediates(after, weights, inputs).items()
        if _contains(table.get(array.size), fingerprint(array))
    }
    live = nx.DiGraph(after.structure.subgraph(after.live()))
    upstream = set(known)
    for identity in known & set(live):
        upstream |= nx.ancestors(live, identity)
    outputs = {value.node for value in after.outputs}
    reaching = set(outputs).union(*(nx.ancestors(live, identity) for identity in outputs if identity in live))
    parted = [i for i in after.live() if i not in upstream and i in reaching]
    if not parted:
        return Diagnostic("S0705", f"the pass `{name}` changes what the network computes")
    node = after.node(parted[0])
    where = f" at `{node.path}`" if node.path else ""
    labels = (Label(node.span),) if node.span else ()
    message = f"the pass `{name}` changes what the network computes, first in `{node.op}`{where}"
    return Diagnostic("S0705", message, labels)


def _contains(table: Array | None, wanted: Array) -> bool:
    """Whether a row of `table` is `wanted`, up to rounding relative to the norm (the first column)."""
    if table is None:
        return False
    return bool((np.abs(table - wanted).max(axis=1) <= 1e-6 * wanted[0]).any())
