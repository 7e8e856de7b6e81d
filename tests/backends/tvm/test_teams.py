"""Which programs one thread runs alone, and that no other one is woken for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import specc
from specc import targets
from specc.backends.tvm import teams
from specc.backends.tvm.emitter import Kernel
from specc.backends.tvm.program import Call, Program, Storage
from specc.grammar import loads
from specc.ir.types import TensorType

X, Y = Storage("input", 0), Storage("buffer", 0)
LEAST = 100_000
NET = """specc 1
network N(x: [n = 1, 16, h = 8, w = 8]) -> [n, 16, h, w]:
    y = conv2d(x, 16, k = 3)
    return relu(y)
"""


def program(macs: int, extent: int = 64, element: str = "float32", kernel: str = "shared") -> Program:
    type = TensorType((1, extent), "float32")
    call = Call(kernel, (X,), (Y,), macs=macs, element=element)
    return Program("n", ("x",), ("y",), (type,), (), (type,), (call,), (type,), (Y,))


KERNELS = {"shared": Kernel(None, (), parallel=(8,)), "whole": Kernel(None, ())}


@pytest.mark.parametrize(
    ("target", "made", "alone"),
    [
        ("x86-64-v4", program(0), True),
        ("x86-64-v4", program(32 * LEAST), False),
        ("x86-64-v4", program(31 * LEAST), True),  # 32 multiply-adds in a cycle
        ("x86-64-v3", program(31 * LEAST), False),  # 16
        ("x86-64-v4", program(0, 2 * LEAST - 64), True),  # 8 bytes for each element
        ("x86-64-v4", program(0, 2 * LEAST + 64), False),
        ("x86-64-v4", program(1000 * LEAST, kernel="whole"), True),
        ("x86-64-v4", program(100 * LEAST, element="uint8"), False),
        ("x86-64-v4-vnni", program(100 * LEAST, element="uint8"), True),
        ("x86-64-v4-bf16", program(60 * LEAST, element="bfloat16"), True),
        ("x86-64-v4-amx", program(200 * LEAST, element="bfloat16"), True),
        ("x86-64-v4-amx", program(300 * LEAST, element="bfloat16"), False),
        ("x86-64-v4-amx", program(500 * LEAST, element="uint8"), True),
        ("c", program(0), False),
        ("cuda:sm_80", program(0), False),
    ],
)
def test_little_work_is_not_shared_out(
    monkeypatch: pytest.MonkeyPatch, target: str, made: Program, alone: bool
) -> None:
    monkeypatch.setattr(teams, "LEAST", LEAST + teams._CALL)
    assert teams.alone(made, KERNELS, targets.find(target)) == alone


SLEEPERS = """
import sys
import numpy as np
from specc import runtime

def here():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("Threads:")).split()[1])

artifact, before = runtime.open(sys.argv[1], threads=2), here()
for extent in (8, 64):
    artifact(np.zeros((1, 16, extent, extent), "float32"))
    print(here() - before)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_small_size_wakes_no_thread_and_a_large_one_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own: other libraries here have threads, too."""
    monkeypatch.setattr(teams, "LEAST", LEAST)
    artifact = specc.compile(loads(NET), shapes=({"h": 8, "w": 8}, {"h": 64, "w": 64}))
    shared = [[call["parallel"] for call in size.facts["kernels"]] for size in artifact.manifest.sizes]
    assert not any(map(any, shared[:1])) and any(map(any, shared[1:]))
    path = tmp_path / "n.artifact"
    artifact.save(path)
    done = subprocess.run([sys.executable, "-c", SLEEPERS, path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\n1\n", "")
