"""Arrays of numbers of 16 bits: numpy has float16 and no bfloat16, so both are arrays of their bits here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_bits(array: NDArray[Any], dtype: str) -> NDArray[np.uint16]:
    """The numbers of an array, rounded by way of float32 to the nearest of `dtype`, of two the even one, as bits."""
    numbers = np.asarray(array, np.float32)
    if dtype == "float16":
        with np.errstate(over="ignore"):  # beyond the greatest number lies infinity
            return numbers.astype(np.float16).view(np.uint16)
    bits = numbers.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), rounded).astype(np.uint16)


def of_bits(bits: NDArray[np.uint16], dtype: str) -> NDArray[np.float32]:
    """The numbers, float32, that stand in an array as bits of `dtype`."""
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)
