"""The journey of a network: text --load--> graph --compile--> artifact.

graph --specialize--> dimensions are numbers
      --passes------> fewer nodes, groups, layouts
      --freeze------> everything that depends on no input is an array
      --lower-------> one function for a group, and the program that calls them
      --join--------> the programs of all sizes, with what they share once
      --build-------> a shared library
      --judge-------> samples with the outputs that the spec itself, not the optimized graph, gives in float64
      --> artifact
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specc import __version__, records, sample, targets
from specc.artifact import Contents, Sample
from specc.compare import difference
from specc.diagnostics import Label, Span, error
from specc.ir.array import Array
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.ir.text import print_graph
from specc.magic import refuse_artifact
from specc.manifest import Machine, Manifest, Size
from specc.optimize import Step, run_passes
from specc.passes.registry import Pass
from specc.runtime import Artifact
from specc.sizes import Shapes, interface, specialize_all
from specc.targets import Target

if TYPE_CHECKING:
    from specc.backends.tvm import Lowered
    from specc.calibration import Calibrated

Weights = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a compilation is: `done` of `total` units of a stage; `step` is the pass that was just done, at `size`
    where there are several."""

    stage: str
    done: int = 0
    total: int = 0
    step: Step | None = None
    size: str = ""


Observer = Callable[[Progress], None]

STRIPS = (1, 2, 3, 4, 6, 8, 12, 16)
"""The numbers of strips that `compile` tries where it is given a limit of memory."""


def load(path: str | Path, network: str | None = None, variant: str | None = None) -> Graph:
    """The graph of a network of the file `path`; a file with several networks or variants needs a choice.

    `zoo:NAME/VARIANT` stands for a network that comes with specc.
    """
    from specc import grammar, zoo

    if isinstance(path, str) and path.startswith(zoo.PREFIX):
        path, named = zoo.find(path)
        variant = variant or named
    refuse_artifact(path)
    return grammar.load(path, network, variant)


def to_torch(graph: Graph, dtype: Any = None) -> Any:
    """A trainable `nn.Module` of the graph, whose state_dict has the spec's names."""
    from specc.backends import torch as backend

    _check_graph(graph)
    return backend.to_torch(graph, dtype)


def _check_graph(graph: object) -> None:
    """Raises S1001 for what is no graph, as the path of a spec."""
    if not isinstance(graph, Graph):
        message = f"a network is given as a graph, and this is a {type(graph).__name__}"
        raise error("S1001", message, notes=("`specc.load(path)` reads the graph of a spec",))


