"""The standard library: every block works, and its weights have the names that it promises."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from test_std_references import compared

from specc import grammar
from specc.grammar.modules import STANDARD
from specc.ir.verify import verify

IMAGE = "x: [n = 1, 8, h = 8, w = 8]"
LAST = "x: [n = 1, 8, 8, 8]"
BATCH_NORM = ["running_mean", "running_var", "weight", "bias"]


def both(name: str) -> list[str]:
    """The keys of something with weight and bias."""
    return [f"{name}.weight", f"{name}.bias"]


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
    "ConvNorm": ("conv", IMAGE, "ConvNorm(x, 4)", ["conv.weight", *(f"bn.{r}" for r in BATCH_NORM)]),
    "Conv1d": ("conv", "x: [n = 1, 8, l = 9]", "Conv1d(x, 4, k=3, s=2)", ["weight"]),
    "EfficientChannelAttention": ("channel", IMAGE, "EfficientChannelAttention(x)", ["conv.weight"]),
    "ChannelGate": ("channel", IMAGE, "ChannelGate(x, 2)", ["fc1.weight", "fc2.weight"]),
    "SpatialGate": (
        "channel",
        IMAGE,
        "SpatialGate(x, 3)",
        ["conv.conv.weight", *(f"conv.bn.{r}" for r in BATCH_NORM)],
    ),
    "Cbam": (
        "channel",
        IMAGE,
        "Cbam(x)",
        [
            "channel.fc1.weight",
            "channel.fc2.weight",
            "spatial.conv.conv.weight",
            *(f"spatial.conv.bn.{r}" for r in BATCH_NORM),
        ],
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
    "Attend": ("attention", "x: [n = 1, l = 5, 8]", "Attend(x, x, x, 2)", []),
    "CrossAttention": (
        "attention",
        "x: [n = 1, l = 5, 8], memory: [n, m = 3, 6]",
        "CrossAttention(x, memory, 2)",
        [*both("q"), *both("kv"), *both("proj")],
    ),
    "Windows": ("window", LAST, "Windows(x, 4)", []),
    "Unwindows": ("window", "x: [n = 1, 4, 16, 8]", "Unwindows(x, 4, 8, 8)", []),
    "Roll": ("window", LAST, "Roll(x, 3)", []),
    "Differences": ("window", "x: [rows = 2, 5]", "Differences(x, 3)", []),
    "RelativeBias": ("window", "x: [9, heads = 2]", "RelativeBias(x, 2)", []),
    "Strangers": ("window", "x: [n = 1, 4, 16, 16]", 'x + rearrange(Strangers(8, 8, 4, 2), "w 1 i j -> 1 w i j")', []),
    "WindowAttention": (
        "window",
        LAST,
        "WindowAttention(x, 2, 4, 2)",
        ["relative_position_bias_table", *both("qkv"), *both("proj")],
    ),
    "Token": ("vit", "x: [n = 1, l = 5, 8]", "Token(x, 2)", []),
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
    "ClassifierHead": ("linear", IMAGE, "ClassifierHead(x, 4)", [*both("norm"), *both("fc")]),
    "ConvMlp": ("linear", IMAGE, "ConvMlp(x, 16)", [*both("fc1"), *both("fc2")]),
    "LayerScale": ("linear", "x: [n = 1, l = 5, 8]", "LayerScale(x)", ["gamma"]),
    "GlobalResponseNorm": ("channel", "x: [n = 1, h = 3, w = 4, 8]", "GlobalResponseNorm(x)", ["weight", "bias"]),
    "Excite": ("mobile", IMAGE, "Excite(x, 4)", [*both("conv_reduce"), *both("conv_expand")]),
    "SeparableResidual": (
        "mobile",
        IMAGE,
        "SeparableResidual(x, 8)",
        ["conv_dw.weight", "conv_pw.weight", *(f"{bn}.{r}" for bn in ("bn1", "bn2") for r in BATCH_NORM)],
    ),
    "InvertedResidual": (
        "mobile",
        IMAGE,
        "InvertedResidual(x, 12, 24, k=5, s=2, act=silu)",
        [
            "conv_pw.weight",
            "conv_dw.weight",
            "conv_pwl.weight",
            *(f"{bn}.{r}" for bn in ("bn1", "bn2", "bn3") for r in BATCH_NORM),
        ],
    ),
    "Mlp": (
        "linear",
        "x: [n = 1, l = 5, 8]",
        "Mlp(x, 32)",
        ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"],
    ),
}

PARTS = {
    *("LstmCell", "GruCell", "RnnCell", "SelectiveStep", "LinearAttentionStep", "WkvStep"),
    *("Places", "AnchorSubnet", "NormedTower", "FcosClasses", "FcosBoxes"),
}
"""Steps of recurrences, which the layers that scan them run, and parts of detection heads."""
CELL = """
block Cell(x: [n, d], h: [n, d], weight: [d, d], bias: [d]) -> ([n, d], [n, d]):
    h = relu(x + linear(h, d, weight=weight, bias=bias))
    return h, h

