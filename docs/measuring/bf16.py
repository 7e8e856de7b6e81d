"""The latency of the nine networks in bfloat16 beside OpenVINO's with its hint for the same, and how far each is off.

As `latency` measures, with `--precision bf16`. The column of forms says in what OpenVINO then computes.
"""

from __future__ import annotations

import argparse
from typing import Any

from measuring import latency
from measuring.aims import Aim
from measuring.machine import Machine
from measuring.results import NETWORKS

TITLE = "Latency in bfloat16"
MEASURED = NETWORKS
AIM = Aim(greatest=1.0)
ratios = latency.ratios
_WAYS = {"avx512_bf16": "in pairs", "amx_bf16": "in tiles"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this section."""
    latency.arguments(parser)
    parser.set_defaults(against="openvino")


def measure(options: argparse.Namespace, known: dict[str, Any] | None) -> dict[str, Any]:
    """What `latency.measure` gives, in bfloat16."""
    return latency.measure(options, known, ("--precision", "bf16"))


def write(results: dict[str, Any], machine: Machine) -> list[str]:
    """The section of the page."""
    return [
        "The same networks with `--precision bf16`, and OpenVINO with its hint for it.",
        *_products(machine),
        "`specc bench examples/SPEC --precision bf16 --against openvino` makes a row again.",
        "",
        *latency.tables(results),
        *latency.errors(results),
        *latency.forms(results),
        *latency.compilation(results),
    ]


def _products(machine: Machine) -> list[str]:
    """What the processor multiplies bfloat16 with."""
    ways = [f"{how} (`{feature}`)" for feature, how in _WAYS.items() if machine.has(feature)]
    if ways:
        return [
            f"This processor multiplies bfloat16 {' and '.join(ways)}; what ran says what",
            "specc was compiled for, and in what OpenVINO computes.",
        ]
    return [
        "This processor has no products of bfloat16: specc keeps weights and tensors in it, and multiplies and adds in",
        "float32; OpenVINO says below in what it computes.",
    ]
