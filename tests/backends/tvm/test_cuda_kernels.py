"""Kernels for GPUs, run by the emulation of threads on this processor, against PyTorch in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulation import Emulated, compile_kernels
from kernel_programs import _GUARD, _guarded, draw, program, reference

from specc import ops, targets
from specc.backends.tvm.cuda import elements
from specc.backends.tvm.cuda.device import Device, device
from specc.backends.tvm.cuda.program import text
from specc.backends.tvm.emitter import Kernel, Template, kernel_of
from specc.backends.tvm.group import Group, Input

TARGET = targets.find("cuda:sm_90")
COMPUTED = [
    name
    for name, record in ops.OPERATORS.items()
    if record.scalar or (record.compute and record.operands and name != "convert_layout")
]


class Kernels:
    """Groups that are compiled together, since each run of the compiler takes long."""

    def __init__(self, groups: dict[str, Group], lower: Callable[..., Template | None], library: Path) -> None:
        self.groups = groups
        self.kernels: dict[str, Kernel] = {}
        for name, group in groups.items():
            template = lower(group, TARGET)
            assert template is not None, f"the template does not take {name}"
            kernel = kernel_of(group, template, TARGET.form)
            self.kernels[name] = replace(kernel, function=kernel.function.with_attr("global_symbol", name))
        self.devices: dict[str, Device] = {n: device(n, kernel, TARGET) for n, kernel in self.kernels.items()}
        self.emulated = Emulated(compile_kernels(text(self.devices), library))

    def execute(self, name: str, arrays: Sequence[np.ndarray[Any, Any]], reverse: bool) -> list[np.ndarray[Any, Any]]:
        group, kernel = self.groups[name], self.kernels[name]
        stored = [packing.apply(array) for array, packing in zip(arrays, kernel.packings, strict=True)]
        types = [*map(group.type, group.results), *kernel.temporaries]
        made = [_guarded(type.physical, type.dtype) for type in types]
        for type, (_, array) in zip(types, made):
            array[...] = np.nan if type.dtype.startswith("float") else 1
        operands = [array.ctypes.data for array in (*stored, *(array for _, array in made))]
        for launch in self.devices[name].launches:
            addresses = [operands[number] for number in launch.arguments]
            self.emulated.run(launch.function, launch.blocks, launch.threads, addresses, reverse)
        for room, array in made:
            guards = (room[:_GUARD], room[_GUARD + array.size :])
            assert all((guard == room.dtype.type(7)).all() for guard in guards), "it writes outside of its result"
        return [array for _, array in made[: len(group.results)]]

    def check(self, name: str, positive: bool = False, tolerance: float = 2e-6) -> None:
        arrays = draw(self.groups[name], positive)
        expected = reference(self.groups[name], arrays)
        first, second = (self.execute(name, arrays, reverse) for reverse in (False, True))
        for result, again, wanted in zip(first, second, expected, strict=True):
            assert result.shape == wanted.shape
            assert np.array_equal(result, again, equal_nan=True), "it depends on the order of the threads"
            if wanted.dtype.kind != "f":
                assert result.dtype == wanted.dtype and np.array_equal(result, wanted)
            elif wanted.size:
                assert np.abs(result - wanted).max() <= tolerance * max(np.abs(wanted).max(), 0.5)


def _operators() -> dict[str, Group]:
    found = {}
    for name in COMPUTED:
        record = ops.get(name)
        for seed in range(2):
            types, given = record.example(random.Random(f"{name} {seed}"))
            attrs = ops.complete(record, given)
            first_weight = len(record.call_operands) if record.weights else len(types)
            inputs = [Input(t, frozen=i >= first_weight) for i, t in enumerate(types)]
            found[f"{name}_{seed}"] = program(inputs, (name, range(len(inputs)), attrs))
    return found


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(_operators(), elements.lower, tmp_path_factory.mktemp("operators") / "kernels.so")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", COMPUTED)
def test_every_operator(name: str, seed: int, operators: Kernels) -> None:
    operators.check(f"{name}_{seed}", positive=name == "batch_norm")
