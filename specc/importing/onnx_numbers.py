"""What stands among the inputs of ONNX's operations and is no tensor of the network: constants and dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from specc.importing.builder import Builder, Unsupported
from specc.ir.dims import Dim
from specc.ir.graph import Value


def short(value: float) -> float:
    """A number of float32 as it was most probably written: 1e-5 for 9.999999747378752e-06."""
    return float(np.format_float_positional(np.float32(value), unique=True))


def dimensions(value: Any) -> tuple[Dim, ...]:
    """Dimensions, or an array of integers, as a tuple of dimensions."""
    if isinstance(value, np.ndarray):
        return tuple(int(item) for item in value.reshape(-1))
    if isinstance(value, tuple):
        return value
    raise Unsupported("numbers that are computed from a tensor")


def number(b: Builder, value: Any) -> float | None:
    """The number that an array of one element or a node `constant` is; None: it is none."""
    if isinstance(value, np.ndarray):
        return float(value.reshape(-1)[0]) if value.size == 1 else None
    if isinstance(value, Value) and b.graph.op(value) == "constant":
        return float(b.graph.node(value.node).attrs["value"])
    return None
