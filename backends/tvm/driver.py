"""The programs of a network in C: `network.h`, the tables that `c/driver.c` runs, one set of them for each size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from types import MappingProxyType

from specc.backends.tvm.lowering import Lowered, Size
from specc.backends.tvm.opening import room, tables
from specc.backends.tvm.program import Program, Storage, offsets
from specc.ir.cost import fixed
from specc.ir.dims import Dim, substitute
from specc.ir.dtypes import DTYPES
from specc.ir.placement import size
from specc.ir.types import TensorType
from specc.targets import Target

SOURCES = files("specc.backends.tvm") / "c"
"""The folder of `driver.c`, `threads.h` and `specc.h`."""

Calls = Callable[[int, Program, Callable[[Storage], str]], Iterable[str]]
"""Writes the tables of what the size of a number runs: its program, and what an operand that lies there is in C."""

_SPACES = {"input": "INPUT", "output": "OUTPUT", "arena": "ARENA"}
_GCC_NAMES = {
    **{"bmi1": "bmi", "avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16", "avx512_fp16": "avx512fp16"},
    **{f"amx_{part}": f"amx-{part}" for part in ("tile", "int8", "bf16")},
}
_LINUX_NAMES = {"vfpv4": "VFPv4"}
"""Features that gcc, and Linux' headers, call otherwise than /proc/cpuinfo does."""
_SECOND_WORD = {"bf16", "i8mm"}
"""Features of ARM's cores that Linux tells of in a second word of bits."""


def header(
    lowered: Lowered, target: Target, kernel: str = "__tvm_ffi_{}", scratch: Mapping[str, int] = MappingProxyType({})
) -> str:
    """The text of `network.h`: tables for each size, and what all sizes have in common.

    `kernel` says what the function of a kernel is called. Kernels in C have no vectors, and want tensors aligned to
    their elements alone; `scratch` says by name how many bytes those ask for, beside tensors with open dimensions.
    """
    static = "" if target.vectors else "static "
    programs = [size.program for size in lowered.sizes]
    first = programs[0]
    kinds = {type.dtype for type in (*first.inputs, *first.outputs)}
    alignment = 64 if target.vectors else max((DTYPES[kind] for kind in kinds), default=1)
    calls = [call for program in programs for call in program.calls]
    counts = (len(call.operands) + len(call.results) + len(lowered.kernels[call.kernel].symbols) for call in calls)
    run = ("calls", "operands", *(["rooms"] if target.vectors else []))
    ends = [f", &opening{i}" if one.opening else ", 0" for i, one in enumerate(lowered.sizes)]
    if target.vectors:
        ends = [f", {int(one.program.alone)}{end}" for one, end in zip(lowered.sizes, ends)]
    return "\n".join(
        [
            "/* Written by the compiler. */",
            f"enum {{ SIZES = {len(programs)}, INPUTS = {len(first.inputs)}, OUTPUTS = {len(first.outputs)}, "
            f"MOST_OPERANDS = {max(counts, default=0)}, ALIGNMENT = {alignment} }};",
            f"#define ARENA_BYTES {lowered.arena}",
            f"#define SCRATCH_BYTES {scratch_bytes(lowered, scratch)}",
            "",
            *(f"{static}kernel {kernel.format(name)};" for name in sorted({call.kernel for call in calls})),
            "",
            *_openings(lowered, None if target.vectors else scratch),
            *interface(lowered, target, partial(_calls, kernel, lowered, target), run, ends),
            "",
            "static int processor_fits(void) {",
            *_processor(target),
            "}",
            "",
        ]
    )


def scratch_bytes(lowered: Lowered, scratch: Mapping[str, int]) -> int:
    """What a kernel asks for at most, where open dimensions are as in the sample; see `header`."""
    sizes = [(one.opening.at if one.opening else {}, _scratch(lowered, one, scratch)) for one in lowered.sizes]
    return max((fixed(substitute(bytes, at)) for at, asked in sizes for bytes in asked), default=0)


def _scratch(lowered: Lowered, one: Size, scratch: Mapping[str, int]) -> list[Dim]:
    """The bytes that each kernel of a size asks for; see `header`."""
    names = dict.fromkeys(call.kernel for call in one.program.calls)
    return [room(lowered.kernels[name].scratch) + scratch.get(name, 0) for name in names]


def interface(
    lowered: Lowered, target: Target, calls: Calls, run: Sequence[str], ends: Sequence[str] = ()
) -> Iterable[str]:
    """The tables of each size, whose names end in its number, then `sizes`, `programs` and `network`.

    `calls` writes the tables of what a size runs; `run` are their names, in the order in which a `program` has them,
    and `ends` what it has behind these, for each size.
    """
    places, weight_bytes = offsets([array.nbytes for array in lowered.weights])
    for number, one in enumerate(lowered.sizes):
        yield from _size(number, one, places, calls)
    counts = [(len(one.program.calls), one.plan.arena, len(one.plan.copies)) for one in lowered.sizes]
    rows = [f"{{inputs{i}, outputs{i}, described{i}, {c}, {arena}}}" for i, (c, arena, _) in enumerate(counts)]
    yield from table("specc_size", "sizes", rows)
    rows = [
        f"{{{', '.join(f'{name}{i}' for name in (*run, 'copies'))}, {copies}{ends[i] if ends else ''}}}"
        for i, (_, _, copies) in enumerate(counts)
    ]
    yield from table("program", "programs", rows)
    yield "static const specc_interface network = {"
    yield f"    {_text(lowered.sizes[0].program.name)}, {_text(target.name)}, INPUTS, OUTPUTS, SIZES, sizes,"
    yield f"    {weight_bytes}, {lowered.arena}}};"


