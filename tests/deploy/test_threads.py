"""How threads share out the loops of kernels (`backends/tvm/c/threads.h`)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from programs import HERE

import specc

SOURCES = Path(specc.__file__).parent / "backends" / "tvm" / "c"


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `loops.c`."""
    program = tmp_path_factory.mktemp("threads") / "loops"
    warnings = ("-Wall", "-Wextra", "-Werror")
    command = ["gcc", "-std=gnu11", "-O2", "-fopenmp", *warnings, f"-I{SOURCES}", str(HERE / "loops.c")]
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 32])
def test_every_piece_is_computed_once(loops: Path, threads: int) -> None:
    """Also where there are more threads than cores: then most pieces are taken from threads that wait for a core."""
    done = subprocess.run([loops, str(threads), "20000"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{threads} threads, 0 wrong\n")
