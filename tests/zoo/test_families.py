"""Families that are trained with branches: how many operators are left of each, and that they compute the same.

Batch norm is drawn with means away from 0, variances away from 1, and gammas of both signs, some of them 0.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch

from specc import grammar, zoo
from specc.backends.torch import evaluate
from specc.cli import execute
from specc.ir.array import Array
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.passes.canonicalize import canonicalize
from specc.passes.reparam import reparam
from specc.passes.rewrite import Journal
from specc.weights import random_inputs, random_weights
from specc.weights.rename import rename_key

LEFT = {
    "repvit": None,
    "repvgg": None,
    "mobileone": None,
    "repghost": None,
    "fastvit": None,
    "repnext": (2 + 14 * 6 + 3 * 4, 1),
    "unireplknet": (5 + 12 * 5, 1),
    "repmlp": (4 + 12 * 5, 1),
    "dbb": (1, 0),
    "acnet": (1, 0),
    "yolov7": (6, 0),
}
"""Convolutions and matrix products that are left; None for as many as timm leaves when it re-parameterizes.

RepNeXt: the stem; of a block a 3x3, a 7x7, the row and the column of 11, and two 1x1; of what shrinks, all but the row
and the column. UniRepLKNet: what shrinks; of a block its depthwise kernel and the attention, and two matrices
for every place, which are 1x1.
RepMLP: what shrinks; of a unit the attention, one matrix over places (of a 1x1 on vectors), and two 1x1.
"""

SCALES = {"repmlp": 2 * 12, "unireplknet": 3 * 12, "fastvit": 2}
"""Scales and shifts that stay: RepMLP's first batch norm is read twice, UniRepLKNet's response norm is not linear, and
FastViT's attention divides the queries, which share their matrix with keys and values."""


def hard_weights(graph: Graph) -> dict[str, Array]:
    """Weights under which no batch norm is near the identity."""
    weights, rng = random_weights(graph, 1), np.random.default_rng(1)
    for norm in [key.rpartition(".")[0] for key in weights if key.endswith(".running_var")]:
        shape = weights[f"{norm}.running_var"].shape
        weights[f"{norm}.running_mean"] = rng.standard_normal(shape) * 0.3
        weights[f"{norm}.running_var"] = rng.uniform(0.3, 3.0, shape)
        weights[f"{norm}.weight"] = rng.choice([0.0, -1.0, 1.0, 0.5], shape) * rng.uniform(0.5, 1.5, shape)
    return weights


def small(name: str, variant: str | None = None) -> tuple[Graph, str, dict[str, Any]]:
    """The graph of the index's small network, or of a variant, with numbers for its dimensions; its reference."""
    entry = zoo.entries()[name]
    chosen = variant or entry.small.get("variant") or next(iter(entry.variants))
    if "arguments" in entry.small:
        network = next(o.network for o in grammar.offers(entry.path))
        text = entry.path.read_text(encoding="utf-8")
        text += f"\nvariants {network}:\n    of_the_index: {entry.small['arguments']}\n"
        graph = grammar.loads(text, variant="of_the_index", file=entry.file, directory=entry.path.parent)
    else:
        graph = grammar.load(entry.path, variant=chosen if len(entry.variants) > 1 else None)
    options = entry.small.get("options", entry.options.get(chosen, {}))
    return specialize(graph, entry.small.get("shapes")), entry.small.get("reference", entry.variants[chosen]), options


def merges(graph: Graph, model: torch.nn.Module) -> Graph:
    """The re-parameterized graph, which computes what the model computes."""
    merged = canonicalize(reparam(canonicalize(graph)))
    weights, inputs = hard_weights(graph), random_inputs(graph, 1)
    keys = {key: rename_key(key, graph.renames) for key in model.state_dict()}
    model.double().load_state_dict({key: torch.as_tensor(weights[ours]) for key, ours in keys.items()})
    with torch.inference_mode():
        wanted = model(*(torch.as_tensor(array).double() for array in inputs.values())).numpy()
    (got,) = evaluate(merged, weights, inputs)
    assert np.ptp(wanted) > 1e-3 * np.abs(wanted).max(), "the inputs matter"
    assert np.abs(got - wanted).max() <= 1e-9 * np.abs(wanted).max()
    return merged


