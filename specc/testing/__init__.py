"""Generated networks, and the relations that hold for every pass: for our own tests and for a user's pass.

    @given(graphs())
    def test_my_pass(graph):
        check_pass(my_pass, graph)

Modules: `growth` (seeds -> a legal graph), `trees` (seeds -> a syntax tree), `texts` (how specs are laid out, and what
goes wrong in them), `strategies` (for hypothesis), `blocks` (sums of branches that must merge, and near misses),
`pictures` (a number -> a network of what kernels join), `relations` (what a pass is held to).
"""

from __future__ import annotations

from specc.testing.blocks import LinearBlock, linear_blocks
from specc.testing.growth import grow
from specc.testing.pictures import cache_of, pictures
from specc.testing.relations import check_pass, renumbered
from specc.testing.strategies import (
    graphs,
    inputs_for,
    mutated_specs,
    operator_calls,
    spec_expressions,
    spec_trees,
    specs,
    weights_for,
)

__all__ = [
    "LinearBlock",
    "cache_of",
    "check_pass",
    "graphs",
    "grow",
    "inputs_for",
    "linear_blocks",
    "mutated_specs",
    "operator_calls",
    "pictures",
    "renumbered",
    "spec_expressions",
    "spec_trees",
    "specs",
    "weights_for",
]
