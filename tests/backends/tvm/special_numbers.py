"""Groups and arrays with NaN and infinities among finite numbers, and what PyTorch makes of them in float64."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from attention_programs import joint, plain
from kernel_programs import draw, program, reference, tensor, weight

from specc import ops
from specc.backends.tvm.group import Group, Input
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType

SPECIAL = (np.nan, np.inf, -np.inf)
_LENGTH = 83
"""Elements of the operands of pointwise operators: vectors of every width, and a part of one."""

TAKEN = ("float", "number", "any", "float or uint8")
"""The keys of `ops.ELEMENTS` under which an operand may be a float32."""

UNLIKE = {
    "gelu": {-np.inf},
    "remainder": {np.inf, -np.inf},
    "floor_div": {np.inf, -np.inf},
}
"""What operators do not treat as PyTorch does (docs/operators.md)."""


@dataclass(frozen=True)
class Case:
    """A group with arrays for its inputs."""

    group: Group
    arrays: list[np.ndarray[Any, Any]]

    def check(self, found: Sequence[np.ndarray[Any, Any]], tolerance: float) -> None:
        """NaN, infinities and truth values are those of PyTorch, in their places, and the rest is near."""
        with np.errstate(all="ignore"):
            expected = reference(self.group, self.arrays)
        for result, wanted in zip(found, expected, strict=True):
            assert result.shape == wanted.shape
            if wanted.dtype.kind != "f":
                assert np.array_equal(result, wanted)
                continue
            nan, finite = np.isnan(wanted), np.isfinite(wanted)
            assert np.array_equal(np.isnan(result), nan), "NaN stands in other places"
            assert np.array_equal(result[~nan & ~finite], wanted[~nan & ~finite]), "infinities differ"
            if finite.any():
                scale = max(np.abs(wanted[finite]).max(), 0.5)
                assert np.abs(result[finite] - wanted[finite]).max() <= tolerance * scale


def pointwise() -> dict[str, Case]:
    """A case for each pointwise operator that takes numbers with fractions: all combinations of what is special."""
    found = {}
    for name, record in ops.OPERATORS.items():
        types, given = record.example(random.Random(name))
        keys = record.classes(len(types))
        if record.scalar is None or not any(key in TAKEN for key in keys):
            continue
        if not all(key in (*TAKEN, "bool") for key in keys):
            continue
        attrs = ops.complete(record, given | ({"dtype": "bool"} if name == "cast" else {}))
        kinds = ["bool" if key == "bool" else "float32" for key in keys]
        group = program([Input(TensorType((_LENGTH,), kind)) for kind in kinds], (name, range(len(kinds)), attrs))
        arrays = draw(group)
        own = [value for value in SPECIAL if value not in UNLIKE.get(name, ())]
        values = [(False, True) if kind == "bool" else (*own, 1.5) for kind in kinds]
        for place, row in enumerate(product(*values)):
            for array, value in zip(arrays, row):
                array[(place * 7 + 3) % _LENGTH] = value
        found[name] = Case(group, arrays)
    return found


def rows() -> dict[str, Case]:
    """Cases of operators that put many elements into one, and of attention."""
    groups = {
        "softmax": program([tensor(12, 37)], ("softmax", (0,), {"axis": -1})),
        "softmax_of_columns": program([tensor(2, 9, 21)], ("softmax", (0,), {"axis": 1})),
        "layer_norm": program([tensor(12, 37), weight(37), weight(37)], ("layer_norm", (0, 1, 2), {"axis": -1})),
        "rms_norm": program([tensor(12, 37), weight(37)], ("rms_norm", (0, 1), {"axis": -1})),
        "group_norm": program([tensor(2, 12, 5, 3), weight(12), weight(12)], ("group_norm", (0, 1, 2), {"groups": 4})),
        "argmax": program([tensor(12, 37)], ("argmax", (0,), {"axis": -1})),
        "topk_indices": program([tensor(12, 37)], ("topk_indices", (0,), {"k": 5, "axis": -1})),
        "least_indices": program([tensor(12, 37)], ("topk_indices", (0,), {"k": 37, "axis": -1, "largest": False})),
        "cumsum": program([tensor(12, 37)], ("cumsum", (0,), {"axis": -1})),
        "maximum_of_relu": program([tensor(12, 37)], ("relu", (0,), {}), ("amax", (1,), {"axes": (1,)})),
    }
    for op in ("amax", "mean", "sum", "var_mean"):
        groups[op] = program([tensor(12, 37)], (op, (0,), {"axes": (1,)}))
        groups[f"{op}_of_columns"] = program([tensor(5, 4, 37)], (op, (0,), {"axes": (0, 1), "keep": True}))
    for kind in ("max", "avg"):
        groups[f"{kind}_pool1d"] = program(
            [tensor(2, 3, 29)], (f"{kind}_pool1d", (0,), {"k": (3,), "stride": (2,), "padding": (1, 1)})
        )
        groups[f"adaptive_{kind}_pool"] = program(
            [tensor(2, 3, 9, 11)], (f"adaptive_{kind}_pool", (0,), {"size": (3, 4)})
        )
        groups[f"{kind}_pool2d"] = pool(kind, "")
    groups["global_avg_pool"] = program([tensor(3, 9, 4, 4)], ("global_avg_pool", (0,), {"keep": False}))
    cases = {name: Case(group, _spoiled(group, SPECIAL[: 1 if "var" in name else 3])) for name, group in groups.items()}
    return cases | attention("float32")


def network(cases: Mapping[str, Case]) -> tuple[Graph, dict[str, range]]:
    """All cases side by side in one graph, its inputs in the order of the cases; and the places of their outputs."""
    graph, places = Graph("All"), dict[str, range]()
    for name, case in cases.items():
        values = [graph.input(f"{name}{i}", operand.type) for i, operand in enumerate(case.group.inputs)]
        for step in case.group.steps:
            first = graph.apply(step.op, [values[operand] for operand in step.operands], step.attrs)
            values += [Value(first.node, result) for result in range(len(step.types))]
        places[name] = range(len(graph.outputs), len(graph.outputs) + len(case.group.results))
        graph.outputs += [values[number] for number in case.group.results]
    return graph, places


def pool(kind: str, layout: str) -> Group:
    """Pooling of pictures, plain or in blocks of channels."""
    attrs = {"k": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
    return program([tensor(2, 32, 9, 15, layout=layout)], (f"{kind}_pool2d", (0,), attrs))


def pools(layout: str) -> dict[str, Case]:
    """Pooling of pictures that lie in blocks of channels."""
    groups = {kind: pool(kind, layout) for kind in ("max", "avg")}
    return {kind: Case(group, _spoiled(group)) for kind, group in groups.items()}


def attention(dtype: str) -> dict[str, Case]:
    """Attention with something special in a query, a key or a value."""
    group = plain((5,), 21, 37, 32, 16)
    if dtype != "float32":
        q, k, v = (Input(TensorType(each.type.shape, dtype)) for each in group.inputs)
        steps = ("matmul", (0, 1), {}), ("softmax", (3,), {"axis": -1}), ("cast", (4,), {"dtype": dtype})
        group = program([q, k, v], *steps, ("matmul", (5, 2), {}))
    arrays = draw(group)
    arrays[0][0, 3, 2], arrays[1][1, 5, 7], arrays[1][2, 5, 36], arrays[2][3, 20, 1] = np.nan, np.nan, np.inf, np.nan
    found = {"attention": Case(group, arrays)}
    if dtype == "float32":
        heads = joint(2, 19, 3, 8)
        (whole,) = draw(heads)
        whole[1, 6, 50] = np.nan
        found["joint_attention"] = Case(heads, [whole])
    return found


def layers(dtype: str) -> dict[str, Case]:
    """Layers whose factors have 16 bits, and what follows them in their kernels."""
    x, w = (Input(TensorType((9, 64), dtype)), Input(TensorType((40, 64), dtype), frozen=True))
    found = attention(dtype)
    for act in ("relu", "gelu", "silu", "hard_swish"):
        group = program([x, w], ("linear", (0, 1), {}), (act, (2,), {}), ("cast", (3,), {"dtype": dtype}))
        arrays = draw(group)
        arrays[0][2, 5] = arrays[0][8, 63] = np.nan
        found[act] = Case(group, arrays)
    return found


def _spoiled(group: Group, values: Sequence[float] = SPECIAL) -> list[np.ndarray[Any, Any]]:
    """Arrays for the inputs, the first of which has something special here and there, and ends with it."""
    arrays = draw(group)
    flat = arrays[0].reshape(-1)
    rng = np.random.default_rng(1)
    places = rng.choice(flat.size, max(6, flat.size // 40), replace=False)
    flat[places] = np.resize(values, places.size)
    arrays[0][-1] = values[-1]
    return arrays
