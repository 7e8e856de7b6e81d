"""How busy a kernel keeps a GPU: the blocks that a multiprocessor holds at a time, the waves that a grid takes, what
another launch costs, and how long bytes take.

The numbers are those that compute capability 8.0, 8.9 and 9.0 have in common or, where they differ, the least of theirs
(CUDA C++ Programming Guide, "Compute Capabilities"). No GPU was at hand to measure what the models that are built on
this give; they choose among kernels that are right in any case.
"""

from __future__ import annotations

from collections.abc import Iterable

from specc.targets import Target

SHARED = 48 << 10
"""Bytes of shared memory that a block may have without asking the driver for more."""

LAUNCH = 1500
"""Cycles from the last block of a launch in a CUDA graph to the first one of the next: about 1 us, at the 1.4 to 1.8
GHz of an A100 or an H100. The latency of the kernel itself comes on top (`ROUND_TRIP`, where its model has none of its
own), so that a launch which does next to nothing takes 1.5 to 2 us."""

ROUND_TRIP = 1200
"""Cycles of a block that reads something and writes something, beyond what its threads do meanwhile."""

COPY_RATE = 40
"""Bytes of the second-level cache that a multiprocessor gets in a cycle, when all of them read."""

MEMORY_RATE = 12
"""Bytes of memory, likewise."""

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


def moved(tensors: Iterable[int], target: Target) -> float:
    """Cycles that all multiprocessors take to read or write tensors of so many bytes: those that the second-level cache
    does not hold come from memory."""
    rates = ((size, COPY_RATE if size <= target.l2_bytes else MEMORY_RATE) for size in tensors)
    return sum(size / (rate * target.processors) for size, rate in rates)
