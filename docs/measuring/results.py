"""Results of a section <-> `docs/measured/MACHINE/SECTION.json`, with the command that made them.

Each machine has a folder of its own, and `machine.json` in it says what it is: results of one machine never take the
place of another's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from measuring import machine
from measuring.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "docs" / "measured"
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
"""The networks that are measured, and where the spec of each stands under `examples/`."""
_CALLED = {
    "repvit_m1_1": "RepViT-M1.1",
    "resnet50": "ResNet-50",
    "mobilenetv3_large_100": "MobileNetV3-L",
    "efficientnet_b0": "EfficientNet-B0",
    "convnext_tiny": "ConvNeXt-T",
    "fastvit_t8": "FastViT-T8",
    "repvgg_a0": "RepVGG-A0",
    "vit_small_patch16_224": "ViT-S/16",
    "swin_tiny_patch4_window7_224": "Swin-T",
}
_NUMBER = re.compile(r"[*(]*-?\d+(\.\d+)?%?(?![\w.-])|-$")
"""How a cell of numbers begins; a dash stands for none."""
_LOAD = os.getloadavg()[0]


def positive(word: str) -> int:
    """A number of at least 1, for an option of a command line."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} is less than 1")
    return number


def take_networks(parser: argparse.ArgumentParser, known: Collection[str]) -> None:
    """The argument `networks` of a section that measures the `known` ones: their names, or none for all of them."""

    def name(word: str) -> str:
        if word not in known:
            raise argparse.ArgumentTypeError(f"there is no {word}; there are {', '.join(known)}")
        return word

    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="these alone", default=[], type=name)


def machines() -> list[Machine]:
    """Those of which there are results, by name."""
    return [machine.read(path) for path in sorted(MEASURED.glob("*/machine.json"))]


def load(of: Machine, section: str) -> dict[str, Any] | None:
    """What was measured last on that machine, or nothing: `command`, `options`, `load` and `results`."""
    path = MEASURED / of.name / f"{section}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rows_kept(options: argparse.Namespace, known: dict[str, Any] | None, alike: tuple[str, ...]) -> dict[str, Any]:
    """The rows of `known`, of the same machine, that stay where networks are named: all, if the options `alike` are
    the same."""
    if not options.networks or not known:
        return {}
    same = all(known["options"].get(name) == getattr(options, name) for name in alike)
    return dict(known["results"]) if same else {}


def save(of: Machine, section: str, options: dict[str, Any], results: Any) -> None:
    """Keeps the results of that machine, with what made them."""
    options = {name: value for name, value in options.items() if name not in ("section", "networks")}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]
    found = {
        "command": " ".join(["python docs/measure.py", section, *words]),
        "options": options,
        "load": round(_LOAD, 2),
        "results": results,
    }
    folder = MEASURED / of.name
    folder.mkdir(parents=True, exist_ok=True)
    machine.write(folder / "machine.json", of)
    (folder / f"{section}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def specc(*words: str, **environment: str) -> str:
    """What the command `specc` with these words writes; its messages are shown, and a failure ends the program."""
    command = [sys.executable, "-m", "specc", *words]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(f"specc {' '.join(words)} fails")
    return done.stdout


def compile_fresh(spec: str, artifact: str, folder: str, *words: str) -> float:
    """Compiles with an empty cache of kernels, and the options `words`; the seconds that it takes."""
    start = time.perf_counter()
    specc("compile", spec, "-o", artifact, *words, SPECC_CACHE_DIR=f"{folder}/{time.monotonic_ns()}")
    return time.perf_counter() - start


def called(network: str) -> str:
    """What the pages call a network."""
    return _CALLED.get(network, network)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown; columns of numbers are aligned to the right."""
    columns = [[row[number] for row in rows if row[number]] for number in range(len(head))]
    marks = ["---:" if cells and all(map(_NUMBER.match, cells)) else "---" for cells in columns]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]


def say(text: str) -> None:
    """How far the measurement is, on stderr."""
    print(text, file=sys.stderr, flush=True)
