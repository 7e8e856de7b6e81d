"""Sums of products of float16 that a core adds up in float16, a run at a time: in which order, and how many of them.

    run      the products of `channels` neighbouring input channels with all taps of a window: of a block of `LANES` of
             them after the other, its rows of taps, their columns, and the channels of the block. Each is added in one
             operation (fused multiply-add), whose result is rounded to float16.
    result   the bias and the sums of all runs, in float32

Kernels compute this on targets with `Target.half_sums`, and the judge does, so that what it loses is measured with
what rounding the factors loses. 256 products of normal numbers: runs of 16 terms put their sum off by 2.1 times as much
as rounding the factors does, 32 by 2.9, 64 by 4.0, all in one by 8 (with a ReLU in front by 1.5, 2.1, 2.9 and 6); so
do 36, of four channels and 3x3 taps, by 2.2.
"""

from __future__ import annotations

from math import prod

from specc.ir.graph import Graph

TERMS = 32
"""Products of a run, more or less."""

MOST_TAPS = 9
"""Windows of more taps would make longer runs: their products are added up in float32."""


LANES = 4
"""Channels of a block, on every core; a tensor's blocks may be longer."""


def channels(taps: int) -> int:
    """The input channels of a run for a window of so many taps."""
    return max(LANES, TERMS // taps // LANES * LANES)


def in_halves(graph: Graph, identity: int) -> bool:
    """Whether a core may add up the products of a layer in float16. Where no kernel does, its sums are nearer."""
    node = graph.node(identity)
    if node.op not in ("conv2d", "linear"):
        return False
    x, weight = (graph.type(operand) for operand in graph.operands(identity)[:2])
    few = prod(weight.concrete[2:]) <= MOST_TAPS and node.attrs.get("groups", 1) == 1
    return few and x.dtype == weight.dtype == "float16"
