"""Attention is recognized by its structure and becomes one group."""

from __future__ import annotations

import pytest

from specc.ir.graph import Graph
from specc.ir.text import parse_graph
from specc.passes.attention import attentions
from specc.passes.fusion import fuse
from specc.testing import check_pass


def net(*lines: str) -> Graph:
    inputs = ["input q: float32[2, 5, 4]", "input k: float32[2, 4, 7]", "input v: float32[2, 7, 3]"]
    return parse_graph("\n".join(["graph Net", *inputs, "input m: float32[5, 7]", *lines]))


CORE = ("%0: float32[2, 5, 7] = matmul(q, k)",)


def names(graph: Graph) -> list[list[str]]:
    return [[graph.node(member).op for member in members] for members in attentions(graph)]


def test_two_products_with_a_softmax_between() -> None:
    graph = net(
        *CORE,
        "%1: float32[2, 5, 7] = softmax(%0)",
        "%2: float32[2, 5, 3] = matmul(%1, v)",
        "%3: float32[2, 5, 3] = relu(%2)",
        "return %3",
    )
    assert names(graph) == [["matmul", "softmax", "matmul"]]
    check_pass(fuse, graph)
    groups = [fuse(graph).node(i).group for i in fuse(graph).live()]
    assert len(set(groups)) == 2, "what follows is a kernel of its own"


def test_what_leads_to_a_softmax_is_looked_at_once() -> None:
    """x * sigmoid(x), forty times: there are 2^40 ways up from the softmax, and no product at the end of any."""
    lines = []
    for number in range(0, 80, 2):
        before = f"%{number - 1}" if number else "m"
        lines.append(f"%{number}: float32[5, 7] = sigmoid({before})")
        lines.append(f"%{number + 1}: float32[5, 7] = mul({before}, %{number})")
    lines += ["%80: float32[5, 7] = softmax(%79)", "%81: float32[2, 5, 3] = matmul(%80, v)", "return %81"]
    assert not names(net(*lines))


def test_masks_and_moves_join() -> None:
    graph = net(
        "%0: float32[2, 7, 4] = permute(k) {order=(0, 2, 1)}",
        "%1: float32[2, 4, 7] = permute(%0) {order=(0, 2, 1)}",
        "%2: float32[2, 5, 7] = matmul(q, %1)",
        "%3: float32[2, 5, 7] = add(%2, m)",
        "%4: float32[1, 2, 5, 7] = reshape(%3) {shape=(1, 2, 5, 7)}",
        "%5: float32[1, 2, 5, 7] = softmax(%4)",
        "%6: float32[2, 5, 7] = reshape(%5) {shape=(2, 5, 7)}",
        "%7: float32[2, 5, 3] = matmul(%6, v)",
        "%8: float32[5, 2, 3] = permute(%7) {order=(1, 0, 2)}",
        "%9: float32[5, 6] = reshape(%8) {shape=(5, 6)}",
        "return %9",
    )
    (found,) = names(graph)
    assert len(found) == 10
    check_pass(fuse, graph)


@pytest.mark.parametrize(
    "lines",
    [
        ("%1: float32[2, 5, 7] = softmax(%0) {axis=1}", "%2: float32[2, 5, 3] = matmul(%1, v)", "return %2"),
        ("%1: float32[2, 5, 7] = softmax(%0)", "%2: float32[2, 5, 3] = matmul(%1, v)", "return %2, %1"),
        ("%1: float32[2, 5, 7] = relu(%0)", "%2: float32[2, 5, 3] = matmul(%1, v)", "return %2"),
    ],
)
def test_other_axes_other_users_and_other_functions_do_not(lines: tuple[str, ...]) -> None:
    graph = net(*CORE, *lines)
    assert names(graph) == []
    check_pass(fuse, graph)


def test_values_whose_rows_would_be_scattered_are_moved_before() -> None:
    graph = net(
        *CORE,
        "%1: float32[2, 5, 7] = softmax(%0)",
        "%2: float32[2, 3, 7] = permute(v) {order=(0, 2, 1)}",
        "%3: float32[2, 3, 7] = slice(%2) {axis=1; stop=3}",
        "%4: float32[7, 2, 3] = permute(%2) {order=(2, 0, 1)}",
        "%5: float32[2, 7, 3] = permute(%4) {order=(1, 0, 2)}",
        "%6: float32[2, 5, 3] = matmul(%1, %5)",
        "return %6",
    )
    graph.prune()
    (found,) = names(graph)
    assert found.count("permute") == 3, "the rows of v lie contiguous in the end"
    scattered = net(
        *CORE,
        "%1: float32[2, 5, 7] = softmax(%0)",
        "%2: float32[2, 7, 3] = reshape(v) {shape=(2, 7, 3)}",
        "%3: float32[2, 3, 7] = reshape(%2) {shape=(2, 3, 7)}",
        "%4: float32[2, 7, 3] = permute(%3) {order=(0, 2, 1)}",
        "%5: float32[2, 5, 3] = matmul(%1, %4)",
        "return %5",
    )
    (found,) = names(scattered)
    assert "permute" not in found
    check_pass(fuse, scattered)
