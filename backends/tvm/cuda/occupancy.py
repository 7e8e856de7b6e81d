"""How busy a kernel keeps a GPU: the blocks that a multiprocessor holds at a time, and the waves that a grid takes.

The numbers are those that compute capability 8.0, 8.9 and 9.0 have in common or, where they differ, the least of theirs
(CUDA C++ Programming Guide, "Compute Capabilities"). No GPU was at hand to measure what the models that are built on
this give; they choose among kernels that are right in any case.
"""

from __future__ import annotations

from specc.targets import Target

SHARED = 48 << 10
"""Bytes of shared memory that a block may have without asking the driver for more."""

_THREADS, _BLOCKS, _REGISTERS, _SHARED = 1536, 16, 65536, 100 << 10
"""What a multiprocessor holds at most."""


def resident(threads: int, registers: int, shared: int = 0) -> int:
    """The blocks of so many threads, registers of each thread, and bytes of shared memory that a multiprocessor holds;
    0 if none."""
    if registers > 255 or shared > SHARED:
        return 0
    limits = [_BLOCKS, _THREADS // threads, _REGISTERS // (-(-registers // 8) * 8 * threads)]
    return min(*limits, _SHARED // (shared + 1024))


def waves(blocks: int, held: int, target: Target) -> int:
    """How many times all multiprocessors are filled, each with up to `held` blocks."""
    return -(-blocks // (target.processors * held))
