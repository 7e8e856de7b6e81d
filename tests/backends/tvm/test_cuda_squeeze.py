"""Squeeze-excite on emulated threads, in one launch and in several."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_programs import TARGET, Kernels, machine_code
from kernel_programs import program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import nvrtc, squeeze
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group
from specc.targets import Target


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return squeeze.lower(group, target, Choices(chosen))


def excite(n: int, channels: int, places: tuple[int, int], inner: int) -> Group:
    inputs = [tensor(n, channels, *places), weight(inner, channels, 1, 1), weight(inner), weight(channels, inner, 1, 1)]
    steps: Any = [
        ("mean", (0,), {"axes": (2, 3), "keep": True}),
        ("conv2d", (4, 1, 2), {}),
        ("silu", (5,), {}),
        ("conv2d", (6, 3), {}),
        ("sigmoid", (7,), {}),
    ]
    return program(inputs, *steps)


def classes(n: int) -> Group:
    """A head of two layers behind the mean, the first one of which has a scale in front."""
    inputs = [tensor(n, 50, 5, 7), weight(50), weight(33, 50), weight(33), weight(70, 33)]
    steps: Any = [
        ("global_avg_pool", (0,), {"keep": False}),
        ("mul", (5, 1), {}),
        ("linear", (6, 2, 3), {}),
        ("relu", (7,), {}),
        ("linear", (8, 4), {}),
    ]
    return program(inputs, *steps)


CASES = {
    f"{name}_{apart}": (group, apart)
    for name, group in (
        ("small", excite(2, 24, (7, 7), 6)),
        ("odd", excite(3, 37, (5, 9), 19)),
        ("large", excite(2, 5, (33, 40), 3)),
        ("one_place", excite(1, 40, (1, 1), 3)),
        ("head", classes(2)),
    )
    for apart in (0, 1, 2)
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    given = iter(CASES.values())

    def chosen(group: Group, target: Target) -> Template | None:
        return lower(group, target, apart=next(given)[1])

    groups = {name: group for name, (group, _) in CASES.items()}
    return Kernels(groups, chosen, tmp_path_factory.mktemp("squeeze") / "kernels.so")


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str, kernels: Kernels) -> None:
    assert len(kernels.devices[name].launches) == 1 + CASES[name][1]
    kernels.check(name)


def test_many_pictures_are_one_launch_and_a_large_one_is_read_by_many_blocks() -> None:
    for group, apart in ((excite(256, 64, (7, 7), 4), {0}), (excite(1, 96, (112, 112), 4), {1, 2})):
        choices = Choices()
        assert squeeze.lower(group, TARGET, choices)
        (choice,) = choices.space
        assert choice.taken in apart


def test_other_groups_are_left_to_others() -> None:
    mean = program([tensor(2, 8, 4, 4)], ("mean", (0,), {"axes": (2, 3)}))
    inputs = [tensor(2, 8, 4, 4), weight(8, 8)]
    read_twice = program(
        inputs, ("mean", (0,), {"axes": (2, 3)}), ("linear", (2, 1), {}), ("add", (3, 2), {}), ("linear", (4, 1), {})
    )
    for group in (mean, read_twice):
        assert lower(group, TARGET) is None


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", ["sm_80", "sm_89", "sm_90"])
def test_everything_fits_in_registers(gpu: str) -> None:
    groups = {"small": excite(2, 24, (7, 7), 6), "wide": excite(1, 1152, (7, 7), 48), "head": classes(2)}
    for usage, launch in machine_code(groups, lower, targets.find(f"cuda:{gpu}")):
        assert usage.stack == 0 and usage.shared <= 49 << 10 and usage.registers * launch.threads <= 65536
