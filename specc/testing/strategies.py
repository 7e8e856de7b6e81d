"""Strategies for hypothesis: graphs, their weights and inputs, single calls of operators, and specs.

A failing graph shrinks to the fewest steps and the smallest extents, because a graph is a list of seeds (see `growth`);
so is a spec a list of items, each a seed and a budget (see `trees`), and a mutated one a list of mutations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from specc import ops
from specc.grammar import print_file
from specc.grammar import syntax as s
from specc.ir.array import Array
from specc.ir.dims import symbol
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.testing.growth import grow
from specc.testing.texts import MUTATIONS, laid_out, mutate, real_specs
from specc.testing.trees import grow_expression, grow_file
from specc.weights import random_inputs, random_weights

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


def spec_trees() -> st.SearchStrategy[s.File]:
    """Syntax trees of whole files, over every construct of the grammar; they parse, but are no networks."""
    items = st.lists(st.tuples(_SEEDS, st.integers(1, 40)), max_size=3)
    return st.builds(grow_file, items, st.one_of(st.just(0), _SEEDS))


def spec_expressions() -> st.SearchStrategy[s.Expression]:
    """Syntax trees of single expressions."""
    return st.builds(grow_expression, _SEEDS, st.integers(1, 40))


@st.composite
def specs(draw: st.DrawFn) -> str:
    """Texts that parse, over every construct of the grammar, laid out in any way, with comments in all places."""
    text = print_file(draw(spec_trees()))
    seed = draw(st.none() | _SEEDS)
    return text if seed is None else laid_out(text, random.Random(seed))


@st.composite
def mutated_specs(draw: st.DrawFn, of: Sequence[str] = (), max_mutations: int = 3) -> str:
    """Specs of the zoo and of the standard library with mistakes in them, or those that are given.

    Tokens, characters and lines are dropped, doubled, swapped and replaced, numbers become huge, brackets lose their
    partners, lines lose their indentation, and pieces of other specs stand in between. Some are right all the same, and
    say another thing.
    """
    originals = st.sampled_from(of or real_specs())
    text = draw(originals)
    places = st.integers(0, 2**16)
    for kind in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=max_mutations)):
        donor = draw(originals) if kind == "splice line" else ""
        text = mutate(text, kind, draw(places), draw(places), donor)
    return text
