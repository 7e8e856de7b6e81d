"""The reference backend: a graph as a PyTorch module, and as the numbers that every other result is judged by.

Modules, in the order in which they build on each other: `interface` (shapes of inputs -> values of dimensions),
`source` (graph -> Python text of a forward), `initialize` (parameters before training), `module` (graph -> nn.Module),
`judge` (graph, weights, inputs -> values).
"""

from __future__ import annotations

from specc.backends.torch.judge import evaluate, freeze, intermediates, observe
from specc.backends.torch.module import GraphModule, to_inference, to_torch

__all__ = ["GraphModule", "evaluate", "freeze", "intermediates", "observe", "to_inference", "to_torch"]