def scales(graph: Graph) -> list[str]:
    """Live products and sums with something frozen."""
    frozen = graph.frozen()
    nodes = [graph.node(i) for i in graph.live() if any(o.node in frozen for o in graph.operands(i))]
    return [node.path for node in nodes if node.op in ("mul", "add")]


@pytest.mark.parametrize("name", LEFT)
def test_all_branches_of_a_family_merge(timm: Any, name: str) -> None:
    graph, named, options = small(name)
    model = reference.build(timm, named, options)
    merged = merges(graph, model)
    ops = Counter(merged.node(i).op for i in merged.live())
    assert not ops["batch_norm"]
    assert len(scales(merged)) == SCALES.get(name, 0), scales(merged)
    expected = LEFT[name]
    if expected is None:
        from timm.utils.model import reparameterize_model

        modules = list(reparameterize_model(model).modules())
        kinds = torch.nn.Conv2d, torch.nn.Linear
        expected = tuple(sum(isinstance(module, kind) for module in modules) for kind in kinds)
    assert (ops["conv2d"], ops["linear"]) == expected


BLOCKS = [(name, variant) for name in ("dbb", "acnet") for variant in zoo.entries()[name].variants]


@pytest.mark.parametrize(("name", "variant"), BLOCKS)
def test_every_variant_of_a_block_becomes_one_convolution(timm: Any, name: str, variant: str) -> None:
    graph, named, options = small(name, variant)
    merged = merges(graph, reference.build(timm, named, options))
    assert [merged.node(i).op for i in merged.live()] == ["conv2d"]


HEAD = """specc 1

use std.conv: ConvBN

network Near(x: [n = 1, 8, h = 16, w = 16]) -> [n, _, _, _]:
    dense = ConvBN(x, 8, k=3)
    pointwise = ConvBN(x, 8)
"""

NEAR_MISSES = {
    "a relu before the sum": (
        "    return dense + relu(pointwise)",
        8,
        "no other term is linear in what the `conv2d` reads; they are made by `relu` (near.specc:8:20)",
    ),
    "a branch that another block reads": (
        "    y = dense + pointwise + x\n    return concat(y, dense)",
        8,
        "the result of `conv2d` is used 2 times",
    ),
    "a gate, which depends on the input": (
        "    return dense + pointwise * sigmoid(global_avg_pool(x, keep=true))",
        8,
        "no other term is linear in what the `conv2d` reads; they are made by `mul`",
    ),
    "batch norm behind an activation, before padding": (
        "    y = batch_norm(relu(dense + pointwise))\n    z = conv2d(y, 8, k=3)\n    return z",
        9,
        "at the border, the zeros of the padding (1, 1, 1, 1) stand behind the shift, not before it",
    ),
    "a pool that counts no padding": (
        "    pool = avg_pool2d(x, 3, 1, 1, count_padding=false)\n    return dense + pool",
        9,
        "the average pool leaves out the padding",
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_near_miss_is_explained_at_its_line(name: str) -> None:
    body, line, reason = NEAR_MISSES[name]
    graph = specialize(grammar.loads(f"{HEAD}{body}\n", file="near.specc"))
    journal = Journal()
    merged = reparam(canonicalize(graph), journal)
    weights, inputs = hard_weights(graph), random_inputs(graph, 1)
    for got, wanted in zip(evaluate(merged, weights, inputs), evaluate(graph, weights, inputs)):
        assert np.abs(got - wanted).max() <= 1e-9 * np.abs(wanted).max()
    said = [(event.span.line if event.span else 0, event.reason) for event in journal.refused]
    assert any(at == line and reason in (why or "") for at, why in said), said


def test_explain_says_why_a_sum_is_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, line, _ = NEAR_MISSES["a relu before the sum"]
    spec = tmp_path / "near.specc"
    spec.write_text(f"{HEAD}{body}\n")
    assert execute(["show", str(spec), "--explain", "reparam"]) == 0
    said = next(row for row in capsys.readouterr().out.splitlines() if "refused" in row)
    assert said.startswith(f"{spec}:{line}:12: add: conv(x, a) + conv(x, b) => conv(x, a + b): refused:")
    assert said.endswith(f"they are made by `relu` ({spec}:{line}:20)")
