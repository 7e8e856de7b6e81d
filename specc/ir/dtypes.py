"""The types of a tensor's elements: a module of its own, which the runtime imports without the rest of the IR."""

from __future__ import annotations

DTYPES: dict[str, int] = {"float64": 8, "float32": 4, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}
"""Element types and their size in bytes."""

SMALL: dict[str, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255)}
"""Integers of 8 bits, with the least and the greatest one. They are moved, chosen and converted to others; to make them
and to compute with them is what the operators of `specc.ops.quantized` are for."""
