"""The journey of a network: text --load--> graph --compile--> artifact.

graph --specialize--> dimensions are numbers
      --passes------> fewer nodes, groups, layouts
      --freeze------> everything that depends on no input is an array
      --lower-------> one function for a group, and the program that calls them
      --build-------> a shared library
      --judge-------> a sample with the outputs that the spec itself, not the optimized graph, gives in float64
      --> artifact
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specc import __version__, sample, targets
from specc.artifact import Array, Contents, Machine, Manifest, TensorSpec
from specc.diagnostics import Label, Span, error
from specc.ir.domains import domains
from specc.ir.graph import Graph, Node, Value, specialize
from specc.ir.text import print_graph
from specc.optimize import Step, run_passes
from specc.passes.registry import Pass
from specc.runtime import Artifact
from specc.targets import Target

if TYPE_CHECKING:
    from specc.backends.tvm import Lowered

Weights = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a compilation is: `done` of `total` units of a stage; `step` is the pass that was just done."""

    stage: str
    done: int = 0
    total: int = 0
    step: Step | None = None


STRIPS = (1, 2, 3, 4, 6, 8, 12, 16)
"""The numbers of strips that `compile` tries where it is given a limit of memory."""

Observer = Callable[[Progress], None]


def load(path: str | Path, network: str | None = None, variant: str | None = None) -> Graph:
    """The graph of a network of the file `path`; a file with several networks or variants needs a choice.

    `zoo:NAME/VARIANT` stands for a network that comes with specc.
    """
    from specc import grammar, zoo

    if isinstance(path, str) and path.startswith(zoo.PREFIX):
        path, named = zoo.find(path)
        variant = variant or named
    return grammar.load(path, network, variant)


def to_torch(graph: Graph, dtype: Any = None) -> Any:
    """A trainable `nn.Module` of the graph, whose state_dict has the spec's names."""
    from specc.backends import torch as backend

    return backend.to_torch(graph, dtype)


def compile(
    graph: Graph,
    target: str | Target = "native",
    weights: Weights | None = None,
    shapes: Mapping[str, int] | None = None,
    level: int = 2,
    dump: str | Path | None = None,
    progress: Observer | None = None,
    sources: Mapping[str, str] | None = None,
    passes: Sequence[Pass] | None = None,
    verify_each: bool = False,
    strips: int = 1,
    peak: int | None = None,
    static: bool = False,
) -> Artifact:
    """The artifact of `graph` for `target`.

    weights   a checkpoint file, or arrays or tensors by key; None: random ones, from a fixed seed
    shapes    values of symbolic dimensions; those that are not named have the spec's defaults
    level     how much the passes do, 0 to 2
    dump      a folder for the text of the graph after every pass
    progress  is told of stages as they go on
    sources   texts of the spec by file name, whose digest goes into the manifest (see `spec_sources`)
    passes    these instead of the level's
    verify_each  holds the graph to the invariants of the IR after every pass
    strips    so many strips of rows for the first stages, which cuts the memory that they need
    peak      bytes for the tensors between kernels: the smallest number of strips that fits; S1001 where none does
    static    its library is an archive for a linker, which cannot be run from the artifact but only be unpacked
    """
    from specc.backends import tvm as backend
    from specc.backends.torch import freeze
    from specc.passes.registry import pipeline

    told = progress or (lambda _: None)
    machine = target if isinstance(target, Target) else targets.find(target)
    spec = specialize(graph, shapes)
    _check_size(spec)
    values, origin = find_weights(graph, weights)
    folder = Path(dump) if dump is not None else None

    def lowered_by(passes: Sequence[Pass]) -> tuple[Lowered, list[Step]]:
        count = itertools.count(1)
        optimized, steps = run_passes(
            spec,
            passes,
            folder,
            verify_each,
            observe=lambda step: told(Progress("passes", next(count), len(passes), step)),
        )
        told(Progress("weights"))
        return backend.lower(optimized, machine, freeze(optimized, values)), steps

    if passes is not None and (strips != 1 or peak is not None):
        raise error("S1001", "strips are a pass of the level's; among passes of your own, name it: strips{count=4}")
    arenas = []
    for number in (strips,) if peak is None else STRIPS:
        lowered, steps = lowered_by(pipeline(level, machine, number) if passes is None else passes)
        arenas.append(lowered.plan.arena)
        if peak is None or arenas[-1] <= peak:
            break
    else:
        message = f"`{graph.name}` needs {min(arenas)} bytes for the tensors between its kernels, not {peak}"
        note = f"that is in {STRIPS[arenas.index(min(arenas))]} strips of rows, of {', '.join(map(str, STRIPS))}"
        raise error("S1001", message, notes=(note,))
    library = backend.build(lowered, machine, lambda done, total: told(Progress("kernels", done, total)), static)
    told(Progress("sample"))
    place = _places(spec)
    inputs, outputs = interface(spec)
    given = sample.draw(inputs)
    expected = reference(spec, values, {i.name: array for i, array in zip(inputs, given)})
    manifest = Manifest(
        network=graph.name,
        inputs=inputs,
        outputs=outputs,
        machine=Machine(machine.name, machine.architecture, machine.requires),
        specc=__version__,
        library="source" if not machine.vectors else "static" if static else "shared",
        facts={
            "level": level,
            "spec": {
                "graph": print_graph(spec),
                "files": digests(sources or {}),
                "blocks": {path: [block, place(span)] for path, (block, span) in spec.blocks.items()},
            },
            "weights": origin,
            "passes": [step.to_json() for step in steps],
            "kernels": lowered.program.describe(lowered.kernels, place),
            "memory": {"arena": lowered.plan.arena, "least": lowered.plan.least, "parts": len(lowered.program.parts)},
            "tuning": [],
        },
    )
    outcome = [array.astype(o.dtype, copy=False) for o, array in zip(outputs, expected)]
    return Artifact(Contents(manifest, library, lowered.weights, given, outcome))


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


def interface(graph: Graph) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What a caller gives and gets."""
    asked = domains(graph)
    inputs = tuple(_input(graph.node(identity), asked.get(Value(identity))) for identity in graph.inputs)
    types = [graph.type(value) for value in graph.outputs]
    named = zip(graph.output_names, types)
    return inputs, tuple(TensorSpec(name, type.concrete, type.dtype) for name, type in named)


def _input(node: Node, domain: tuple[float, float] | None) -> TensorSpec:
    limits = None if domain is None else tuple(limit if math.isfinite(limit) else None for limit in domain)
    return TensorSpec(node.attrs["name"], node.types[0].concrete, node.types[0].dtype, limits)  # type: ignore[arg-type]


def find_weights(graph: Graph, weights: Weights | None) -> tuple[dict[str, Array], dict[str, Any]]:
    """The values of the graph's parameters, and where they come from for the manifest; see `compile`."""
    from specc.weights import in_memory, match, random_weights, read_checkpoint

    if weights is None:
        values = random_weights(graph, sample.SEED)
    else:
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
    return {name: _text_digest(text) for name, text in sorted(sources.items())}


def _text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
