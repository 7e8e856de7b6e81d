"""One network at several sizes in one artifact: batches and resolutions that share kernels and weights."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

import specc
from specc import artifact as container
from specc import driver, runtime, sample, targets, verify
from specc.backends.torch import evaluate
from specc.cli import execute
from specc.compare import difference
from specc.diagnostics import SpeccError
from specc.driver import find_weights
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.runtime import Artifact

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZES = ({"n": 1}, {"n": 4}, {"n": 1, "h": 12, "w": 10})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sizes") / "tiny.artifact"
    specc.compile(tiny.graph(), shapes=SIZES).save(path)
    return path


def image(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def reference(graph: Graph, shapes: dict[str, int], given: np.ndarray) -> np.ndarray:
    """What the spec gives in float64."""
    (expected,) = evaluate(specialize(graph, shapes), find_weights(graph, None)[0], {"image": given})
    return expected


def weight_bytes(artifact: Artifact) -> int:
    return sum(weight.nbytes for weight in artifact.contents.weights)


def test_the_arrays_shapes_choose_the_size(path: Path) -> None:
    artifact = runtime.open(path)
    assert [str(size) for size in artifact.manifest.sizes] == ["n=1,h=8,w=8", "n=4,h=8,w=8", "n=1,h=12,w=10"]
    for number in (0, 1, 2, 1, 0):
        given = image(*artifact.manifest.sizes[number].inputs[0].shape, seed=number)
        (found,) = artifact(given)
        expected = reference(tiny.graph(), SIZES[number], given)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_it_tests_itself_at_every_size(path: Path) -> None:
    assert max(runtime.open(path).self_test()) < 1e-5
    contents = container.read(path)
    (one, two, three) = contents.samples
    wrong = replace(contents, samples=[one, replace(two, outputs=[two.outputs[0] + 1]), three])
    with pytest.raises(SpeccError, match="fails its self-test at n=4,h=8,w=8"):
        Artifact(wrong).self_test()


def test_no_such_size(path: Path) -> None:
    artifact = runtime.open(path)
    with pytest.raises(SpeccError) as caught:
        artifact(image(2, 3, 8, 8))
    (found,) = caught.value.diagnostics
    assert found.code == "S0911" and "image[2, 3, 8, 8]" in found.message
    assert "at n=4,h=8,w=8 it takes image: float32[4, 3, 8, 8]" in found.notes
    artifact.self_test()
    with pytest.raises(SpeccError, match=r"S0911.*not compiled for inputs of these shapes"):
        artifact._loaded().at([(2, 3, 8, 8)])


def test_the_same_size_twice_is_refused() -> None:
    for shapes in ([{}, {"n": 1}], [{"n": 2, "h": 8}, {"h": 8, "n": 2}], []):
        with pytest.raises(SpeccError) as caught:
            specc.compile(tiny.graph(), shapes=shapes)
        assert caught.value.diagnostics[0].code == "S0703"


def test_it_is_the_same_every_time(path: Path, tmp_path: Path) -> None:
    specc.compile(tiny.graph(), shapes=SIZES).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    runtime.open(path).save(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == path.read_bytes()


def test_each_call_is_timed_at_each_size(path: Path) -> None:
    artifact = runtime.open(path)
    for size in artifact.manifest.sizes:
        seconds = artifact.profile(*sample.draw(size.inputs))
        assert len(seconds) == len(size.facts["kernels"]) and min(seconds) > 0


def test_a_model_has_memory_for_its_largest_size(path: Path) -> None:
    model = runtime.open(path)._loaded()
    arenas = [size.arena_bytes for size in model.sizes]
    assert model.arena_bytes == max(arenas) > min(arenas)


def test_weights_are_shared() -> None:
    graph = specc.load(EXAMPLES / "digits.specc")
    sizes = [{"n": 1}, {"n": 4}, {"n": 1, "h": 16, "w": 16}]
    alone = [specc.compile(graph, shapes=size) for size in sizes]
    several = specc.compile(graph, shapes=sizes)
    assert weight_bytes(several) == weight_bytes(alone[0])


def test_the_first_size_decides_how_weights_are_transformed(tmp_path: Path) -> None:
    spec = tmp_path / "wide.specc"
    head = "network Wide(x: [1, 64, h = 14, w = 14]) -> [1, 64, h, w]:"
    spec.write_text(f"specc 1\n{head}\n    return conv2d(x, 64, k=3)\n")
    graph = specc.load(spec)
    sizes = [{"h": 14, "w": 14}, {"h": 56, "w": 56}]
    alone = [specc.compile(graph, "x86-64-v4", shapes=size, tuning="none") for size in sizes]
    assert weight_bytes(alone[0]) != weight_bytes(alone[1]), "each has the tile that suits it"
    several = specc.compile(graph, "x86-64-v4", shapes=sizes, tuning="none")
    assert weight_bytes(several) == weight_bytes(alone[0])


def test_verify_looks_at_every_size() -> None:
    verdicts = verify.verify(tiny.graph(), shapes=[{"n": 1}, {"n": 3}], per_pass=True)
    assert all(verdict.holds for verdict in verdicts)
    subjects = [verdict.subject for verdict in verdicts]
    assert subjects[-2].endswith(" at n=1,h=8,w=8") and subjects[-1].endswith(" at n=3,h=8,w=8")
    assert sum(subject.startswith("reparam at ") for subject in subjects) == 2


def test_the_command_line(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, goal = str(tiny.write(tmp_path)) + ":small", str(tmp_path / "a")
    shapes = [word for size in SIZES for word in ("--shapes", ",".join(f"{k}={v}" for k, v in size.items()))]
    assert execute(["compile", spec, *shapes, "-o", goal]) == 0
    assert " at 3 sizes, " in capsys.readouterr().err
    assert execute(["run", goal, "--self-test"]) == 0
    assert execute(["run", goal, "--shapes", "n=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("reference\n")[2])["output"]["type"] == "float32[4, 5]"
    np.savez(tmp_path / "io.npz", image=image(1, 3, 12, 10))
    assert execute(["run", goal, "--inputs", str(tmp_path / "io.npz")]) == 0
    assert execute(["profile", goal, "--shapes", "h=12", "--seconds", "0"]) == 0
    assert "Tiny_small at n=1,h=12,w=10, " in capsys.readouterr().out
    for asked, extents in (("n=4", {"n": 4, "h": 8, "w": 8}), ("h=12", {"n": 1, "h": 12, "w": 10})):
        assert execute(["bench", goal, "--against", "torch", "--seconds", "0", "--shapes", asked, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["shapes"] == extents
        assert all(timing["error"] < 1e-5 for timing in said["timings"])
    assert execute(["show", goal]) == 0
    assert "at n=4,h=8,w=8\n  image: float32[4, 3, 8, 8]" in capsys.readouterr().out
    for words in (["run", goal, "--shapes", "n=5"], ["profile", goal, "--shapes", "m=1"]):
        assert execute(words) == 1
        assert "is compiled for n=1,h=8,w=8 and n=4,h=8,w=8 and n=1,h=12,w=10" in capsys.readouterr().err
    assert execute(["run", goal, "--shapes", "n=4", "--self-test"]) == 2
    assert execute(["compile", spec, *shapes, "--emit", "onnx", "-o", str(tmp_path / "net.onnx")]) == 2


WORDS = """specc 1
use std.attention: SelfAttention

