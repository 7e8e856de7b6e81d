"""What the emulation of a GPU's threads finds (`tests/emulation`): kernels in CUDA with a mistake each, and without."""

from __future__ import annotations

import numpy as np
import pytest
from emulation import Emulated, compile_kernels
from emulation.machine_code import usage

from specc import targets
from specc.backends.tvm.cuda import nvrtc

_SUM = """
  __shared__ alignas(64) float parts[64];
  int thread = ((int)threadIdx.x);
  parts[thread] = a[thread];
  %s
  b[thread] = parts[thread ^ 33];
"""
_SHUFFLE = "b[((int)threadIdx.x)] = specc_exchanged(a[((int)threadIdx.x)], 5);"
_WRITES = "if (((int)threadIdx.x) == ((int)blockIdx.x)) b[%s] = a[0];"

KERNELS = {
    "right": _SUM % "__syncthreads();",
    "without_a_barrier": _SUM % "",
    "barrier_of_the_warp": _SUM % "specc_warp_barrier();",
    "right_in_a_warp": (_SUM % "specc_warp_barrier();").replace("thread ^ 33", "thread ^ 1"),
    "right_exchange": _SHUFFLE,
    "exchange_of_some": f"if (((int)threadIdx.x) > 3) {{ {_SHUFFLE} }}",
    "overwritten": _SUM % "__syncthreads();" + "parts[thread] = 2.0f;",
    "barrier_for_some": (_SUM % "if (thread < 40) __syncthreads();").replace("thread ^ 33", "thread"),
    "nobody_wrote": "__shared__ alignas(64) float parts[64]; b[((int)threadIdx.x)] = parts[((int)threadIdx.x)] + a[0];",
    "beyond_shared": (_SUM % "__syncthreads();").replace("thread ^ 33", "thread + 1"),
    "beyond_memory": "b[((int)threadIdx.x)] = a[((int)threadIdx.x) + 1];",
    "before_memory": "b[((int)threadIdx.x) - 1] = a[((int)threadIdx.x)];",
    "beyond_registers": """
  float own[4];
  for (int i = 0; i < 4; ++i) own[i] = a[i];
  b[((int)threadIdx.x)] = own[((int)threadIdx.x)];
""",
    "two_blocks": _WRITES % "0",
    "right_blocks": _WRITES % "((int)blockIdx.x)",
    "two_threads": "b[((int)threadIdx.x) / 2] = a[0];",
}
FOUND = {
    "without_a_barrier": "no barrier between|nobody wrote",
    "barrier_of_the_warp": "no barrier between|nobody wrote",
    "exchange_of_some": "threads part at a barrier",
    "overwritten": "no barrier between",
    "barrier_for_some": "threads part at a barrier",
    "nobody_wrote": "nobody wrote",
    "beyond_shared": "an index outside of its array",
    "beyond_memory": "outside of all memory",
    "before_memory": "outside of all memory",
    "beyond_registers": "an index outside of its array",
    "two_blocks": "two blocks",
    "two_threads": "two threads write",
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    head = 'extern "C" __global__ void __launch_bounds__(64) {}(float* __restrict__ a, float* __restrict__ b)'
    text = "\n".join(f"{head.format(name)} {{ {body} }}" for name, body in KERNELS.items())
    return Emulated(compile_kernels(text, tmp_path_factory.mktemp("threads") / "kernels.so"))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("name", KERNELS)
def test_mistakes_are_found_in_every_order(name: str, order: int, kernels: Emulated) -> None:
    a, b = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    memory = {array.ctypes.data: array.nbytes for array in (a, b)}
    if name in FOUND:
        with pytest.raises(AssertionError, match=FOUND[name]):
            kernels.run(name, 2 if "blocks" in name else 1, 64, memory, order)
    else:
        kernels.run(name, 2 if "blocks" in name else 1, 64, memory, order)
        partners = {"right": 33, "right_in_a_warp": 1, "right_exchange": 5}
        if name in partners:
            assert np.array_equal(b, a[np.arange(64) ^ partners[name]])


_RESOURCES = """
extern "C" __global__ void __launch_bounds__(64) plain(float* a, float* b) {
  __shared__ float parts[100];
  parts[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  b[threadIdx.x] = parts[threadIdx.x ^ 33];
}
extern "C" __global__ void __launch_bounds__(64) of_many_arrays(float* a, float* b) {
  float own[256];
  for (int i = 0; i < 256; i++) own[(int)a[i]] = a[i * threadIdx.x];
  b[threadIdx.x] = own[(int)a[0]];
}
"""


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", ["sm_80", "sm_89", "sm_90"])
def test_a_cubin_tells_what_its_kernels_take(gpu: str) -> None:
    found = usage(nvrtc.cubin(_RESOURCES, targets.find(f"cuda:{gpu}")))
    kept = 1024 if gpu == "sm_90" else 0
    assert 4 < found["plain"].registers < 40 and found["plain"].stack == 0 and found["plain"].shared == 400 + kept
    assert found["of_many_arrays"].stack >= 1024 and found["of_many_arrays"].shared == 0
