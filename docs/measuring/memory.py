"""The memory of a run beside the peers', for nine networks: the tensors in between, without the weights.

`specc bench` measures it with each contender's first call (`specc/memory.py` says how), in a process of its own for
each network. With networks named, only these are measured, and the others' rows stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

from measuring.aims import Aim
from measuring.latency import geometric_mean, threads_of
from measuring.machine import Machine
from measuring.results import NETWORKS, called, positive, rows_kept, say, specc, table, take_networks

TITLE = "Memory of a run"
MEASURED = NETWORKS
AIM = Aim(greatest=1.0)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this section."""
    take_networks(parser, MEASURED)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--against", default="onnxruntime,openvino")


def measure(options: argparse.Namespace, known: dict[str, Any] | None) -> dict[str, Any]:
    """For each network, the bytes that each contender takes, and those of specc's arena."""
    found: dict[str, Any] = rows_kept(options, known, ("threads", "against"))
    words = ["--against", options.against, "--threads", str(options.threads), "--seconds", "0", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks or NETWORKS:
            artifact = f"{folder}/{name}.specc-artifact"
            compiled = json.loads(
                specc("compile", f"examples/{NETWORKS[name]}", "--tuning", "none", "-o", artifact, "--json")
            )
            timings = json.loads(specc("bench", artifact, *words))["timings"]
            taken = {timing["name"]: timing["run_memory_bytes"] for timing in timings}
            arena = compiled["manifest"]["sizes"][0]["facts"]["memory"]["arena"]
            found[name] = {"arena_bytes": arena, "bytes": taken}
            say(f"{name}: {found[name]}")
    return {name: found[name] for name in NETWORKS if name in found}


def ratios(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The ratio to the best peer of each network."""
    return {threads_of(found["options"]["threads"]): {name: _ratio(row) for name, row in found["results"].items()}}


def _ratio(row: dict[str, Any]) -> float:
    ours, *theirs = row["bytes"].values()
    return float(ours / min(theirs))


def write(results: dict[str, Any], machine: Machine) -> list[str]:
    """The section of the page."""
    contenders = list(next(iter(results.values()))["bytes"])
    rows = []
    for name, row in results.items():
        cells = [f"{taken / 1e6:.1f}" for taken in row["bytes"].values()]
        rows.append([called(name), f"{row['arena_bytes'] / 1e6:.1f}", *cells, f"{_ratio(row):.2f}"])
    every = list(map(_ratio, results.values()))
    return [
        "MB (10^6 bytes) by which the resident memory of a process grows at the peak of the first run, beyond what it",
        "is when the network is loaded: pages that are touched, without those of files, so neither code nor mapped",
        "weights. The arena is what specc plans for the tensors in between; kernels' own buffers lie in what is free",
        "of it. What a run takes beyond it are buffers that find no room there, the stacks of threads and the results.",
        "The ratio is that of specc to the best peer.",
        "",
        *table(["network", "specc's arena", *contenders, "ratio"], rows),
        "",
        f"Geometric mean of the ratios: {geometric_mean(every):.2f}; the greatest: {max(every):.2f}.",
    ]
