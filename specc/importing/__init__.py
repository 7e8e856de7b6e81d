"""Networks of other libraries --> specs that read well, with their weights.

In the order of the data: `source` (what a command line names), `pytorch` with the table `aten` and `onnx_file` with
`onnx_operators` (a network --> a graph, through `builder`), `structure` (a graph with the paths of its modules -->
text), for which `scopes` finds the modules, `blocks` what is the same in them, `emit` the words for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.importing.builder import Imported
from specc.importing.structure import write_structured
from specc.ir.array import Array

if TYPE_CHECKING:
    import torch

__all__ = ["ImportedSpec", "import_module", "import_onnx"]


@dataclass(frozen=True)
class ImportedSpec:
    """The text of a spec, and its weights by key.

    `nodes` is how many lines the graph has that `specc show` prints, each operator and each weight with a line of its
    own: what the spec would be without blocks, loops and pipes.
    """

    text: str
    weights: Mapping[str, Array]
    nodes: int

    def save(self, spec: str | Path, weights: str | Path) -> None:
        """Writes both files, each of which appears whole or not at all; raises S0002 where one cannot be written."""
        from specc.files import check_writable, replacing
        from specc.weights import write_safetensors

        check_writable(spec)
        check_writable(weights, spec)
        write_safetensors(weights, self.weights)
        with replacing(spec) as file:
            file.write(self.text.encode())


def import_module(module: torch.nn.Module, example_inputs: Sequence[Any], docstring: str | None = None) -> ImportedSpec:
    """The spec of what `module` computes at inference, through `torch.export`; its extents are the inputs' by default.

    What it computes for the example inputs is compared with the module. Raises S1102 where torch cannot export it,
    S1103 where it does what no operator of specc says, S1105 where the spec computes something else.
    """
    from specc.importing.pytorch import check_same, from_module

    imported = from_module(module, example_inputs)
    check_same(imported, module, example_inputs)
    return written(imported, docstring or f"{imported.graph.name}, imported from PyTorch.")


def import_onnx(path: str | Path, docstring: str | None = None) -> ImportedSpec:
    """The spec of the network in an ONNX file.

    Raises S0001 where the file cannot be read, S1104 where it holds no network, S1103 where it does what no operator of
    specc says, S1005 where the package `onnx` is not there.
    """
    from specc.importing.onnx_file import from_onnx

    imported = from_onnx(path)
    return written(imported, docstring or f"{imported.graph.name}, imported from {Path(path).name}.")


def written(imported: Imported, docstring: str) -> ImportedSpec:
    """An imported network as text."""
    from specc.ir.text import print_graph

    text = write_structured(imported.graph, imported.classes, docstring)
    return ImportedSpec(text, imported.weights, len(print_graph(imported.graph).splitlines()))
