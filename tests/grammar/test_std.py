"""The standard library: every block works, and its weights have the names that it promises."""

from __future__ import annotations

import pytest

from specc import grammar
from specc.grammar.modules import STANDARD
from specc.ir.verify import verify

IMAGE = "x: [n = 1, 8, h = 8, w = 8]"
BATCH_NORM = ["running_mean", "running_var", "weight", "bias"]
CASES = {
    "ConvBN": ("conv", IMAGE, "ConvBN(x, 12, k=3, s=2)", ["c.weight", *(f"bn.{r}" for r in BATCH_NORM)]),
    "ConvBNAct": ("conv", IMAGE, "ConvBNAct(x, 12, act=gelu)", ["0.weight", *(f"1.{r}" for r in BATCH_NORM)]),
    "DepthwiseSeparable": (
        "conv",
        IMAGE,
        "DepthwiseSeparable(x, 12, s=2)",
        [
            f"{part}.{key}"
            for part in ("depthwise", "pointwise")
            for key in ("0.weight", *(f"1.{r}" for r in BATCH_NORM))
        ],
    ),
    "SqueezeExcite": (
        "conv",
        IMAGE,
        "SqueezeExcite(x)",
        ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"],
    ),
    "NormLinear": (
        "linear",
        "x: [n = 1, 8]",
        "NormLinear(x, 4)",
        [*(f"bn.{r}" for r in BATCH_NORM), "l.weight", "l.bias"],
    ),
    "SelfAttention": (
        "attention",
        "x: [n = 1, l = 5, 8]",
        "SelfAttention(x, 2)",
        ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"],
    ),
    "PatchEmbed": ("vit", IMAGE, "PatchEmbed(x, 12, 4)", ["proj.weight", "proj.bias"]),
    "TransformerBlock": (
        "vit",
        "x: [n = 1, l = 5, 8]",
        "TransformerBlock(x, 2)",
        [
            f"{part}.{role}"
            for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
            for role in ("weight", "bias")
        ],
    ),
    "Mlp": (
        "linear",
        "x: [n = 1, l = 5, 8]",
        "Mlp(x, 32)",
        ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_block_of_the_library(name: str) -> None:
    module, parameter, call, keys = CASES[name]
    text = f"specc 1\nuse std.{module}: {name}\nnetwork N({parameter}):\n    y = {call}\n    return y\n"
    graph = grammar.loads(text)
    verify(graph)
    assert sorted(graph.parameters) == sorted(f"y.{key}" for key in keys)


def test_every_block_of_the_library_is_tested() -> None:
    files = {path: grammar.parse(path.read_text()) for path in STANDARD.glob("*.specc")}
    assert all(tree.docstring for tree in files.values())
    assert {d.name for tree in files.values() for d in tree.definitions} == CASES.keys()
