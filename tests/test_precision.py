"""Layers of integers from samples to artifact: what they lose, what the gate keeps, and what is said of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import specc
from specc import grammar, targets, verify
from specc.backends.torch import evaluate
from specc.calibration import Calibrated, prepare, read_samples
from specc.cli import execute
from specc.diagnostics import SpeccError
from specc.gate import Glimpse, Seen, accuracy
from specc.ir.graph import Graph
from specc.ir.text import print_graph
from specc.ir.types import TensorType
from specc.manifest import TensorSpec
from specc.passes.quantize import Grid, quantize
from specc.passes.registry import Reparam
from specc.passes.rewrite import Journal
from specc.weights import random_weights

SPEC = """specc 1

use std.conv: ConvBN

network Digits(image: [n = 1, 1, 8, 8]) -> [n, 10]:
    stem = ConvBN(image, 32, k=3)
    x = relu(stem)
    a = ConvBN(x, 32, k=3)
    b = ConvBN(relu(a), 32, k=3)
    c = ConvBN(relu(x + b), 64, k=3, s=2)
    head = linear(flatten(relu(c)), 10)
    return head
"""


@pytest.fixture(scope="module")
def trained() -> tuple[Graph, dict[str, np.ndarray[Any, Any]], Any, Any, Any]:
    """A network of digits, its weights after a short training, pictures that it has seen, others, and their labels."""
    torch.manual_seed(0)
    data = load_digits()
    images, labels = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(images))
    seen, held = order[:1400], order[1400:]
    graph = grammar.loads(SPEC)
    model = specc.to_torch(graph)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(3):
        for batch in torch.randperm(len(seen)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[seen][batch]), labels[seen][batch]).backward()
            optimizer.step()
    weights = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    return graph, weights, images[seen].numpy(), images[held].numpy(), labels[held].numpy()


def test_a_trained_network_stays_right(trained: Any) -> None:
    """What is right in float32 is right in integers, but for two in a hundred at most."""
    graph, weights, seen, held, labels = trained
    real = specc.compile(graph, weights=weights)
    small = specc.compile(graph, weights=weights, precision="int8", samples={"image": seen[:32]})
    facts = small.manifest.facts["precision"]
    assert facts["layers"] == 3 and facts["samples"] == 32 and not facts["drawn"]
    assert facts["errors"]["output"] <= facts["bound"] == 0.1
    small.self_test()

    def right(artifact: Any) -> float:
        return float(np.mean([artifact(image[None])[0].argmax() == label for image, label in zip(held, labels)]))

    assert right(real) > 0.93
    assert right(small) >= right(real) - 0.02
    kilobytes = [sum(array.nbytes for array in one.contents.weights) / 1000 for one in (small, real)]
    assert kilobytes[0] < kilobytes[1] / 2, "the classifier, small as it is, stays in float32"


def test_verify_shows_what_is_lost(trained: Any) -> None:
    graph, weights, seen, *_ = trained
    verdicts = verify.verify(
        graph, weights=weights, per_pass=True, precision="int8", samples={"image": seen[:16]}, bound=0.05
    )
    *passes, lost, artifact = verdicts
    assert all(verdict.holds for verdict in verdicts)
    assert [verdict.subject.partition("{")[0] for verdict in passes] == [
        *("canonicalize", "phases", "frames", "reparam", "canonicalize", "rows"),
        *("layout", "fusion"),
    ]
    assert lost.subject == "3 layers of integers over 16 samples" and lost.tolerance == 0.05
    assert 1e-4 < lost.differences["output"] < 0.05 and lost.agreement == {"output": 1.0}
    assert artifact.differences["output"] < 1e-2


def test_a_part_of_an_interval_rounds_with_less_error() -> None:
    """One element that lies a little beyond all the others: better to round that one than all of them more coarsely."""
    seen, rng = Seen(), np.random.default_rng(0)
    near = rng.random(8000).astype(np.float32)
    seen.add(Glimpse.of(near, 0))
    assert seen.part() == seen.whole
    for number in range(1, 8):
        seen.add(Glimpse.of(rng.random(8000).astype(np.float32), number))
    seen.add(Glimpse.of(np.array([1.2], np.float32), 8))
    part = seen.part()
    assert 1.0 <= part[1] < seen.whole[1]

    def error(interval: tuple[float, float]) -> float:
        grid = Grid.over(interval)
        rounded = np.clip(np.round(near / grid.scale), 0, 255) * grid.scale
        return float(((rounded - near) ** 2).mean())

    assert error(part) < 0.95 * error(seen.whole)


def test_of_whole_intervals_and_parts_the_better_ones_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, weights = outlier(1.0)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 16, 10, 10)).astype(np.float32)} for _ in range(4)]

    def error() -> float:
        rounding = Calibrated(weights, samples, 10.0)
        rounding(graph)
        return rounding.outcome.accuracy.worst

    monkeypatch.setattr("specc.gate.PARTS", (0.2,))
    assert error() < 0.05, "parts that cut off most of all elements are not taken"
    monkeypatch.setattr(Seen, "whole", (-1000.0, 1000.0))
    monkeypatch.setattr("specc.gate.PARTS", (1.0,))
    assert error() < 0.05, "nor are whole intervals that are too wide"


def outlier(factor: float = 1000.0) -> tuple[Graph, dict[str, np.ndarray[Any, Any]]]:
    """Three convolutions, of which the second reads one channel that is `factor` times as large as the others."""
    graph = Graph("Outlier")
    x = graph.input("x", TensorType((1, 16, 10, 10)))
    a = graph.apply("relu", [graph.call("conv2d", [x], {"out": 32, "k": 3}, "before")])
    b = graph.apply("relu", [graph.call("conv2d", [a], {"out": 32, "k": 3}, "outlier")])
    graph.outputs = [graph.call("conv2d", [b], {"out": 32, "k": 3}, "after")]
    weights = random_weights(graph)
    weights["before.weight"][5] *= factor
    weights["before.bias"][5] *= factor
    weights["outlier.weight"][:, 5] /= factor
    return graph, weights


def test_the_gate_keeps_a_layer_that_breaks_the_bound() -> None:
    graph, weights = outlier()
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 16, 10, 10)).astype(np.float32)} for _ in range(4)]
    journal = Journal()
    rounding = Calibrated(weights, samples, 0.05)
    result = rounding(graph, journal)
    assert result.count("conv2d_integer") == 2 == rounding.outcome.layers
    (kept,) = rounding.outcome.kept
    assert kept["path"] == "outlier" and "above the bound of 0.05" in str(kept["why"])
    assert [event.path for event in journal.refused] == ["outlier"]
    assert rounding.outcome.accuracy.worst <= 0.05
    loose = Calibrated(weights, samples, 10.0)
    assert loose(graph).count("conv2d_integer") == 3 and loose.outcome.accuracy.worst > 0.05
    strict = Calibrated(weights, samples, 0.0)
    assert strict(graph).count("conv2d_integer") == 0 and len(strict.outcome.kept) == 3


def test_blocks_that_hand_on_their_operand_lose_little() -> None:
    """A sum of a convolution and its operand is one convolution by then: what its operand enters by stays real."""
    graph = Graph("Blocks")
    x = graph.input("x", TensorType((1, 64, 14, 14)))
    for block in range(6):
        y = graph.call("conv2d", [x], {"out": 64, "k": 3}, f"{block}")
        x = graph.apply("relu", [graph.apply("add", [graph.call("batch_norm", [x], {}, f"{block}.bn"), y])])
    graph.outputs = [x]
    weights, merged = random_weights(graph), Reparam()(graph)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 64, 14, 14)).astype(np.float32)} for _ in range(4)]
    rounding = Calibrated(weights, samples, 1.0)
    result = rounding(merged)

    def sums(graph: Graph) -> int:
        return sum(graph.node(i).op == "add" for i in graph.live())

    assert result.count("conv2d_integer") == 6 == sums(result)
    whole = quantize(merged, rounding._decided[print_graph(merged)][0].intervals)
    assert whole.count("conv2d_integer") == 6 and sums(whole) == 0
    outputs = [[evaluate(each, weights, sample) for sample in samples] for each in (merged, result, whole)]
    errors = [accuracy(["output"], found, outputs[0]).worst for found in outputs[1:]]
    assert errors[0] == pytest.approx(rounding.outcome.accuracy.worst, rel=0.05)
    assert errors[0] < 0.6 * errors[1]


def test_accuracy_counts_answers_and_squares() -> None:
    expected = [[np.array([[3.0, 4.0]])], [np.array([[1.0, 0.0]])]]
    found = [[np.array([[3.0, 4.5]])], [np.array([[0.0, 0.5]])]]
    measured = accuracy(["output"], found, expected)
    assert measured.errors["output"] == pytest.approx(np.sqrt((0.25 + 1 + 0.25) / 26))
    assert measured.agreement == {"output": 0.5}


IMAGE = TensorSpec("image", (1, 3, 4, 4), "float32")
MASK = TensorSpec("mask", (5,), "int64")


@pytest.mark.parametrize(
    ("image", "mask", "count"),
    [((1, 3, 4, 4), (5,), 1), ((7, 3, 4, 4), (7, 5), 7), ((7, 1, 3, 4, 4), (7, 5), 7)],
)
def test_samples_of_several_shapes(image: Any, mask: Any, count: int) -> None:
    arrays = {"image": np.ones(image), "mask": np.ones(mask, np.int32)}
    samples = read_samples(arrays, [IMAGE, MASK])
    assert len(samples) == count
    for each in samples:
        assert each["image"].shape == IMAGE.shape and each["image"].dtype == np.float32
        assert each["mask"].shape == MASK.shape and each["mask"].dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"image": np.ones((2, 3, 4, 4))}, "S1003", "has no `mask`"),
        ({"image": np.ones((2, 3, 4, 5)), "mask": np.ones((2, 5), int)}, "S1003", "[2, 3, 4, 5]"),
        ({"image": np.ones((2, 3, 4, 4)), "mask": np.ones((3, 5), int)}, "S1003", "2 of `image`, 3 of `mask`"),
        ({"image": np.ones((0, 3, 4, 4)), "mask": np.ones((0, 5), int)}, "S1003", "no samples"),
        ({"image": np.full((2, 3, 4, 4), np.nan), "mask": np.ones((2, 5), int)}, "S0913", "no number"),
        ({"image": np.ones((2, 3, 4, 4)), "mask": np.ones((2, 5))}, "S0912", "float64"),
    ],
)
def test_samples_that_do_not_fit(arrays: Any, code: str, words: str) -> None:
    with pytest.raises(SpeccError) as caught:
        read_samples(arrays, [IMAGE, MASK])
    assert caught.value.diagnostics[0].code == code and words in str(caught.value)


def test_what_does_not_go_with_a_precision() -> None:
    graph, weights = outlier()
    for options, words in (
        ({"precision": "int4"}, "there are float32, int8"),
        ({"bound": 0.1}, "all is to be float32"),
        ({"precision": "int8", "passes": ()}, "passes of your own"),
        ({"precision": "int8", "shapes": [{}, {}]}, ""),
    ):
        with pytest.raises(SpeccError) as caught:
            specc.compile(graph, weights=weights, **options)  # type: ignore[arg-type]
        assert words in str(caught.value)


def test_the_command_says_what_stays_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, samples, output = tmp_path / "digits.specc", tmp_path / "samples.npz", tmp_path / "digits.artifact"
    spec.write_text(SPEC)
    np.savez(samples, image=np.random.default_rng(0).random((4, 1, 8, 8), np.float32))
    options = ["--precision", "int8", "--calibrate", str(samples), "-o", str(output), "--json"]
    assert execute(["compile", str(spec), *options]) == 0
    said = capsys.readouterr()
    assert "int8: `stem.bn` (std/conv.specc:13:10) stays in float32: it reads 1 channel" in said.err
    assert "int8: 3 layers; over 4 samples, `output` is off by" in said.err
    assert '"precision": {' in said.out
    specc.open(output).self_test()


def test_bench_measures_integers_beside_those_of_the_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, artifact = tmp_path / "net.specc", tmp_path / "net.artifact"
    spec.write_text(SPEC)
    assert execute(["compile", str(spec), "--precision", "int8", "-o", str(artifact)]) == 0
    capsys.readouterr()
    words = ["bench", str(artifact), "--threads", "1", "--seconds", "0"]
    assert execute([*words, "--against", "onnxruntime,openvino", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["precision"] == "int8"
    assert [timing["name"] for timing in said["timings"]] == ["specc", "onnxruntime", "openvino"]
    for timing in said["timings"]:
        assert "int8" in timing["form"]
        assert 1e-4 < timing["error"] < 0.1, "integers are near, and not equal"
    assert execute([*words, "--against", "torch"]) == 1
    assert "`torch` has no form in int8" in capsys.readouterr().err
    np.savez(tmp_path / "samples.npz", image=np.zeros((2, 1, 8, 8), np.float32))
    drawn = str(tmp_path / "samples.npz")
    assert execute(["compile", str(spec), "--precision", "int8", "--calibrate", drawn, "-o", str(artifact)]) == 0
    capsys.readouterr()
    assert execute([*words, "--against", "openvino"]) == 2
    assert "--calibrate gives them to the peers" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2e-2), ("fp16", 2e-3)])
def test_layers_of_16_bits(trained: Any, precision: str, error: float) -> None:
    """Weights take half of the room, outputs are off by what rounding loses, and no samples are needed."""
    graph, weights, _, held, _ = trained
    small = specc.compile(graph, weights=weights, precision=precision)
    facts = small.manifest.facts["precision"]
    assert facts["name"] == precision and facts["layers"] == 3 and facts["drawn"]
    assert 0 < facts["errors"]["output"] < error
    small.self_test()
    real = specc.compile(graph, weights=weights)
    kilobytes = [sum(array.nbytes for array in one.contents.weights) / 1000 for one in (small, real)]
    assert kilobytes[0] < 0.67 * kilobytes[1], "the classifier, small as it is, stays in float32"
    same = [small(image[None])[0].argmax() == real(image[None])[0].argmax() for image in held[:100]]
    assert np.mean(same) > 0.98


def test_verify_shows_what_16_bits_lose(trained: Any) -> None:
    graph, weights, seen, *_ = trained
    lost, artifact = verify.verify(graph, weights=weights, precision="bf16", samples={"image": seen[:8]}, level=0)
    assert lost.subject == "3 layers of bfloat16 over 8 samples" and lost.holds
    assert 1e-4 < lost.differences["output"] < 0.02 and artifact.holds


def test_numbers_beyond_float16_stay(trained: Any) -> None:
    """What becomes infinite is above any bound: the layers that read it stay in float32."""
    graph, weights, seen, *_ = trained
    samples = {"image": seen[:4] * np.float32(1e7)}
    facts = specc.compile(graph, weights=weights, precision="fp16", samples=samples).manifest.facts["precision"]
    assert facts["layers"] < 3 and facts["errors"]["output"] <= 0.1
    assert any("puts the outputs off by inf" in layer["why"] for layer in facts["kept"])


def test_the_gate_counts_what_sums_of_float16_lose() -> None:
    """Compiling for a core that adds up products in float16 is told of two to three times the error."""
    graph = grammar.loads(SPEC)
    weights = random_weights(graph)
    errors = {}
    for target in ("cortex-a72", "neoverse-n1"):
        inputs = [TensorSpec("image", (1, 1, 8, 8), "float32")]
        halved = prepare("fp16", inputs, weights, None, None, lambda done, total: None, targets.find(target))
        halved(graph)
        assert halved.outcome.layers == 3
        errors[target] = halved.outcome.accuracy.worst
    assert 1.5 < errors["neoverse-n1"] / errors["cortex-a72"] < 5
