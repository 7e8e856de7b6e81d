"""The latency of the zoo beside ONNX Runtime and OpenVINO: of each entry of its index the first variant.

Those that `latency` measures are left out. Each network is measured by `specc bench` in a process of its own, which
takes kernels from the cache. With networks named, only these are measured, and the others' rows stay. What cannot be
measured is told and has no row: networks with a loop, for instance, which the peers take no ONNX of.
"""

from __future__ import annotations

import argparse
from typing import Any

from measuring import latency
from measuring.aims import Aim
from measuring.machine import Machine
from measuring.results import NETWORKS, rows_kept, say, take_networks
from specc.zoo import entries

TITLE = "The zoo"
_FIRST = {entry.name: (entry.file, next(iter(entry.variants))) for entry in entries().values()}
MEASURED = [
    f"{name}/{variant}" for name, (file, variant) in _FIRST.items() if f"{file}:{variant}" not in NETWORKS.values()
]
"""As `specc zoo` calls them, in the order of the index."""
AIM = Aim(greatest=1.0)
ratios = latency.ratios


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this section."""
    take_networks(parser, MEASURED)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender")
    parser.add_argument("--patience", type=float, default=1.0, help="times as long, until threads had their own cores")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--against", default="onnxruntime,openvino")


def measure(options: argparse.Namespace, known: dict[str, Any] | None) -> dict[str, Any]:
    """Under `timings` of each network, what `specc bench` says for each number of threads."""
    found: dict[str, Any] = rows_kept(options, known, latency.KEPT)
    for name in options.networks or MEASURED:
        try:
            found[name] = {"timings": latency.timings(name, f"zoo:{name}", options)}
        except SystemExit as failure:  # of `specc`, which has said why
            say(f"{name}: not measured: {failure}")
            found.pop(name, None)
    return {name: found[name] for name in MEASURED if name in found}


def write(results: dict[str, Any], machine: Machine) -> list[str]:
    """The section of the page."""
    missing = [name for name in MEASURED if name not in results]
    return [
        "Networks that come with specc ([zoo.md](zoo.md)), of each entry the first variant, but for those above: at",
        "the sizes that their specs have, batch 1, float32, weights drawn from seed 0, no tuning. Milliseconds and",
        "ratios as above. `specc bench zoo:NETWORK --against onnxruntime,openvino` makes a row again.",
        "",
        *latency.tables(results),
        *([f"Not measured, those with a loop among them: {', '.join(missing)}.", ""] if missing else []),
    ]
