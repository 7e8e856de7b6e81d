"""Claims that are asked beside their values: the verdict is that of the whole network, and blocks are asked once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from specc import grammar
from specc.claims import surroundings
from specc.diagnostics import Span, SpeccError
from specc.ir.body import Body, inline
from specc.ir.graph import Graph, MergeClaim
from specc.optimize import MERGING, check_merges, run_passes
from specc.testing import LinearBlock, linear_blocks

EXAMPLES = Path(__file__).parents[1] / "examples"

DEEP = """\
specc 1
use std.conv: ConvBN

block RepVgg(x: [n, c, h, w]) -> [n, c, h, w]:
    dense = ConvBN(x, c, k=3)
    pointwise = ConvBN(x, c)
    y = dense + pointwise + batch_norm(x)
    ensure y merges into conv2d
    return relu(y)

network Deep(x: [n, 3, h, w], depth: int = 40) -> [n, 8, h, w]:
    x = conv2d(x, 8)
    for i in range(depth):
        blocks[i] = RepVgg(relu(x))
        x = x + blocks[i]
    return x
"""


def beside_each_other(block: LinearBlock, copies: int) -> Graph:
    """Copies of the block, each with weights of its own, that read and write what others need too."""
    graph, body = Graph("copies"), Body.of(block.graph)
    inputs = [graph.apply("relu", [graph.input(f"x{i}", type)]) for i, type in enumerate(body.inputs)]
    for copy in range(copies):
        types = body.operands[len(inputs) :]
        weights = [graph.parameter(f"{copy}.{key}", type) for key, type in zip(body.parameters, types, strict=True)]
        value, *others = inline(graph, body, [*inputs, *weights])
        graph.claims.append(MergeClaim(value, "", (block.op,), Span("x", copy + 1, 1, copy + 1, 2)))
        graph.outputs += [graph.apply("relu", [value]), value, *others]
    return graph


def holds(graph: Graph) -> bool:
    """The verdict of the passes over the whole network."""
    try:
        run_passes(graph, MERGING)
    except SpeccError:
        return False
    return True


@given(block=linear_blocks())
@settings(max_examples=60, deadline=None)
def test_the_verdict_is_that_of_the_whole_network(block: LinearBlock) -> None:
    graph = beside_each_other(block, 2)
    if holds(graph):
        check_merges(graph)
    else:
        with pytest.raises(SpeccError):
            check_merges(graph)


@given(block=linear_blocks(near_misses=False))
@settings(max_examples=20, deadline=None)
def test_blocks_that_are_alike_are_asked_once(block: LinearBlock) -> None:
    assert len(surroundings(beside_each_other(block, 3)).claims) == 1


def test_depth_costs_nothing() -> None:
    deep, shallow = (surroundings(grammar.loads(DEEP.replace("40", depth))) for depth in ("40", "4"))
    assert len(deep) == len(shallow) < 60


@pytest.mark.parametrize("spec, variant", [("reparam/repnext", "m5"), ("reparam/fastvit", "ma36")])
def test_large_examples_are_asked_in_a_small_part_of_them(spec: str, variant: str) -> None:
    (report,) = grammar.check(EXAMPLES / f"{spec}.specc", variant)
    assert report.graph is not None
    near = surroundings(report.graph)
    assert len(near.claims) * 3 < len(report.graph.claims)
    assert len(near) * 3 < len(report.graph)
    assert holds(near)


def test_a_claim_that_fails_gives_the_reasons_of_the_whole_network() -> None:
    wrong = DEEP.replace("k=3)\n", "k=3)\n    dense = relu(dense)\n")
    with pytest.raises(SpeccError) as caught:
        check_merges(grammar.loads(wrong))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "S0507" and diagnostic.notes
