"""Strategies for hypothesis: graphs, their weights and inputs, and single calls of operators.

A failing graph shrinks to the fewest steps and the smallest extents, because a graph is a list of seeds (see `growth`).
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

from specc import ops
from specc.ir.dims import symbol
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.testing.growth import grow
from specc.weights import random_inputs, random_weights
from specc.weights.tensors import Array

_CHANNELS = (1, 2, 3, 4, 7, 8, 12, 16, 17)
_EXTENTS = (1, 2, 3, 5, 7, 8, 9)
_SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def input_types(draw: st.DrawFn) -> TensorType:
    """Mostly pictures [n, c, h, w], sometimes sequences and vectors; few elements."""
    channels, extents = st.sampled_from(_CHANNELS), st.sampled_from(_EXTENTS)
    rank = draw(st.sampled_from((4, 4, 4, 4, 3, 2, 1, 0)))
    if rank < 4:
        return TensorType(tuple(draw(channels) for _ in range(rank)))
    return TensorType((draw(st.sampled_from((1, 2))), draw(channels), draw(extents), draw(extents)))


@st.composite
def graphs(draw: st.DrawFn, max_steps: int = 8, max_inputs: int = 2, symbolic: bool = False) -> Graph:
    """Legal graphs over all operators: branches, joins, several outputs, dead code, shared weights.

    With `symbolic` the batch of the first input is a dimension `n`, and 2 where nobody says otherwise.
    """
    inputs = draw(st.lists(input_types(), min_size=1, max_size=max_inputs))
    if symbolic and inputs[0].rank:
        inputs[0] = TensorType((symbol("n"), *inputs[0].shape[1:]))
    defaults = {name: 2 for type in inputs for name in type.symbols()}
    seeds = draw(st.lists(_SEEDS, min_size=1, max_size=max_steps))
    return grow(seeds, inputs, draw(st.integers(1, 3)), defaults)


def weights_for(graph: Graph) -> st.SearchStrategy[dict[str, Array]]:
    """Checkpoints for the graph under which its activations stay near 1."""
    return st.builds(lambda seed: random_weights(graph, seed), _SEEDS)


def inputs_for(graph: Graph) -> st.SearchStrategy[dict[str, Array]]:
    """Inputs by name, at the default values of the graph's dimensions."""
    return st.builds(lambda seed: random_inputs(graph, seed), _SEEDS)


@st.composite
def operator_calls(draw: st.DrawFn, name: str) -> tuple[list[TensorType], dict[str, Any]]:
    """A legal call of an operator: operand types, and attributes in normal form."""
    record = ops.get(name)
    types, attrs = record.example(random.Random(draw(_SEEDS)))
    return types, ops.complete(record, attrs)
