"""Reducing: a network of many nodes, a pass with one mistake, and the few nodes that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny

from specc import driver, grammar
from specc.backends.torch import evaluate
from specc.cli import execute
from specc.compare import difference
from specc.ir.body import bodies, nested
from specc.ir.graph import Graph, Value
from specc.ir.specialize import specialize
from specc.passes import branches, reparam, rewrite
from specc.passes.regions import Region
from specc.passes.registry import Canonicalize, Pass
from specc.passes.rewrite import Journal, Match, Op, Rule, Var
from specc.reduce import reduce
from specc.verify import PASS_TOLERANCE, verify, write_reduced
from specc.weights import match, random_inputs, random_weights, read_checkpoint


@dataclass(frozen=True)
class Swap(Pass):
    """A pass with one of three mistakes."""

    mistake: str = "relu"
    name = "swap"
    summary = "one of several mistakes"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        rules = {
            "relu": Rule("relu(x) => x", Op("relu", Var("x")), lambda m: m["x"]),
            "epsilon": Rule(
                "batch_norm without its epsilon",
                Op("batch_norm", Var("x"), Var("m"), Var("v"), rest="affine"),
                lambda m: None if _eps(m) < 1e-6 else _without_epsilon(m),
            ),
            "stride": Rule(
                "a convolution that shifts its window",
                Op("conv2d", Var("x"), Var("w"), rest="bias"),
                lambda m: None if m.graph.node(m.root).attrs["stride"] == (1, 1) else _shifted(m),
            ),
        }
        return rewrite.rewrite_graph(graph, [rules[self.mistake]], journal)


def _eps(match: Match) -> float:
    return float(match.graph.node(match.root).attrs["eps"])


def _without_epsilon(match: Match) -> Value:
    return match.apply("batch_norm", match["x"], match["m"], match["v"], *match["affine"], eps=1e-9)


def _shifted(match: Match) -> Value | None:
    attrs = dict(match.graph.node(match.root).attrs)
    top, left, bottom, right = attrs["padding"]
    if top < 1 or top > bottom:
        return None
    attrs["padding"] = (top - 1, left, bottom + 1, right)
    return match.apply("conv2d", match["x"], match["w"], *match["bias"], **attrs)


@pytest.mark.parametrize("mistake", ["relu", "epsilon", "stride"])
def test_a_mistake_is_shown_by_at_most_three_operators(mistake: str, tmp_path: Path) -> None:
    *_, verdict = verify(tiny.graph(), per_pass=True, passes=(Canonicalize(), Swap(mistake)), reduce_to=tmp_path)
    assert not verdict.holds
    assert verdict.diagnostic is not None
    assert str(tmp_path) in verdict.diagnostic.notes[-1]
    smallest = driver.load(tmp_path / "reduced.specc")
    assert len(smallest.live()) <= 3
    assert {path.name for path in tmp_path.iterdir()} == {"reduced.specc", "inputs.npz", "weights.safetensors"}
    weights, inputs = (
        match(smallest, read_checkpoint(tmp_path / "weights.safetensors")),
        np.load(tmp_path / "inputs.npz"),
    )
    assert all(v.holds for v in verify(smallest, weights=weights, per_pass=True, passes=(Canonicalize(),)))
    *_, again = verify(smallest, weights=weights, per_pass=True, passes=(Swap(mistake),))
    assert not again.holds
    apart = [
        difference(a, b)
        for a, b in zip(evaluate(Swap(mistake)(smallest), weights, inputs), evaluate(smallest, weights, inputs))
    ]
    assert max(apart) > PASS_TOLERANCE


def test_a_wrong_padding_in_a_branch_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake of a widely used library: a 1x1 branch is padded by 1, whatever the kernel beside it."""
    graph = specialize(tiny.graph())

    class Wrong(Region):
        def merged(self, terms: Sequence[Value], source: Value, tables: bool = True) -> Value | None:
            merged = super().merged(terms, source, tables)
            if merged is None or self.graph.op(merged) != "conv2d":
                return merged
            attrs = dict(self.graph.node(merged.node).attrs)
            top, left, bottom, right = attrs["padding"]
            if top == 0 or bottom == 0:
                return merged
            attrs["padding"] = (top - 1, left, bottom + 1, right)
            return self.match.apply("conv2d", *self.graph.operands(merged.node), **attrs)

    monkeypatch.setattr(branches, "Region", Wrong)

    def fails(part: Graph) -> bool:
        weights, inputs = random_weights(part), random_inputs(part)
        after = reparam.reparam(part)
        return any(
            difference(b, a) > PASS_TOLERANCE
            for a, b in zip(evaluate(part, weights, inputs), evaluate(after, weights, inputs))
        )

    smallest = reduce(graph, fails)
    assert sorted(smallest.node(i).op for i in smallest.live()) == ["add", "conv2d"]


def test_what_does_not_fail_is_given_back() -> None:
    graph = specialize(tiny.graph())
    assert reduce(graph, lambda part: False) is graph


def test_the_command_writes_nothing_where_nothing_differs(tmp_path: Path) -> None:
    spec = tiny.write(tmp_path)
    assert execute(["verify", f"{spec}:small", "--reduce", str(tmp_path / "reduced")]) == 0
    assert not (tmp_path / "reduced").exists()


SCANNED = """specc 1

block Cell(x: [n, c], h: [n, c], s: [n, c]) -> ([n, c], [n, c], [n, c]):
    inner = linear(h, c)
    h = relu(inner + x)
    return h * 2, h, s * 0.5 + h

network N(x: [n = 4, l = 7, 6]) -> [n, l, 6]:
    y = linear(x, 6)
    rnn = scan(Cell, tanh(y), state=[constant(0, [n, 6]), constant(0, [n, 6])])
    return gelu(rnn[0])
"""


def test_a_mistake_inside_of_a_scan_is_taken_out_of_it() -> None:
    def fails(graph: Graph) -> bool:
        return any(inner.count("relu") for inner in nested(graph))

    smallest = reduce(specialize(grammar.loads(SCANNED)), fails)
    assert [smallest.op(value) for value in smallest.outputs] == ["relu"] and len(smallest.live()) == 1


def test_a_reduced_graph_that_no_spec_can_say_is_written_as_text(tmp_path: Path) -> None:
    graph = specialize(grammar.loads(SCANNED))
    weights, inputs = random_weights(graph), random_inputs(graph)

    @dataclass(frozen=True)
    class Forget(Pass):
        """Loses what a scan carries."""

        name = "forget"
        summary = "a mistake"

        def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
            graph = graph.copy()
            for identity, _ in bodies(graph):
                graph.update(identity, attrs={**graph.node(identity).attrs, "reverse": True})
            return graph

    note = write_reduced(tmp_path, graph, Forget(), weights, inputs, lambda progress: None)
    assert "reduced.txt" in note and "scan(" in (tmp_path / "reduced.txt").read_text()
