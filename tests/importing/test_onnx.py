"""ONNX files as specs: the names, the numbers, and what is said of files that hold no network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from specc import grammar
from specc.backends.torch import evaluate
from specc.cli import execute
from specc.compare import difference
from specc.diagnostics import SpeccError
from specc.importing import import_onnx


def export(module: nn.Module, x: torch.Tensor, path: Path, folded: bool) -> None:
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package says that it is the older one
        torch.onnx.export(
            module.eval(),
            (x,),
            path,
            input_names=["image"],
            dynamo=False,
            opset_version=18,
            training=mode,
            do_constant_folding=folded,
        )


class Small(nn.Module):
    """A convolution, its batch norm, and a perceptron over places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.fc = nn.Linear(8, 5)
        for tensor in self.state_dict().values():  # the exporter stores equal tensors once
            if tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x)).clamp(0, 6)
        y: torch.Tensor = self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + x
        return self.fc((y[:, :, 1:] * 0.5).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("folded", [False, True])
def test_a_file_computes_what_its_module_does(folded: bool, tmp_path: Path) -> None:
    module, x = Small().eval(), torch.randn(1, 3, 8, 10)
    export(module, x, tmp_path / "small.onnx", folded)
    spec = import_onnx(tmp_path / "small.onnx")
    graph = grammar.loads(spec.text)
    (found,) = evaluate(graph, spec.weights, {"image": x.numpy()})
    assert difference(found, module(x).detach().numpy()) <= 1e-5
    own = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    if not folded:
        assert {key: type_.shape for key, type_ in graph.checkpoint.items()} == own
    assert "|> gelu" in spec.text and "clamp" not in spec.text


@pytest.mark.slow
def test_resnet18(torchvision: Any, tmp_path: Path) -> None:
    module, x = torchvision.models.resnet18(num_classes=10).eval(), torch.randn(1, 3, 64, 64)
    export(module, x, tmp_path / "net.onnx", False)
    spec = import_onnx(tmp_path / "net.onnx")
    assert 4 * len(spec.text.splitlines()) <= spec.nodes
    graph = grammar.loads(spec.text)
    assert graph.checkpoint.keys() == module.state_dict().keys()
    (found,) = evaluate(graph, spec.weights, {"image": x.numpy()})
    assert difference(found, module(x).detach().numpy()) <= 1e-4


def test_files_that_hold_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(Small(), torch.randn(1, 3, 8, 8), tmp_path / "small.onnx", False)
    data = (tmp_path / "small.onnx").read_bytes()
    for content in (b"", b"not a network", data[: len(data) // 2]):
        (tmp_path / "bad.onnx").write_bytes(content)
        assert execute(["import", str(tmp_path / "bad.onnx"), "-o", str(tmp_path / "bad.specc")]) == 1
        assert "error[S1104]" in capsys.readouterr().err
    assert not (tmp_path / "bad.specc").exists() and not (tmp_path / "bad.safetensors").exists()
    with pytest.raises(SpeccError, match="S0001"):
        import_onnx(tmp_path / "missing.onnx")
