"""Measures the networks of docs/performance.md beside their peers and writes that file.

    python docs/measure.py [--seconds 8] [--threads 1,2] [--against inductor,onnxruntime,openvino] [NETWORK...]

Each network is compiled for this machine and measured by `specc bench` in a process of its own for each number of
threads; what the file says of a number is the command that made it. Networks whose spec `examples/` lacks are left out,
and said so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {
    "repvit_m1_1": "reparam/repvit.specc:m1_1",
    "resnet50": "cnn/resnet.specc:resnet50",
    "mobilenetv3_large_100": "cnn/mobilenetv3.specc:large_100",
    "efficientnet_b0": "cnn/efficientnet.specc:b0",
    "convnext_tiny": "cnn/convnext.specc:tiny",
    "fastvit_t8": "reparam/fastvit.specc:t8",
    "repvgg_a0": "reparam/repvgg.specc:a0",
    "vit_small_patch16_224": "vit/vit.specc:small",
    "swin_tiny_patch4_window7_224": "vit/swin.specc:tiny",
}
"""Where each network's spec stands under `examples/`."""


def main() -> None:
    """Measures what the command line names and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="these alone")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each contender")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--against", default="inductor,onnxruntime,openvino")
    options = parser.parse_args()
    threads = [int(count) for count in options.threads.split(",")]
    peers = options.against.split(",")
    lines: dict[int, list[str]] = {count: [] for count in threads}
    ratios: dict[int, list[float]] = {count: [] for count in threads}
    compiled: list[str] = []
    missing: list[str] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks or NETWORKS:
            spec = f"examples/{NETWORKS[name]}"
            if not (ROOT / spec.partition(":")[0]).exists():
                missing.append(name)
                continue
            artifact = f"{folder}/{name}.specc-artifact"
            compiled.append(f"| {name} | `{spec}` | {_compile(spec, artifact, folder):.0f} s |")
            for count in threads:
                found = _bench(artifact, peers, count, options.seconds)
                medians = {timing["name"]: timing for timing in found}
                best = min(medians[peer]["median_ms"] for peer in peers)
                ratios[count].append(medians["specc"]["median_ms"] / best)
                cells = [_cell(medians[contender]) for contender in ("specc", *peers)]
                lines[count].append(f"| {name} | {' | '.join(cells)} | {ratios[count][-1]:.2f} |")
                print(lines[count][-1], file=sys.stderr, flush=True)
    page = _page(options, peers, lines, ratios, compiled, missing, load)
    (ROOT / "docs" / "performance.md").write_text(page)


def _specc(*words: str, **environment: str) -> str:
    command = [sys.executable, "-m", "specc", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True, env=os.environ | environment)
    return done.stdout


def _compile(spec: str, artifact: str, folder: str) -> float:
    """Seconds for a compilation that finds nothing in the cache."""
    start = time.perf_counter()
    _specc("compile", spec, "-o", artifact, SPECC_CACHE_DIR=f"{folder}/{time.monotonic_ns()}")
    return time.perf_counter() - start


def _bench(artifact: str, peers: list[str], threads: int, seconds: float) -> list[dict[str, float]]:
    words = ["--against", ",".join(peers), "--threads", str(threads), "--seconds", str(seconds), "--json"]
    timings: list[dict[str, float]] = json.loads(_specc("bench", artifact, *words))["timings"]
    return timings


def _cell(timing: dict[str, float]) -> str:
    return f"{timing['median_ms']:.1f} ({timing['p10_ms']:.1f} to {timing['p90_ms']:.1f})"


def _machine() -> str:
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    model = f"family {facts.get('cpu family')}, model {facts.get('model')}, stepping {facts.get('stepping')}"
    return (
        f"{facts.get('model name')} ({model}), {len(os.sched_getaffinity(0))} virtual cores, {facts.get('cache size')}"
    )


def _page(
    options: argparse.Namespace,
    peers: list[str],
    lines: dict[int, list[str]],
    ratios: dict[int, list[float]],
    compiled: list[str],
    missing: list[str],
    load: float,
) -> str:
    command = f"python docs/measure.py --seconds {options.seconds:g} --threads {options.threads}"
    command += f" --against {options.against} {' '.join(options.networks)}"
    text = [
        "# Measured",
        "",
        "This page is written by `docs/measure.py`; nothing in it is typed by hand. It was made by",
        "",
        f"    {command.strip()}",
        "",
        f"on {_machine()} of cache,",
        f"on which {load:.1f} other programs were running when it began (the load average): above 0.5, the numbers are",
        "disturbed, those of two threads most.",
        "Batch 1, 224x224, float32, weights drawn from seed 0, no tuning. Milliseconds: the",
        "median, and the 10th and the 90th percentile; the contenders take turns in one process (`specc/bench.py`).",
        "The ratio is that of specc to the best peer; below 1, specc is ahead. A row is reproduced by",
        "",
        f"    specc bench examples/SPEC --against {options.against} --threads N --seconds {options.seconds:g}",
        "",
    ]
    for count, rows in lines.items():
        text += [f"## {count} thread{'s' * (count > 1)}", "", f"| network | specc | {' | '.join(peers)} | ratio |"]
        text += ["|---" * (len(peers) + 3) + "|", *rows, ""]
        if rows:
            mean = math.exp(sum(map(math.log, ratios[count])) / len(rows))
            worst = max(ratios[count])
            text += [f"Geometric mean of the ratios: {mean:.2f}; the greatest: {worst:.2f}.", ""]
    text += [
        "## Compilation, with an empty cache of kernels",
        "",
        "| network | spec | time |",
        "|---|---|---|",
        *compiled,
    ]
    if missing:
        text += ["", f"Without a spec in `examples/`, so not measured: {', '.join(missing)}."]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
