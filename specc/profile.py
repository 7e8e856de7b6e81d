"""Where an artifact's time goes: every call of a kernel, timed where it stands in the run.

The runtime's virtual machine tells of each call before it starts and when it is done; the caches, the buffers and the
threads are those of the run. What is left of the run beside its kernels is the virtual machine itself, and the telling.
The least of many runs is taken for each call: it is the one that nothing else on the machine disturbed.

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
    names = {call["kernel"] for call in described}
    for _ in range(WARM_UP):
        artifact(*inputs)
    roofs = roofline.measure(TARGETS[artifact.manifest.machine.target])
    watch = _Watch(names)
    least = float("inf")
    begin = time.perf_counter()
    while not watch.runs or time.perf_counter() - begin < seconds:
        start = time.perf_counter_ns()
        artifact(*inputs)
        least = min(least, (time.perf_counter_ns() - start) / 1e3)
        with artifact.watched(watch):
            artifact(*inputs)
        watch.finish()
    calls = []
    for call, name, nanoseconds, moved in zip(described, watch.names, watch.least, watch.bytes, strict=True):
        assert call["kernel"] == name, "the program calls its kernels in the manifest's order"
        operations = 2 * call["macs"]
        share = roofs.seconds(operations, moved) / (nanoseconds / 1e9)
        calls.append(KernelTime(name, call["path"], nanoseconds / 1e3, operations, moved, share))
    return Profile(tuple(calls), least, roofs.operations, roofs.bytes)


class _Watch:
    """What the virtual machine tells of its calls, one run after the other."""

    def __init__(self, kernels: set[str]) -> None:
        self.kernels = kernels
        self.runs = 0
        self.names: list[str] = []
        self.bytes: list[int] = []
        self.least: list[int] = []
        self._times: list[int] = []
        self._start = 0

    def __call__(self, function: Any, symbol: str, before: bool, result: Any, *operands: Any) -> int:
        """Called around every call of the run; 0: go on."""
        if symbol not in self.kernels:
            return 0
        if not before:
            self._times.append(time.perf_counter_ns() - self._start)
            return 0
        if not self.runs:
            self.names.append(symbol)
            self.bytes.append(sum(_bytes(operand) for operand in operands))
        self._start = time.perf_counter_ns()
        return 0

    def finish(self) -> None:
        """The end of a run."""
        self.least = [min(pair) for pair in zip(self.least or self._times, self._times, strict=True)]
        self._times, self.runs = [], self.runs + 1


def _bytes(tensor: Any) -> int:
    """The size of a tensor of the runtime."""
    size = tensor.dtype.itemsize
    for extent in tensor.shape:
        size *= int(extent)
    return int(size)
