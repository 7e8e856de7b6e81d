"""Kernels as C give what PyTorch gives in float64, compiled by a C compiler that is told to refuse what looks wrong."""

from __future__ import annotations

import ctypes
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tvm import tirx

import specc
from specc import driver, grammar, runtime
from specc.backends.tvm.expression import constant, writing
from specc.compare import difference
from specc.diagnostics import SpeccError
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.model import Model, _together
from specc.passes.registry import Fusion, Layout
from specc.runtime import Artifact
from specc.targets import find, native
from specc.testing.growth import grow
from specc.unpack import unpack

STRICT = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror")


def network(module: str, call: str, input: str) -> Graph:
    """The graph of one call of a block of the standard library."""
    block = call.partition("(")[0]
    return grammar.loads(f"specc 1\nuse std.{module}: {block}\n\nnetwork N({input}):\n    return {call}\n")


def run(artifact: Artifact, folder: Path, *flags: str) -> list[float]:
    """How far the network in C is from the reference; `flags` are for the C compiler."""
    unpack(artifact.contents, folder / "net")
    command = ["gcc", *STRICT, *flags, "-fPIC", "-shared", "-o", "network.so", "network.c", "-lm"]
    subprocess.run(command, cwd=folder / "net", check=True)
    contents = artifact.contents
    model = Model((folder / "net" / "network.so").read_bytes(), contents.weights)
    return [
        difference(a, b)
        for a, b in zip(model.run(contents.samples[0].inputs), contents.samples[0].outputs, strict=True)
    ]


def kernels_of(graph: Graph, cache: int, folder: Path) -> list[list[dict[str, Any]]]:
    """The facts of the kernels that a network has on this machine, and those that it has in C, with what a second-level
    cache of so many bytes joins. Both give what the reference gives, and two threads here what one does."""
    found = []
    for target in (native(), find("c")):
        artifact = specc.compile(graph, target=target, passes=(Layout(target.lanes), Fusion(cache=cache)))
        if target.name == "c":
            assert max(run(artifact, folder)) <= 1e-5
        else:
            assert max(artifact.self_test()) <= 1e-5
            (sample,) = artifact.contents.samples
            one, two = (Artifact(artifact.contents, threads)(*sample.inputs) for threads in (1, 2))
            assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
        found.append(artifact.manifest.sizes[0].facts["kernels"])
    return found


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    types = [TensorType(rng.choice([(1, 3, 8, 8), (2, 17, 5, 5), (1, 16, 7, 3), (2, 5, 16)]))]
    graph = grow([rng.randrange(10**9) for _ in range(3 + seed)], types)
    assert max(run(driver.compile(graph, "c"), tmp_path)) <= 1e-4


@pytest.mark.parametrize(
    ("module", "call", "input"),
    [
        ("attention", "SelfAttention(x, heads=2)", "x: [n = 1, l = 9, 16]"),
        ("conv", "SqueezeExcite(x)", "x: [n = 1, 16, h = 6, w = 6]"),
        ("rnn", "LSTM(x, 8)", "x: [n = 2, l = 5, 6]"),
    ],
)
def test_templates(module: str, call: str, input: str, tmp_path: Path) -> None:
    """Those with code of their own: scores in registers, a mean that two matrices follow, a loop with state."""
    graph = network(module, call, input)
    assert max(run(driver.compile(graph, "c"), tmp_path)) <= 1e-5


def test_it_works_without_an_allocator(tmp_path: Path) -> None:
    """-DSPECC_STATIC: the same numbers, nothing asked of malloc, and one model at a time."""
    graph = specc.load(tiny.write(tmp_path), variant="small")
    artifact = specc.compile(graph, target="c")
    assert max(run(artifact, tmp_path, "-DSPECC_STATIC")) <= 1e-5
    command = ["nm", "-D", "network.so"]
    lines = subprocess.run(
        command, cwd=tmp_path / "net", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert not {"malloc", "posix_memalign", "free"} & {line.split()[-1].split("@")[0] for line in lines}
    library = (tmp_path / "net" / "network.so").read_bytes()
    weights = artifact.contents.weights
    first = Model(library, weights)
    handle = ctypes.c_void_p()
    address, size, held = _together(weights)
    assert first._library.specc_open(address, size, ctypes.byref(handle)) == 1
    assert held


def test_it_can_hold_its_weights(tmp_path: Path) -> None:
    """-DSPECC_EMBED: a program that opens no file, with no argument for the weights."""
    artifact = specc.compile(specc.load(tiny.write(tmp_path), variant="small"), target="c")
    unpack(artifact.contents, tmp_path / "net")
    (tmp_path / "net" / "main.c").write_text(
        """#include <stdio.h>
#include "specc.h"
static float image[3 * 8 * 8], out[5];
int main(void) {
  specc_model *model;
  const void *inputs[] = {image};
  void *outputs[] = {out};
  for (int i = 0; i < 3 * 8 * 8; i++) image[i] = (float)i / 100;
  if (specc_open(0, 0, &model) || specc_run(model, inputs, outputs)) return 1;
  for (int i = 0; i < 5; i++) printf("%.9g\\n", out[i]);
  specc_close(model);
  return 0;
}
""",
        encoding="utf-8",
    )
    flags = ("-DSPECC_STATIC", '-DSPECC_EMBED="weights.bin"')
    command = ["gcc", *STRICT, *flags, "main.c", "network.c", "-o", "main", "-lm"]
    subprocess.run(command, cwd=tmp_path / "net", check=True)
    done = subprocess.run(["./main"], cwd=tmp_path / "net", capture_output=True, text=True, check=True)
    image = (np.arange(192, dtype="float32") / np.float32(100)).reshape(1, 3, 8, 8)
    (expected,) = specc.compile(specc.load(tmp_path / "tiny.specc", variant="small"))(image)
    assert difference(np.array(done.stdout.split(), "float32").reshape(1, 5), expected) <= 1e-5


def test_the_same_inputs_give_the_same_text(tmp_path: Path) -> None:
    graph = specc.load(tiny.write(tmp_path), variant="small")
    first, second = (specc.compile(graph, target="c").contents.library for _ in range(2))
    assert first == second


def test_it_is_not_run_as_it_is(tmp_path: Path) -> None:
    specc.compile(specc.load(tiny.write(tmp_path), variant="small"), target="c").save(tmp_path / "net")
    with pytest.raises(SpeccError, match="its library is C to compile"):
        runtime.open(tmp_path / "net")


def test_numbers_keep_their_digits() -> None:
    """TVM prints seven of them in C."""
    with writing("c"):
        assert isinstance(constant(0.5, "float32"), tirx.FloatImm)
        assert "0.1234567891f" not in str(constant(0.1234567891, "float32"))
        assert "specc_literal_0.12345679f" in str(constant(0.1234567891, "float32"))
        assert "specc_literal_INFINITY" in str(constant(float("inf"), "float32"))
    assert isinstance(constant(0.1234567891, "float32"), tirx.FloatImm)