def _size(number: int, one: Size, places: Sequence[int], calls: Calls) -> Iterable[str]:
    """The tables of one size; `places` are the offsets of the weights."""
    program, plan = one.program, one.plan

    def operand(storage: Storage) -> str:
        place = plan.places[storage]
        if place.space == "weight":
            return f"{{WEIGHT, 0, {places[one.weights[place.number]] + place.offset}}}"
        return f"{{{_SPACES[place.space]}, {place.number}, {place.offset}}}"

    yield from _tensors(f"inputs{number}", program.input_names, program.inputs)
    yield from _tensors(f"outputs{number}", program.output_names, program.outputs)
    described = (f"{{{_text(call.title)}, {_text(call.path)}}}" for call in program.calls)
    yield from table("specc_call", f"described{number}", described)
    yield from calls(number, program, operand)
    copies = (f"{{{output}, {operand(storage)}}}" for output, storage in plan.copies)
    yield from table("copy", f"copies{number}", copies)
    yield ""


def _openings(lowered: Lowered, scratch: Mapping[str, int] | None) -> Iterable[str]:
    """The tables of sizes with open dimensions, and how much of everything these have at most; see `header`."""
    found = {number: one for number, one in enumerate(lowered.sizes) if one.opening is not None}
    if not found:
        return
    sizes = [(one.program, one.opening) for one in found.values() if one.opening]
    extents = max(sum(type.rank for type in (*p.inputs, *p.outputs)) for p, _ in sizes)
    dimensions, lanes = (max(map(len, each)) for each in zip(*((o.at, o.lanes) for _, o in sizes)))
    yield f"#define OPEN_DIMENSIONS {dimensions}"
    yield f"#define OPEN_LANES {lanes}"
    yield f"#define OPEN_EXTENTS {extents}"
    for number, one in found.items():
        assert one.opening is not None
        asked = None if scratch is None else _scratch(lowered, one, scratch)
        yield from tables(number, one.program, one.opening, asked)
    yield ""


def _calls(
    kernel: str, lowered: Lowered, target: Target, number: int, program: Program, operand: Callable[[Storage], str]
) -> Iterable[str]:
    """What a size runs on a processor: functions, each on a run of the operands, values of open dimensions first.

    Kernels that are no C may have what is free of the arena.
    """
    opening = lowered.sizes[number].opening
    names = list(opening.at) if opening else []
    rows: list[str] = []
    calls: list[str] = []
    for call in program.calls:
        symbols = [f"{{DIMENSION, {names.index(name)}, 0}}" for name in lowered.kernels[call.kernel].symbols]
        operands = [*symbols, *map(operand, (*call.operands, *call.results))]
        calls.append(f"{{{kernel.format(call.kernel)}, {len(rows)}, {len(operands)}}}")
        rows += operands
    yield from table("operand", f"operands{number}", rows)
    yield from table("call", f"calls{number}", calls)
    if target.vectors:
        rooms = lowered.sizes[number].plan.rooms
        yield from table("room", f"rooms{number}", (f"{{{begin}, {length}}}" for begin, length in rooms))


def _processor(target: Target) -> Iterable[str]:
    """The lines that ask the system for what the target requires, before a kernel uses it."""
    if target.architecture == "x86_64":
        yield "  __builtin_cpu_init();"
        for feature in target.requires:
            yield f'  if (!__builtin_cpu_supports("{_GCC_NAMES.get(feature, feature)}")) return 0;'
        permitted = "syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0"
        yield f"  return {permitted if 'amx_tile' in target.requires else '1'};"
    elif not target.requires:
        yield "  return 1;"
    else:
        named = [feature for feature in target.requires if feature != "sve256"]
        if target.architecture == "riscv64":  # a bit for each letter
            bits = [f"1ul << ('{feature}' - 'a')" for feature in named]
        else:
            bits = [f"HWCAP_{_LINUX_NAMES.get(f, f.upper())}" for f in named if f not in _SECOND_WORD]
        yield f"  const unsigned long needed = {' | '.join(bits)};"
        yield "  if ((getauxval(AT_HWCAP) & needed) != needed) return 0;"
        for feature in sorted(_SECOND_WORD.intersection(named)):
            yield f"  if (!(getauxval(AT_HWCAP2) & HWCAP2_{feature.upper()})) return 0;"
        long = "(prctl(PR_SVE_GET_VL) & PR_SVE_VL_LEN_MASK) >= 32"
        yield f"  return {long if 'sve256' in target.requires else 1};"


def _tensors(kind: str, names: Sequence[str], types: Sequence[TensorType]) -> Iterable[str]:
    rows = []
    for number, (name, type) in enumerate(zip(names, types, strict=True)):
        extents = ", ".join(str(dim if isinstance(dim, int) else -1) for dim in type.shape) or "1"
        length = 0 if type.symbols() else size(type)
        yield f"static const int64_t {kind}_{number}[] = {{{extents}}};"
        rows.append(f"{{{_text(name)}, {_text(type.dtype)}, {len(type.shape)}, {kind}_{number}, {length}}}")
    yield from table("specc_tensor", kind, rows)


def table(kind: str, name: str, rows: Iterable[str]) -> Iterable[str]:
    """A table in C, which has a row that nobody reads where it would be empty: C knows no empty one."""
    yield f"static const {kind} {name}[] = {{"
    yield from (f"    {row}," for row in (list(rows) or ["{0}"]))
    yield "};"


def _text(text: str) -> str:
    """A string literal. Names may hold any printable character: what is not ASCII stands as UTF-8 in octal."""
    if text.isascii() and text.isprintable():
        return json.dumps(text).replace("?", "\\?")
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'
