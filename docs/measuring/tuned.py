"""The latency of nine networks with tuned kernels beside their peers, and what tuning them gave.

Each network is tuned from nothing for so many minutes with as many threads as the greatest number that is measured, and
compiled with the records. With networks named, only these are measured, and the others' rows stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

from measuring import latency
from measuring.aims import Aim
from measuring.machine import Machine
from measuring.results import NETWORKS, called, rows_kept, say, specc, table

TITLE = "Latency, tuned"
MEASURED = NETWORKS
AIM = Aim(
    mean=0.75,
    greatest=1.0,
    networks={"repvgg_a0": 0.6, "resnet50": 0.75, "mobilenetv3_large_100": 0.7, "efficientnet_b0": 0.7},
)
ratios = latency.ratios


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this section."""
    latency.arguments(parser)
    parser.add_argument("--minutes", type=float, default=10.0, help="of tuning, for each network")


def measure(options: argparse.Namespace, known: dict[str, Any] | None) -> dict[str, Any]:
    """Each network's `outcome`, as `specc tune` says it, and under `timings` what `specc bench` says."""
    found: dict[str, Any] = rows_kept(options, known, (*latency.KEPT, "minutes"))
    most = max(options.threads.split(","), key=int)
    for name in options.networks or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            spec, records, artifact = f"examples/{NETWORKS[name]}", f"{folder}/records", f"{folder}/{name}.artifact"
            words = ["--minutes", str(options.minutes), "--threads", most, "--tuning", records]
            outcome = json.loads(specc("tune", spec, *words, "--json"))
            del outcome["file"]  # of this run alone
            say(f"{name}: {outcome['default_ms']:.1f} -> {outcome['best_ms']:.1f} ms")
            specc("compile", spec, "--tuning", records, "-o", artifact)
            found[name] = {"outcome": outcome, "timings": latency.timings(name, artifact, options)}
    return {name: found[name] for name in NETWORKS if name in found}


def write(results: dict[str, Any], machine: Machine) -> list[str]:
    """The section of the page."""
    text = [
        "The same networks, peers and process, with kernels that `specc tune` has chosen (docs/tuning.md).",
        "",
        *latency.tables(results),
        "### What tuning gave",
        "",
        "Milliseconds of the network without the peers, as the cost models have it and tuned, in turns at the end of",
        "the tuning; the gain is the median, and the 10th to the 90th percentile of single turns.",
        "",
    ]
    rows = []
    for name, row in results.items():
        found = row["outcome"]
        low, high = (1 - ratio for ratio in reversed(found["spread"]))
        gain = f"{found['gain']:.1%} ({low:.1%} to {high:.1%})"
        kernels = f"{found['better']} of {found['kernels']}"
        times = [f"{found[which]:.2f}" for which in ("default_ms", "best_ms")]
        rows.append([called(name), f"{found['seconds'] / 60:.1f}", str(found["tried"]), kernels, *times, gain])
    head = ["network", "minutes", "configurations", "kernels tuned", "untuned", "tuned", "gain"]
    return [*text, *table(head, rows)]