network Words(tokens: [n = 1, l = 6] int64) -> [n, l, 20]:
    x = embedding(tokens, 20, 16)
    norm = layer_norm(x)
    mixed = SelfAttention(norm, heads=2)
    return linear(x + mixed, 20)
"""


def test_dimensions_that_stay_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One fixed size, for which the kernels are made, and all others; which one it is, the arrays say."""
    (tmp_path / "words.specc").write_text(WORDS)
    words = ["compile", str(tmp_path / "words.specc"), "--shapes", "l=8", "--shapes", "n=any,l=any"]
    assert execute([*words, "-o", str(tmp_path / "a")]) == 0
    assert "n=any,l=any: general kernels, which are slower than" in capsys.readouterr().err
    assert execute([*words, "-o", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    artifact = runtime.open(tmp_path / "a")
    assert [str(size) for size in artifact.manifest.sizes] == ["n=1,l=8", "n=any,l=any"]
    assert [str(spec) for spec in artifact.manifest.sizes[1].outputs] == ["output: float32[n, l, 20]"]
    assert max(artifact.self_test()) < 1e-5
    graph = specc.load(tmp_path / "words.specc")
    weights = find_weights(graph, None)[0]
    for shape in ((1, 8), (3, 5), (1, 1), (2, 64), (1, 8), (3, 5)):
        tokens = np.random.default_rng(sum(shape)).integers(0, 20, shape)
        (found,) = artifact(tokens)
        (expected,) = evaluate(specialize(graph, dict(zip("nl", shape))), weights, {"tokens": tokens})
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    for wrong, code in ((np.zeros((1, 2, 3), "int64"), "S0911"), (np.full((3, 5), 20), "S0913")):
        with pytest.raises(SpeccError) as caught:
            artifact(wrong)
        assert caught.value.diagnostics[0].code == code
    assert "at n=any,l=any it takes tokens: int64[n, l]" in caught.value.diagnostics[0].notes
    capsys.readouterr()
    for command in (["profile", "--seconds", "0"], ["bench", "--seconds", "0", "--against", "torch"], ["run"]):
        asked = [command[0], str(tmp_path / "a"), *command[1:], "--shapes"]
        assert execute([*asked, "k=3"]) == 1
        assert execute([*asked, "l=6"]) == 0
        assert execute([*asked, "n=3,l=5"]) == (1 if command[0] == "profile" else 0)
    said = capsys.readouterr()
    assert "at n=2,l=6, " in said.out and "at n=3,l=5, " in said.out and "output: type float32[3, 5, 20]" in said.out
    assert "is counted at n=1,l=8 and n=2,l=6, not at n=3,l=5" in said.err
    assert "results are not compared" not in said.err
    for option in (["--emit", "onnx"], ["--strips", "2"], ["--target", "cuda:sm_90"]):
        assert execute([*words, *option, "-o", str(tmp_path / "new")]) != 0
    assert not (tmp_path / "new").exists()


def test_a_fixed_size_goes_before_an_open_one() -> None:
    """As in the driver, whatever the order in which they were given."""
    manifest = specc.compile(tiny.graph(), shapes=[{"n": None, "h": None, "w": None}, {"n": 2}]).manifest
    assert manifest.size().dimensions == manifest.sizes[1].dimensions == (("n", 2), ("h", 8), ("w", 8))
    assert manifest.size({"n": 2}) is manifest.sizes[1]
    assert [spec.shape for spec in manifest.size({"n": 5, "h": 16}).inputs] == [(5, 3, 16, 8)]


ROUNDED = """specc 1
use std.conv: ConvBN

network Pictures(image: [n = 1, 3, h = 16, w = 12]) -> [n, 5]:
    first = ConvBN(image, 24, k=3, s=2)
    stem = relu(first)
    dilated = conv2d(stem, 24, k=3, p=2, d=2)
    b = max_pool2d(relu(dilated) + stem, 3, s=2, p=1)
    c = ConvBN(b, 40, k=3)
    last = ConvBN(silu(c), 64)
    return linear(global_avg_pool(relu(last)), 5)
"""


@pytest.mark.parametrize("precision", ["int8", "bf16", "fp16"])
@pytest.mark.parametrize("left", ["n", "nhw"])
def test_layers_that_are_rounded_where_dimensions_stay_open(precision: str, left: str, tmp_path: Path) -> None:
    """The samples have one size, which the artifact's sample has, too; at all, it computes as the rounded graph."""
    (tmp_path / "pictures.specc").write_text(ROUNDED)
    graph, shapes = specc.load(tmp_path / "pictures.specc"), dict.fromkeys(left)
    samples = {"image": image(8, 3, 64, 48) if left == "n" else image(8, 3, 64, 56)}
    shapes |= {} if left == "nhw" else {"h": 64, "w": 48}
    native, weights = targets.native(), find_weights(graph, None)[0]
    specs = driver.sampled_sizes(graph, shapes, samples)
    rounding = driver.calibrated(precision, specs, weights, samples, None, None, lambda _: None, native)
    assert rounding is not None
    rounded = specialize(graph, {name: extent for name, extent in shapes.items() if extent}, left)
    for each in driver.passes_for_open(2, native, rounding):
        rounded = each(rounded)
    artifact = specc.compile(graph, shapes=shapes, precision=precision, samples=samples)
    facts, (size,) = artifact.manifest.facts["precision"], artifact.manifest.sizes
    assert dict(size.dimensions) == dict(zip("nhw", (1, *samples["image"].shape[2:])))
    assert facts["layers"] == rounding.outcome.layers >= 3
    integers = sum("conv2d_integer" in row["kernel"] for row in size.facts["kernels"])
    assert integers == (facts["layers"] if precision == "int8" else 0)
    artifact.self_test()
    for n, h, w in ((1, 64, 48), (5, 64, 48), *(() if left == "n" else ((1, 9, 30), (2, 41, 17)))):
        given = image(n, 3, h, w, seed=h)
        here = specialize(rounded, {name: extent for name, extent in zip("nhw", (n, h, w)) if name in left})
        (expected,) = evaluate(here, weights, {"image": given})
        (found,) = artifact(given)
        assert difference(found, expected) <= facts["tolerance"] / 2


def test_verify_rounds_where_dimensions_stay_open(tmp_path: Path) -> None:
    (tmp_path / "pictures.specc").write_text(ROUNDED)
    graph = specc.load(tmp_path / "pictures.specc")
    verdicts = verify.verify(graph, shapes={"n": None, "h": None, "w": 64}, precision="int8", per_pass=True)
    assert all(verdict.holds for verdict in verdicts)
    assert any("layers of integers over 8 samples" in verdict.subject for verdict in verdicts)


def test_samples_of_a_size_that_cannot_be(tmp_path: Path) -> None:
    """Where what is given is no number of samples of one size, it is said as for a size that is known."""
    (tmp_path / "pictures.specc").write_text(ROUNDED)
    graph = specc.load(tmp_path / "pictures.specc")
    for shape in ((8, 4, 16, 12), (8, 3, 16), (0, 3, 16, 12)):
        with pytest.raises(SpeccError) as caught:
            specc.compile(graph, shapes=dict.fromkeys("nhw"), precision="int8", samples={"image": image(*shape)})
        assert caught.value.diagnostics[0].code == "S1003"


OPEN_PROGRAM = """#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "specc.h"

int main(void) {
  const specc_interface *about = specc_describe();
  if (about->size_count != 1 || about->sizes[0].inputs[0].shape[1] != -1 || about->sizes[0].inputs[0].bytes) return 1;
  FILE *file = fopen("weights.bin", "rb");
  void *weights = aligned_alloc(64, (about->weight_bytes + 63) / 64 * 64);
  specc_model *model;
  if (fread(weights, 1, about->weight_bytes, file) != about->weight_bytes) return 2;
  if (specc_open(weights, about->weight_bytes, &model)) return 3;
  for (int64_t l = 1; l < 200; l = 3 * l + 1) {
    const int64_t shape[] = {2, l}, *shapes[] = {shape};
    if (specc_set_shapes(model, shapes)) return 4;
    const specc_size *now = specc_get_size(model);
    if (now->outputs[0].shape[1] != l || now->outputs[0].bytes != (uint64_t)(2 * l * 20 * 4)) return 5;
    int64_t *tokens = calloc((size_t)(2 * l), sizeof *tokens);
    float *scores = malloc(now->outputs[0].bytes);
    const void *inputs[] = {tokens};
    void *outputs[] = {scores};
    if (specc_run(model, inputs, outputs)) return 6;
    printf("%.9g\\n", scores[2 * l * 20 - 1]);
    free(tokens);
    free(scores);
  }
  specc_close(model);
  free(weights);
  fclose(file);
  return 0;
}
"""


@pytest.mark.parametrize(("emit", "library"), [("static", "libnetwork.a"), ("c", "network.c")])
def test_an_open_dimension_in_c(emit: str, library: str, tmp_path: Path) -> None:
    """All tokens being equal, every place has the same scores, whatever the length."""
    (tmp_path / "words.specc").write_text(WORDS)
    words = ["compile", str(tmp_path / "words.specc"), "--shapes", "n=2,l=any", "--emit", emit]
    assert execute([*words, "-o", str(tmp_path / "net")]) == 0
    (tmp_path / "net" / "main.c").write_text(OPEN_PROGRAM, encoding="utf-8")
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "main.c", library, "-fopenmp", "-lm", "-o", "main"]
    subprocess.run(command, cwd=tmp_path / "net", check=True)
    done = subprocess.run(["./main"], cwd=tmp_path / "net", capture_output=True, text=True, check=False)
    assert done.returncode == 0
    found = [float(line) for line in done.stdout.split()]
    graph = specc.load(tmp_path / "words.specc")
    inputs = {"tokens": np.zeros((2, 1), "int64")}
    (expected,) = evaluate(specialize(graph, {"n": 2, "l": 1}), find_weights(graph, None)[0], inputs)
    assert len(found) == 5 and np.abs(np.array(found) - expected[1, 0, 19]).max() <= 1e-5 * np.abs(expected).max()


PROGRAM = """#include <stdio.h>
#include "specc.h"
static float image[4 * 3 * 8 * 8], out[4 * 5];
int main(void) {
  const specc_interface *about = specc_describe();
  const int64_t shape[] = {4, 3, 8, 8}, other[] = {5, 3, 8, 8};
  const int64_t *shapes[] = {shape}, *others[] = {other};
  const void *inputs[] = {image};
  void *outputs[] = {out};
  specc_model *model;
  for (int i = 0; i < 4 * 3 * 8 * 8; i++) image[i] = (float)(i % 101) / 100;
  if (about->size_count != 3 || specc_open(0, 0, &model)) return 1;
  if (specc_get_size(model) != &about->sizes[0] || specc_set_shapes(model, others) != SPECC_BAD_SHAPE) return 2;
  if (specc_set_shapes(model, 0) != SPECC_BAD_ARGUMENT || specc_get_size(model) != &about->sizes[0]) return 3;
  if (specc_set_shapes(model, shapes) || specc_get_size(model)->outputs[0].shape[0] != 4) return 4;
  if (specc_run(model, inputs, outputs)) return 5;
  for (int i = 0; i < 20; i++) printf("%.9g\\n", out[i]);
  specc_close(model);
  return 0;
}
"""


def test_several_sizes_in_c(tmp_path: Path) -> None:
    """`--emit c` without an allocator and with the weights inside: the tables of all sizes are standard C."""
    spec, goal = str(tiny.write(tmp_path)) + ":small", tmp_path / "net"
    shapes = [word for size in SIZES for word in ("--shapes", ",".join(f"{k}={v}" for k, v in size.items()))]
    assert execute(["compile", spec, *shapes, "--emit", "c", "-o", str(goal)]) == 0
    assert {path.name for path in (goal / "sample").iterdir()} == {"n=1,h=8,w=8", "n=4,h=8,w=8", "n=1,h=12,w=10"}
    (goal / "main.c").write_text(PROGRAM, encoding="utf-8")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-DSPECC_STATIC", '-DSPECC_EMBED="weights.bin"']
    subprocess.run(["gcc", *flags, "main.c", "network.c", "-o", "main", "-lm"], cwd=goal, check=True)
    done = subprocess.run(["./main"], cwd=goal, capture_output=True, text=True, check=True)
    given = ((np.arange(768) % 101).astype("float32") / np.float32(100)).reshape(4, 3, 8, 8)
    found = np.array([float(line) for line in done.stdout.split()]).reshape(4, 5)
    expected = reference(tiny.graph(), {"n": 4}, given)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
