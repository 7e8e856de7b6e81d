"""Groups as kernels for a GPU: run on emulated threads against PyTorch in float64, and compiled to machine code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulation import Emulated, compile_kernels
from emulation.machine_code import Usage, instructions, usage
from kernel_programs import _GUARD, _guarded, draw, reference

from specc import targets
from specc.backends.tvm import halves
from specc.backends.tvm.cuda import nvrtc
from specc.backends.tvm.cuda.device import Device, Launch, device
from specc.backends.tvm.cuda.occupancy import SHARED
from specc.backends.tvm.cuda.program import text
from specc.backends.tvm.emitter import Emitter, Kernel, Template, kernel_of
from specc.backends.tvm.group import Group
from specc.ir.bits import of_bits, to_bits
from specc.ir.dtypes import HALVES
from specc.targets import Target

TARGET = targets.find("cuda:sm_90")
_NONE = 0xFFFF
"""The bits of 16 that are no number, of either type."""


def kernels_for(groups: dict[str, Group], lower: Callable[..., Template | None], target: Target) -> dict[str, Kernel]:
    """The kernels of `groups`, by name."""
    found = {}
    for name, group in groups.items():
        template = lower(group, target)
        assert template is not None, f"the template does not take {name}"
        kernel = kernel_of(group, template, target.form)
        found[name] = replace(kernel, function=kernel.function.with_attr("global_symbol", name))
    return found


def machine_code(
    groups: dict[str, Group], lower: Callable[..., Template | None], target: Target
) -> Iterator[tuple[Usage, Launch]]:
    """What the machine code of each launch takes, and the launch."""
    devices = {n: device(n, kernel, target) for n, kernel in kernels_for(groups, lower, target).items()}
    found = usage(nvrtc.cubin(text(devices), target))
    for each in devices.values():
        for launch in each.launches:
            yield found[launch.function], launch


def instructions_that_fit(devices: dict[str, Device], target: Target) -> Iterator[tuple[str, Counter[str]]]:
    """How often the machine code of each kernel has each instruction. A kernel is one launch, which keeps no register
    on a stack and takes no more registers and shared memory than a block may have."""
    cubin = nvrtc.cubin(text(devices), target)
    used, code = usage(cubin), instructions(cubin)
    for name, each in devices.items():
        (launch,) = each.launches
        taken, counts = used[launch.function], code[launch.function]
        assert taken.stack == 0 and not {"LDL", "STL"} & counts.keys(), name
        assert taken.shared <= SHARED + 1024 and taken.registers * launch.threads <= 65536, name
        yield name, counts


def rounding_between(group: Group) -> float:
    """What a result may differ by: what is between the convolutions of a group, and the result, may round to the number
    beside."""
    dtype = group.inputs[0].type.dtype
    return {"float16": 2.0**-9, "bfloat16": 2.0**-6}.get(dtype, 2e-6)


class Kernels:
    """Groups that are compiled together, since each run of the compiler takes long."""

    def __init__(self, groups: dict[str, Group], lower: Callable[..., Template | None], library: Path) -> None:
        self.groups = groups
        self.kernels = kernels_for(groups, lower, TARGET)
        self.devices: dict[str, Device] = {n: device(n, kernel, TARGET) for n, kernel in self.kernels.items()}
        self.emulated = Emulated(compile_kernels(text(self.devices), library))

    def execute(self, name: str, arrays: Sequence[np.ndarray[Any, Any]], order: int) -> list[np.ndarray[Any, Any]]:
        group, kernel = self.groups[name], self.kernels[name]
        stored = [_stored(p.apply(a), i.type.dtype) for a, p, i in zip(arrays, kernel.packings, group.inputs)]
        types = [*map(group.type, group.results), *kernel.temporaries]
        made = [_guarded(type.physical, halves.stored(type.dtype)) for type in types]
        for type, (_, array) in zip(types, made):
            array[...] = _NONE if type.dtype in HALVES else np.nan if type.dtype.startswith("float") else 1
        operands = [*stored, *(array for _, array in made)]
        for launch in self.devices[name].launches:
            memory = {operands[number].ctypes.data: operands[number].nbytes for number in launch.arguments}
            self.emulated.run(launch.function, launch.blocks, launch.threads, memory, order)
        for room, array in made:
            guards = (room[:_GUARD], room[_GUARD + array.size :])
            assert all((guard == room.dtype.type(7)).all() for guard in guards), "it writes outside of its result"
        results = zip(types, (array for _, array in made[: len(group.results)]))
        return [of_bits(array, type.dtype) if type.dtype in HALVES else array for type, array in results]

    def check(self, name: str, positive: bool = False, tolerance: float = 2e-6) -> None:
        arrays = draw(self.groups[name], positive)
        expected = reference(self.groups[name], arrays)
        first, second = (self.execute(name, arrays, order) for order in (0, 7))
        for result, again, wanted in zip(first, second, expected, strict=True):
            assert result.shape == wanted.shape
            assert np.array_equal(result, again, equal_nan=True), "it depends on the order of the threads"
            if wanted.dtype.kind != "f":
                assert result.dtype == wanted.dtype and np.array_equal(result, wanted)
            elif wanted.size:
                assert np.abs(result - wanted).max() <= tolerance * max(np.abs(wanted).max(), 0.5)


Mistake = Callable[[pytest.MonkeyPatch], None]
"""Changes a template's source for the time that a kernel is written."""


def with_mistakes(
    group: Group, lower: Callable[..., Template | None], mistakes: dict[str, Mistake], library: Path
) -> Kernels:
    """A kernel of `group` for each of the mistakes, by their names."""
    planted = iter(mistakes.values())

    def broken(group: Group, target: Target) -> Template | None:
        template, mistake = lower(group, target), next(planted)
        assert template is not None

        def write(emitter: Emitter) -> None:
            with pytest.MonkeyPatch.context() as patch:
                mistake(patch)
                template.write(emitter)

        return replace(template, write=write)

    return Kernels(dict.fromkeys(mistakes, group), broken, library)


def shifted(kind: type, name: str, at: int) -> Mistake:
    """Has the method `name` of `kind` be called with one argument that is 1 too large."""

    def mistake(patch: pytest.MonkeyPatch) -> None:
        right: Any = getattr(kind, name)

        def wrong(self: Any, *arguments: Any) -> Any:
            given = list(arguments)
            given[at] = given[at] + 1
            return right(self, *given)

        patch.setattr(kind, name, wrong)

    return mistake


def without_barrier(module: ModuleType, number: int) -> Mistake:
    """Leaves out the barrier that has this number among those that `module` writes."""

    def mistake(patch: pytest.MonkeyPatch) -> None:
        calls, barrier = count(), module.barrier
        patch.setattr(module, "barrier", lambda: None if next(calls) == number else barrier())

    return mistake


def judge(name: str, mistaken: Kernels, tolerance: float = 2e-6) -> None:
    """Raises unless the kernel `right` computes what it should, and one with a mistake does not."""
    if name == "right":
        mistaken.check(name, tolerance=tolerance)
    else:
        with pytest.raises(AssertionError):
            mistaken.check(name, tolerance=tolerance)


def _stored(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(to_bits(array, dtype) if dtype in HALVES else array)
