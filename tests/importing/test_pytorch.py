"""Modules of PyTorch as specs: the names of the state_dict, the same numbers, and a quarter of the graph's lines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trained import trained

import specc
from specc import driver, grammar
from specc.backends.torch import evaluate
from specc.compare import TOLERANCE, difference
from specc.diagnostics import SpeccError
from specc.importing import ImportedSpec, import_module
from specc.importing.pytorch import from_module


def assert_same(spec: ImportedSpec, module: nn.Module, *inputs: torch.Tensor) -> specc.Graph:
    """The graph of the text has the module's names, and computes in float64 what the module does."""
    graph = grammar.loads(spec.text)
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    assert {key: type_.shape for key, type_ in graph.checkpoint.items()} == shapes
    names = [graph.node(i).attrs["name"] for i in graph.inputs]
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    found = evaluate(graph, spec.weights, {n: x.numpy() for n, x in zip(names, inputs)})
    with torch.no_grad():
        expected = module.double()(*inputs)
    module.float()
    for a, b in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert difference(a, b.numpy()) <= 1e-9
    return graph


def assert_artifact_is_the_module(spec: ImportedSpec, module: nn.Module, x: torch.Tensor) -> None:
    graph = grammar.loads(spec.text)
    artifact = driver.compile(graph, weights=spec.weights, shapes=dict(zip("nhw", (x.shape[0], *x.shape[2:]))))
    (found,) = artifact(x.numpy())
    with torch.no_grad():
        assert difference(found, module(x).numpy()) <= TOLERANCE


@pytest.fixture(scope="module")
def resnet(torchvision: Any) -> nn.Module:
    return trained(torchvision.models.resnet18(num_classes=10))


def test_resnet18(resnet: nn.Module, request: pytest.FixtureRequest) -> None:
    x = torch.randn(1, 3, 40, 32)
    spec = import_module(resnet, [x], "ResNet-18.")
    golden = Path(__file__).parent / "resnet18.specc"
    if request.config.getoption("--update-golden"):
        golden.write_text(spec.text)
    assert spec.text == golden.read_text()
    assert 4 * len(spec.text.splitlines()) <= spec.nodes
    graph = assert_same(spec, resnet, x)
    assert graph.symbols() == {"n", "h", "w"} and graph.defaults == {"n": 1, "h": 40, "w": 32}
    assert_same(spec, resnet, torch.randn(2, 3, 33, 64))
    assert all(report.holds for report in grammar.checks(spec.text))


@pytest.mark.slow
def test_the_artifact_of_resnet18(resnet: nn.Module) -> None:
    x = torch.randn(1, 3, 64, 64)
    assert_artifact_is_the_module(import_module(resnet, [x]), resnet, x)


def test_mobilenet_v3_small(torchvision: Any) -> None:
    module = trained(torchvision.models.mobilenet_v3_small(num_classes=10))
    x = torch.randn(1, 3, 64, 64)
    spec = import_module(module, [x])
    assert 4 * len(spec.text.splitlines()) <= spec.nodes
    assert_same(spec, module, x)
    assert_artifact_is_the_module(spec, module, x)


@pytest.mark.slow
def test_repvit_m1_1(timm: Any) -> None:
    module = trained(timm.create_model("repvit_m1_1", num_classes=10))
    x = torch.randn(1, 3, 64, 64)
    spec = import_module(module, [x])
    assert 10 * len(spec.text.splitlines()) <= spec.nodes
    assert_same(spec, module, x)
    assert_artifact_is_the_module(spec, module, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0", "mixer_s16_224"])
def test_more_of_timm(name: str, timm: Any) -> None:
    module = trained(timm.create_model(name, num_classes=10))
    x = torch.randn(1, 3, 224, 224)
    spec = import_module(module, [x])
    assert 4 * len(spec.text.splitlines()) <= spec.nodes
    assert_same(spec, module, x)


# ---- small modules, one thing at a time


class Tokens(nn.Module):
    """What transformers are made of: parameters of one's own, parts of a tensor, attention."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        n, length, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, length, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return (x + self.proj(y.transpose(1, 2).reshape(n, length, c)))[:, 0]


class Shared(nn.Module):
    """A weight with two uses, in its own form and transposed; the same module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 4))
        self.layer = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(self.layer(nn.functional.linear(x, self.table)).relu())
        return nn.functional.linear(y, self.table.t())


