"""The latency of nine networks beside their peers, for each number of threads, and the time to compile them.

Each network is compiled for this machine and measured by `specc bench` in a process of its own for each number of
threads. With networks named, only these are measured, and the others' rows stay.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterable
from typing import Any

from measuring.aims import Aim
from measuring.machine import Machine
from measuring.results import NETWORKS, called, compile_fresh, rows_kept, say, specc, table, take_networks
from specc.bench import OWN

TITLE = "Latency"
MEASURED = NETWORKS
AIM = Aim(mean=0.85, greatest=1.05)
KEPT = ("seconds", "threads", "against")
"""Options that rows have to share to stand in one table."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this section."""
    take_networks(parser, MEASURED)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each contender")
    parser.add_argument("--patience", type=float, default=6.0, help="times as long, until threads had their own cores")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--against", default="inductor,onnxruntime,openvino")


def measure(
    options: argparse.Namespace, known: dict[str, Any] | None, compiling: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Each network's `compile_seconds`, and under `timings` what `specc bench` says for each number of threads.

    `compiling` are further words for `specc compile`.
    """
    found: dict[str, Any] = rows_kept(options, known, KEPT)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks or NETWORKS:
            artifact = f"{folder}/{name}.specc-artifact"
            seconds = compile_fresh(f"examples/{NETWORKS[name]}", artifact, folder, *compiling)
            found[name] = {"compile_seconds": seconds, "timings": timings(name, artifact, options)}
    return {name: found[name] for name in NETWORKS if name in found}


def timings(name: str, artifact: str, options: argparse.Namespace) -> dict[str, Any]:
    """What `specc bench` says of an artifact for each number of threads, a process for each."""
    found = {}
    for threads in options.threads.split(","):
        words = ["--against", options.against, "--threads", threads]
        words += ["--seconds", str(options.seconds), "--patience", str(options.patience)]
        found[threads] = json.loads(specc("bench", artifact, *words, "--json"))["timings"]
        say(f"{name}, {threads} threads: " + ", ".join(map(_line, found[threads])))
    return found


def write(results: dict[str, Any], machine: Machine) -> list[str]:
    """The section of the page."""
    return [
        "Batch 1, 224x224, float32, weights drawn from seed 0, no tuning. Milliseconds: the median, and the 10th and",
        "the 90th percentile; the contenders take turns in one process (`specc/bench.py`). The ratio is that of specc",
        "to the best peer, the median over the turns; below 1, specc is ahead. `specc bench examples/SPEC` makes a row",
        "again.",
        "",
        *tables(results),
        *forms(results),
        *compilation(results),
    ]


def ratios(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each number of threads, the ratio to the best peer of each network."""
    results = found["results"]
    return {
        threads_of(count): {name: ratio(row["timings"][count]) for name, row in results.items()}
        for count in next(iter(results.values()))["timings"]
    }


def threads_of(count: str | int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread{'s' * (str(count) != '1')}"


def own_cores(sections: Iterable[dict[str, Any]]) -> list[str]:
    """What the turns of several threads in all these sections' results say of the machine's cores."""
    rows = (row for results in sections for row in results.values())
    timings = [timings[0] for row in rows for timings in row.get("timings", {}).values()]
    asked = [timing for timing in timings if timing.get("own_cores")]
    turns, own = (sum(each) for each in ([t["turns"] for t in asked], [t["own_cores"]["turns"] for t in asked]))
    if not turns:
        return []
    text = [
        "Two virtual cores may be two cores, or the two threads of one, as the host has it at that moment; in the",
        "second case kernels that are near the roof gain nothing from a second thread, and slower ones do. So each",
        "turn begins and ends with multiply-adds from registers, on all threads and on one: a thread has a core of its",
        f"own where it does at least {OWN} of what one alone can. Here each thread had one in {own} of {turns} turns.",
    ]
    if own < turns:
        text += [
            "The column `own cores` has the ratio over such turns, and how many they were; a dash stands where there",
            "was none, or where nobody asked.",
        ]
    return ["", *text]


def ratio(timings: list[dict[str, Any]]) -> float:
    """The time of specc in parts of that of the best peer."""
    _, *peers = (timing["ratio"] for timing in timings)
    return 1 / float(min(peers))


def own_ratio(timings: list[dict[str, Any]]) -> float | None:
    """The same over the turns where each thread had a core of its own; None where there was none."""
    known = [timing["own_cores"]["ratio"] for timing in timings if timing.get("own_cores")]
    peers = [ratio for ratio in known[1:] if ratio is not None]
    return 1 / float(min(peers)) if peers else None


def geometric_mean(ratios: list[float]) -> float:
    """The n-th root of the product."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def tables(results: dict[str, Any]) -> list[str]:
    """A table for each number of threads: milliseconds of every contender, and the ratio to the best peer."""
    text: list[str] = []
    threads = list(next(iter(results.values()))["timings"])
    for count in threads:
        measured = {name: row["timings"][count] for name, row in results.items()}
        every, own = list(map(ratio, measured.values())), list(map(own_ratio, measured.values()))
        shared = any(_shared(timings[0]) for timings in measured.values())
        rows = []
        for (name, timings), all_turns, own_turns in zip(measured.items(), every, own, strict=True):
            turns = (timings[0].get("own_cores") or {}).get("turns", 0)
            last = f"{own_turns:.2f} ({turns} of {timings[0]['turns']})" if own_turns else "-"
            rows.append([called(name), *map(_cell, timings), f"{all_turns:.2f}", *([last] if shared else [])])
        contenders = [timing["name"] for timing in next(iter(measured.values()))]
        head = ["network", *contenders, "ratio", *(["own cores (turns)"] if shared else [])]
        text += [f"### {threads_of(count)}", "", *table(head, rows), ""]
        text += [f"Geometric mean of the ratios: {geometric_mean(every):.2f}; the greatest: {max(every):.2f}."]
        known = [found for found in own if found]
        if known and shared:
            which = "" if len(known) == len(own) else f" (of {len(known)} networks)"
            text += [f"With own cores{which}: {geometric_mean(known):.2f}; the greatest: {max(known):.2f}."]
        text += [""]
    return text


def errors(results: dict[str, Any]) -> list[str]:
    """How far each contender is from the expected results."""
    rows = []
    for name, row in results.items():
        timings = next(iter(row["timings"].values()))
        rows.append([called(name), *(f"{timing['error']:.3f}" for timing in timings)])
    contenders = [timing["name"] for timing in next(iter(next(iter(results.values()))["timings"].values()))]
    said = "The root mean square of the difference from the network in float64, relative to that of its output."
    return ["### Errors", "", said, "", *table(["network", *contenders], rows), ""]


def compilation(results: dict[str, Any]) -> list[str]:
    """How long each network took to compile."""
    compiled = [[called(n), f"`{NETWORKS[n]}`", f"{row['compile_seconds']:.0f} s"] for n, row in results.items()]
    return ["### Compilation, with an empty cache of kernels", "", *table(["network", "spec", "time"], compiled)]


def forms(results: dict[str, Any]) -> list[str]:
    """What exactly each peer ran: a form, and the networks that ran in it where there are several."""
    forms: dict[str, dict[str, list[str]]] = {}
    for name, row in results.items():
        for count, timings in row["timings"].items():
            for timing in timings:
                if timing.get("form"):
                    where = f"{called(name)} ({count})"
                    forms.setdefault(timing["name"], {}).setdefault(timing["form"], []).append(where)
    if not forms:
        return []
    rows = []
    for contender, found in forms.items():
        most = max(found, key=lambda form: len(found[form]))
        rest = "all" if len(found) == 1 else "the others"
        rows += [[contender, form, rest if form == most else ", ".join(where)] for form, where in found.items()]
    head = ["contender", "form", "networks (threads)"]
    return ["### What ran", "", *table(head, rows), ""]


def _shared(timing: dict[str, Any]) -> bool:
    """Whether there was a turn in which two threads shared a core."""
    own = timing.get("own_cores")
    return own is not None and bool(own["turns"] < timing["turns"])


def _cell(timing: dict[str, Any]) -> str:
    digits = 1 if timing["median_ms"] >= 0.1 else 3
    median, low, high = (f"{timing[each]:.{digits}f}" for each in ("median_ms", "p10_ms", "p90_ms"))
    return f"{median} ({low} to {high})"


def _line(timing: dict[str, Any]) -> str:
    return f"{timing['name']} {timing['median_ms']:.1f}"
