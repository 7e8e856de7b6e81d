"""A network that compiles in seconds and has what the driver cares for: branches that merge, two variants."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

import specc
from specc.runtime import Artifact

TEXT = """specc 1

use std.conv: ConvBN

block Branches(x: [n, c, h, w]) -> [n, c, h, w]:
    conv3 = ConvBN(x, c, k=3)
    conv1 = ConvBN(x, c)
    joined = conv3 + conv1 + x
    ensure joined merges into conv2d
    return relu(joined)

network Tiny(image: [n = 1, 3, h = 8, w = 8], width: int, classes: int = 5) -> [n, classes]:
    stem = ConvBN(image, width, k=3, s=2)
    mix = Branches(relu(stem))
    head = linear(global_avg_pool(mix), classes)
    return head

variants Tiny:
    small: width = 4
    large: width = 8

check small with image = [1, 3, 8, 8]:
    params == 317
"""


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "tiny.specc"
    path.write_text(text)
    return path


@cache
def graph() -> specc.Graph:
    from specc import grammar

    return grammar.loads(TEXT, variant="small")


@cache
def artifact() -> Artifact:
    """Compiled once for all tests of a process."""
    return specc.compile(graph())


def image(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype("float32")
