"""The programs of a network on a GPU: `network.h`, the tables that `c/cuda.c` runs, and the text of all kernels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from specc.backends.tvm.cuda.device import PRELUDE, Device, device
from specc.backends.tvm.driver import interface, table
from specc.backends.tvm.lowering import Lowered
from specc.backends.tvm.program import Program, Storage
from specc.targets import Target


def devices(lowered: Lowered, target: Target) -> dict[str, Device]:
    """The kernels in CUDA, by name."""
    return {name: device(name, kernel, target) for name, kernel in sorted(lowered.kernels.items())}


def text(kernels: Mapping[str, Device]) -> str:
    """The text of all kernels, for a compiler."""
    return "".join((PRELUDE, *(kernel.text for kernel in kernels.values())))


def header(lowered: Lowered, kernels: Mapping[str, Device], target: Target) -> str:
    """The text of `network.h`."""
    launches = [launch for kernel in kernels.values() for launch in kernel.launches]
    functions = {launch.function: number for number, launch in enumerate(launches)}
    most = max((len(launch.arguments) for launch in launches), default=0)
    first = lowered.sizes[0].program
    calls = max(len(size.program.calls) for size in lowered.sizes)
    architecture = re.fullmatch(r"sm_(\d+)(\d)", target.gpu)
    assert architecture, target.gpu

    def run(number: int, program: Program, operand: Callable[[Storage], str]) -> Iterable[str]:
        """What a size runs: calls, which are launches, each on a run of the operands."""
        calls: list[str] = []
        launches: list[str] = []
        operands: list[str] = []
        for call in program.calls:
            kernel, storages = kernels[call.kernel], (*call.operands, *call.results)
            calls.append(f"{{{len(launches)}, {len(kernel.launches)}}}")
            for one in kernel.launches:
                where = f"{len(operands)}, {len(one.arguments)}"
                launches.append(f"{{{functions[one.function]}, {one.blocks}, {one.threads}, {where}}}")
                operands += [operand(storages[argument]) for argument in one.arguments]
        yield from table("operand", f"operands{number}", operands)
        yield from table("launch", f"launches{number}", launches)
        yield from table("call", f"calls{number}", calls)

    return "\n".join(
        [
            "/* Written by the compiler. */",
            f"enum {{ SIZES = {len(lowered.sizes)}, INPUTS = {len(first.inputs)}, OUTPUTS = {len(first.outputs)}, "
            f"FUNCTIONS = {len(functions)}, MOST_CALLS = {calls}, MOST_ARGUMENTS = {most} }};",
            f"enum {{ GPU_MAJOR = {architecture[1]}, GPU_MINOR = {architecture[2]} }};",
            f'#define GPU "{target.gpu}"',
            "",
            *table("char *const", "functions", (f'"{name}"' for name in functions)),
            *interface(lowered, target, run, ("calls", "launches", "operands")),
            "",
        ]
    )
