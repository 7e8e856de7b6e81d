"""Artifacts on a real GPU: `python tests/deploy/on_gpu.py ARTIFACT...`.

Needs numpy and the runtime of specc alone, so that it can run on a machine without the compiler. For each artifact: the
self-test against the reference's outputs, the same outputs from the graph as from single launches, and times.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from specc import runtime
from specc.diagnostics import SpeccError
from specc.gpus import gpus

RUNS = 200


def check(path: str) -> bool:
    """Runs one artifact and prints what comes of it; whether all holds."""
    network = runtime.open(path)
    given = network.contents.samples[0].inputs
    apart = max(network.self_test())
    single = network(*(array.copy() for array in given))
    repeated = [network(*given) for _ in range(3)]
    same = all(np.array_equal(a, b) for again in repeated for a, b in zip(single, again))
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        network(*given)
        times.append(time.perf_counter() - start)
    seconds = network.profile(*given)
    graphs = "a graph gives the same" if same else "a graph gives OTHER numbers"
    print(f"{path}: {network.manifest.network}, differs by {apart:.3g} from the reference, {graphs}")
    print(f"  {1e6 * np.median(times):.0f} us a run with its copies, {1e6 * sum(seconds):.0f} us in kernels (events)")
    calls = sorted(zip(seconds, network.manifest.sizes[0].facts["kernels"]), key=lambda each: -each[0])
    for taken, call in calls[:8]:
        rate = f", {2e-9 * call['macs'] / taken:.0f} GFLOP/s" if call["macs"] else ""
        print(f"  {1e6 * taken:8.1f} us  {call['operators']} at {call['path'] or '-'}{rate}")
    return same


def main() -> int:
    """Checks the artifacts that are named; 0 if all hold, 2 without a GPU."""
    found, reason = gpus()
    if not found:
        print(f"skipped: {reason}")
        return 2
    print(", ".join(f"{name} ({architecture})" for name, architecture in found))
    held = True
    for path in sys.argv[1:]:
        try:
            held &= check(path)
        except SpeccError as problem:
            print(f"{path}: {problem}")
            held = False
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
