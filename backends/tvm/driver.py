"""The programs of a network in C: `network.h`, the tables that `c/driver.c` runs, one set of them for each size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files

from specc.backends.tvm.lowering import Lowered, Size
from specc.backends.tvm.memory import Place
from specc.backends.tvm.program import offsets
from specc.ir.dtypes import DTYPES
from specc.ir.placement import size
from specc.ir.types import TensorType
from specc.targets import Target

SOURCES = files("specc.backends.tvm") / "c"
"""The folder of `driver.c` and `specc.h`."""

_SPACES = {"input": "INPUT", "output": "OUTPUT", "arena": "ARENA"}
_GCC_NAMES = {"bmi1": "bmi"}
_LINUX_NAMES = {"vfpv4": "VFPv4"}
"""Features that gcc, and Linux' headers, call otherwise than /proc/cpuinfo does."""


def header(lowered: Lowered, target: Target, kernel: str = "__tvm_ffi_{}", scratch: int = 0) -> str:
    """The text of `network.h`: tables for each size, and what all sizes have in common.

    `kernel` says what the function of a kernel is called. Kernels in C have no vectors, and want tensors aligned to
    their elements alone; `scratch` is how many bytes they ask for at most.
    """
    static = "" if target.vectors else "static "
    programs = [size.program for size in lowered.sizes]
    first = programs[0]
    kinds = {type.dtype for type in (*first.inputs, *first.outputs)}
    alignment = 64 if target.vectors else max((DTYPES[kind] for kind in kinds), default=1)
    places, weight_bytes = offsets([array.nbytes for array in lowered.weights])
    calls = [call for program in programs for call in program.calls]
    operands = max((len(call.operands) + len(call.results) for call in calls), default=0)
    return "\n".join(
        [
            "/* Written by the compiler. */",
            f"enum {{ SIZES = {len(programs)}, INPUTS = {len(first.inputs)}, OUTPUTS = {len(first.outputs)}, "
            f"MOST_OPERANDS = {operands}, ALIGNMENT = {alignment} }};",
            f"#define ARENA_BYTES {lowered.arena}",
            f"#define SCRATCH_BYTES {scratch}",
            "",
            *(f"{static}kernel {kernel.format(name)};" for name in sorted({call.kernel for call in calls})),
            "",
            *(line for number, size in enumerate(lowered.sizes) for line in _size(number, size, places, kernel)),
            *_table(
                "specc_size",
                "sizes",
                (
                    f"{{inputs{i}, outputs{i}, described{i}, {len(size.program.calls)}, {size.plan.arena}}}"
                    for i, size in enumerate(lowered.sizes)
                ),
            ),
            *_table(
                "program",
                "programs",
                (
                    f"{{calls{i}, operands{i}, copies{i}, {len(size.plan.copies)}}}"
                    for i, size in enumerate(lowered.sizes)
                ),
            ),
            "static const specc_interface network = {",
            f"    {_text(first.name)}, {_text(target.name)}, INPUTS, OUTPUTS, SIZES, sizes,",
            f"    {weight_bytes}, {lowered.arena}}};",
            "",
            "static int processor_fits(void) {",
            *_processor(target),
            "}",
            "",
        ]
    )


def _size(number: int, one: Size, places: Sequence[int], kernel: str) -> Iterable[str]:
    """The tables of one size, whose names end in its number; `places` are the offsets of the weights."""
    program, plan = one.program, one.plan

    def operand(place: Place) -> str:
        if place.space == "weight":
            return f"{{WEIGHT, 0, {places[one.weights[place.number]] + place.offset}}}"
        return f"{{{_SPACES[place.space]}, {place.number}, {place.offset}}}"

    rows: list[str] = []
    starts: list[int] = []
    for call in program.calls:
        starts.append(len(rows))
        rows += [operand(plan.places[storage]) for storage in (*call.operands, *call.results)]
    counts = [len(call.operands) + len(call.results) for call in program.calls]
    yield from _tensors(f"inputs{number}", program.input_names, program.inputs)
    yield from _tensors(f"outputs{number}", program.output_names, program.outputs)
    described = (f"{{{_text(call.title)}, {_text(call.path)}}}" for call in program.calls)
    yield from _table("specc_call", f"described{number}", described)
    yield from _table("operand", f"operands{number}", rows)
    calls = (
        f"{{{kernel.format(call.kernel)}, {start}, {count}}}"
        for call, start, count in zip(program.calls, starts, counts)
    )
    yield from _table("call", f"calls{number}", calls)
    copies = (
        f"{{{output}, {operand(plan.places[storage])}, {size(program.outputs[output])}}}"
        for output, storage in plan.copies
    )
    yield from _table("copy", f"copies{number}", copies)
    yield ""


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
        named = [feature for feature in target.requires if feature != "sve256"]
        if target.architecture == "riscv64":  # a bit for each letter
            bits = [f"1ul << ('{feature}' - 'a')" for feature in named]
        else:
            bits = [f"HWCAP_{_LINUX_NAMES.get(feature, feature.upper())}" for feature in named]
        yield f"  const unsigned long needed = {' | '.join(bits)};"
        yield "  if ((getauxval(AT_HWCAP) & needed) != needed) return 0;"
        long = "(prctl(PR_SVE_GET_VL) & PR_SVE_VL_LEN_MASK) >= 32"
        yield f"  return {long if 'sve256' in target.requires else 1};"


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
