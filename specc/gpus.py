"""The NVIDIA GPUs of this machine, asked of CUDA's driver."""

from __future__ import annotations

import ctypes
import re

from specc.diagnostics import error

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def check_gpu(network: str, architecture: str) -> None:
    """Raises S0917 unless a GPU here runs machine code for `architecture`, as in sm_90.

    Such code runs on GPUs of the same generation that are not older: that for sm_80 on sm_86, but not on sm_90.
    """
    found, reason = gpus()
    if any(_runs(architecture, own) for _, own in found):
        return
    here = ", ".join(f"{name} ({own})" for name, own in found)
    raise error(
        "S0917",
        f"`{network}` was compiled for a GPU of {architecture}; {f'here is {here}' if here else reason}",
        notes=("compile it for this machine, or run it there", "nothing in it was executed"),
    )


def gpus() -> tuple[list[tuple[str, str]], str]:
    """Name and architecture of each GPU, and why there is none where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return [], "here is no NVIDIA driver (libcuda.so.1 is not found)"
    if problem := driver.cuInit(0):
        return [], f"here, the NVIDIA driver does not start (error {problem} of cuInit)"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return [], "here, the NVIDIA driver finds no GPU"
    found = []
    for number in range(count.value):
        name = ctypes.create_string_buffer(256)
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        found.append((name.value.decode(errors="replace"), f"sm_{major.value}{minor.value}"))
    return found, ""


def is_gpu(requirement: str) -> bool:
    """Whether what an artifact requires is the architecture of a GPU."""
    return re.fullmatch(r"sm_\d{2,3}", requirement) is not None


def _runs(wanted: str, own: str) -> bool:
    return wanted[:-1] == own[:-1] and wanted[-1] <= own[-1]
