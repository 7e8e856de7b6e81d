"""`scan` in the language: what becomes sequence, state, weight and constant, and where weights get their names."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import specc
from specc import grammar
from specc.backends.torch import evaluate
from specc.diagnostics import SpeccError
from specc.ir.body import bodies
from specc.ir.cost import count_macs, count_params
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.ir.text import parse_graph, print_graph
from specc.ir.verify import verify
from specc.optimize import check_merges
from specc.report import to_json

CELL = """specc 1

block Leaky(x: [n, c], h: [n, c], decay: float = 0.5) -> ([n, c], [n, c]):
    h = h * decay + x
    return relu(h), h

block Plain(x: [n, i], h: [n, d]) -> [n, d]:
    inner = linear(concat(x, h), d)
    return tanh(inner)

block Scaled(x: [n, c], h: [n, c], by: [c], table: [c, c]) -> ([n, c], [n, c]):
    h = tanh(linear(h, c, weight=table, bias=false) * by + x)
    return h, h

block Pair(a: [n, c], b: [n, d], h: [n, c]) -> ([n, c + d], [n, c]):
    return concat(a + h, b), h + a

block Folded(x: [n, c, w], h: [n, c, w]) -> [n, c, w]:
    conv = conv2d(reshape(x, [n, c, 1, w]), c)
    norm = batch_norm(conv)
    ensure norm merges into conv2d
    return tanh(h + reshape(norm, [n, c, w]))