class InPlace(nn.Module):
    """An operation in place, whose operand is read under its old name afterwards."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y.relu_().add_(1)
        return y - x


class Functions(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


F = nn.functional
FUNCTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "slices": lambda x: x[:, 1:-1, ::2] + x[:, :2, :1],
    "chunks": lambda x: torch.stack(x.chunk(2, 1), 1).flatten(1, 2).mean(-1, keepdim=True),
    "uneven parts": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
    "several results": lambda x: (x.mean((2, 3)), x.amax(1), x.sum(-1)),
    "numbers": lambda x: 1 - x / 3 + 2 * x.clamp(-0.5, 0.5) - torch.add(x, x, alpha=0.5),
    "activations": lambda x: F.silu(x) + F.gelu(x, approximate="tanh") * F.hardswish(x) - F.leaky_relu(x, 0.2),
    "powers": lambda x: (x.pow(2) + 1).sqrt() + (x.abs() + 1).rsqrt() + torch.square(x) ** 0.5,
    "shuffle": lambda x: x.view(-1, 2, 2, 6, 8).transpose(1, 2).reshape(-1, 4, 6, 8),
    "pools": lambda x: F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(F.pad(x, (0, 0, 0, 1)), 2, count_include_pad=False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "softmax": lambda x: x.softmax(1) + F.softmax(x, -1),
    "any powers": lambda x: x.abs() ** 1.7 + 1.5**x + x.abs().pow(x),
    "more activations": lambda x: F.elu(x, 0.7) + F.mish(x) * F.softplus(x, 2) - F.celu(x, 2.0) + F.selu(F.softsign(x)),
    "elementwise": lambda x: (
        x.sin() * x.cos() + x.floor() - x.ceil() * x.sign() + (x.abs() + 1).log() + F.logsigmoid(x)
    ),
    "resize": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, (12, 16), mode="bilinear"),
    "resize to the corners": lambda x: F.interpolate(x, scale_factor=3, mode="bilinear", align_corners=True),
    "resize by curves": lambda x: F.interpolate(x, (5, 7), mode="bicubic"),
    "resize sequences": lambda x: F.interpolate(x.flatten(2), 9, mode="linear"),
    "pixels": lambda x: F.pixel_shuffle(x, 2) * 2 + F.pixel_shuffle(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), 2),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "padding": lambda x: F.pad(x, (1, 2, 3, 0), "reflect") + F.pad(x, (3, 0, 1, 2), "replicate"),
    "padding around": lambda x: F.pad(x, (1, 2, 3, 0), "circular"),
    "einsum": lambda x: torch.einsum("n c h w, n c v w -> n h c v", x, x) + torch.einsum("nchw -> nhc", x)[..., None],
    "einsum of others": lambda x: torch.einsum("nchw, ck -> nkhw", x, x[0, :, :, 0]),
    "order": lambda x: (x.topk(2, 1)[0], x.cumsum(2), x.max(3)[0], x.amin((1, 2)), x.min(1).values, x.argmax(1)),
    "places": lambda x: torch.gather(x, 1, x.argmax(1, keepdim=True)),
    "choices": lambda x: torch.where(x > 0.3, x, -x) + x.masked_fill(x <= 0, 2.0) * (x != 1).float(),
    "both choices": lambda x: torch.where((x > 0) & (x < 1), x, 0.0) + torch.where((x > 1).logical_not(), 1.0, x),
    "repeat": lambda x: x.repeat(1, 2, 1, 1) + x.mean(1, keepdim=True).repeat(1, 8, 1, 1),
    "flip": lambda x: x.flip(1, 3),
    "variance": lambda x: x.var((2, 3)) + x.var((2, 3), correction=0),
    "windows": lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 8), 3, padding=1),
    "pools of sequences": lambda x: F.max_pool1d(x.flatten(2), 3, 2) + F.avg_pool1d(x.flatten(2), 3, 2),
    "pools of volumes": lambda x: F.max_pool3d(x[:, None], 2) + F.avg_pool3d(x[:, None], 2),
    "adaptive maxima": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 5),
    "products": lambda x: torch.matmul(x, x.transpose(2, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name: str) -> None:
    module, x = Functions(FUNCTIONS[name]), torch.randn(2, 4, 6, 8)
    assert_same(import_module(module, [x]), module, x)


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (Tokens(), torch.randn(2, 5, 12)),
        (
            nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.PReLU(6), nn.ConvTranspose1d(6, 3, 4, 2)),
            torch.randn(2, 4, 9),
        ),
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), torch.randn(2, 4, 5, 6)),
        (nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.PReLU()), torch.randn(2, 2, 4, 5, 6)),
        (nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 4)), torch.randint(0, 20, (2, 5))),
        (Shared(), torch.randn(3, 4)),
        (InPlace(), torch.randn(3, 4)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.GroupNorm(2, 4), nn.Flatten()), torch.randn(2, 3, 5, 6)),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Sequential(nn.ReLU(), nn.Linear(4, 2))), torch.randn(2, 4)),
        (nn.ModuleDict({"a-b": nn.Linear(3, 3)})["a-b"], torch.randn(2, 3)),
    ],
)
def test_modules(module: nn.Module, x: torch.Tensor) -> None:
    module = trained(module)
    assert_same(import_module(module, [x]), module, x)


def test_a_module_trains_again_afterwards() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5).eval())
    module[0].train()
    import_module(module, [torch.randn(2, 3)])
    assert module.training and module[0].training and not module[1].training


def test_dropout_stays_for_training() -> None:
    spec = import_module(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.25), nn.Linear(3, 2)), [torch.randn(2, 3)])
    assert "|> dropout(p=0.25)" in spec.text


def test_names_that_the_language_cannot_say() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("for", nn.Linear(3, 3))
            self.add_module("a-b", nn.Linear(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first: torch.Tensor = getattr(self, "for")(x)
            second: torch.Tensor = getattr(self, "a-b")(first)
            return second

    module, x = Odd(), torch.randn(2, 3)
    spec = import_module(module, [x])
    graph = grammar.loads(spec.text)
    values, _ = driver.find_weights(graph, spec.weights)
    (found,) = evaluate(graph, values, {"x": x.numpy()})
    assert difference(found, module(x).detach().numpy()) <= 1e-6


class Halves(nn.Module):
    """Half of the channels pass by, or take a way of their own: one class, and its bodies have different parts."""

    def __init__(self, down: bool) -> None:
        super().__init__()
        self.short = nn.Sequential(nn.Conv2d(4, 2, 3, 2, 1), nn.BatchNorm2d(2)) if down else nn.Sequential()
        first = nn.Conv2d(4 if down else 2, 2, 3, 2 if down else 1, 1)
        more = [layer for _ in range(3) for layer in (nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))]
        self.body = nn.Sequential(first, *more)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = (self.short(x), x) if len(self.short) else x.chunk(2, 1)
        return torch.cat([a, self.body(b)], 1)


def test_a_part_that_another_one_stands_for_is_made_where_it_is_needed() -> None:
    module, x = trained(nn.Sequential(Halves(True), Halves(False), Halves(False))), torch.randn(2, 4, 8, 8)
    spec = import_module(module, [x])
    assert spec.text.count("block Halves") == 1 and "    if with_short:\n        short = " in spec.text
    assert_same(spec, module, x)


_WRITE = """
import ast, sys
import specc
from specc.importing.structure import write_structured
print(write_structured(specc.load(sys.argv[1]), ast.literal_eval(sys.argv[2]), "Halves."))
"""


def test_the_text_is_the_same_in_every_process(tmp_path: Path) -> None:
    module = nn.Sequential(*map(Halves, (True, False, False)))
    spec = import_module(module, [torch.randn(2, 4, 8, 8)])
    (tmp_path / "halves.specc").write_text(spec.text)
    classes = {name: type(part).__name__ for name, part in module.named_modules()}
    command = [sys.executable, "-c", _WRITE, str(tmp_path / "halves.specc"), str(classes)]
    texts = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        for seed in ("0", "2")
    ]
    assert "block Halves" in texts[0].stdout and len({done.stdout for done in texts}) == 1


@pytest.mark.parametrize(
    ("module", "code", "part"),
    [
        (
            Functions(lambda x: torch.logcumsumexp(x, 1) + torch.logcumsumexp(x, 0).sort()[0]),
            "S1103",
            "aten.logcumsumexp.default: 2 times",
        ),
        (Functions(lambda x: x * 2 if bool(x.sum() > 0) else x), "S1102", "torch.export cannot follow"),
        (Functions(lambda x: x[0].relu_() + x[0]), "S1103", "a part of another tensor"),
        (nn.Linear(7, 3), "S1102", "Linear"),
    ],
)
def test_what_cannot_be_imported(module: nn.Module, code: str, part: str) -> None:
    with pytest.raises(SpeccError, match=code) as problem:
        import_module(module, [torch.randn(3, 4)])
    assert part in str(problem.value)


def test_a_wrong_import_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from specc.importing import aten

    monkeypatch.setitem(aten.TABLE, "relu", lambda b, x: b.apply("relu6", x))
    with pytest.raises(SpeccError, match="S1105"):
        import_module(nn.ReLU(), [torch.full((2, 3), 8.0)])


def test_extents_that_an_operation_needs_are_fixed() -> None:
    module = Functions(lambda x: F.interpolate(x, scale_factor=1.5))
    imported = from_module(module, [torch.randn(1, 3, 4, 4)])
    assert imported.graph.symbols() == frozenset()


def test_what_is_drawn_is_what_numpy_reads(tmp_path: Path) -> None:
    module, x = nn.Linear(3, 2), torch.randn(1, 3)
    import_module(module, [x]).save(tmp_path / "l.specc", tmp_path / "l.safetensors")
    artifact = specc.compile(specc.load(tmp_path / "l.specc"), weights=tmp_path / "l.safetensors")
    (found,) = artifact(x.numpy())
    assert np.allclose(found, module(x).detach().numpy(), atol=1e-6)
