"""Where an artifact's time goes: every call of a kernel, timed where it stands in the run.

The artifact's driver reads the clock between its calls (`specc_profile` of its library); the caches, the buffers and
the threads are those of the run. The least of many runs is taken for each call: it is the one that nothing else on the
machine disturbed.

A call's operations are the multiply-adds of the spec's operators (`Operator.macs`, two operations each), its bytes
those of its operands and its result, each counted once. The share of the roofline is the least time that these take on
this machine (`backends/tvm/roofline.py`) as a part of the measured time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specc.artifact import Array
from specc.runtime import Artifact
from specc.targets import TARGETS

WARM_UP = 3


@dataclass(frozen=True)
class KernelTime:
    """One call of a kernel: where in the spec it comes from, and what it took. `share` is that of the roofline."""

    kernel: str
    path: str
    microseconds: float
    operations: int
    bytes: int
    share: float

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `--json`."""
        return {
            "kernel": self.kernel,
            "path": self.path,
            "us": self.microseconds,
            "operations": self.operations,
            "bytes": self.bytes,
            "share": self.share,
        }


@dataclass(frozen=True)
class Profile:
    """The calls of a run in order, the least time of a whole run undisturbed by the telling, and the machine's roofs:
    operations and bytes in a second."""

    calls: tuple[KernelTime, ...]
    microseconds: float
    operations_per_second: float
    bytes_per_second: float

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `--json`."""
        return {
            "us": self.microseconds,
            "operations_per_second": self.operations_per_second,
            "bytes_per_second": self.bytes_per_second,
            "calls": [call.to_json() for call in self.calls],
        }


def profile(artifact: Artifact, inputs: Sequence[Array], seconds: float = 3.0) -> Profile:
    """Runs `artifact` for about `seconds` in all, every second run watched call by call."""
    from specc.backends.tvm import roofline

    described = artifact.manifest.facts["kernels"]
    for _ in range(WARM_UP):
        artifact(*inputs)
    roofs = roofline.measure(TARGETS[artifact.manifest.machine.target])
    least = [float("inf")] * len(described)
    whole = float("inf")
    begin = time.perf_counter()
    while whole == float("inf") or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        artifact(*inputs)
        whole = min(whole, time.perf_counter() - start)
        least = list(map(min, least, artifact.profile(*inputs)))
    calls = [
        KernelTime(
            call["kernel"],
            call["path"],
            1e6 * taken,
            2 * call["macs"],
            call["bytes"],
            roofs.seconds(2 * call["macs"], call["bytes"]) / taken,
        )
        for call, taken in zip(described, least, strict=True)
    ]
    return Profile(tuple(calls), 1e6 * whole, roofs.operations, roofs.bytes)
