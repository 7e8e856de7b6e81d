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
