"""Checkpoints under the names of another code base."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from specc import grammar
from specc.diagnostics import SpeccError
from specc.weights import match
from specc.weights.rename import Renamed, rename_key

SPEC = """specc 1
network N(x: [n = 1, 3]):
    blocks[0] = linear(x, 4)
    head = linear(relu(blocks[0]), 2, bias=false)
    return head

rename N:
    "module.layers.*.fc.*" -> "blocks.*.*"
    "module.classifier.*" -> "head.*"
"""


@pytest.mark.parametrize(
    ("key", "renamed"),
    [
        ("layers.3.attn.qkv.weight", "stages.3.attention.qkv.weight"),
        ("backbone.conv.weight", "conv.weight"),
        ("head.weight", "head.weight"),
        ("a+b", "plus"),
        ("aab", "aab"),
    ],
)
def test_rules(key: str, renamed: str) -> None:
    rules = [("layers.*.attn.*", "stages.*.attention.*"), ("backbone.*", "*"), ("a+b", "plus")]
    assert rename_key(key, rules) == renamed


def test_the_first_rule_that_fits_is_the_only_one() -> None:
    assert rename_key("a", [("a", "b"), ("b", "c"), ("*", "d*")]) == "b"


def test_two_keys_of_one_name_are_refused() -> None:
    with pytest.raises(SpeccError, match="would both be called `a`"):
        Renamed({"a": np.zeros(1), "b": np.zeros(1)}, [("b", "a")])


def test_a_renamed_checkpoint_fits() -> None:
    graph = grammar.loads(SPEC)
    generator = np.random.default_rng(0)
    shapes = {"blocks.0.weight": (4, 3), "blocks.0.bias": (4,), "head.weight": (2, 4)}
    own = {key: generator.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    foreign = {
        "module.layers.0.fc.weight": own["blocks.0.weight"],
        "module.layers.0.fc.bias": own["blocks.0.bias"],
        "module.classifier.weight": own["head.weight"],
    }
    for checkpoint in (foreign, own):
        found = match(graph, checkpoint)
        assert found.keys() == own.keys() and all((found[key] == own[key]).all() for key in own)


def test_a_copy_of_a_graph_keeps_the_rules() -> None:
    from specc.ir.specialize import specialize

    graph = grammar.loads(SPEC)
    assert len(graph.renames) == 2 and specialize(graph).renames == graph.renames


def test_what_still_does_not_fit_is_told_by_the_names_of_the_network() -> None:
    with pytest.raises(SpeccError) as caught:
        match(grammar.loads(SPEC), {"module.layers.0.fc.weight": np.zeros((4, 3), np.float32)})
    assert "blocks.0.bias" in caught.value.render() and "is unexpected" not in caught.value.render()


def test_the_authors_checkpoints_of_repvgg_fit() -> None:
    graph = grammar.load(Path(__file__).parents[1] / "examples" / "reparam" / "repvgg.specc", variant="a0")
    parts = {"conv_kxk": "rbr_dense", "conv_1x1": "rbr_1x1", "identity": "rbr_identity"}
    foreign = {}
    for key in graph.checkpoint:
        name = key.replace("stem.", "stage0.").replace("head.fc.", "linear.")
        name = re.sub(r"stages\.(\d)", lambda found: f"stage{int(found[1]) + 1}", name)
        foreign[re.sub("|".join(parts), lambda found: parts[found[0]], name)] = key
    assert {"stage0.rbr_dense.conv.weight", "stage1.1.rbr_identity.weight", "linear.bias"} <= foreign.keys()
    assert all(rename_key(name, graph.renames) == key for name, key in foreign.items())
    assert all(rename_key(key, graph.renames) == key for key in foreign.values())
