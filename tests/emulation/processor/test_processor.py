"""Instructions computed by the handler and by a processor that has them: all bits of what they leave are the same.

A processor that lacks them has both computed by the handler.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulation import processor
from emulation.processor.assembly import ROOM, Program, assemble, run
from specc import targets

TESTS = Path(__file__).parents[2]
TARGET = replace(targets.TARGETS["x86-64-v4"], requires=(*processor.VECTORS, *processor.SPARED, *processor.TILES))
TILES, ROWS, BYTES, STRIDE = 8, 16, 64, 80
SIZE = 1 << 17
"""Bytes of memory of a program: room, configurations, vectors or tiles, and what is written."""
CONFIGURATION, LOADED, STORED = ROOM, ROOM + 4096, ROOM + 32768
PRODUCTS = ("tdpbf16ps", "tdpbuud", "tdpbusd", "tdpbsud", "tdpbssd")
ROUNDING = "vcvtneps2bf16"
VECTOR_PRODUCTS = ("vdpbf16ps", "vpdpbusd", "vfmadd132ph", "vfmadd213ph", "vfmadd231ph")
Programs = tuple[Path, dict[str, np.ndarray[Any, Any]]]
"""The library, and the memory of each program by its name."""


def configuration(rng: np.random.Generator) -> tuple[np.ndarray[Any, Any], list[int]]:
    """The 64 bytes of a random one, and tiles C, A and B with extents for C += A B."""
    tiles = [int(tile) for tile in rng.permutation(TILES)]
    extents = rng.integers(1, 17, 3) if rng.integers(4) else (16, 16, 16)
    rows, columns, depth = map(int, extents)
    shapes = {tile: (int(rng.integers(1, 17)), 4 * int(rng.integers(1, 17))) for tile in tiles[3:]}
    shapes |= dict(zip(tiles, ((rows, 4 * columns), (rows, 4 * depth), (depth, 4 * columns))))
    made = np.zeros(64, np.uint8)
    made[0] = 1
    made[1] = rng.integers(min(high for high, _ in shapes.values())) if rng.integers(4) == 0 else 0
    for tile, (high, wide) in shapes.items():
        made[16 + 2 * tile], made[48 + tile] = wide, high
    return made, tiles[:3]


def tile_program(rng: np.random.Generator) -> tuple[Program, np.ndarray[Any, Any]]:
    """One that configures, loads, multiplies and stores tiles, twice; with its memory."""
    program = Program(rng)
    memory = np.zeros(SIZE, np.uint8)
    stored = STORED
    for turn in range(2):
        memory[CONFIGURATION + 64 * turn :][:64], (c, a, b) = configuration(rng)
        program.at("ldtilecfg {}", CONFIGURATION + 64 * turn)
        for tile in rng.permutation(TILES):
            if rng.integers(8):  # the others are zero
                load = rng.choice(["tileloadd", "tileloaddt1"])
                stride = int(rng.choice([0, 8, 64, STRIDE]))
                program.at(f"{load} {{}}, %tmm{tile}", LOADED + 1536 * int(tile), stride)
        program.at("sttilecfg {}", stored)
        program.clear(stored + 1)  # the handler keeps a first row there where the processor has the configuration
        stored += 64
        for _ in range(3):
            program.one(f"{rng.choice(PRODUCTS)} %tmm{b}, %tmm{a}, %tmm{c}")
            if not rng.integers(8):
                program.one(f"tilezero %tmm{c}")
        for tile in range(TILES):
            program.at(f"tilestored %tmm{tile}, {{}}", stored, STRIDE)
            stored += ROWS * STRIDE
    program.one("tilerelease")
    memory[LOADED:STORED] = values(rng, STORED - LOADED)
    return program, memory


def values(rng: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
    """Bytes: of bfloat16 near 1, or of anything: infinity, NaN, numbers that are too small or too large."""
    pairs = rng.standard_normal(size // 2).astype(np.float32).view(np.uint32)
    tame = (pairs >> 16).astype(np.uint16)
    wild = rng.integers(0, 1 << 16, size // 2).astype(np.uint16)
    small = (wild & 0x80FF) | (rng.integers(60, 68, size // 2) << 7).astype(np.uint16)  # products near 2^-126
    kind = rng.integers(5)
    mixed = np.where(rng.integers(0, 1 << 9, size // 2) == 0, wild, tame)
    # Of float32: lower halves that round down, up, or lie in the middle, and upper ones with small and great exponents.
    halves = np.array([0x8000, 0x7FFF, 0x8001, 0, 1], np.uint16)[rng.integers(0, 5, size // 2)]
    ends = (wild & 0x80FF) | (rng.choice([0, 1, 254, 255], size // 2) << 7).astype(np.uint16)
    halves[1::2] = np.where(rng.integers(2, size=size // 2), ends, tame)[1::2]
    return np.asarray((tame, wild, mixed, small, halves)[kind]).view(np.uint8)


def vector_program(rng: np.random.Generator) -> tuple[Program, np.ndarray[Any, Any]]:
    """One that multiplies vectors from registers and from memory."""
    program = Program(rng)
    memory = np.zeros(SIZE, np.uint8)
    memory[LOADED:STORED] = values(rng, STORED - LOADED)
    program.vectors("vmovups {}, {}", LOADED)
    for _ in range(12):
        width = int(rng.choice([16, 32, 64]))
        if rng.integers(3) == 0:
            element(program, rng)
            continue
        kind = {16: "x", 32: "y", 64: "z"}[width]
        if rng.integers(4) == 0:
            rounding(program, rng, width, kind)
            continue
        name = str(rng.choice(VECTOR_PRODUCTS))
        operands = ", ".join(f"%{kind}mm{register}" for register in rng.integers(0, 32, 2))
        match rng.integers(3):
            case 0:
                program.one(f"{{evex}} {name} %{kind}mm{rng.integers(32)}, {operands}")
            case 1:
                program.at(f"{{{{evex}}}} {name} {{}}, {operands}", LOADED + width * int(rng.integers(64)))
            case _:
                every = f"{{{{1to{width // (2 if name.endswith('ph') else 4)}}}}}"
                program.at(f"{{{{evex}}}} {name} {{}}{every}, {operands}", LOADED + 4 * int(rng.integers(999)))
    program.vectors("vmovups {1}, {0}", STORED)
    return program, memory


def rounding(program: Program, rng: np.random.Generator, width: int, kind: str) -> None:
    """Rounds float32 to bfloat16."""
    goal, suffix = f"%{'y' if width == 64 else 'x'}mm{rng.integers(32)}", "" if width == 64 else kind
    match rng.integers(3):
        case 0:
            program.one(f"{{evex}} {ROUNDING} %{kind}mm{rng.integers(32)}, {goal}")
        case 1:
            place = LOADED + width * int(rng.integers(64))
            program.at(f"{{{{evex}}}} {ROUNDING}{suffix} {{}}, {goal}", place)
        case _:
            every, place = f"{{{{1to{width // 4}}}}}", LOADED + 4 * int(rng.integers(999))
            program.at(f"{{{{evex}}}} {ROUNDING}{suffix} {{}}{every}, {goal}", place)


def element(program: Program, rng: np.random.Generator) -> None:
    """Moves 16 bits."""
    vector, general, offset = f"%xmm{rng.integers(32)}", f"r{rng.integers(8, 16)}", 2 * int(rng.integers(999))
    match rng.integers(4):
        case 0:
            program.at(f"{rng.choice(['vmovw', 'vmovsh'])} {{}}, {vector}", LOADED + offset)
        case 1:
            program.at(f"{rng.choice(['vmovw', 'vmovsh'])} {vector}, {{}}", STORED + 4096 + offset)
        case 2:
            program.lines.append(f"mov ${rng.integers(1 << 31)}, %{general}")
            program.one(f"vmovw %{general}d, {vector}")
        case _:
            program.one(f"vmovw {vector}, %{general}d")
            program.lines += ["movq %mm0, %rax", f"mov %{general}, {STORED + 8192 + 8 * int(rng.integers(64))}(%rax)"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    rng = np.random.default_rng(0)
    made = {f"tiles{i}": tile_program(rng) for i in range(60)}
    made |= {f"vectors{i}": vector_program(rng) for i in range(60)}
    library = tmp_path_factory.mktemp("programs") / "programs.so"
    assemble({name: program for name, (program, _) in made.items()}, library)
    return library, {name: memory for name, (_, memory) in made.items()}


def test_the_handler_computes_what_the_processor_does(programs: Programs) -> None:
    library, memories = programs
    with processor.running(TARGET) as computed:
        for name, memory in memories.items():
            native, marked = run(library, name, memory), run(library, f"marked_{name}", memory)
            assert np.array_equal(native, marked), name
            assert native[STORED - ROOM :].any()
        assert computed(True) > 60 * 20 and computed(False) > 60 * 10


def test_each_thread_has_tiles_of_its_own(programs: Programs) -> None:
    library, memories = programs
    with processor.running(TARGET), ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda name: run(library, f"marked_{name}", memories[name]), memories)
        for name, made in zip(memories, together, strict=True):
            assert np.array_equal(made, run(library, name, memories[name])), name


def test_tiles_that_linux_keeps_back_are_computed(programs: Programs, tmp_path: Path) -> None:
    """In a process that has not asked, where the processor itself holds the configuration."""
    library, memories = programs
    chosen = {name: memory for name, memory in memories.items() if name.startswith("tiles")}
    np.savez(tmp_path / "memories.npz", **chosen)
    text = (
        "import sys, numpy; from emulation import processor; from emulation.processor.assembly import run\n"
        "processor.hide_tiles(); emulator = processor.library(); emulator.start()\n"
        "made = {name: run(sys.argv[1], name, memory) for name, memory in numpy.load(sys.argv[2]).items()}\n"
        "assert emulator.computed(1) > 20 * len(made), 'the processor has computed them'\n"
        "numpy.savez(sys.argv[3], **made)"
    )
    files = [library, tmp_path / "memories.npz", tmp_path / "made.npz"]
    subprocess.run([sys.executable, "-c", text, *map(str, files)], cwd=TESTS, check=True)
    hidden = np.load(tmp_path / "made.npz")
    with processor.running(TARGET):
        for name, memory in chosen.items():
            assert np.array_equal(hidden[name], run(library, name, memory)), name


def test_what_nobody_knows_ends_the_process() -> None:
    """However often the handler was started."""
    text = (
        "import ctypes, mmap; from emulation import processor\n"
        "for turn in range(3): processor.library().start()\n"
        "processor.library().stop()\n"
        "code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "code.write(bytes.fromhex('0f0b c3'))\n"
        "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=TESTS, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGILL
