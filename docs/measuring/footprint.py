"""From the start of a process to its first result, and the most memory that it needs, beside the peers.

A process reads one image, loads the network, computes once, and prints the class. The contenders take turns, in another
order in each round; `launch.c` measures each. With networks named, only these are measured, and the others' rows stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from measuring.aims import Aim
from measuring.latency import threads_of
from measuring.machine import Machine
from measuring.results import NETWORKS, ROOT, called, positive, rows_kept, say, specc, table, take_networks

TITLE = "Start and memory of a process"
AIM = Aim()
MEASURED = {
    "digits": "digits.specc",
    "repvit_m1_1": NETWORKS["repvit_m1_1"],
    "resnet50": NETWORKS["resnet50"],
}
_IMAGE = "image = numpy.fromfile('sample/image.bin', 'float32').reshape(json.load(open('shape.json')))"
_ONNXRUNTIME = """
import json, numpy, onnxruntime
{image}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = {threads}, 1, 3
{more}
session = onnxruntime.InferenceSession('{model}', options, providers=['CPUExecutionProvider'])
print(session.run(None, {{session.get_inputs()[0].name: image}})[0].argmax())
"""
_OPENVINO = """
import json, numpy, openvino
{image}
options = {{'INFERENCE_NUM_THREADS': {threads}, 'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}}
{more}
request = openvino.Core().compile_model('net.onnx', 'CPU', options).create_infer_request()
print(request.infer({{0: image}})[0].argmax())
"""
_RUNTIME = """
import json, numpy
from specc import runtime
{image}
print(runtime.open('net.artifact', {threads})(image)[0].argmax())
"""
_PEERS = ("onnxruntime", "onnxruntime, optimized", "openvino", "openvino, cached")
_SAVE = "options.optimized_model_filepath = 'optimized.onnx'"
_AS_SAVED = "options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL"
CONTENDERS = {
    "specc in C": "the program of examples/deploy/c on the unpacked artifact",
    "specc.runtime": "Python, with the artifact; every byte of it is checked first",
    "onnxruntime": "Python, with the ONNX file of the merged network, optimized as it is loaded",
    "onnxruntime, optimized": "the same with the file that it saved after its optimizations, and without these",
    "openvino": "Python, with the ONNX file of the merged network",
    "openvino, cached": "the same with its cache of compiled models",
    "Python and numpy": "the image is read, and nothing computed: what all contenders but the first one need",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this section."""
    take_networks(parser, MEASURED)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=15)


def measure(options: argparse.Namespace, known: dict[str, Any] | None) -> dict[str, Any]:
    """For each network and contender, the `first_ms` and the `peak_bytes` of all rounds."""
    found: dict[str, Any] = rows_kept(options, known, ("threads", "rounds"))
    with tempfile.TemporaryDirectory() as place:
        launch = Path(place) / "launch"
        subprocess.run(["gcc", "-O2", Path(__file__).with_name("launch.c"), "-o", launch], check=True)
        for name in options.networks or MEASURED:
            folder = Path(place) / name
            commands = _prepare(f"examples/{MEASURED[name]}", folder, options.threads)
            found[name] = _rounds(launch, folder, commands, options.rounds)
            for contender, runs in found[name].items():
                say(f"{name}, {contender}: {_time(runs)}, {_megabytes(runs)} MB")
    return {name: found[name] for name in MEASURED if name in found}


def _prepare(spec: str, folder: Path, threads: int) -> dict[str, list[str]]:
    """A folder with all that the contenders load, and their commands in it."""
    folder.mkdir()
    artifact = folder / "net.artifact"
    manifest = json.loads(specc("compile", spec, "-o", str(artifact), "--json"))["manifest"]
    specc("compile", spec, "--emit", "onnx", "-o", str(folder / "net.onnx"))
    specc("unpack", str(artifact), "-o", str(folder / "net"))
    (folder / "sample").symlink_to(folder / "net" / "sample")
    (folder / "shape.json").write_text(json.dumps(manifest["sizes"][0]["inputs"][0]["shape"]))
    source = ROOT / "examples" / "deploy" / "c" / "classify.c"
    library = ["-Inet", "-Lnet", "-lnetwork", "-Wl,-rpath,$ORIGIN/net"]
    subprocess.run(["gcc", "-O2", source, *library, "-o", "classify"], cwd=folder, check=True)

    def python(text: str, **parts: str) -> list[str]:
        return [sys.executable, "-c", text.format(image=_IMAGE, threads=threads, **parts)]

    commands = {
        "specc in C": ["./classify", "net/weights.bin", "sample/image.bin"],
        "specc.runtime": python(_RUNTIME),
        "onnxruntime": python(_ONNXRUNTIME, model="net.onnx", more=""),
        "onnxruntime, optimized": python(_ONNXRUNTIME, model="optimized.onnx", more=_AS_SAVED),
        "openvino": python(_OPENVINO, more=""),
        "openvino, cached": python(_OPENVINO, more="options['CACHE_DIR'] = 'cache'"),
        "Python and numpy": python("import json, numpy\n{image}\nprint(image.size)"),
    }
    subprocess.run(
        python(_ONNXRUNTIME, model="net.onnx", more=_SAVE), cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    _same_class(folder, commands)
    return commands


def _same_class(folder: Path, commands: dict[str, list[str]]) -> None:
    """All contenders run once (which fills caches), and say the same."""
    said = {}
    for name, command in commands.items():
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        said[name] = done.stdout.partition("class ")[2].split()[0] if name == "specc in C" else done.stdout.strip()
    del said["Python and numpy"]
    if len(set(said.values())) != 1:
        raise SystemExit(f"the contenders differ: {said}")


def _rounds(launch: Path, folder: Path, commands: dict[str, list[str]], count: int) -> dict[str, Any]:
    found: dict[str, Any] = {name: {"first_ms": [], "peak_bytes": []} for name in commands}
    names = list(commands)
    for turn in range(count):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            done = subprocess.run([launch, *commands[name]], cwd=folder, check=True, capture_output=True, text=True)
            one = json.loads(done.stdout)
            for key, values in found[name].items():
                values.append(one[key])
    return found


def ratios(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Medians of `specc.runtime`, in parts of those of the peer that does best."""
    threads = threads_of(found["options"]["threads"])
    return {
        f"{threads}, {said}": {name: _ratio(runs, key) for name, runs in found["results"].items()}
        for key, said in (("first_ms", "start"), ("peak_bytes", "memory"))
    }


def _ratio(runs: dict[str, Any], key: str) -> float:
    medians = {contender: statistics.median(values[key]) for contender, values in runs.items()}
    return float(medians["specc.runtime"] / min(medians[peer] for peer in _PEERS))


def write(results: dict[str, Any], machine: Machine) -> list[str]:
    """The section of the page."""
    text = [
        "A process of its own reads one image, loads the network, computes once and prints the class.",
        "Start: until that line, in milliseconds, the median, and the 10th and the 90th percentile.",
        "Memory: MB (10^6 bytes), the median of the most that it has resident: code, weights (mapped or",
        "read), and all that it allocates while it loads and computes. Files are in the system's cache.",
        "The contenders take turns.",
        "",
        *table(["contender", "form"], [[name, form] for name, form in CONTENDERS.items()]),
        "",
    ]
    head = ["contender"]
    for name in results:
        head += [f"{called(name)}: start", "memory"]
    rows = []
    for contender in CONTENDERS:
        row = [contender]
        for found in results.values():
            row += [_time(found[contender]), _megabytes(found[contender])]
        rows.append(row)
    return [*text, *table(head, rows)]


def _time(runs: dict[str, list[float]]) -> str:
    low, high = np.percentile(runs["first_ms"], (10, 90))
    return f"{statistics.median(runs['first_ms']):.0f} ({low:.0f} to {high:.0f})"


def _megabytes(runs: dict[str, list[float]]) -> str:
    return f"{statistics.median(runs['peak_bytes']) / 1e6:.0f}"
