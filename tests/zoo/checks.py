"""What is asked of every network of the zoo: its names, its numbers, and the numbers of its artifact.

Nothing here knows a network: what is particular to one stands in examples/index.toml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import reference
import torch

import specc
from specc import grammar, zoo
from specc.backends.torch import to_torch
from specc.ir.verify import verify
from specc.runtime import Artifact
from specc.weights import random_weights
from specc.weights.draw import random_inputs
from specc.weights.rename import rename_key

SEED = 5
COMPILED = 1e-4
"""How far an artifact in float32 may be from float64, beside the greatest number of the result."""


def named_as_the_reference(timm: Any, entry: zoo.Entry, variant: str, with_lines: bool = False) -> None:
    """The checks of the variant hold, and the graph's keys and shapes are those of the reference's state_dict."""
    (report,) = grammar.check(entry.path, variant)
    report.raise_failures()
    assert report.graph is not None
    verify(report.graph)
    model = reference.build(timm, entry.variants[variant], entry.options.get(variant), device="meta")
    expected = {
        rename_key(key, report.graph.renames): tuple(tensor.shape) for key, tensor in model.state_dict().items()
    }
    assert {key: type_.shape for key, type_ in report.graph.checkpoint.items()} == expected
    if with_lines:
        assert reference.lines(timm, entry.variants[variant], entry.options.get(variant)) == entry.lines, (
            "`lines` of the index"
        )
        here = entry.variants[variant].startswith("here:")  # as short as we can write it
        assert here or entry.spec_lines <= entry.lines, "a spec is no longer than its reference"


class Pair:
    """A small network of an entry, its reference with the same random weights, and inputs."""

    def __init__(self, timm: Any, entry: zoo.Entry) -> None:
        small = entry.small
        variant = small.get("variant")
        if "arguments" in small:
            network = next(o.network for o in grammar.offers(entry.path) if (o.variant or o.network) in entry.variants)
            text = entry.path.read_text(encoding="utf-8")
            text += f"\nvariants {network}:\n    of_the_index: {small['arguments']}\n"
            self.graph = grammar.loads(text, variant="of_the_index", file=entry.file, directory=entry.path.parent)
        else:
            self.graph = grammar.load(entry.path, variant=variant)
        self.tolerance: float = small.get("tolerance", 1e-9)
        self.shapes: dict[str, int] = small.get("shapes", {})
        seed = small.get("seed", SEED)
        self.weights = random_weights(self.graph, seed)
        self.inputs = random_inputs(self.graph, seed, self.shapes)
        named = small.get("reference") or entry.variants[variant or next(iter(entry.variants))]
        options = small.get("options", entry.options.get(variant or "", {}))
        self.model = reference.build(timm, named, options).double()
        state = {key: self._value(key, tensor) for key, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(state)
        self.wanted = self._wanted()

    def _value(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.weights[rename_key(key, self.graph.renames)]).to(tensor.dtype)

    def _wanted(self) -> list[np.ndarray]:
        """What the reference computes in float64."""
        with torch.inference_mode():
            results = self.model(*(_wide(array) for array in self.inputs.values()))
        if isinstance(results, Mapping):
            results = list(results.values())
        return [tensor.numpy() for tensor in (results if isinstance(results, (tuple, list)) else [results])]

    def difference(self) -> float:
        """Between the graph and the reference, both in float64."""
        module = to_torch(self.graph).double().eval()
        module.load_state_dict({key: torch.as_tensor(array) for key, array in self.weights.items()})
        with torch.inference_mode():
            results = module(*(_wide(array) for array in self.inputs.values()))
        got = [tensor.numpy() for tensor in (results if isinstance(results, tuple) else (results,))]
        return _greatest_difference(got, self.wanted)

    def compiled(self) -> tuple[Artifact, float]:
        """The artifact, and how far it is from the reference in float64."""
        artifact = specc.compile(self.graph, weights=self.weights, shapes=self.shapes)
        return artifact, _greatest_difference(list(artifact(*self.inputs.values())), self.wanted)


def _wide(array: np.ndarray) -> torch.Tensor:
    tensor = torch.as_tensor(array)
    return tensor.double() if tensor.is_floating_point() else tensor


def _greatest_difference(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Beside the greatest number of the result in which it is."""
    assert [ours.shape for ours in got] == [theirs.shape for theirs in wanted]
    for theirs in wanted:
        assert np.isfinite(theirs).all() and np.ptp(theirs) > 1e-3 * np.abs(theirs).max(), "the inputs matter"
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, wanted))
