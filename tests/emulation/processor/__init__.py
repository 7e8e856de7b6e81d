"""Instructions that this processor lacks, computed by a signal's handler (`processor.c`), so that kernels which have
them run in this process on any machine with AVX-512.

    emulated    vdpbf16ps, vcvtneps2bf16, vpdpbusd (vectors.c); of float16 multiply-adds and what moves an element
                (halves.c)
                the tiles of AMX: their configuration, loads and stores, products of bfloat16 and bytes (tiles.c)

Tests make kernels for `able(target)` and run them inside of `running(target)`; for AMX the fixture `matrix_tiles` of
`tests/conftest.py` is both. A process that Linux gave the tiles of AMX keeps them, and `targets.cpu_features` asks for
them. To see the handler compute them where the processor has AMX, pytest is started with `--without-amx`: its process
gets none (`hide_tiles`).
"""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from specc import targets
from specc.targets import Target

HERE = Path(__file__).parent
VECTORS = frozenset(("avx512_vnni", "avx512_bf16"))
TILES = frozenset(("amx_tile", "amx_int8", "amx_bf16"))
"""Features whose instructions are emulated, in /proc/cpuinfo's words."""
SPARED = {"avx512_fp16": "+avx512fp16"}
"""Features of which a part is emulated, which kernels of float16 sums get by with: other kernels can be made without
them. And what LLVM calls them."""

_hidden: set[str] = set()

_FLAGS = ("-std=c11", "-O2", "-mavx512f", "-mfma", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")


@cache
def library() -> ctypes.CDLL:
    """The handler, compiled."""
    folder = Path(tempfile.mkdtemp(prefix="emulation"))
    atexit.register(shutil.rmtree, folder)
    made = folder / "processor.so"
    subprocess.run(["gcc", *_FLAGS, *map(str, sorted(HERE.glob("*.c"))), "-o", str(made)], check=True)
    loaded = ctypes.CDLL(str(made))
    loaded.computed.restype = ctypes.c_long
    return loaded


def missing(target: Target) -> set[str]:
    """What this processor lacks of what the target requires."""
    return set(targets.missing_features(target.architecture, target.requires))


def able(target: Target) -> Target:
    """The target as far as it can be run here: it requires nothing that this processor lacks, so that artifacts are not
    refused, and LLVM makes none of the instructions that are not emulated. The target itself where nothing is missing.
    """
    lacks = missing(target) | _hidden
    spared = {SPARED[feature] for feature in lacks.intersection(SPARED)}
    return replace(
        target,
        requires=tuple(feature for feature in target.requires if feature not in lacks),
        features=tuple(feature for feature in target.features if feature not in spared),
    )


@contextmanager
def running(target: Target) -> Iterator[Callable[[bool], int]]:
    """Code for `able(target)` runs in this process: what the processor lacks is computed by the handler.

    Skips the test where the processor lacks what is not emulated nor spared. Gives what tells how many instructions
    were computed, on tiles or on vectors.
    """
    if others := missing(target) - VECTORS - TILES - set(SPARED):
        pytest.skip(f"this processor lacks {', '.join(sorted(others))}")
    emulator = library()
    begin = [emulator.computed(tiles) for tiles in range(2)]
    emulator.start()
    try:
        yield lambda tiles: int(emulator.computed(int(tiles)) - begin[tiles])
    finally:
        emulator.stop()


def hide_tiles() -> None:
    """From here on Linux gives no tiles to this process nor to those that it starts, and `able` spares what it can."""
    problem = library().forbid()
    assert not problem, f"seccomp fails with {problem}"
    targets.cpu_features.cache_clear()
    assert not TILES & targets.cpu_features(), "the process has asked for them before"
    _hidden.update(SPARED)