def compile(
    graph: Graph,
    target: str | Target = "native",
    weights: Weights | None = None,
    shapes: Shapes | None = None,
    level: int = 2,
    dump: str | Path | None = None,
    progress: Observer | None = None,
    sources: Mapping[str, str] | None = None,
    passes: Sequence[Pass] | None = None,
    verify_each: bool = False,
    strips: int | None = None,
    peak: int | None = None,
    static: bool = False,
    precision: str = "float32",
    samples: str | Mapping[str, Any] | None = None,
    bound: float | None = None,
    tuning: str | Path | None = None,
) -> Artifact:
    """The artifact of `graph` for `target`.

    weights   a checkpoint file, or arrays or tensors by key; None: random ones, from a fixed seed
    shapes    values of symbolic dimensions; those that are not named have the spec's defaults. Several make one
              artifact that computes at each of these sizes, with what they have in common once
    level     how much the passes do, 0 to 2
    dump      a folder for the text of the graph after every pass; with a folder for each size where there are several
    progress  is told of stages as they go on
    sources   texts of the spec by file name, whose digest goes into the manifest (see `spec_sources`)
    passes    these instead of the level's
    verify_each  holds the graph to the invariants of the IR after every pass
    strips    so many strips of rows for the first stages, which cuts the memory that they need; None: 1, the whole
    peak      in place of `strips`, bytes for the tensors between kernels: the smallest number of strips that fits;
              S1001 where none does
    static    its library is an archive for a linker, which cannot be run from the artifact but only be unpacked
    precision "float32"; "bf16" or "fp16": layers of 16 bits; "int8": of integers; as many as `samples` allow (see
              `specc.calibration`)
    samples   inputs that are typical, in an .npz file or by name; None: drawn, which fits weights that are drawn too
    bound     the relative error of the outputs up to which layers are rounded
    tuning    a file of tuning records, or "none"; None: where `specc tune` puts them (see `records.place`)
    """
    from specc.backends import tvm as backend

    _check_graph(graph)
    told = progress or (lambda _: None)
    machine = targets.find(target)
    tuned = records.find(tuning).best(machine.name)
    if strips is not None and peak is not None:
        message = f"a limit of {peak} bytes finds the number of strips, and {strips} of them are asked for"
        raise error("S1001", message, notes=("give the limit or the number",))
    if passes is not None and (strips is not None or peak is not None):
        raise error("S1001", "strips are a pass of the level's; among passes of your own, name it: strips{count=4}")
    specs = sampled_sizes(graph, shapes, samples)
    for _, spec in specs:
        _check_size(spec)
    values, origin = find_weights(graph, weights)
    quantizing = calibrated(precision, specs, values, samples, bound, passes, told, machine)
    place = _places(graph)
    sizes: list[Size] = []
    parts: list[Lowered] = []
    judged: dict[str, Graph] = {}
    for size, spec in specs:
        name = str(size) if len(specs) > 1 else ""

        def observe(now: Progress, name: str = name) -> None:
            told(replace(now, size=name))

        folder = Path(dump) / name if dump is not None else None
        at = {name: extent for name, extent in size.dimensions if name in size.open}
        rest = {name: extent for name, extent in size.dimensions if name not in size.open}
        open_spec = specialize(graph, rest, size.open) if at else spec
        tiles = {key: tile for part in reversed(parts) for key, tile in part.tiles.items()}
        lowering = _Lowering(open_spec, machine, values, tuned, at, tiles, folder, verify_each, observe)
        lowered, steps = lowering.run(level, passes, strips, peak, quantizing)
        rounding = next((step.after for step in steps if not step.transformation.exact), None)
        judged[str(size)] = specialize(rounding, at) if rounding else spec
        (one,) = lowered.sizes
        facts = {
            "passes": [step.to_json() for step in steps],
            "kernels": one.sampled.describe(lowered.kernels, place),
            "memory": {"arena": one.plan.arena, "least": one.plan.least, "parts": len(one.program.parts)},
        }
        sizes.append(replace(size, facts=facts))
        parts.append(lowered)
    joined = backend.join(parts)
    library = backend.build(joined, machine, lambda done, total: told(Progress("kernels", done, total)), static)
    tests = []
    apart = 0.0
    for size, (_, spec) in zip(sizes, specs):
        told(Progress("sample", size=str(size) if len(specs) > 1 else ""))
        test, off = _judge(size, spec, judged[str(size)], values, quantizing)
        tests.append(test)
        apart = max(apart, off)
    manifest = Manifest(
        network=graph.name,
        sizes=tuple(sizes),
        machine=Machine(machine.name, machine.architecture, machine.requires),
        specc=__version__,
        library="source" if not machine.vectors else "static" if static else "shared",
        facts={
            "level": level,
            "rounding": machine.rounding,
            "spec": {
                "graph": print_graph(graph),
                "files": digests(sources or {}),
                "blocks": {path: [block, place(span)] for path, (block, span) in graph.blocks.items()},
            },
            "weights": origin,
            "precision": quantizing.facts(apart) if quantizing else {"name": "float32"},
            "tuning": {
                "kernels": {name: dict(found) for name, found in sorted(joined.configurations.items())},
                "outdated": list(joined.outdated),
            },
        },
    )
    return Artifact(Contents(manifest, library, joined.weights, tests))


def _judge(
    size: Size, spec: Graph, rounding: Graph, values: Mapping[str, Array], precision: Calibrated | None
) -> tuple[Sample, float]:
    """Inputs at a size with what `rounding` gives for them, and how far that is from what `spec` gives, norm-wise.

    Both are computed in float64; `rounding` is the graph behind the pass that is not exact, or `spec` itself.
    """
    from specc.backends.torch import evaluate

    given = [precision.samples[0][i.name] for i in size.inputs] if precision else sample.draw(size.inputs)
    by_name = {i.name: array for i, array in zip(size.inputs, given)}
    exact = reference(spec, values, by_name)
    expected = exact if rounding is spec else reference(rounding, values, by_name)
    rounded = expected
    if precision and precision.half_sums:  # sums of float16 come nearer to these, or farther
        rounded = evaluate(rounding, values, by_name, half_sums=precision.half_sums)
    apart = max(difference(a, b) for a, b in zip(rounded, exact))
    return Sample(given, [a.astype(o.dtype, copy=False) for o, a in zip(size.outputs, expected)]), apart


def sampled_sizes(
    graph: Graph, shapes: Shapes | None, samples: str | Mapping[str, Any] | None
) -> list[tuple[Size, Graph]]:
    """The sizes in `shapes` with their graphs; open dimensions are in the sample as they are in `samples`."""
    from specc.calibration import extents

    return specialize_all(graph, shapes, lambda: extents(samples, graph))


def calibrated(
    precision: str,
    specs: Sequence[tuple[Size, Graph]],
    weights: Mapping[str, Array],
    samples: str | Mapping[str, Any] | None,
    bound: float | None,
    passes: Sequence[Pass] | None,
    told: Observer,
    machine: Target,
) -> Calibrated | None:
    """The pass that brings a network to `precision` (see `compile`), or the one among `passes`; None for float32."""
    from specc.calibration import Calibrated, prepare

    if precision == "float32" and samples is None and bound is None:
        return next((each for each in passes or () if isinstance(each, Calibrated)), None)
    if passes is not None or len(specs) > 1:
        what = "passes of your own" if passes is not None else "several sizes: samples have one"
        raise error("S1001", f"a precision does not go with {what}")

    def calibrating(done: int, total: int) -> None:
        told(Progress("calibration", done, total))

    ((size, spec),) = specs
    at = {name: extent for name, extent in size.dimensions if name in size.open}
    return prepare(precision, interface(spec)[0], weights, samples, bound, calibrating, machine, at)


@dataclass(frozen=True)
class _Lowering:
    """One size of a network on its way to kernels."""

    spec: Graph
    machine: Target
    values: Mapping[str, Array]
    tuned: Mapping[str, records.Configuration]
    at: Mapping[str, int]
    tiles: Mapping[Any, str]
    dump: Path | None
    verify_each: bool
    told: Observer

    def run(
        self, level: int, passes: Sequence[Pass] | None, strips: int | None, peak: int | None, precision: Pass | None
    ) -> tuple[Lowered, list[Step]]:
        """The kernels and the program; see `compile`. Raises S1001 where no number of strips needs so little memory."""
        from specc.passes.registry import pipeline

        if self.at:
            name = next(iter(self.at))
            if strips is not None or peak is not None:
                raise error("S1001", f"strips are rows of a picture: `{name}` cannot stay open beside them")
            return self.by(passes_for_open(level, self.machine, precision) if passes is None else passes)
        arenas = []
        for number in (1 if strips is None else strips,) if peak is None else STRIPS:
            found = self.by(pipeline(level, self.machine, number, precision) if passes is None else passes)
            arenas.append(found[0].arena)
            if peak is None or arenas[-1] <= peak:
                return found
        message = f"`{self.spec.name}` needs {min(arenas)} bytes for the tensors between its kernels, not {peak}"
        note = f"that is in {STRIPS[arenas.index(min(arenas))]} strips of rows, of {', '.join(map(str, STRIPS))}"
        raise error("S1001", message, notes=(note,))

    def by(self, passes: Sequence[Pass]) -> tuple[Lowered, list[Step]]:
        """What these passes come to."""
        from specc.backends import tvm as backend
        from specc.backends.torch import freeze

        count = itertools.count(1)
        optimized, steps = run_passes(
            self.spec,
            passes,
            self.dump,
            self.verify_each,
            observe=lambda step: self.told(Progress("passes", next(count), len(passes), step)),
        )
        self.told(Progress("weights"))
        return backend.lower(
            optimized, self.machine, freeze(optimized, self.values), self.tuned, at=self.at, tiles=self.tiles
        ), steps


