"""What the processor can do at most: multiply-adds from registers, and reads from its caches and its memory.

As `specc profile` measures them (`backends/tvm/roofline.py`), for each number of threads; the best of some rounds.
"""

from __future__ import annotations

import argparse
from typing import Any

from measuring.aims import Aim
from measuring.latency import threads_of
from measuring.machine import Machine
from measuring.results import positive, say, table
from specc.backends.tvm.roofline import Meter
from specc.targets import native

TITLE = "What the processor can do"
MEASURED: dict[str, str] = {}
AIM = Aim()


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this section."""
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=positive, default=10)


def measure(options: argparse.Namespace, known: dict[str, Any] | None) -> dict[str, Any]:
    """For each number of threads, `operations` in a second by the type of factors, `bytes` from memory, and `cached`:
    pairs of so many bytes, read again and again by all threads together, and how many of them are read in a second."""
    found = {}
    for threads in options.threads.split(","):
        meter = Meter(native(), int(threads))
        roofs = meter.measure()
        for _ in range(options.rounds - 1):
            roofs = roofs.best(meter.measure())
        operations = {"float32": roofs.operations, **dict(roofs.others)}
        found[threads] = {"operations": operations, "bytes": roofs.bytes, "cached": roofs.cached}
        say(f"{threads} threads: {found[threads]}")
    return found


def ratios(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """None: there are no peers."""
    return {}


def write(results: dict[str, Any], machine: Machine) -> list[str]:
    """The section of the page."""
    threads, first = next(iter(results.items()))
    rows = [
        [f"GFLOP/s of {element}" if "int" not in element else f"GOP/s of {element}"]
        + [f"{measured['operations'][element] / 1e9:.0f}" for measured in results.values()]
        for element in first["operations"]
    ]
    for number, (size, _) in enumerate(first["cached"]):
        rates = [f"{measured['cached'][number][1] / 1e9:.0f}" for measured in results.values()]
        rows.append([f"GB/s from {size // int(threads) >> 10} KB a thread, read again and again", *rates])
    rows.append(["GB/s from memory", *(f"{measured['bytes'] / 1e9:.1f}" for measured in results.values())])
    return [
        "Products and sums of all threads together from registers, a multiply-add counted as two, and bytes that they",
        "read: the roofs that `specc profile` compares kernels with, each the best of the rounds.",
        "",
        *table(["", *map(threads_of, results)], rows),
    ]
