"""Checkpoints: files -> arrays by key -> the arrays that a network takes.

Modules: `tensors` (safetensors, in and out), `read` (any checkpoint file -> `Checkpoint`), `match` (checkpoint and
graph -> the graph's weights, or one table of what does not fit), `draw` (graph -> seeded random weights).
"""

from __future__ import annotations

from specc.weights.draw import random_inputs, random_weights
from specc.weights.match import match
from specc.weights.read import Checkpoint, in_memory, read_checkpoint
from specc.weights.tensors import write_safetensors

__all__ = [
    "Checkpoint",
    "in_memory",
    "match",
    "random_inputs",
    "random_weights",
    "read_checkpoint",
    "write_safetensors",
]
