"""A declarative graph compiler: a network's text --> a verified artifact. See docs/architecture.md.

    net = specc.load("zoo:repvit/m1_1")
    artifact = specc.compile(net, weights="w.safetensors", shapes={"n": 1})
    (logits,) = artifact(image)
    artifact.save("repvit.artifact")

Importing this package imports nothing else; each name below is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specc.diagnostics import Diagnostic as Diagnostic
    from specc.diagnostics import SpeccError as SpeccError
    from specc.driver import compile as compile
    from specc.driver import load as load
    from specc.driver import to_torch as to_torch
    from specc.importing import ImportedSpec as ImportedSpec
    from specc.importing import import_module as import_module
    from specc.importing import import_onnx as import_onnx
    from specc.ir.graph import Graph as Graph
    from specc.runtime import Artifact as Artifact
    from specc.runtime import open as open
    from specc.tuning import tune as tune

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "Diagnostic",
    "Graph",
    "ImportedSpec",
    "SpeccError",
    "compile",
    "import_module",
    "import_onnx",
    "load",
    "open",
    "to_torch",
    "tune",
]

_HOMES = {
    "Artifact": "specc.runtime",
    "Diagnostic": "specc.diagnostics",
    "Graph": "specc.ir.graph",
    "ImportedSpec": "specc.importing",
    "SpeccError": "specc.diagnostics",
    "compile": "specc.driver",
    "import_module": "specc.importing",
    "import_onnx": "specc.importing",
    "load": "specc.driver",
    "open": "specc.runtime",
    "to_torch": "specc.driver",
    "tune": "specc.tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `specc` has no attribute `{name}`")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
