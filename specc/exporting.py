"""graph -> an ONNX file of the merged form: for other runtimes, for viewers, and as what peers run in `specc bench`.

PyTorch's own exporter writes it, from the module that the torch backend makes of the optimized graph.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from specc import sample
from specc.diagnostics import Label, error
from specc.ir.array import Array
from specc.ir.graph import Graph
from specc.sizes import interface

OPSET = 18
_WITHOUT = "an artifact needs no ONNX; `bench --against torch,inductor` compares without it"


def merged(graph: Graph, weights: Mapping[str, Array]) -> Any:
    """The torch module of `graph` (specialized) behind the passes that make fewer operators, with `weights` merged."""
    from specc.backends.torch import to_inference
    from specc.passes.canonicalize import canonicalize
    from specc.passes.reparam import reparam

    return to_inference(canonicalize(reparam(canonicalize(graph))), weights)


def to_onnx(graph: Graph, weights: Mapping[str, Array]) -> bytes:
    """The ONNX file of the merged form of `graph` (specialized); errors as of `module_to_onnx`."""
    inputs, outputs = interface(graph)
    names = [spec.name for spec in inputs], [spec.name for spec in outputs]
    return module_to_onnx(graph, merged(graph, weights), sample.draw(inputs), *names)


def module_to_onnx(
    graph: Graph, module: Any, inputs: Sequence[Array], input_names: Sequence[str], outputs: Sequence[str]
) -> bytes:
    """The ONNX file of `module`, the merged form of `graph`, traced with `inputs`; raises S0805 for a loop, which the
    exporter would write step by step, and for an operator that ONNX lacks."""
    import torch

    for node in map(graph.node, graph.order()):
        if "body" in node.record.traits:
            message = f"`{graph.name}` cannot be written as ONNX: `{node.op}` is a loop"
            raise error("S0805", message, *([Label(node.span)] if node.span else []), notes=(_WITHOUT,))
    file = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the exporter that writes without onnxscript says that it is the older one
            torch.onnx.export(
                module,
                tuple(torch.from_numpy(array) for array in inputs),
                file,
                input_names=list(input_names),
                output_names=list(outputs),
                dynamo=False,
                opset_version=OPSET,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, NotImplementedError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise error("S0805", f"`{graph.name}` cannot be written as ONNX {OPSET}: {reason}", notes=(_WITHOUT,)) from None
    return file.getvalue()
