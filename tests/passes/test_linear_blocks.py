"""Random sums of branches that must become one convolution or one matrix, and near misses that must not."""

from __future__ import annotations

from hypothesis import given, settings

from specc.passes.canonicalize import canonicalize
from specc.passes.reparam import reparam
from specc.passes.rewrite import Journal
from specc.testing import LinearBlock, check_pass, linear_blocks


@given(block=linear_blocks(near_misses=False))
@settings(max_examples=60, deadline=None)
def test_a_linear_block_becomes_one_operator(block: LinearBlock) -> None:
    check_pass(reparam, block.graph)
    merged = reparam(canonicalize(block.graph))
    assert [merged.node(i).op for i in merged.live()] == [block.op], merged


@given(block=linear_blocks(near_misses=True))
@settings(max_examples=40, deadline=None)
def test_a_near_miss_stays_and_the_reason_is_given(block: LinearBlock) -> None:
    check_pass(reparam, block.graph)
    journal = Journal()
    merged = reparam(canonicalize(block.graph), journal)
    assert len(merged.live()) > 1
    assert block.obstacle is not None
    assert any(block.obstacle in (event.reason or "") for event in journal.refused), (journal.refused, merged)
