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
