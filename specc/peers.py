"""The best forms of what a user would take instead of an artifact, for `specc bench`.

All start from the *re-parameterized* graph with its weights already merged, not from the trained one.

float32   torch in the memory format that is faster here; torch compiled by its inductor with the weights frozen; ONNX
          Runtime and OpenVINO from that torch module, with all their optimizations and tuned for latency, ONNX
          Runtime's threads spinning as they do by default
int8      OpenVINO with a model that NNCF has quantized after training: with its corrections of biases, for
          transformers as it advises (it keeps the products of activations that lose most in float32), with symmetric
          or free zero points of the activations, whichever is faster; ONNX Runtime with a model that its own static
          quantization has written: uint8 activations, int8 weights with one scale a channel, which is what `vpdpbusd`
          multiplies. Both see the samples that the artifact is calibrated by. PyTorch has no such form on the CPU
          without packages of its own.
bf16      torch and inductor with weights and inputs of that type, OpenVINO with its hint for it; it computes in
fp16      float32 where the processor has no instructions for it, and the table has what it says of itself. ONNX Runtime
          has no such kernels on the CPU.

Calibration decides where values lie, and so what is lost; the table has that beside the times.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from specc.bench import Call, Contender, quick_median
from specc.diagnostics import did_you_mean, error
from specc.exporting import merged, module_to_onnx
from specc.ir.array import Array
from specc.ir.graph import Graph

PEERS: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "inductor": ("torch",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
"""The packages of the peers."""

HALVES = {"bf16": "bfloat16", "fp16": "float16"}
"""What PyTorch calls the precisions of 16 bits."""

QUANTIZERS: Mapping[str, tuple[str, ...]] = {"onnxruntime": ("onnx",), "openvino": ("nncf",)}
"""The peers that have a form in int8, and what makes it."""


@dataclass(frozen=True)
class Task:
    """What all peers are asked to compute: `module`, the merged form of `graph`, with `inputs`, on so many threads.

    In int8, `samples` say where values lie; `attends` says whether the network multiplies activations by one another,
    as transformers do.
    """

    graph: Graph
    module: Any
    inputs: Sequence[Array]
    threads: int
    precision: str = "float32"
    samples: Sequence[Sequence[Array]] = ()
    attends: bool = False


def check_peers(names: Sequence[str], precision: str = "float32") -> None:
    """Raises S1001 for a name that is no peer's, stands twice, or has not that precision, S1005 for one that is not
    installed."""
    for number, name in enumerate(names):
        if name in names[:number]:
            raise error("S1001", f"the peer `{name}` stands twice", notes=("name each one once",))
        if name not in PEERS:
            raise error(
                "S1001", f"there is no peer `{name}`; there are {', '.join(PEERS)}", notes=did_you_mean(name, PEERS)
            )
        having = tuple(QUANTIZERS) if precision == "int8" else tuple(PEERS)
        having = tuple(peer for peer in PEERS if peer != "onnxruntime") if precision in HALVES else having
        if name not in having:
            raise error("S1001", f"`{name}` has no form in {precision}; there are those of {', '.join(having)}")
        for package in (*PEERS[name], *(QUANTIZERS[name] if precision == "int8" else ())):
            if importlib.util.find_spec(package) is None:
                what = name if package in PEERS[name] else f"{package}, which quantizes for {name},"
                note = '`pip install "specc[peers]"` brings the peers'
                raise error("S1005", f"{what} is not installed", notes=(note,))


def peers(
    names: Sequence[str],
    graph: Graph,
    weights: Mapping[str, Array],
    inputs: Sequence[Array],
    threads: int,
    precision: str = "float32",
    samples: Sequence[Sequence[Array]] = (),
) -> list[Contender]:
    """The contenders called `names`, each running the merged form of `graph` (specialized) with `weights`; raises S0805
    where one takes ONNX, and the network cannot be written so."""
    task = Task(graph, merged(graph, weights), inputs, threads, precision, samples, _attends(graph))
    makers = {"torch": _torch, "inductor": _inductor, "onnxruntime": _onnxruntime, "openvino": _openvino}
    return [makers[name](task) for name in names]


def _attends(graph: Graph) -> bool:
    products = (identity for identity in graph.live() if graph.node(identity).op == "matmul")
    return any(not any(graph.is_frozen(o.node) for o in graph.operands(identity)) for identity in products)


def _fastest(name: str, forms: Mapping[str, Call]) -> Contender:
    """Of several forms, the one that is faster here."""
    return Contender(name, *min(forms.items(), key=lambda item: quick_median(item[1]) if len(forms) > 1 else 0.0))


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def _torch(task: Task) -> Contender:
    """Eager PyTorch, with activations and weights in the memory format in which it is faster."""
    import copy

    import torch

    torch.set_num_threads(task.threads)
    module, plain = _of_precision(task)
    forms = {f"eager, contiguous{_said(task)}": (module, plain)}
    if any(array.ndim == 4 for array in task.inputs):
        tensors = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in plain]
        last = copy.deepcopy(module).to(memory_format=torch.channels_last)
        forms[f"eager, channels last{_said(task)}"] = (last, tensors)
    # `forward`: past the module's checks
    return _fastest("torch", {form: _caller(run.forward, tensors) for form, (run, tensors) in forms.items()})


def _of_precision(task: Task) -> tuple[Any, list[Any]]:
    """The module and its inputs, of the precision that is asked for."""
    import copy

    import torch

    tensors = [torch.from_numpy(array) for array in task.inputs]
    if task.precision not in HALVES:
        return task.module, tensors
    kind = getattr(torch, HALVES[task.precision])
    return copy.deepcopy(task.module).to(kind), [t.to(kind) if t.is_floating_point() else t for t in tensors]


def _said(task: Task) -> str:
    return f", {HALVES[task.precision]}" if task.precision in HALVES else ""


def _caller(run: Any, tensors: Sequence[Any]) -> Call:
    """A call of a torch module with its inputs."""

    def call() -> list[Array]:
        import torch

        with torch.inference_mode():
            results = run(*tensors)
        several = results if isinstance(results, tuple) else (results,)
        return [(r.float() if r.is_floating_point() and r.itemsize == 2 else r).numpy() for r in several]

    return call


def _inductor(task: Task) -> Contender:
    """PyTorch's own compiler, with the weights as constants, so that it may lay them out as it likes."""
    import torch
    import torch._inductor.config as settings

    torch.set_num_threads(task.threads)
    settings.freezing = True
    settings.cpp_wrapper = True  # else Python calls every kernel
    module, tensors = _of_precision(task)
    call = _caller(torch.compile(module), tensors)
    call()
    return Contender("inductor", f"torch {torch.__version__}, frozen, C++ wrapper{_said(task)}", call)