"""
_GATES = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
_SEQUENCE = "x: [n = 1, l = 5, 8]"
CASES |= {
    "Recurrent": ("rnn", _SEQUENCE, "Recurrent(x, 4, Cell, gates=1)", _GATES),
    "LSTM": ("rnn", _SEQUENCE, "LSTM(x, 4)", _GATES),
    "GRU": ("rnn", _SEQUENCE, "GRU(x, 4)", _GATES),
    "RNN": ("rnn", _SEQUENCE, "RNN(x, 4, bidirectional=true)", [*_GATES, *(f"{key}_reverse" for key in _GATES)]),
    "SelectiveScan": (
        "ssm",
        "u: [n = 1, l = 5, 8], d: [n, l, 8], b: [n, l, 4], a: [8, 4]",
        "SelectiveScan(u, d, b, b, a)",
        [],
    ),
    "CausalConv": ("ssm", _SEQUENCE, "CausalConv(x, 4)", ["weight", "bias"]),
    "Mamba": (
        "ssm",
        _SEQUENCE,
        "Mamba(x)",
        [
            "A_log",
            "D",
            "conv1d.weight",
            "conv1d.bias",
            *(f"{name}.weight" for name in ("in_proj", "x_proj", "dt_proj", "out_proj")),
            "dt_proj.bias",
        ],
    ),
    "GatedLinearAttention": ("ssm", "x: [n = 1, l = 5, 2, 4]", "GatedLinearAttention(x, x, x, sigmoid(x))", []),
    "WKV": ("ssm", "x: [n = 1, l = 5, 4], w: [4]", "WKV(x, x, w, w)", []),
}

_ROWS = "x: [n = 1, 2, 4, 6]"
CASES |= {
    "Directions": ("attention", _ROWS, "Directions(x)", []),
    "CrossCovariance": (
        "attention",
        _SEQUENCE,
        "CrossCovariance(x, 2)",
        ["temperature", *both("qkv"), *both("proj")],
    ),
    "MultiheadAttention": (
        "attention",
        _SEQUENCE,
        "MultiheadAttention(x, 2)",
        ["in_proj_weight", "in_proj_bias", *both("out_proj")],
    ),
    "Waves": ("vit", "x: [8, 5]", "x + Waves(5, 8)", []),
    "FourierPositions": ("vit", "x: [1, 15, 8]", "x + FourierPositions(3, 5, 8, 4)", both("token_projection")),
    "Gather": ("channel", IMAGE, "Gather(x, 1)", ["conv1.weight", *(f"norm1.{r}" for r in BATCH_NORM)]),
    "GatherExcite": (
        "channel",
        IMAGE,
        "GatherExcite(x, 2, 0.5)",
        ["gather.conv1.weight", *(f"gather.norm1.{r}" for r in BATCH_NORM), *both("mlp.fc1"), *both("mlp.fc2")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_block_of_the_library(name: str) -> None:
    module, parameter, call, keys = CASES[name]
    text = f"specc 1\nuse std.{module}: {name}\n{CELL}network N({parameter}):\n    y = {call}\n    return y\n"
    graph = grammar.loads(text)
    verify(graph)
    assert sorted(graph.parameters) == sorted(f"y.{key}" for key in keys)


@pytest.mark.parametrize(
    ("module", "call", "build"),
    [
        ("channel", "EfficientChannelAttention(x)", lambda layers: layers.eca.EcaModule(kernel_size=3)),
        ("channel", "Cbam(x, 0.25)", lambda layers: layers.cbam.CbamModule(8, rd_ratio=0.25)),
    ],
)
def test_a_block_computes_what_timm_computes(timm: Any, module: str, call: str, build: Any) -> None:
    import torch

    from specc.backends.torch import to_torch

    torch.manual_seed(5)
    importlib.import_module("timm.layers.cbam")
    theirs = build(importlib.import_module("timm.layers")).double().eval()
    name = call.split("(")[0]
    text = f"specc 1\nuse std.{module}: {name}\nnetwork N({IMAGE}):\n    return {call}\n"
    ours = to_torch(grammar.loads(text), "float64").eval()
    state = {key: torch.rand_like(t) + 0.5 if t.is_floating_point() else t for key, t in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    assert (theirs(x) - ours(x)).abs().max() < 1e-12


def test_every_block_of_the_library_is_tested() -> None:
    files = {path: grammar.parse(path.read_text()) for path in STANDARD.glob("*.specc")}
    assert all(tree.docstring for tree in files.values())
    assert {d.name for tree in files.values() for d in tree.definitions} == CASES.keys() | PARTS | compared()
