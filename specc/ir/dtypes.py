"""The types of a tensor's elements: a module of its own, which the runtime imports without the rest of the IR."""

from __future__ import annotations

DTYPES: dict[str, int] = {"float64": 8, "float32": 4, "int64": 8, "int32": 4, "bool": 1}
"""Element types and their size in bytes."""
