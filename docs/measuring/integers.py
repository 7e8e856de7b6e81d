"""The latency of the nine networks in integers of 8 bits beside their peers in the same, and how far each is off.

As `latency` measures, with `--precision int8`: the artifact and the peers are calibrated by the same drawn samples.
"""

from __future__ import annotations

import argparse
from typing import Any

from measuring import latency
from measuring.aims import Aim
from measuring.machine import Machine
from measuring.results import NETWORKS

TITLE = "Latency in integers of 8 bits"
MEASURED = NETWORKS
AIM = Aim(greatest=1.0)
ratios = latency.ratios


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this section."""
    latency.arguments(parser)
    parser.set_defaults(against="onnxruntime,openvino")


def measure(options: argparse.Namespace, known: dict[str, Any] | None) -> dict[str, Any]:
    """What `latency.measure` gives, in int8."""
    return latency.measure(options, known, ("--precision", "int8"))


def write(results: dict[str, Any], machine: Machine) -> list[str]:
    """The section of the page."""
    return [
        "The same networks with `--precision int8`, and the peers with models that NNCF (OpenVINO) and ONNX Runtime",
        "have quantized after training, calibrated by the same eight samples; `specc/peers.py` has what exactly.",
        "`specc bench examples/SPEC --precision int8 --against onnxruntime,openvino` makes a row again.",
        "",
        *latency.tables(results),
        *latency.errors(results),
        *latency.forms(results),
        *latency.compilation(results),
    ]
