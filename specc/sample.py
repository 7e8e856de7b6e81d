"""Inputs that nobody gave: drawn from a seeded generator, so that they are the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specc.artifact import Array, TensorSpec

SEED = 0


def draw(specs: Sequence[TensorSpec], seed: int = SEED) -> list[Array]:
    """One array for each input: normal numbers, and 0 or 1 where it holds integers (every index takes these)."""
    generator = np.random.default_rng(seed)
    return [_draw(generator, spec) for spec in specs]


def _draw(generator: np.random.Generator, spec: TensorSpec) -> Array:
    dtype: np.dtype[Any] = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(spec.shape, np.float32).astype(dtype)
    return generator.integers(0, 2, spec.shape).astype(dtype)
