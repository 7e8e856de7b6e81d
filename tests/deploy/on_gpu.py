"""Artifacts on a real GPU: `python tests/deploy/on_gpu.py ARTIFACT...`.

Needs numpy and the runtime of specc alone, so that it can run on a machine without the compiler. For each artifact: the
self-test against the reference's outputs (in 16 bits, within what rounding may do), the same outputs from the graph as
from single launches, and times.
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
    single = network(*given)  # the first run is launches one by one, later ones are a graph
    apart = max(network.self_test())
    repeated = [network(*given) for _ in range(3)]
    same = all(np.array_equal(a, b) for again in repeated for a, b in zip(single, again))
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        network(*given)
        times.append(time.perf_counter() - start)
    seconds = network.profile(*given)
    graphs = "a graph gives the same" if same else "a graph gives OTHER numbers"
    places = in_place(network, given, single)
    facts = network.manifest.facts.get("precision", {})
    precision = facts.get("name", "float32") if isinstance(facts, dict) else "float32"
    print(f"{path}: {network.manifest.network} in {precision}, differs by {apart:.3g} from the reference, {graphs}")
    print(f"  {1e6 * np.median(times):.0f} us a run with its copies, {1e6 * sum(seconds):.0f} us in kernels (events)")
    print(f"  {places[1]}")
    calls = sorted(zip(seconds, network.manifest.sizes[0].facts["kernels"]), key=lambda each: -each[0])
    for taken, call in calls[:8]:
        rate = f", {2e-9 * call['macs'] / taken:.0f} GFLOP/s" if call["macs"] else ""
        print(f"  {1e6 * taken:8.1f} us  {call['operators']} at {call['path'] or '-'}{rate}")
    return same and places[0]


def in_place(network: runtime.Artifact, given: list[np.ndarray], expected: list[np.ndarray]) -> tuple[bool, str]:
    """Whether tensors of PyTorch's in the GPU's memory give the same, and what to say of it."""
    try:
        import torch
    except ImportError:
        return True, "no PyTorch here: tensors in the GPU's memory were not tried"
    if not torch.cuda.is_available():
        return True, "a PyTorch without CUDA: tensors in the GPU's memory were not tried"
    inputs = [torch.from_numpy(array.copy()).cuda() for array in given]
    outputs = [torch.zeros(array.shape, dtype=torch.from_numpy(array).dtype, device="cuda") for array in expected]
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        network.into(outputs, *inputs)
        times.append(time.perf_counter() - start)
    same = all(np.array_equal(a.cpu().numpy(), b) for a, b in zip(outputs, expected))
    words = "the same numbers" if same else "OTHER numbers"
    return same, f"{1e6 * np.median(times):.0f} us a run on tensors in the GPU's memory, {words}"


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
