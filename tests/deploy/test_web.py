"""Networks for WebAssembly, run by node through examples/deploy/web/specc.mjs.

`make web-test` installs what this needs and runs it; the default tests leave it out.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import specc
from specc.backends.torch import evaluate
from specc.driver import find_weights
from specc.ir.specialize import specialize
from specc.unpack import unpack

pytestmark = pytest.mark.cross
EXAMPLES = Path(__file__).parents[2] / "examples"
LOADER = EXAMPLES / "deploy" / "web" / "specc.mjs"
PROGRAM = """
import { readFileSync } from "node:fs";
import { Network } from %(loader)s;

const bytes = (path) => new Uint8Array(readFileSync(path)).buffer;
const network = await Network.open(bytes("net/network.wasm"), bytes(%(weights)s));
const image = new Float32Array(bytes("net/sample/image.bin"));
const [first, again] = [network.run({ image }), network.run({ image })];
const { shape } = network.sizes[0].outputs[0];
console.log(JSON.stringify({ shape, first: [...first.output], again: [...again.output] }));
"""


def run(folder: Path, weights: str = "net/weights.bin") -> subprocess.CompletedProcess[str]:
    (folder / "run.mjs").write_text(PROGRAM % {"loader": json.dumps(str(LOADER)), "weights": json.dumps(weights)})
    return subprocess.run(["node", "run.mjs"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("network", ["digits.specc", "zoo:repvit/m1_1"])
def test_node_computes_what_the_reference_computes(network: str, tmp_path: Path) -> None:
    spec = network if network.startswith("zoo:") else EXAMPLES / network
    artifact = specc.compile(specc.load(spec), target="wasm32")
    unpack(artifact.contents, tmp_path / "net")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (expected,) = artifact.contents.samples[0].outputs
    assert tuple(found["shape"]) == expected.shape
    assert np.abs(np.array(found["first"]) - expected.ravel()).max() <= 1e-5 * np.abs(expected).max()
    assert found["first"] == found["again"]


def test_other_weights_are_refused(tmp_path: Path) -> None:
    artifact = specc.compile(specc.load(EXAMPLES / "digits.specc"), target="wasm32")
    unpack(artifact.contents, tmp_path / "net")
    done = run(tmp_path, "net/specc.h")
    assert done.returncode != 0
    assert "not the weights that the network was compiled with" in done.stderr


SIZES = """
import { readFileSync } from "node:fs";
import { Network } from %(loader)s;

const bytes = (path) => new Uint8Array(readFileSync(path)).buffer;
const network = await Network.open(bytes("net/network.wasm"), bytes("net/weights.bin"));
const found = {};
const image = (size) => new Float32Array(bytes(`net/sample/${size}/image.bin`));
found["n=4,h=8,w=8"] = [...network.run({ image: image("n=4,h=8,w=8") }, network.sizes[0]).output];
found["n=1,h=16,w=8"] = [...network.run({ image: image("n=1,h=16,w=8") }).output];
found["n=1,h=8,w=32"] = [...network.run({ image: image("n=1,h=8,w=32") }, network.sizes[2]).output];
found.refused = [];
for (const array of [image("n=1,h=8,w=32"), new Float32Array(3)]) {
  try {
    network.run({ image: array });
  } catch (problem) {
    found.refused.push(problem.message);
  }
}
console.log(JSON.stringify(found));
"""


def test_the_lengths_of_arrays_choose_the_size(tmp_path: Path) -> None:
    """Four pictures and one of four times the width have one length: then the size is asked for."""
    shapes = [{"n": 4}, {"n": 1, "h": 16}, {"n": 1, "w": 32}]
    artifact = specc.compile(specc.load(EXAMPLES / "digits.specc"), target="wasm32", shapes=shapes)
    unpack(artifact.contents, tmp_path / "net")
    (tmp_path / "run.mjs").write_text(SIZES % {"loader": json.dumps(str(LOADER))})
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    sizes = "image: float32[4,1,8,8]; or image: float32[1,1,16,8]; or image: float32[1,1,8,32]"
    expected = [f"{what} these arrays; there is {sizes}" for what in ("more than one size takes", "no size takes")]
    assert found.pop("refused") == expected
    assert len(found) == 3
    for size, sample in zip(artifact.manifest.sizes, artifact.contents.samples, strict=True):
        (reference,) = sample.outputs
        assert np.abs(np.array(found[str(size)]) - reference.ravel()).max() <= 1e-5 * np.abs(reference).max()


OPEN = """
import { readFileSync } from "node:fs";
import { Network } from %(loader)s;

const bytes = (path) => new Uint8Array(readFileSync(path)).buffer;
const network = await Network.open(bytes("net/network.wasm"), bytes("net/weights.bin"));
const image = (...shape) => Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => (i %% 101) / 100);
const found = [];
for (const shape of %(calls)s) {
  const size = %(named)s ? network.at({ image: shape }) : undefined;
  const { output } = network.run({ image: image(...shape) }, size);
  found.push({ shape: size?.outputs[0].shape ?? [shape[0], 10], values: [...output] });
}
const refused = [];
const wrong = [
  () => network.at({ image: [1, 1, 0, 8] }),
  () => network.at({ image: [1, 2, 8, 8] }),
  () => network.at({ image: [1, 8, 8] }),
  () => network.run({ image: image(63) }, network.at({ image: [1, 1, 8, 8] })),
  () => network.run({ image: image(65) }),
];
for (const each of wrong) {
  try {
    each();
  } catch (problem) {
    refused.push(problem.message);
  }
}
console.log(JSON.stringify({ found, refused }));
"""


@pytest.mark.parametrize("named", [True, False])
def test_dimensions_that_stay_open(named: bool, tmp_path: Path) -> None:
    """In an order in which the module's memory grows, and is too large again; where one dimension is open, the lengths
    of arrays say what it is."""
    shapes = [{"n": 1}, {"n": None, "h": None, "w": None} if named else {"n": None}]
    calls = [[1, 1, 8, 8], [2, 1, 9, 14], [1, 1, 200, 160], [3, 1, 8, 8]] if named else [[1, 1, 8, 8], [700, 1, 8, 8]]
    graph = specc.load(EXAMPLES / "digits.specc")
    artifact = specc.compile(graph, target="wasm32", shapes=shapes)
    unpack(artifact.contents, tmp_path / "net")
    values = {"loader": json.dumps(str(LOADER)), "calls": json.dumps(calls), "named": json.dumps(named)}
    (tmp_path / "run.mjs").write_text(OPEN % values)
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    weights, _ = find_weights(graph, None)
    for found, shape in zip(said["found"], calls, strict=True):
        given = ((np.arange(np.prod(shape)) % 101).astype("float32") / np.float32(100)).reshape(shape)
        (expected,) = evaluate(
            specialize(graph, {"n": shape[0], "h": shape[2], "w": shape[3]}), weights, {"image": given}
        )
        assert tuple(found["shape"]) == expected.shape
        assert np.abs(np.array(found["values"]) - expected.ravel()).max() <= 1e-5 * np.abs(expected).max()
    none = "the network was not compiled for inputs of these shapes"
    sizes = f"image: float32[1,1,8,8]; or image: float32[?,1,{'?,?' if named else '8,8'}]"
    lengths = f"no size takes these arrays; there is {sizes}"
    assert said["refused"] == [none, none, "`image` has 4 dimensions", "`image` is float32[1,1,8,8]", lengths]
