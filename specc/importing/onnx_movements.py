"""ONNX's operations that compute nothing, but move, cut or join --> operators (see `specc.importing.onnx_operators`).

They take dimensions as well as tensors: exporters compute shapes by them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specc.importing.builder import Builder, Convert, Unsupported, whole
from specc.importing.onnx_numbers import dimensions, number
from specc.ir.dims import Dim, floordiv
from specc.ir.graph import Value


def _reshape(b: Builder, x: Any, shape: Any, **a: Any) -> Any:
    goal = list(dimensions(shape))
    if not isinstance(x, Value):
        return x
    own = b.shape(x)
    goal = [own[axis] if extent == 0 else extent for axis, extent in enumerate(goal)]
    if -1 in goal:
        known: Dim = 1
        for extent in goal:
            known = known * extent if extent != -1 else known
        goal = [floordiv(b.graph.type(x).elements, known) if extent == -1 else extent for extent in goal]
    return b.reshape(x, goal)


def _flatten(b: Builder, x: Value, **a: Any) -> Value:
    axis = a.get("axis", 1)
    if axis != 1:
        raise Unsupported(f"a flattening from dimension {axis}")
    return b.flatten(x, 1, -1)


def _slice(b: Builder, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    begins, stops = dimensions(starts), dimensions(ends)
    chosen = range(len(begins)) if axes is None else [int(str(axis)) for axis in dimensions(axes)]
    strides = [1] * len(begins) if steps is None else [int(str(step)) for step in dimensions(steps)]
    if not isinstance(x, Value):
        return dimensions(x)[slice(int(str(begins[0])), int(str(stops[0])), strides[0])]
    for start, stop, axis, step in zip(begins, stops, chosen, strides):
        extent = b.shape(x)[axis]
        bounds = []
        for bound in (start, stop):
            if isinstance(bound, int) and bound < 0:
                bound = extent + bound
            if isinstance(bound, int) and (bound >= 2**31 - 1 or (isinstance(extent, int) and bound > extent)):
                bound = extent
            bounds.append(bound)
        x = b.part(x, axis, bounds[0], bounds[1], step)
    return x


def _gather(b: Builder, x: Any, indices: Any, **a: Any) -> Any:
    chosen, axis = dimensions(indices), a.get("axis", 0)
    if not isinstance(x, Value):
        return tuple(dimensions(x)[int(str(index))] for index in chosen)
    shape = b.shape(x)
    if len(chosen) != 1 or not isinstance(indices, np.ndarray) or indices.ndim:
        raise Unsupported("elements at several indices")
    start = chosen[0] if not isinstance(chosen[0], int) or chosen[0] >= 0 else shape[axis] + chosen[0]
    axis %= len(shape)
    return b.reshape(b.part(x, axis, start, start + 1), [*shape[:axis], *shape[axis + 1 :]])


def _split(b: Builder, x: Value, sizes: Any = None, **a: Any) -> tuple[Value, ...]:
    axis = a.get("axis", 0)
    extents = a.get("split") if sizes is None else dimensions(sizes)
    count = a.get("num_outputs", a.get("outputs", 1))
    return b.parts(x, extents or [whole(b.shape(x)[axis], count)] * count, axis)


def _concat(b: Builder, *xs: Any, **a: Any) -> Any:
    if not any(isinstance(x, Value) for x in xs):
        return tuple(item for x in xs for item in dimensions(x))
    if not all(isinstance(x, Value) for x in xs):
        raise Unsupported("a concatenation with numbers")
    return xs[0] if len(xs) == 1 else b.apply("concat", *xs, axis=a["axis"] % len(b.shape(xs[0])))


def _squeeze(b: Builder, x: Any, axes: Any = None, **a: Any) -> Any:
    if not isinstance(x, Value):
        return x
    shape = b.shape(x)
    chosen = a.get("axes") if axes is None else [int(str(axis)) for axis in dimensions(axes)]
    gone = {axis % len(shape) for axis in (chosen or [i for i, extent in enumerate(shape) if extent == 1])}
    if gone == {2, 3} and b.graph.op(x) == "global_avg_pool":
        return b.flatten(x, 1, -1)
    return b.reshape(x, [extent for axis, extent in enumerate(shape) if axis not in gone])


def _unsqueeze(b: Builder, x: Any, axes: Any = None, **a: Any) -> Any:
    if not isinstance(x, Value):
        return x
    chosen: list[int] = list(a["axes"]) if axes is None else [int(str(axis)) for axis in dimensions(axes)]
    shape = list(b.shape(x))
    for axis in sorted(axis % (len(shape) + len(chosen)) for axis in chosen):
        shape.insert(axis, 1)
    return b.reshape(x, shape)


def _expand(b: Builder, x: Value, shape: Any) -> Value:
    goal, own = list(dimensions(shape)), b.shape(x)
    new = len(goal) - len(own)
    goal = [e if at < new or (e != own[at - new] and e != 1) else -1 for at, e in enumerate(goal)]
    return x if not new and all(e == -1 for e in goal) else b.apply("expand", x, shape=tuple(goal))


def _pad(b: Builder, x: Value, pads: Any = None, value: Any = None, axes: Any = None, **a: Any) -> Value:
    found = dimensions(pads) if pads is not None else tuple(a["pads"])
    rank = len(b.shape(x))
    if a.get("mode", "constant") != "constant" or axes is not None or any(isinstance(p, int) and p < 0 for p in found):
        raise Unsupported("padding that is not constant, or that takes away")
    filler = 0.0 if value is None else number(b, value)
    if not any(found):
        return x
    return b.apply("pad", x, before=found[:rank], after=found[rank:], value=filler)


MOVEMENTS: dict[str, Convert] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": lambda b, x, **a: b.permute(x, a.get("perm", range(len(b.shape(x)))[::-1])),
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Pad": _pad,
    "Shape": lambda b, x, **a: tuple(b.shape(x))[slice(a.get("start"), a.get("end"))],
}
"""By their types in the domain of ONNX itself."""
