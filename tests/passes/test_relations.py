"""Every registered pass and every pipeline, held to every relation on generated networks; no list to maintain."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings

from specc.ir.cost import count_macs
from specc.ir.graph import Graph
from specc.passes.registry import LEVELS, PASSES, pipeline
from specc.targets import TARGETS
from specc.testing import check_pass, graphs


@pytest.mark.parametrize("name", PASSES)
@given(graph=graphs())
@settings(max_examples=60, deadline=None)
def test_a_pass_keeps_the_network(name: str, graph: Graph) -> None:
    each = PASSES[name]()
    check_pass(each, graph, tolerance=1e-9 if each.exact else 1e-2)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("target", ("x86-64-v3", "x86-64-v4", "aarch64"))  # one for each length of vectors
@given(graph=graphs())
@settings(max_examples=20, deadline=None)
def test_a_pipeline_keeps_the_network(level: int, target: str, graph: Graph) -> None:
    passes = pipeline(level, TARGETS[target])

    def run(graph: Graph) -> Graph:
        for each in passes:
            graph = each(graph)
        return graph

    check_pass(run, graph, idempotent=False)  # each pass is; a pipeline begins with plain, ungrouped graphs


def _promised(graph: Graph) -> tuple[int, int]:
    """The live nodes that compute or move something, and the multiplications in convolutions and matrix products."""
    views = sum("view" in graph.node(identity).record.traits for identity in graph.live())
    return len(graph.live()) - views, count_macs(graph)


@given(graph=graphs())
@settings(max_examples=60, deadline=None)
def test_cost_never_rises(graph: Graph) -> None:
    stages = [graph]
    for each in pipeline(1, TARGETS["x86-64-v4"])[:-1]:
        stages.append(each(stages[-1]))
    for before, after in pairwise(stages):
        norms = sum(before.node(i).op == "batch_norm" for i in before.live())
        assert _promised(after)[0] <= _promised(before)[0] + norms  # a batch norm that nothing absorbs is two nodes
        assert _promised(after)[1] <= _promised(before)[1]
