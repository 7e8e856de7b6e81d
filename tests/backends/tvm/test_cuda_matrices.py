"""The functions of `device.cuh` as the emulation has them, against NumPy by the tables of the PTX ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulation import Emulated, compile_kernels

from specc.backends.tvm.cuda.device import PRELUDE

_KERNELS = """
extern "C" __global__ void __launch_bounds__(32) product_float16(float* sums, uint* left, uint* right) {
  float own[4];
  for (int i = 0; i < 4; ++i) own[i] = sums[threadIdx.x * 4 + i];
  specc_multiply_float16(own, left + threadIdx.x * 4, right + threadIdx.x * 2);
  for (int i = 0; i < 4; ++i) sums[threadIdx.x * 4 + i] = own[i];
}
extern "C" __global__ void __launch_bounds__(32) product_bfloat16(float* sums, uint* left, uint* right) {
  float own[4];
  for (int i = 0; i < 4; ++i) own[i] = sums[threadIdx.x * 4 + i];
  specc_multiply_bfloat16(own, left + threadIdx.x * 4, right + threadIdx.x * 2);
  for (int i = 0; i < 4; ++i) sums[threadIdx.x * 4 + i] = own[i];
}
extern "C" __global__ void __launch_bounds__(32) matrices(uint* straight, uint* transposed, ushort* from) {
  __shared__ alignas(64) ushort memory[32 * 8];
  specc_copy_16(memory + threadIdx.x * 8, from + threadIdx.x * 8, 1);
  specc_copies_end();
  specc_copies_wait<0>();
  __syncthreads();
  uint own[4];
  specc_matrices(own, memory + threadIdx.x * 8);
  for (int i = 0; i < 4; ++i) straight[threadIdx.x * 4 + i] = own[i];
  specc_matrices_transposed(own, memory + threadIdx.x * 8);
  for (int i = 0; i < 4; ++i) transposed[threadIdx.x * 4 + i] = own[i];
}
extern "C" __global__ void __launch_bounds__(32) copies(ushort* early, ushort* late, ushort* from) {
  __shared__ alignas(64) ushort memory[2 * 64];
  specc_copy_4(memory + threadIdx.x * 2, from + threadIdx.x * 2, 1);
  specc_copies_end();
  specc_copy_4(memory + 64 + threadIdx.x * 2, from, 0);
  specc_copies_end();
  specc_copies_wait<1>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) early[threadIdx.x * 4 + i] = memory[threadIdx.x * 4 + i];
  __syncthreads();
  specc_copies_wait<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) late[threadIdx.x * 4 + i] = memory[threadIdx.x * 4 + i];
}
extern "C" __global__ void __launch_bounds__(64) parted(float* sums) {
  if (threadIdx.x % 2) specc_warp_barrier();
}
extern "C" __global__ void __launch_bounds__(32) numbers(ushort* halves, ushort* brains, float* back, float* from) {
  halves[threadIdx.x] = specc_to_float16(from[threadIdx.x]);
  brains[threadIdx.x] = specc_to_bfloat16(from[threadIdx.x]);
  back[2 * threadIdx.x] = specc_from_float16(halves[threadIdx.x]);
  back[2 * threadIdx.x + 1] = specc_from_bfloat16(brains[threadIdx.x]);
}
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    return Emulated(compile_kernels(PRELUDE + _KERNELS, tmp_path_factory.mktemp("matrices") / "kernels.so"))


def run(emulated: Emulated, name: str, *arrays: np.ndarray[Any, Any], threads: int = 32) -> None:
    emulated.run(name, 1, threads, {array.ctypes.data: array.nbytes for array in arrays})


def bits(numbers: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """The bits of numbers that are of 16 bits without being rounded."""
    return numbers.astype(np.float16).view(np.uint16) if dtype == "float16" else (numbers.view(np.uint32) >> 16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_have_the_fragments_of_m16n8k16(dtype: str, emulated: Emulated) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) / 4 for shape in ((16, 16), (16, 8)))
    c = rng.standard_normal((16, 8)).astype(np.float32)
    left, right = np.zeros((32, 8), np.uint16), np.zeros((32, 4), np.uint16)
    sums = np.zeros((32, 4), np.float32)
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        for i in range(8):  # "row = groupID for 0 <= i < 2 || 4 <= i < 6", and so on
            row = group if i < 2 or 4 <= i < 6 else group + 8
            left[lane, i] = bits(a, dtype)[row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)]
        for i in range(4):
            right[lane, i] = bits(b, dtype)[thread * 2 + (i & 1) + (8 if i >= 2 else 0), group]
            sums[lane, i] = c[group if i < 2 else group + 8, thread * 2 + (i & 1)]
    run(emulated, f"product_{dtype}", sums, left, right)
    expected = c + a @ b
    for lane in range(32):
        for i in range(4):
            row, column = (lane >> 2) + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)
            assert abs(sums[lane, i] - expected[row, column]) < 1e-5


def test_matrices_come_in_rows_and_in_columns(emulated: Emulated) -> None:
    numbers = np.arange(4 * 64, dtype=np.uint16)
    straight, transposed = np.zeros((32, 4, 2), np.uint16), np.zeros((32, 4, 2), np.uint16)
    run(emulated, "matrices", straight, transposed, numbers)
    matrices = numbers.reshape(4, 8, 8)
    assert np.array_equal(straight, matrices.reshape(4, 8, 4, 2).transpose(1, 2, 0, 3).reshape(32, 4, 2))
    turned = matrices.transpose(0, 2, 1)
    assert np.array_equal(transposed, turned.reshape(4, 8, 4, 2).transpose(1, 2, 0, 3).reshape(32, 4, 2))


def test_a_copy_is_there_after_the_wait_for_it_and_not_before(emulated: Emulated) -> None:
    numbers = np.arange(64, dtype=np.uint16)
    early, late = np.zeros(128, np.uint16), np.zeros(128, np.uint16)
    run(emulated, "copies", early, late, numbers)
    assert np.array_equal(early, [*numbers, *[0xFFFF] * 64])
    assert np.array_equal(late, [*numbers, *[0] * 64])


def test_threads_of_a_warp_that_part_are_an_error(emulated: Emulated) -> None:
    with pytest.raises(AssertionError, match="part at a barrier"):
        run(emulated, "parted", np.zeros(1, np.float32), threads=64)


def test_numbers_are_rounded_to_the_nearest(emulated: Emulated) -> None:
    import torch

    halves, brains, back = np.zeros(32, np.uint16), np.zeros(32, np.uint16), np.zeros((32, 2), np.float32)
    rng = np.random.default_rng(0)
    numbers = np.concatenate(
        [rng.standard_normal(24), [0, 1 + 2**-11, 1 + 3 * 2**-11, 1e5, 1e-7, -0.0, 1 + 2**-8, np.inf]]
    )
    numbers = numbers.astype(np.float32)
    run(emulated, "numbers", halves, brains, back, numbers)
    wanted = [torch.tensor(numbers).to(dtype).float().numpy() for dtype in (torch.float16, torch.bfloat16)]
    assert np.array_equal(back, np.stack(wanted, 1))
    with np.errstate(over="ignore"):
        assert np.array_equal(halves, numbers.astype(np.float16).view(np.uint16))
