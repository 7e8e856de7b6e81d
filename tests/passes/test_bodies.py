"""Passes inside of scans: what is hoisted, what is trimmed, and merges of weights in a cell."""

from __future__ import annotations

from specc import grammar
from specc.ir.body import Body, bodies
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.passes.registry import Canonicalize, Reparam
from specc.testing import check_pass


def network(text: str) -> Graph:
    return specialize(grammar.loads(f"specc 1\n{text}"))


def body_of(graph: Graph) -> Body:
    ((_, body),) = bodies(graph)
    return body


def ops_in(body: Body) -> list[str]:
    return [body.graph.node(i).op for i in body.graph.live()]


def test_a_batch_norm_behind_a_product_of_a_cell_merges_into_its_weights() -> None:
    graph = network("""
block Cell(x: [n, c], h: [n, c]) -> ([n, c], [n, c]):
    inner = linear(h, c)
    norm = batch_norm(inner)
    h = tanh(norm + x)
    return h, h

network N(x: [n = 2, l = 3, 4]) -> [n, l, 4]:
    rnn = scan(Cell, x, state=constant(0, [n, 4]))
    return rnn[0]
""")
    merged = check_pass(Reparam(), check_pass(Canonicalize(), graph))
    body = body_of(merged)
    assert ops_in(body) == ["linear", "add", "tanh"]
    assert all(body.graph.op(value) == "param" for value in body.graph.operands(body.graph.live()[0])[1:])
    assert merged.count("rsqrt") == 1, "the scale is computed outside, once"


def test_results_states_and_operands_that_nobody_needs_go() -> None:
    graph = network("""
block Cell(x: [n, c], y: [n, c], h: [n, c], s: [n, c], more: [n, c]) -> ([n, c], [n, c], [n, c], [n, c]):
    s = s + more * y
    return h * 2, s, tanh(h + x), s

network N(x: [n = 2, l = 3, 4], more: [n, 4]) -> ([n, l, 4], [n, 4]):
    zero = constant(0, [n, 4])
    doubled, sums, h, s = scan(Cell, x, abs(x), state=[zero, more], more=more)
    return doubled, h
""")
    smaller = check_pass(Canonicalize(), graph)
    ((identity, body),) = bodies(smaller)
    node = smaller.node(identity)
    assert (node.attrs["sequences"], node.attrs["states"], len(node.types)) == (1, 1, 2)
    assert len(body.inputs) == 2 and smaller.count("abs") == 0


def test_a_state_that_feeds_another_stays() -> None:
    graph = network("""
block Cell(x: [n, c], a: [n, c], b: [n, c], dead: [n, c]) -> ([n, c], [n, c], [n, c]):
    return tanh(a + x), b * 0.5 + a, dead + b

network N(x: [n = 2, l = 3, 4]) -> [n, 4]:
    zero = constant(0, [n, 4])
    a, b, dead = scan(Cell, x, state=[zero, zero, zero])
    return b
""")
    smaller = check_pass(Canonicalize(), graph)
    ((identity, body),) = bodies(smaller)
    assert smaller.node(identity).attrs["states"] == 2 and len(body.outputs) == 2


def test_equal_scans_become_one() -> None:
    graph = network("""
block Cell(x: [n, c], h: [n, c]) -> [n, c]:
    return tanh(0.5 * h + x)

network N(x: [n = 2, l = 3, 4]) -> [n, 4]:
    zero = constant(0, [n, 4])
    return scan(Cell, x, state=zero) * scan(Cell, x, state=zero)
""")
    assert graph.count("scan") == 2
    assert check_pass(Canonicalize(), graph).count("scan") == 1
