"""NaN and infinities come through kernels as PyTorch has them: a network that has diverged shows it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import special_numbers
from cuda_programs import Kernels
from kernel_programs import NATIVE, TARGETS, execute
from special_numbers import Case
from test_emitted_c import STRICT
from test_halves import ROUNDING

from specc import driver
from specc.backends.tvm.cuda import select as gpu
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.kernels import select
from specc.ir.dtypes import HALVES
from specc.model import Model
from specc.targets import Target
from specc.unpack import unpack

CASES = special_numbers.pointwise() | special_numbers.rows()
Results = Callable[[str], list[np.ndarray[Any, Any]]]
every = pytest.mark.parametrize("name", CASES)
FORMS = {target.name: target for target in TARGETS if target in TARGETS[:1] or target.name == NATIVE.name}
"""The narrowest and the widest vectors of this machine."""
machines = pytest.mark.parametrize("target", FORMS.values(), ids=FORMS)


def run(case: Case, target: Target) -> list[np.ndarray[Any, Any]]:
    template = select.lower(case.group, target)
    kernel = kernel_of(case.group, template, target.form, target.conversions, target.keeps_nan)
    return execute(kernel, case.group, case.arrays, target)


@machines
@every
def test_machine_code(name: str, target: Target) -> None:
    CASES[name].check(run(CASES[name], target), 1e-5)


@machines
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_in_blocks(kind: str, target: Target) -> None:
    case = special_numbers.pools(target.blocked_layout)[kind]
    case.check(run(case, target), 1e-5)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", special_numbers.layers("bfloat16"))
def test_numbers_of_16_bits(name: str, dtype: str, matrix_tiles: Target) -> None:
    """Read and written by the kernels of any processor, and by those that multiply in tiles."""
    case = special_numbers.layers(dtype)[name]
    for target in (NATIVE, matrix_tiles):
        case.check(run(case, target), 3 * ROUNDING[dtype])


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All cases as one network, compiled by a C compiler."""
    graph, places = special_numbers.network(CASES)
    folder = tmp_path_factory.mktemp("c")
    contents = driver.compile(graph, "c", level=0).contents
    given = [array for case in CASES.values() for array in case.arrays]
    unpack(contents, folder / "net")
    command = ["gcc", *STRICT, "-fPIC", "-shared", "-o", "network.so", "network.c", "-lm"]
    subprocess.run(command, cwd=folder / "net", check=True)
    found = Model((folder / "net" / "network.so").read_bytes(), contents.weights).run(given)
    return lambda name: [found[place] for place in places[name]]


@every
def test_c(name: str, c: Results) -> None:
    CASES[name].check(c(name), 1e-5)


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    groups = {name: case.group for name, case in CASES.items()}
    return Kernels(groups, gpu.lower, tmp_path_factory.mktemp("cuda") / "kernels.so")


@every
def test_cuda(name: str, cuda: Kernels) -> None:
    CASES[name].check(cuda.execute(name, CASES[name].arrays, 0), 1e-5)
