"""Inputs that nobody gave: drawn from a seeded generator, so that they are the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specc.ir.array import Array
from specc.manifest import TensorSpec

SEED = 0


def draw(specs: Sequence[TensorSpec], seed: int = SEED) -> list[Array]:
    """One array for each input, inside its domain: normal numbers, integers, truth values.

    Integers of which nothing is known are 0 or 1; an interval without an end is used near its beginning.
    """
    generator = np.random.default_rng(seed)
    return [_draw(generator, spec) for spec in specs]


def _draw(generator: np.random.Generator, spec: TensorSpec) -> Array:
    dtype: np.dtype[Any] = np.dtype(spec.dtype)
    least, greatest = spec.domain or (None, None)
    if dtype.kind != "f":
        first = least if least is not None else 0 if greatest is None else greatest - 1
        last = greatest if greatest is not None else first + 1
        return generator.integers(int(first), int(last) + 1, spec.shape).astype(dtype)
    numbers: Array = generator.standard_normal(spec.shape, np.float32)
    if least is not None and greatest is not None:
        numbers = least + (greatest - least) * np.clip(np.abs(numbers) / 4, 0, 1)
    elif least is not None:
        numbers = least + np.abs(numbers)
    elif greatest is not None:
        numbers = greatest - np.abs(numbers)
    return numbers.astype(dtype)