def passes_for_open(level: int, machine: Target, precision: Pass | None = None) -> tuple[Pass, ...]:
    """The passes of a level for a graph with open dimensions: its kernels want no layout but the plain one."""
    from specc.passes.registry import pipeline

    return tuple(each for each in pipeline(level, machine, precision=precision) if each.name != "layout")


def _check_size(graph: Graph) -> None:
    """Raises S0804 where the reference, in float64, could not hold the operands and results of one node."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for identity in graph.order():
        node = graph.node(identity)
        types = [*(graph.type(operand) for operand in graph.operands(identity)), *node.types]
        needed = sum(8 * math.prod(type.concrete) for type in types)
        if needed > most:
            where = f" at `{node.path}`" if node.path else ""
            raise error(
                "S0804",
                f"`{node.op}`{where} needs {needed / 1e9:.3g} GB to be judged; this machine has {most / 1e9:.3g} GB",
                *([Label(node.span)] if node.span else []),
                notes=("--shapes makes it smaller",),
            )


def reference(graph: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Array]) -> list[Array]:
    """The outputs of the graph in float64, by which a result is judged.

    Raises S0606 where one is not a number: every result would be as good as any other. The message names the first
    node whose result is none.
    """
    from specc.backends.torch import evaluate, intermediates

    outputs = evaluate(graph, weights, inputs)
    if not any(np.isnan(output).any() for output in outputs):
        return outputs
    for value, array in intermediates(graph, weights, inputs).items():
        if np.isnan(array).any():
            node = graph.node(value.node)
            where = f"`{node.op}`{f' at `{node.path}`' if node.path else ''}"
            message = f"with these weights, `{graph.name}` computes what is no number (NaN), first in {where}"
            raise error("S0606", message, *([Label(node.span)] if node.span else []))
    raise AssertionError("an output is no number, and no node's result is")


def find_weights(graph: Graph, weights: Weights | None) -> tuple[dict[str, Array], dict[str, Any]]:
    """The values of the graph's parameters, and where they come from for the manifest; see `compile`."""
    from specc.weights import in_memory, match, random_weights, read_checkpoint

    if weights is None:
        values = random_weights(graph, sample.SEED)
    else:
        if not isinstance(weights, (str, Path, Mapping)):
            message = f"weights are the path of a checkpoint, or arrays by key, and this is a {type(weights).__name__}"
            raise error("S1001", message, notes=("`weights=module.state_dict()` takes those of a module",))
        values = match(graph, read_checkpoint(weights) if isinstance(weights, (str, Path)) else in_memory(weights))
    state = hashlib.blake2b(digest_size=32)
    for key in sorted(graph.parameters):
        array = np.ascontiguousarray(values[key])
        state.update(f"{key} {array.dtype.name} {array.shape}\n".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return values, {"digest": state.hexdigest(), "seed": sample.SEED if weights is None else None}


def spec_sources(path: str | Path) -> dict[str, str]:
    """The text of the spec at `path` and of all files that it uses, by name as seen from its folder."""
    from specc import grammar
    from specc.grammar.modules import STANDARD

    folder = Path(path).parent
    return {
        os.path.relpath(file, STANDARD.parent if file.is_relative_to(STANDARD) else folder): file.read_text("utf-8")
        for file in grammar.spec_closure(path)
    }


def _places(graph: Graph) -> Callable[[Span], str]:
    """How a place is named in the manifest: file:line, the file as seen from the folder of the network's own."""
    folder = Path(graph.blocks[""][1].file).parent if "" in graph.blocks else None

    def place(span: Span) -> str:
        if span.file.startswith("std/"):
            file = span.file
        else:
            file = os.path.relpath(span.file, folder) if folder else Path(span.file).name
        return f"{file}:{span.line}"

    return place


def digests(sources: Mapping[str, str]) -> dict[str, str]:
    """The digest of each text, by name."""
    return {name: hashlib.blake2b(text.encode(), digest_size=32).hexdigest() for name, text in sorted(sources.items())}
