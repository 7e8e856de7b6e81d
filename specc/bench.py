"""Latency of an artifact beside the peers that a user would take instead: one process, equal numbers of threads.

How it is measured, and why so:

- Every peer gets its best form: the *re-parameterized* graph with its weights already merged, not the trained one;
  torch in the memory format that is faster here, and compiled by its inductor with the weights frozen; ONNX Runtime
  and OpenVINO from that torch module, with all their optimizations, in float32 and tuned for latency, ONNX Runtime's
  threads spinning as they do by default.
- The contenders take turns in short blocks, round after round, in changing order: what else happens on the machine,
  and how its clock moves, then meets all alike. One long run after the other would compare different machines.
- A pool's threads spin for a while after its last call and take a core from the next contender. So a pause stands
  before each block, and the first calls in a block are not counted: they wake the pool and fill the caches.
- Medians, with the 10th and 90th percentile as spread; the ratio is that of the medians.
- The memory of a run is what the process holds more at the peak of a contender's first call than before it, when its
  network is loaded already: the tensors in between, whoever allocates them, and without the weights.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specc.artifact import Array
from specc.compare import difference, finite
from specc.diagnostics import did_you_mean, error
from specc.exporting import merged, module_to_onnx
from specc.ir.graph import Graph
from specc.memory import Growth
from specc.runtime import Artifact, aligned_empty

PEERS: Mapping[str, str] = {
    "torch": "torch",
    "inductor": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
}
"""The packages of the peers."""

OURS = "specc"
BLOCK, WARM_UP, PAUSE = 10, 3, 0.05
"""Counted calls in a block at least, uncounted ones before them, and seconds of rest before these.

A block lasts as long as the rest at least: otherwise a network of microseconds would be waited for, not measured."""

Call = Callable[[], Sequence[Array]]


@dataclass(frozen=True)
class Timing:
    """The latency of one contender. `form` says what exactly ran; `apart` is how far it is from the first's results.

    `memory` is what a run takes beyond the loaded network, in bytes; None where the system does not say.
    """

    name: str
    form: str
    milliseconds: tuple[float, ...]
    apart: float
    memory: int | None

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile."""
        low, high = np.percentile(self.milliseconds, (10, 90))
        return float(low), float(high)

    def to_json(self, ours: float, compared: bool = True) -> dict[str, Any]:
        """A plain dictionary for `--json`; `ours` is the artifact's median."""
        low, high = self.spread
        return {
            "name": self.name,
            "form": self.form,
            "calls": len(self.milliseconds),
            "median_ms": self.median,
            "p10_ms": low,
            "p90_ms": high,
            "ratio": self.median / ours,
            "difference": finite(self.apart) if compared else None,
            "run_memory_bytes": self.memory,
        }


@dataclass(frozen=True)
class Contender:
    """Something to be measured: it makes its inputs ready once and is then called without arguments."""

    name: str
    form: str
    call: Call


def bench(contenders: Sequence[Contender], seconds: float = 5.0) -> list[Timing]:
    """Measures all contenders in turns for about `seconds` each; the first one's results are the expected ones."""
    first = [_first_call(contender) for contender in contenders]
    expected = first[0][0]
    apart = [max(map(difference, results, expected), default=0.0) for results, _ in first]
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    spent = dict.fromkeys(times, 0.0)
    turn = 0
    while turn == 0 or min(spent.values()) < seconds:
        for contender in [*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]]:
            time.sleep(PAUSE)
            begin = time.perf_counter()
            for _ in range(WARM_UP):
                contender.call()
            counted = 0
            while counted < BLOCK or time.perf_counter() - begin < PAUSE:
                start = time.perf_counter()
                contender.call()
                times[contender.name].append((time.perf_counter() - start) * 1e3)
                counted += 1
            spent[contender.name] += time.perf_counter() - begin
        turn += 1
    return [
        Timing(contender.name, contender.form, tuple(times[contender.name]), distance, memory)
        for contender, distance, (_, memory) in zip(contenders, apart, first)
    ]


def _first_call(contender: Contender) -> tuple[Sequence[Array], int | None]:
    """The results of a call, and the memory that it takes."""
    growth = Growth()
    results = contender.call()
    return results, growth.peak()


