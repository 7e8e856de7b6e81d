"""ONNX files as specs: the names, the numbers, and what is said of files that hold no network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trained import trained

from specc import driver, grammar
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


class Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


F = nn.functional
MODULES: dict[str, nn.Module | Callable[[torch.Tensor], torch.Tensor]] = {
    "resize": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, (12, 16), mode="bilinear"),
    "resize by a fraction": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "resize to fewer": lambda x: F.interpolate(x, (4, 5)) + F.interpolate(x, (4, 5), mode="bicubic"),
    "resize to the corners": lambda x: F.interpolate(x, (9, 11), mode="bilinear", align_corners=True),
    "resize sequences": lambda x: F.interpolate(x.flatten(2), 9, mode="linear"),
    "choices": lambda x: torch.where((x > 0.3) & (x <= 1), x, -1.0) + torch.where(x < -1, 2.0, 3.0),
    "truth as numbers": lambda x: (x >= 0).float() - (x.abs() > 1).logical_not().float(),
    "powers": lambda x: x.abs() ** 1.7 + 1.5**x + x.abs().pow(x) + 1 / (x.abs() + 1),
    "elementwise": lambda x: x.sin() * x.cos() + x.floor() - x.ceil() * x.sign() + (x.abs() + 1).log(),
    "activations": lambda x: F.elu(x, 0.7) + F.mish(x) * F.softplus(x) - F.celu(x, 2.0),
    "reductions": lambda x: x.amin((1, 2)) + x.amax(1).sum(1) + x.cumsum(3)[:, 1, 2],
    "places": lambda x: torch.gather(x, 1, x.argmax(1, keepdim=True)) + x.argmin(2).float().mean(),
    "pixels": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2),
    "sequences": nn.Sequential(
        nn.Flatten(2), nn.Conv1d(4, 6, 3, 2, 1), nn.PReLU(6), nn.MaxPool1d(3, 2, ceil_mode=True), nn.AvgPool1d(2)
    ),
    "volumes": lambda x: F.max_pool3d(F.conv3d(x.reshape(2, 2, 2, 6, 8), torch.ones(3, 2, 1, 3, 3)), (1, 2, 2)),
    "transposed": nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
    "norm of groups": nn.GroupNorm(2, 4),
    "maxima of all": nn.AdaptiveMaxPool2d(1),
}


@pytest.mark.parametrize("name", MODULES)
def test_operations(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = MODULES[name]
    module, x = given if isinstance(given, nn.Module) else Function(given), torch.randn(2, 4, 6, 8)
    export(module, x, tmp_path / "net.onnx", True)
    spec = import_onnx(tmp_path / "net.onnx")
    graph = grammar.loads(spec.text)
    values, _ = driver.find_weights(graph, spec.weights)
    (found,) = evaluate(graph, values, {"image": x.numpy()})
    assert difference(found, module(x).detach().numpy()) <= 1e-5


def one_node(path: Path, kind: str, inputs: list[np.ndarray[Any, Any] | None], **attributes: Any) -> Any:
    """Writes a network of one node, which takes a picture and constants; gives the model."""
    onnx = pytest.importorskip("onnx")
    names = ["image", *("" if array is None else f"constant{at}" for at, array in enumerate(inputs))]
    node = onnx.helper.make_node(kind, names, ["y"], **attributes)
    picture = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 4, 4, 6])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list("nchw"))
    constants = [
        onnx.numpy_helper.from_array(array, name) for array, name in zip(inputs, names[1:]) if array is not None
    ]
    graph = onnx.helper.make_graph([node], "One", [picture], [result], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return model


TWICE, LARGER = np.array([1, 1, 2, 2], np.float32), np.array([1, 4, 7, 9])
RESIZE = [None, TWICE]


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("Resize", RESIZE, {}),
        ("Resize", RESIZE, {"nearest_mode": "round_prefer_ceil"}),
        ("Resize", [None, None, np.array([1, 4, 8, 18])], {}),
        ("Resize", [None, None, LARGER], {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("Resize", [None, None, LARGER], {"mode": "linear"}),
        ("Resize", RESIZE, {"mode": "cubic"}),
        ("DepthToSpace", [], {"blocksize": 2}),
        ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
        ("SpaceToDepth", [], {"blocksize": 2}),
        ("MaxPool", [], {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"}),
        ("MaxPool", [], {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER"}),
        ("Cast", [], {"to": 1}),
        ("ArgMin", [], {"axis": -1}),
    ],
)
def test_nodes_as_onnx_defines_them(kind: str, inputs: list[Any], attributes: dict[str, Any], tmp_path: Path) -> None:
    model = one_node(tmp_path / "one.onnx", kind, inputs, **attributes)
    reference = pytest.importorskip("onnx.reference")
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 6), np.float32)
    (expected,) = reference.ReferenceEvaluator(model).run(None, {"image": x})
    spec = import_onnx(tmp_path / "one.onnx")
    (found,) = evaluate(grammar.loads(spec.text), spec.weights, {"image": x})
    assert found.shape == expected.shape and difference(found, expected) <= 1e-5


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "part"),
    [
        ("Resize", [None, None, LARGER], {}, "the nearest element by `half_pixel`"),
        ("Resize", RESIZE, {"mode": "cubic", "cubic_coeff_a": -0.5}, "another curve"),
        ("Resize", RESIZE, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, "`asymmetric`"),
        ("Resize", [None, np.array([1, 2, 2, 2], np.float32)], {}, "the channels"),
        ("Resize", [None, np.array([2, 2], np.float32)], {"axes": [2, 3]}, "chosen dimensions"),
        ("ArgMax", [], {"select_last_index": 1}, "the last of equal elements"),
        ("Cast", [], {"to": 10}, "elements of the type 10"),
        ("CumSum", [np.array(1)], {"reverse": 1}, "from behind"),
    ],
)
def test_nodes_that_no_operator_says(
    kind: str, inputs: list[Any], attributes: dict[str, Any], part: str, tmp_path: Path
) -> None:
    one_node(tmp_path / "one.onnx", kind, inputs, **attributes)
    with pytest.raises(SpeccError, match="S1103") as problem:
        import_onnx(tmp_path / "one.onnx")
    assert part in str(problem.value)


@pytest.mark.slow
def test_resnet18(torchvision: Any, tmp_path: Path) -> None:
    """Trained: where all batch norms are fresh, the exporter stores their equal weights once, under one's name."""
    module, x = trained(torchvision.models.resnet18(num_classes=10)), torch.randn(1, 3, 64, 64)
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
