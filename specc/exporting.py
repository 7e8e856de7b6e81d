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


def merged(graph: Graph, weights: Mapping[str, Array]) -> Any:
    """The torch module of `graph` (specialized) behind the passes that make fewer operators, with `weights` merged."""
    from specc.backends.torch import to_inference
    from specc.passes.canonicalize import canonicalize
    from specc.passes.reparam import reparam

    return to_inference(canonicalize(reparam(canonicalize(graph))), weights)


def to_onnx(graph: Graph, weights: Mapping[str, Array]) -> bytes:
    """The ONNX file of the merged form of `graph` (specialized); raises S0805 for an operator that ONNX lacks."""
    for node in map(graph.node, graph.order()):
        if "body" in node.record.traits:  # the exporter would write every step of the loop
            message = f"`{graph.name}` cannot be written as ONNX: `{node.op}` is a loop"
            raise error("S0805", message, *([Label(node.span)] if node.span else []))
    inputs, outputs = interface(graph)
    names = [spec.name for spec in inputs], [spec.name for spec in outputs]
    try:
        return module_to_onnx(merged(graph, weights), sample.draw(inputs), *names)
    except Exception as problem:
        import torch

        if not isinstance(problem, (torch.onnx.errors.OnnxExporterError, RuntimeError, NotImplementedError)):
            raise
        reason = str(problem).strip().partition("\n")[0]
        raise error("S0805", f"`{graph.name}` cannot be written as ONNX {OPSET}: {reason}") from None


def module_to_onnx(module: Any, inputs: Sequence[Array], input_names: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A torch module as ONNX, traced with `inputs`."""
    import torch

    file = io.BytesIO()
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
    return file.getvalue()
