"""What the examples of deployment are tested with: the digits network, trained a little, and its artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import specc
from specc.ir.array import Array

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Trained:
    """The folder that examples/digits.py fills, the weights, and one image float32[1, 1, 8, 8] of each digit."""

    folder: Path
    weights: dict[str, Array]
    samples: list[Array]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "digits.safetensors"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, str(EXAMPLES / "digits.py"), str(folder), "--epochs", "3"]
    subprocess.run(command, check=True, capture_output=True)
    pixels = json.loads((folder / "samples.json").read_text())
    samples = [np.array(sample, "float32").reshape(1, 1, 8, 8) for sample in pixels]
    return Trained(folder, load_file(folder / "digits.safetensors"), samples)


@pytest.fixture(scope="session")
def digits_artifact(trained: Trained) -> Path:
    """The trained network as an artifact for this machine."""
    path = trained.folder / "digits.artifact"
    specc.compile(specc.load(EXAMPLES / "digits.specc"), weights=trained.checkpoint).save(path)
    return path