"""

FOLDED = "rnn = scan(Folded, x, state=constant(0, [n, 3, 4]), axis=2)\nreturn rnn"


def network(body: str, inputs: str = "x: [n = 2, l = 5, 4]") -> Graph:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    made = grammar.loads(f"{CELL}\nnetwork N({inputs}):\n{lines}\n")
    verify(made)
    text = print_graph(made)
    assert print_graph(parse_graph(text)) == text
    return made


def outputs(graph: Graph, *arrays: np.ndarray) -> list[np.ndarray]:
    names = [graph.node(i).attrs["name"] for i in graph.inputs]
    rng = np.random.default_rng(0)
    weights = {key: rng.standard_normal(type.concrete) for key, type in graph.parameters.items()}
    return evaluate(graph, weights, dict(zip(names, arrays, strict=True)))


def test_stacked_results_come_first_and_the_last_states_behind_them() -> None:
    graph = network("ys, h = scan(Leaky, x, state=constant(0, [n, 4]), decay=0.25)\nreturn ys, h")
    assert [str(graph.type(value)) for value in graph.outputs] == ["float32[n, l, 4]", "float32[n, 4]"]
    x = np.random.default_rng(1).standard_normal((2, 5, 4))
    ys, h = outputs(graph, x)
    state, rows = np.zeros((2, 4)), []
    for t in range(5):
        state = state * 0.25 + x[:, t]
        rows.append(np.maximum(state, 0))
    assert np.allclose(ys, np.stack(rows, 1), atol=1e-12) and np.allclose(h, state, atol=1e-12)


def test_reversed_goes_from_the_end_and_leaves_results_in_place() -> None:
    x = np.random.default_rng(1).standard_normal((2, 5, 4))
    there = network("return scan(Leaky, x, state=constant(0, [n, 4]))")
    back = network("return scan(Leaky, x, state=constant(0, [n, 4]), reverse=true)")
    expected, given = outputs(there, x[:, ::-1]), outputs(back, x)
    assert np.allclose(given[0], expected[0][:, ::-1]) and np.allclose(given[1], expected[1])


def test_several_sequences_along_any_dimension() -> None:
    graph = network(
        "ys, h = scan(Pair, a, b, state=constant(0, [3, 4]), axis=-1)\nreturn ys, h",
        "a: [3, 4, l = 6], b: [3, 2, l]",
    )
    assert [str(graph.type(value)) for value in graph.outputs] == ["float32[3, 6, l]", "float32[3, 4]"]
    a, b = (np.random.default_rng(i).standard_normal((3, c, 6)) for i, c in enumerate((4, 2)))
    ys, h = outputs(graph, a, b)
    before = np.concatenate([np.zeros((3, 4, 1)), a.cumsum(-1)[..., :-1]], -1)
    assert np.allclose(ys, np.concatenate([a + before, b], 1)) and np.allclose(h, a.sum(-1))


def test_weights_have_the_name_of_the_call_and_are_the_networks() -> None:
    graph = network("rnn = scan(Plain, x, state=constant(0, [n, 3]))\nreturn rnn")
    assert list(graph.parameters) == ["rnn.inner.weight", "rnn.inner.bias"]
    assert count_params(graph) == 3 * 7 + 3
    assert count_macs(specialize(graph)) == 5 * 2 * 3 * 7
    module = specc.to_torch(graph)
    assert list(module.state_dict()) == ["rnn.inner.weight", "rnn.inner.bias"]
    loss = module(torch.randn(2, 5, 4)).square().sum()
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_what_is_given_by_name_is_the_same_at_every_step() -> None:
    graph = network(
        "param table: [4, 4] init normal(1)\nys, h = scan(Scaled, x, state=s, by=mean(s, [0]), table=table)\nreturn ys",
        "x: [n = 2, l = 5, 4], s: [n, 4]",
    )
    ((_, body),) = bodies(graph)
    assert [graph.parameters, len(body.inputs), list(body.parameters)] == [graph.parameters, 3, ["$table"]]
    assert list(graph.parameters) == ["table"]
    rng = np.random.default_rng(1)
    x, s = rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 4))
    table = np.random.default_rng(0).standard_normal((4, 4))
    by, h = s.mean(0), s
    for t in range(5):
        h = np.tanh(h @ table.T * by + x[:, t])
    assert np.allclose(outputs(graph, x, s)[0][:, -1], h)


def test_a_scan_is_shown_to_programs_with_its_body() -> None:
    graph = network("rnn = scan(Plain, x, state=constant(0, [n, 3]))\nreturn rnn")
    shown = json.loads(json.dumps(to_json(graph)))
    (scan,) = (node for node in shown["nodes"] if node["op"] == "scan")
    inside = [node["op"] for node in scan["attributes"]["body"]["nodes"]]
    assert inside.count("linear") == 1 and inside.count("param") == 2


def test_an_operator_is_a_cell() -> None:
    graph = network("return scan(maximum, x, state=constant(0, [n, 4]))")
    x = np.random.default_rng(1).standard_normal((2, 5, 4))
    assert np.allclose(outputs(graph, x)[0], np.maximum(x.max(1), 0))


def test_training_updates_statistics_inside() -> None:
    graph = network(FOLDED, "x: [n = 2, 3, l = 5, 4]")
    module = specc.to_torch(graph)
    assert "rnn.norm.num_batches_tracked" in module.state_dict()
    module.train()
    module(torch.randn(2, 3, 5, 4))
    assert module.state_dict()["rnn.norm.running_mean"].abs().sum() > 0
    assert module.state_dict()["rnn.norm.num_batches_tracked"] == 5


def test_a_claim_inside_of_a_cell_is_checked() -> None:
    graph = network(FOLDED, "x: [n = 2, 3, l = 5, 4]")
    check_merges(graph)
    wrong = CELL.replace("merges into conv2d", "merges into linear")
    text = (
        "network N(x: [2, 3, 5, 4]):\n    rnn = scan(Folded, x, state=constant(0, [2, 3, 4]), axis=2)\n    return rnn\n"
    )
    with pytest.raises(SpeccError) as caught:
        check_merges(grammar.loads(f"{wrong}\n{text}"))
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["S0507"]


def test_a_parameter_with_another_name_in_the_checkpoint() -> None:
    body = 'for i in range(2):\n    param w[i] as "weight_l{i}": [4] init uniform(0.5)\n    x = x * w[i]\nreturn x'
    graph = network(body)
    assert list(graph.parameters) == ["weight_l0", "weight_l1"]
    module = specc.to_torch(graph)
    assert 0 < module.state_dict()["weight_l0"].abs().max() <= 0.5
    for name in ("a b", "", "a..b"):
        with pytest.raises(SpeccError) as caught:
            network(f'param w as "{name}": [4]\nreturn x * w')
        assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["S0401"]
