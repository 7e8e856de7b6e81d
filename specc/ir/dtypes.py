"""The types of a tensor's elements: a module of its own, which the runtime imports without the rest of the IR."""

from __future__ import annotations

DTYPES: dict[str, int] = {
    **{"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2},
    **{"int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1},
}
"""Element types and their size in bytes."""

SMALL: dict[str, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255)}
"""Integers of 8 bits, with the least and the greatest one. They are moved, chosen and converted to others; to make them
and to compute with them is what the operators of `specc.ops.quantized` are for."""

HALVES = ("float16", "bfloat16")
"""Numbers of 16 bits, as tensors are stored: `cast` rounds to them, movements move them, and whatever computes with one
computes in float32 (`specc.ops.infer`). No spec declares them, and no network takes or gives them."""

DECLARED = tuple(name for name in DTYPES if name not in HALVES)
"""The types that a spec can name."""

BITS = "uint16"
"""The type of an array that holds numbers of 16 bits: their bits."""

STORED: dict[str, int] = {**{name: DTYPES[name] for name in DECLARED}, BITS: 2}
"""The types of arrays in files, and the size of an element in bytes."""
