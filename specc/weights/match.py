"""A checkpoint and a graph -> the values of the graph's parameters; or one message with everything that does not fit.

error[S0603]: w.safetensors does not fit `RepViT`: 1 key is missing, 1 key is unexpected, ...
  = key                RepViT                   checkpoint               nearest
    stem.c.weight      float32[32, 3, 3, 3]     -                        stem.conv.weight
    head.weight        float32[1000, 384]       float32[100, 384]
    stem.conv.weight   -                        float32[32, 3, 3, 3]
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np

from specc.diagnostics import error
from specc.ir.array import Array
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.weights.rename import Renamed

_ROWS = 24
"""Rows of the table that are printed; the rest is counted."""


def match(graph: Graph, checkpoint: Mapping[str, Array]) -> dict[str, Array]:
    """The values of the graph's parameters, and of its training state where the checkpoint has it, by key.

    Floats of any width become the graph's type; an array that has that type already stays where it lies. Raises S0603
    for missing, unexpected and wrongly shaped keys, S0604 for numbers that are not finite.
    """
    if graph.renames:
        checkpoint = Renamed(checkpoint, graph.renames)
    origin = getattr(checkpoint, "origin", "the checkpoint")
    required, allowed = graph.parameters, graph.checkpoint
    missing = [key for key in required if key not in checkpoint]
    unexpected = [key for key in checkpoint if key not in allowed]
    values = {key: checkpoint[key] for key in allowed if key in checkpoint}
    wrong = [key for key, array in values.items() if not _fits(array, allowed[key])]
    if missing or unexpected or wrong:
        counts = [_count(missing, "is missing", "are missing"), _count(unexpected, "is unexpected", "are unexpected")]
        counts += [_count(wrong, "has the wrong shape or type", "have the wrong shape or type")]
        summary = ", ".join(count for count in counts if count)
        given = {key: checkpoint[key] for key in unexpected}
        table = _table(graph.name, allowed, missing, wrong, values, given)
        hints = _prefix(required, list(checkpoint))
        raise error("S0603", f"{origin} does not fit `{graph.name}`: {summary}", notes=[table, *hints])
    with np.errstate(over="ignore"):  # what is too large for the graph's type becomes infinite, and is told of below
        values = {key: np.asarray(array, allowed[key].dtype) for key, array in values.items()}
    wild = [key for key, array in values.items() if not np.isfinite(array).all()]
    if wild:
        listed = ", ".join(f"`{key}`" for key in wild[:5]) + (f" and {len(wild) - 5} more" if len(wild) > 5 else "")
        hint = "with such weights every result is infinite or no number; save a checkpoint from before that happened"
        raise error("S0604", f"{origin} holds infinite numbers or no numbers at {listed}", notes=(hint,))
    return values


def _fits(array: Array, type: TensorType) -> bool:
    kind = np.dtype(type.dtype).kind
    return array.shape == type.concrete and array.dtype.kind in ("iu" if kind in "iu" else kind)


def _count(keys: list[str], one: str, several: str) -> str:
    return f"{len(keys)} key{'s' if len(keys) > 1 else ''} {one if len(keys) == 1 else several}" if keys else ""


def _table(
    name: str,
    allowed: Mapping[str, TensorType],
    missing: list[str],
    wrong: list[str],
    values: Mapping[str, Array],
    unexpected: Mapping[str, Array],
) -> str:
    rows = [("key", name, "checkpoint", "nearest")]
    for key in missing[:_ROWS]:
        rows.append((key, _type(allowed[key]), "-", _nearest(key, allowed[key], unexpected)))
    rows += [(key, _type(allowed[key]), _array(values[key]), "") for key in wrong]
    rows += [(key, "-", _array(array), "") for key, array in unexpected.items()]
    shown, total = rows[: _ROWS + 1], len(missing) + len(wrong) + len(unexpected)
    widths = [max(len(row[column]) for row in shown) for column in range(4)]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in shown]
    lines += [f"and {total - _ROWS} more"] if total > _ROWS else []
    return "\n    ".join(lines)  # under the first letter behind the note's ` = `


def _type(type: TensorType) -> str:
    return f"{type.dtype}[{', '.join(map(str, type.shape))}]"


def _array(array: Array) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def _nearest(key: str, type: TensorType, unexpected: Mapping[str, Array]) -> str:
    """The unexpected key that is most like `key`, first among those of the same shape."""
    same = [other for other, array in unexpected.items() if array.shape == type.concrete]
    for candidates in (same, list(unexpected)):
        if near := difflib.get_close_matches(key, candidates, n=1, cutoff=0.5):
            return near[0]
    return ""


def _prefix(required: Iterable[str], given: list[str]) -> list[str]:
    """A hint where every key of one side is a key of the other behind one and the same prefix."""
    wanted = set(required)
    for first, others, said in ((given, wanted, "the checkpoint's"), (list(wanted), set(given), "the network's")):
        scope = first[0].split(".") if first else []
        for depth in range(1, len(scope)):
            prefix = ".".join(scope[:depth]) + "."
            stripped = {key.removeprefix(prefix) for key in first if key.startswith(prefix)}
            if others and len(stripped) == len(first) and len(stripped & others) > len(others) / 2:
                why = " (torch.nn.DataParallel adds it)" if prefix == "module." else ""
                rule = f'"{prefix}*" -> "*"' if first is given else f'"*" -> "{prefix}*"'
                return [
                    f"all of {said} keys begin with `{prefix}`{why}: without it they fit",
                    f"the line `{rule}` in a `rename` table of the network changes the names",
                ]
    return []
