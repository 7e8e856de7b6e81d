"""Arrays by name in numpy's .npz files: what `specc run` reads, writes and compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specc.compare import difference
from specc.diagnostics import did_you_mean, error
from specc.files import replacing
from specc.ir.array import Array
from specc.npz import Archive, Unreadable


def read(path: str, names: Sequence[str] | None = None) -> dict[str, Array]:
    """The arrays of an .npz file; with `names`, it holds one of them at least and nothing else.

    Raises S1002 for another file, S1003 for other names. Pickled objects are refused.
    """
    try:
        archive = Archive(path)
        found = {name: archive[name] for name in archive.names}
    except OSError as problem:
        raise error("S1002", f"{path} cannot be read: {problem.strerror or problem}") from None
    except Unreadable as problem:
        hint = "numpy.savez(path, name=array) writes one"
        raise error("S1002", f"{path} is no .npz file of arrays: {problem}", notes=(hint,)) from None
    if names is not None:
        for name in found:
            if name not in names:
                message = f"`{name}` in {path} is none of the arrays that are asked for: {', '.join(names)}"
                raise error("S1003", message, notes=did_you_mean(name, names))
        if not found:
            raise error("S1003", f"{path} is empty; asked for are {', '.join(names)}")
    return found


def write(path: str, arrays: Mapping[str, Array]) -> None:
    """Writes an .npz file, whole or not at all; raises S0002."""
    with replacing(path) as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]


def differences(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """How far each expected array is from the actual one of its name; raises S1003 where the shapes differ."""
    for name, array in expected.items():
        if array.shape != actual[name].shape:
            shapes = f"{list(actual[name].shape)}, and {list(array.shape)} is expected"
            raise error("S1003", f"`{name}` has the shape {shapes}")
    return {name: difference(actual[name], array) for name, array in expected.items()}


def describe(array: Array) -> dict[str, Any]:
    """What can be said of an array in a line."""
    facts: dict[str, Any] = {"type": f"{array.dtype}[{', '.join(map(str, array.shape))}]"}
    if array.size:
        facts |= {"min": _number(array.min()), "mean": _number(array.mean()), "max": _number(array.max())}
        facts["largest at"] = [int(i) for i in np.unravel_index(array.argmax(), array.shape)]
    return facts


def _number(value: Any) -> float | str:
    """A number for JSON: infinities and no-numbers as words."""
    return float(f"{float(value):.6g}") if np.isfinite(value) else str(value)
