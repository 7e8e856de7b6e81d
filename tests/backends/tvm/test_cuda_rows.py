"""Reductions of rows in one launch, on emulated threads: every operator, every team, what stands behind."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from cuda_programs import TARGET, Kernels, machine_code
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_programs import program, tensor, weight

from specc import ops, targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import nvrtc, rows
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Input
from specc.ir.types import TensorType
from specc.targets import Target

OPERATORS = (
    "softmax",
    "layer_norm",
    "rms_norm",
    "group_norm",
    "argmax",
    "mean",
    "sum",
    "amax",
    "var_mean",
    "global_avg_pool",
)


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return rows.lower(group, target, Choices(chosen))


def operator(name: str, seed: int) -> Group | None:
    """A drawn call, with a step behind its first result; None where no row has two elements."""
    record = ops.get(name)
    types, given = record.example(random.Random(f"{name} {seed}"))
    attrs = ops.complete(record, given)
    group = program([Input(t, frozen=i > 0) for i, t in enumerate(types)], (name, range(len(types)), attrs))
    return group if lower(group, TARGET) else None


def drawn() -> dict[str, Group]:
    found = {f"{name}_{seed}": operator(name, seed) for name in OPERATORS for seed in range(6)}
    return {name: group for name, group in found.items() if group}


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(drawn(), lower, tmp_path_factory.mktemp("operators") / "kernels.so")


@pytest.mark.parametrize("name", drawn())
def test_every_operator(name: str, operators: Kernels) -> None:
    (launch,) = operators.devices[name].launches
    assert launch.threads % 32 == 0
    operators.check(name)


def test_most_calls_are_rows() -> None:
    assert {name.rpartition("_")[0] for name in drawn()} == set(OPERATORS)


def norm(*shape: int, axis: int = -1) -> Group:
    """A norm with what stands around it in a transformer: a residual, which the norm reads as well, and a function."""
    per_row = weight(shape[axis])
    steps: Any = [("layer_norm", (0, 1, 2), {"axis": axis}), ("gelu", (3,), {}), ("add", (4, 0), {})]
    return program([tensor(*shape), per_row, per_row], *steps)


def softmax(*shape: int, axis: int = -1) -> Group:
    return program([tensor(*shape), tensor(*shape)], ("softmax", (0,), {"axis": axis}), ("mul", (2, 1), {}))


CASES = {
    "norm": (norm(3, 7, 130), {}),
    "norm_of_channels": (norm(2, 40, 5, 9, axis=1), {}),
    "norm_of_many_channels": (norm(1, 700, 2, 3, axis=1), {}),
    "in_16_bits": (
        program(
            [Input(TensorType((9, 200), "bfloat16")), weight(200), weight(200)],
            ("layer_norm", (0, 1, 2), {}),
        ),
        {},
    ),
    "long": (norm(2, 3000), {"team": "64x2"}),
    "whole_blocks": (norm(2, 3000), {"team": "1024x1"}),
    "pairs": (softmax(50, 11), {"team": "2x64"}),
    "softmax_of_channels": (softmax(2, 33, 40, axis=1), {"team": "8x32"}),
    "softmax_in_a_loop": (softmax(2, 330, 40, axis=1), {"team": "4x32"}),
    "mean_of_places": (program([tensor(2, 7, 5, 40)], ("mean", (0,), {"axes": (1, 2)}), ("relu", (1,), {})), {}),
    "mean_in_16_bits": (
        program(
            [tensor(2, 40, 6, 6)], ("mean", (0,), {"axes": (2, 3), "keep": True}), ("cast", (1,), {"dtype": "float16"})
        ),
        {},
    ),
    "mean_of_pictures": (program([tensor(2, 40, 14, 14)], ("mean", (0,), {"axes": (2, 3), "keep": True})), {}),
    "moments": (
        program(
            [tensor(2, 40, 9, 9)],
            ("var_mean", (0,), {"axes": (0, 2, 3), "keep": True}),
            ("exp", (2,), {}),
            results=(1, 3),
        ),
        {},
    ),
    "best": (program([tensor(9, 1000)], ("argmax", (0,), {"axis": 1, "keep": True})), {}),
    "groups": (
        program([tensor(2, 24, 9, 7), weight(24)], ("group_norm", (0, 1), {"groups": 3}), ("silu", (2,), {})),
        {},
    ),
}
TEAMS = {
    f"{kind}_{team}": (group, {"team": team})
    for kind, group, teams in (
        ("along", norm(5, 133), ("2x64", "4x32", "8x16", "16x8", "32x4", "64x2", "128x1", "256x1", "512x1", "1024x1")),
        ("across", norm(5, 133, 7, axis=1), ("1x32", "2x32", "4x32", "8x32", "16x32", "32x32")),
    )
    for team in teams
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    every = CASES | TEAMS
    given = iter(every.values())

    def chosen(group: Group, target: Target) -> Template | None:
        wanted, choices = next(given)
        template = lower(wanted, target, **choices)
        assert template and template.write and group is wanted
        return template

    return Kernels(
        {name: group for name, (group, _) in every.items()}, chosen, tmp_path_factory.mktemp("rows") / "kernels.so"
    )


@pytest.mark.parametrize("name", CASES | TEAMS)
def test_cases(name: str, cases: Kernels) -> None:
    (launch,) = cases.devices[name].launches
    team = (CASES | TEAMS)[name][1].get("team")
    assert team is None or launch.threads == np.prod([int(part) for part in str(team).split("x")])
    cases.check(name, tolerance=2.0**-7 if name == "in_16_bits" else 2e-6)


SHAPES = st.tuples(st.lists(st.integers(1, 40), min_size=2, max_size=3), st.integers(0, 2))


@settings(max_examples=2, deadline=None)
@given(shapes=st.lists(SHAPES, min_size=8, max_size=8))
def test_any_extents(shapes: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    groups = {}
    for number, (shape, axis) in enumerate(shapes):
        if shape[axis % len(shape)] > 1:
            groups[f"rows_{number}"] = (norm if number % 2 else softmax)(*shape, axis=axis % len(shape))
    if groups:
        kernels = Kernels(groups, lower, tmp_path_factory.mktemp("any") / "kernels.so")
        for name in groups:
            kernels.check(name)


def test_what_reduces_no_rows_is_left_to_others() -> None:
    pool = program([tensor(1, 4, 8, 8)], ("max_pool2d", (0,), {"k": (2, 2), "stride": (2, 2)}))
    widened = program([tensor(3, 1), tensor(3, 5)], ("mean", (0,), {"axes": (1,), "keep": True}), ("add", (2, 1), {}))
    numbers = program([Input(TensorType((4, 9), "int32"))], ("amax", (0,), {"axes": (1,)}))
    for group in (pool, widened, numbers, program([tensor(64, 64)], ("relu", (0,), {}))):
        assert lower(group, TARGET) is None


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", ["sm_80", "sm_89", "sm_90"])
def test_everything_fits_in_registers(gpu: str) -> None:
    target = targets.find(f"cuda:{gpu}")
    groups = {name: CASES[name][0] for name in ("norm", "norm_of_channels", "best", "moments", "mean_of_pictures")}
    for usage, launch in machine_code(groups | {"softmax": softmax(12, 197, 197)}, lower, target):
        assert usage.stack == 0 and usage.shared <= 8 << 10 and usage.registers * launch.threads <= 65536
