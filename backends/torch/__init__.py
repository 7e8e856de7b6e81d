"""The reference backend: a graph as a PyTorch module, and as the numbers that every other result is judged by.

Modules, in the order in which they build on each other: `interface` (shapes of inputs -> values of dimensions),
`source` (graph -> Python text of a forward), `initialize` (parameters before training), `module` (graph -> nn.Module),
`runs` (sums of float16 as some cores add them up), `judge` (graph, weights, inputs -> values), `shared` (the same of
several graphs that have much in common).
"""

from __future__ import annotations

from specc.backends.torch.judge import evaluate, freeze, intermediates
from specc.backends.torch.module import GraphModule, to_inference, to_torch
from specc.backends.torch.shared import Form, Shared, side_by_side

__all__ = [
    "Form",
    "GraphModule",
    "Shared",
    "evaluate",
    "freeze",
    "intermediates",
    "side_by_side",
    "to_inference",
    "to_torch",
]
