"""The program of a network in C: `network.h`, the tables that `c/driver.c` runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files

from specc.backends.tvm.memory import Place, Plan
from specc.backends.tvm.program import Program, offsets
from specc.ir.dtypes import DTYPES
from specc.ir.placement import size
from specc.ir.types import TensorType
from specc.targets import Target

SOURCES = files("specc.backends.tvm") / "c"
"""The folder of `driver.c` and `specc.h`."""

_SPACES = {"input": "INPUT", "output": "OUTPUT", "weight": "WEIGHT", "arena": "ARENA"}
_GCC_NAMES = {"bmi1": "bmi"}
_LINUX_NAMES = {"vfpv4": "VFPv4"}
"""Features that gcc, and Linux' headers, call otherwise than /proc/cpuinfo does."""


def header(program: Program, plan: Plan, target: Target, kernel: str = "__tvm_ffi_{}", scratch: int = 0) -> str:
    """The text of `network.h`.

    `kernel` says what the function of a kernel is called. Kernels in C have no vectors, and want tensors aligned to
    their elements alone; `scratch` is how many bytes they ask for at most.
    """
    static = "" if target.vectors else "static "
    kinds = {type.dtype for type in (*program.inputs, *program.outputs)}
    alignment = 64 if target.vectors else max((DTYPES[kind] for kind in kinds), default=1)
    places, weight_bytes = offsets(program.weights)

    def operand(place: Place) -> str:
        number, begin = (0, places[place.number]) if place.space == "weight" else (place.number, 0)
        return f"{{{_SPACES[place.space]}, {number}, {begin + place.offset}}}"

    rows: list[str] = []
    starts: list[int] = []
    for call in program.calls:
        starts.append(len(rows))
        rows += [operand(plan.places[storage]) for storage in (*call.operands, *call.results)]
    counts = [len(call.operands) + len(call.results) for call in program.calls]
    kernels = sorted({call.kernel for call in program.calls})
    return "\n".join(
        [
            "/* Written by the compiler. */",
            f"enum {{ INPUTS = {len(program.inputs)}, OUTPUTS = {len(program.outputs)}, CALLS = {len(program.calls)}, "
            f"COPIES = {len(plan.copies)}, MOST_OPERANDS = {max(counts, default=0)}, ALIGNMENT = {alignment} }};",
            f"#define ARENA_BYTES {plan.arena}",
            f"#define SCRATCH_BYTES {scratch}",
            "",
            *(f"{static}kernel {kernel.format(name)};" for name in kernels),
            "",
            *_tensors("inputs", program.input_names, program.inputs),
            *_tensors("outputs", program.output_names, program.outputs),
            *_table("specc_call", "described", (f"{{{_text(c.title)}, {_text(c.path)}}}" for c in program.calls)),
            "static const specc_interface network = {",
            f"    {_text(program.name)}, {_text(target.name)}, INPUTS, OUTPUTS, CALLS, inputs, outputs, described,",
            f"    {weight_bytes}, {plan.arena}}};",
            "",
            *_table("operand", "operands", rows),
            *_table(
                "call",
                "calls",
                (
                    f"{{{kernel.format(call.kernel)}, {start}, {count}}}"
                    for call, start, count in zip(program.calls, starts, counts)
                ),
            ),
            *_table(
                "copy",
                "copies",
                (
                    f"{{{number}, {operand(plan.places[storage])}, {size(program.outputs[number])}}}"
                    for number, storage in plan.copies
                ),
            ),
            "static int processor_fits(void) {",
            *_processor(target),
            "}",
            "",
        ]
    )


def _processor(target: Target) -> Iterable[str]:
    """The lines that ask the system for what the target requires, before a kernel uses it."""
    if target.architecture == "x86_64":
        yield "  __builtin_cpu_init();"
        for feature in target.requires:
            yield f'  if (!__builtin_cpu_supports("{_GCC_NAMES.get(feature, feature)}")) return 0;'
        yield "  return 1;"
    elif not target.requires:
        yield "  return 1;"
    else:
        needed = " | ".join(f"HWCAP_{_LINUX_NAMES.get(feature, feature.upper())}" for feature in target.requires)
        yield f"  const unsigned long needed = {needed};"
        yield "  return (getauxval(AT_HWCAP) & needed) == needed;"


def _tensors(table: str, names: Sequence[str], types: Sequence[TensorType]) -> Iterable[str]:
    rows = []
    for number, (name, type) in enumerate(zip(names, types, strict=True)):
        extents = ", ".join(map(str, type.concrete)) or "1"
        yield f"static const int64_t {table}_{number}[] = {{{extents}}};"
        rows.append(f"{{{_text(name)}, {_text(type.dtype)}, {len(type.shape)}, {table}_{number}, {size(type)}}}")
    yield from _table("specc_tensor", table, rows)


def _table(kind: str, name: str, rows: Iterable[str]) -> Iterable[str]:
    """A table in C, which has a row that nobody reads where it would be empty: C knows no empty one."""
    yield f"static const {kind} {name}[] = {{"
    yield from (f"    {row}," for row in (list(rows) or ["{0}"]))
    yield "};"


def _text(text: str) -> str:
    """A string literal. Names may hold any printable character: what is not ASCII stands as UTF-8 in octal."""
    if text.isascii() and text.isprintable():
        return json.dumps(text).replace("?", "\\?")
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'
