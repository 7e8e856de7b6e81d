"""How far two results are apart, one number for a tensor: max |difference| / max |expected|.

The measure is norm-wise, as the rounding errors of sums are: an element near zero among large ones carries their error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

TOLERANCE = 1e-4
"""What float32 kernels may differ from the float64 reference, norm-wise, before it is called a mistake."""


def difference(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The norm-wise difference; infinite where shapes or the places of infinities and NaNs differ.

    Integers and booleans are equal or infinitely apart.
    """
    if actual.shape != expected.shape:
        return math.inf
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(actual, expected) else math.inf
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return math.inf
    a, b = a[finite], b[finite]
    if not b.size:
        return 0.0
    apart, scale = float(np.abs(a - b).max()), float(np.abs(b).max())
    return apart / scale if scale else (math.inf if apart else 0.0)


def relative_error(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The root mean square of the difference, relative to that of what is expected: how an approximation is judged."""
    if actual.shape != expected.shape:
        return math.inf
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    apart, scale = float(((a - b) ** 2).sum()), float((b**2).sum())
    return math.sqrt(apart / scale) if scale else (math.inf if apart else 0.0)


def finite(value: float) -> float | None:
    """The value for JSON, which has no infinities."""
    return value if math.isfinite(value) else None