# ---- OpenVINO and ONNX Runtime --------------------------------------------------------------------------------------


def _onnx(task: Task) -> bytes:
    return module_to_onnx(task.graph, task.module, task.inputs, _names(task), ())


def _names(task: Task) -> list[str]:
    return [f"input{number}" for number in range(len(task.inputs))]


def _openvino(task: Task) -> Contender:
    """OpenVINO on the CPU; without the hint it would compute in bfloat16 where the machine can."""
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": task.threads,
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp16": "f16"}.get(task.precision, "f32"),
        "PERFORMANCE_HINT": "LATENCY",
    }
    given = dict(enumerate(task.inputs))

    def call_of(model: Any) -> Call:
        request = core.compile_model(model, "CPU", options).create_infer_request()
        return lambda: list(request.infer(given).values())

    model = core.read_model(_onnx(task))
    if task.precision in HALVES:
        used = core.compile_model(model, "CPU", options).get_property("INFERENCE_PRECISION_HINT")
        form = f"{openvino.__version__}, computes in {used.to_string() if hasattr(used, 'to_string') else used}"
        return Contender("openvino", form, call_of(model))
    if task.precision == "float32":
        return Contender("openvino", openvino.__version__, call_of(model))
    return _fastest("openvino", {form: call_of(each) for form, each in _by_nncf(model, task).items()})


def _by_nncf(model: Any, task: Task) -> dict[str, Any]:
    """The forms of a model that NNCF quantizes, one for each of its presets."""
    import logging
    from contextlib import redirect_stdout
    from io import StringIO

    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset(task.samples, lambda sample: dict(enumerate(sample)))
    kind = nncf.ModelType.TRANSFORMER if task.attends else None
    forms = {}
    for preset in (nncf.QuantizationPreset.MIXED, nncf.QuantizationPreset.PERFORMANCE):
        said = ", ".join(filter(None, (f"int8 by NNCF {nncf.__version__}", preset.value, kind and kind.value)))
        with redirect_stdout(StringIO()):  # its progress bars
            quantized = nncf.quantize(model, data, preset=preset, model_type=kind, subset_size=len(task.samples))
        forms[f"{openvino.__version__.partition('-')[0]}, {said}"] = quantized
    return forms


def _onnxruntime(task: Task) -> Contender:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = task.threads, 1
    options.log_severity_level = 3
    integers = task.precision == "int8"
    model = _by_onnxruntime(task) if integers else _onnx(task)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {i.name: array for i, array in zip(session.get_inputs(), task.inputs, strict=True)}
    form = f"{onnxruntime.__version__}, int8 by its static quantization" if integers else onnxruntime.__version__
    return Contender("onnxruntime", form, lambda: list(session.run(None, given)))


def _by_onnxruntime(task: Task) -> bytes:
    """A model that ONNX Runtime has quantized; its tools work on files."""
    import logging

    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = _names(task)

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(task.samples)

        def get_next(self) -> dict[str, Array] | None:
            sample = next(self.left, None)
            return None if sample is None else dict(zip(names, sample))

    with TemporaryDirectory() as folder:
        given, prepared, quantized = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared", "quantized"))
        given.write_bytes(_onnx(task))
        logging.disable(logging.WARNING)  # its tools advise to run them in another order than they need
        try:
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                quantized,
                Samples(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=False,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        return quantized.read_bytes()
