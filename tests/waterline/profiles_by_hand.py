"""Profiles whose numbers are known: made by hand, on a machine of 100 GFLOP/s that reads 10 GB/s from its memory."""

from __future__ import annotations

from typing import Any

from specc.backends.tvm.roofline import Roofs
from specc.profile import KernelTime, Profile

ROOFS = Roofs(100e9, 10e9, ((1 << 20, 40e9), (1 << 24, 20e9)))
BLOCKS = {
    "": ("Net", "net.specc:20"),
    "stem": ("ConvBN", "net.specc:21"),
    "stages.0": ("Stage", "net.specc:22"),
    "stages.0.mix": ("Mixer", "net.specc:12"),
    "stages.1": ("Stage", "net.specc:22"),
}


def call(kernel: str, path: str, us: float, ideal: float, operations: int = 0, moved: int = 1000, **about: Any) -> Any:
    plain = {
        "operators": kernel,
        "place": "std/conv.specc:12",
        "operands": ["float32[1, 8]"],
        "results": ["float32[1, 8]"],
        "template": "general",
        "parallel": [64],
        "configuration": {},
        "element": "float32",
    }
    return KernelTime(kernel, path, us, operations, moved, ideal, 0, plain | about)


def network(*calls: KernelTime, threads: int = 2, whole: float | None = None) -> Profile:
    return Profile(calls, sum(c.microseconds for c in calls) if whole is None else whole, threads, ROOFS)


def usual() -> Profile:
    """Three kernels in five calls: conv2d is near its roof, add loses 100 us in two calls, gelu 60 us in one."""
    return network(
        call("conv2d", "stem.bn", 500.0, 450.0, 45_000_000, 1_000_000),
        call("add", "stages.0.mix.conv", 100.0, 40.0, 0, 400_000),
        call("conv2d", "stages.0.mix", 300.0, 270.0, 27_000_000, 600_000),
        call("add", "stages.1", 60.0, 20.0, 0, 200_000),
        call("gelu", "", 80.0, 20.0, 0, 200_000),
        whole=1100.0,
    )
