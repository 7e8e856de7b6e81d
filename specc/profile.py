"""Where an artifact's time goes: every call of a kernel, timed where it stands in the run.

The artifact's driver reads the clock between its calls (`specc_profile` of its library); the caches, the buffers and
the threads are those of the run. The least of many runs is taken for each call: it is the one that nothing else on the
machine disturbed.

A call's operations are the multiply-adds of the spec's operators (`Operator.macs`, two operations each), whatever
algorithm the kernel uses; its bytes those of its operands and its results, each counted once. Ideal is the least time
that these take on this machine (`backends/tvm/roofline.py`), the gap what the call takes beyond it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specc import sample
from specc.diagnostics import error
from specc.manifest import Size
from specc.runtime import Artifact
from specc.targets import TARGETS

if TYPE_CHECKING:
    from specc.backends.tvm.roofline import Roofs

WARM_UP = 3
_TOLD = {
    *("kernel", "path", "place", "operators", "operands", "results"),
    *("macs", "element", "bytes", "weights", "template", "parallel", "configuration"),
}
"""What the manifest has to say of a call."""


@dataclass(frozen=True)
class KernelTime:
    """One call of a kernel: where in the spec it comes from, what it has to do, and what it took.

    `microseconds` were measured, `ideal` microseconds are the least for `operations` and `bytes` (`weights` of them
    weights). `about` is what else the manifest says of the call: operators, operands, results, template, parallel.
    """

    kernel: str
    path: str
    microseconds: float
    operations: int
    bytes: int
    ideal: float
    weights: int
    about: Mapping[str, Any]

    @property
    def share(self) -> float:
        """That of the roofline: above 1 where a kernel does with fewer operations or bytes than are counted."""
        return self.ideal / self.microseconds

    @property
    def gap(self) -> float:
        """The microseconds beyond the ideal ones."""
        return max(0.0, self.microseconds - self.ideal)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `--json`."""
        return {
            **self.about,
            "kernel": self.kernel,
            "path": self.path,
            "us": self.microseconds,
            "ideal_us": self.ideal,
            "gap_us": self.gap,
            "operations": self.operations,
            "bytes": self.bytes,
            "weights": self.weights,
            "share": self.share,
        }


@dataclass(frozen=True)
class Profile:
    """The calls of a run in order, the least time of a whole run undisturbed by the telling, how many threads took
    part, and what the machine can do with so many."""

    calls: tuple[KernelTime, ...]
    microseconds: float
    threads: int
    roofs: Roofs

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `--json`."""
        return {
            "us": self.microseconds,
            "threads": self.threads,
            "operations_per_second": self.roofs.operations,
            "bytes_per_second": self.roofs.bytes,
            "other_operations_per_second": dict(self.roofs.others),
            "cached_bytes_per_second": [{"bytes": size, "rate": rate} for size, rate in self.roofs.cached],
            "calls": [call.to_json() for call in self.calls],
        }


def profile(artifact: Artifact, size: Size, seconds: float = 3.0) -> Profile:
    """Runs `artifact` at one of its sizes for about `seconds` in all, every second run watched call by call, and
    measures the roofs between runs, so that both are of the same moments.

    Raises S0903 where the manifest says too little of the kernels.
    """
    from specc.backends.tvm import roofline

    described = size.facts["kernels"]
    if any(not call.keys() >= _TOLD for call in described):
        message = f"`{artifact.manifest.network}` does not say enough of its kernels: another specc compiled it"
        raise error("S0903", message, notes=("compile it again",))
    inputs = sample.draw(size.inputs)
    network = sum(array.nbytes for array in artifact.contents.weights) + size.facts["memory"]["arena"]
    for _ in range(WARM_UP):
        artifact(*inputs)
    meter = roofline.Meter(TARGETS[artifact.manifest.machine.target], artifact.threads)
    roofs = meter.measure()
    least = [float("inf")] * len(described)
    whole = float("inf")
    begin = time.perf_counter()
    quarter = 1
    while whole == float("inf") or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        artifact(*inputs)
        whole = min(whole, time.perf_counter() - start)
        least = list(map(min, least, artifact.profile(*inputs)))
        if time.perf_counter() - begin >= quarter * seconds / 4:
            roofs = roofs.best(meter.measure())
            quarter += 1
    calls = [_call(call, 1e6 * taken, roofs, network) for call, taken in zip(described, least, strict=True)]
    return Profile(tuple(calls), 1e6 * whole, artifact.threads, roofs)


def _call(described: Mapping[str, Any], microseconds: float, roofs: Roofs, network: int) -> KernelTime:
    about = dict(described)
    kernel, path = about.pop("kernel"), about.pop("path")
    operations, moved, weights = 2 * about.pop("macs"), about.pop("bytes"), about.pop("weights")
    ideal = 1e6 * roofs.seconds(operations, moved, weights, network, about["element"])
    return KernelTime(kernel, path, microseconds, operations, moved, ideal, weights, about)