def ours(artifact: Artifact, inputs: Sequence[Array]) -> Contender:
    """The artifact itself, with inputs that are aligned: the driver would copy others in each call."""
    artifact.load()
    inputs = [_aligned(array) for array in inputs]
    return Contender(OURS, artifact.manifest.machine.target, lambda: artifact(*inputs))


def _aligned(array: Array) -> Array:
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def check_peers(names: Sequence[str]) -> None:
    """Raises S1001 for a name that is no peer's, S1005 for a peer that is not installed."""
    for name in names:
        if name not in PEERS:
            raise error(
                "S1001", f"there is no peer `{name}`; there are {', '.join(PEERS)}", notes=did_you_mean(name, PEERS)
            )
        if importlib.util.find_spec(PEERS[name]) is None:
            raise error("S1005", f"{name} is not installed", notes=('`pip install "specc[peers]"` brings the peers',))


def peers(
    names: Sequence[str],
    graph: Graph,
    weights: Mapping[str, Array],
    inputs: Sequence[Array],
    threads: int,
) -> list[Contender]:
    """The contenders called `names`, each running the merged form of `graph` (specialized) with `weights`."""
    module = merged(graph, weights)
    makers = {"torch": _torch, "inductor": _inductor, "onnxruntime": _onnxruntime, "openvino": _openvino}
    return [makers[name](module, inputs, threads) for name in names]


def _torch(module: Any, inputs: Sequence[Array], threads: int) -> Contender:
    """Eager PyTorch, with activations and weights in the memory format in which it is faster."""
    import copy

    import torch

    torch.set_num_threads(threads)
    forms = {"eager, contiguous": (module, [torch.from_numpy(array) for array in inputs])}
    if any(array.ndim == 4 for array in inputs):
        tensors = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in map(torch.from_numpy, inputs)]
        last = copy.deepcopy(module).to(memory_format=torch.channels_last)
        forms["eager, channels last"] = (last, tensors)

    calls = {form: _caller(run.forward, tensors) for form, (run, tensors) in forms.items()}  # past the module's checks
    return Contender("torch", *min(calls.items(), key=lambda item: _quick_median(item[1])))


def _caller(run: Any, tensors: Sequence[Any]) -> Call:
    """A call of a torch module with its inputs."""

    def call() -> list[Array]:
        import torch

        with torch.inference_mode():
            results = run(*tensors)
        return [r.numpy() for r in (results if isinstance(results, tuple) else (results,))]

    return call


def _inductor(module: Any, inputs: Sequence[Array], threads: int) -> Contender:
    """PyTorch's own compiler, with the weights as constants, so that it may lay them out as it likes."""
    import torch
    import torch._inductor.config as settings

    torch.set_num_threads(threads)
    settings.freezing = True
    settings.cpp_wrapper = True  # else Python calls every kernel
    compiled = torch.compile(module)
    call = _caller(compiled, [torch.from_numpy(array) for array in inputs])
    call()
    return Contender("inductor", f"torch {torch.__version__}, frozen, C++ wrapper", call)


def _quick_median(call: Call) -> float:
    samples = []
    for _ in range(WARM_UP + BLOCK):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return float(np.median(samples[WARM_UP:]))


def _onnx(module: Any, inputs: Sequence[Array]) -> bytes:
    names = [f"input{number}" for number in range(len(inputs))]
    return module_to_onnx(module, inputs, names, ())


def _openvino(module: Any, inputs: Sequence[Array], threads: int) -> Contender:
    """OpenVINO on the CPU; without the hint it would compute in bfloat16 where the machine can."""
    import openvino

    model = openvino.Core().read_model(_onnx(module, inputs))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    given = dict(enumerate(inputs))
    return Contender("openvino", openvino.__version__, lambda: list(request.infer(given).values()))


def _onnxruntime(module: Any, inputs: Sequence[Array], threads: int) -> Contender:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_onnx(module, inputs), options, providers=["CPUExecutionProvider"])
    given = {i.name: array for i, array in zip(session.get_inputs(), inputs, strict=True)}
    return Contender("onnxruntime", onnxruntime.__version__, lambda: list(session.run(None, given)))
