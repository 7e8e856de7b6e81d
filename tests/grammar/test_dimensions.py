"""What `require` makes known of open dimensions: in the network, in its blocks, in the graph and for who runs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import specc
from specc import grammar
from specc.diagnostics import SpeccError
from specc.grammar.writer import write_graph
from specc.ir.dims import parse_dim
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.ir.text import parse_graph, print_graph
from specc.ir.verify import verify

WINDOWS = """\
specc 1
use std.window: Windows, Unwindows

network N(x: [n, h, w, 4], window: int = 7) -> [n, h, w, 4]:
    inside = linear(Windows(x, window), 4)
    return Unwindows(inside, window, h, w)
"""

STAGES = """\
specc 1

block Down(x: [n, c, h, w]) -> [n, c, h // 2, w // 2]:
    require h % 2 == 0 and w % 2 == 0
    conv = conv2d(x, c, k=3, s=2)
    return conv

network N(x: [n, 3, h, w], depth: int = 5) -> [n, _, h // 2 ** depth, w // 2 ** depth]:
    for i in range(depth):
        stages[i] = Down(x)
        x = stages[i]
    return x
"""


def extents(graph: Graph) -> tuple[str, ...]:
    """The shape of the first input, as text."""
    return tuple(map(str, graph.node(graph.inputs[0]).types[0].shape))


def required(condition: str) -> Graph:
    """A network that requires `condition` of its input."""
    return grammar.loads(
        f"specc 1\nnetwork N(x: [n, c, h, w]) -> [n, c, h, w]:\n    require {condition}\n    return relu(x)\n"
    )


def test_windows_of_an_open_image() -> None:
    graph = grammar.loads(WINDOWS)
    verify(graph)
    assert extents(graph) == ("n", "7*(h//7)", "7*(w//7)", "4")
    assert graph.type(graph.outputs[0]) == graph.node(graph.inputs[0]).types[0]
    fixed = specialize(graph, {"n": 2, "h": 14, "w": 21})
    assert fixed.type(fixed.outputs[0]).shape == (2, 14, 21, 4)


def test_what_every_stage_requires_adds_up_in_the_network() -> None:
    graph = grammar.loads(STAGES)
    assert extents(graph) == ("n", "3", "32*(h//32)", "32*(w//32)")
    assert graph.type(graph.outputs[0]).shape[2:] == (parse_dim("h//32"), parse_dim("w//32"))


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("h % 4 == 0 and w % 6 == 0", ("4*(h//4)", "6*(w//6)")),
        ("h % 4 == 0 and h % 6 == 0", ("12*(h//12)", "w")),
        ("h % 4 == 3", ("4*((h + 1)//4) - 1", "w")),
        ("(h + 1) % 4 == 0", ("4*((h + 1)//4) - 1", "w")),
        ("6 * h % 4 == 0", ("2*(h//2)", "w")),
        ("4 * h % 2 == 0", ("h", "w")),
        ("h % 1 == 0", ("h", "w")),
    ],
)
def test_a_requirement_is_kept(condition: str, wanted: tuple[str, str]) -> None:
    assert extents(required(condition))[2:] == wanted


@pytest.mark.parametrize(
    "condition", ["(2 * h + 1) % 2 == 0", "h % 4 == 0 and h % 2 == 1", "h % 2 == 2", "h % 4 == -1"]
)
def test_what_never_holds_is_an_error(condition: str) -> None:
    with pytest.raises(SpeccError) as caught:
        required(condition)
    assert caught.value.diagnostics[0].code in ("S0501", "S0405")


@pytest.mark.parametrize(
    "condition", ["h % 2 == 0 or w % 2 == 0", "h * w % 4 == 0", "(h + w) % 2 == 0", "h == w", "h > 7"]
)
def test_what_cannot_be_kept_is_an_error(condition: str) -> None:
    with pytest.raises(SpeccError) as caught:
        required(condition)
    assert [d.code for d in caught.value.diagnostics] == ["S0405"]


def test_a_claim_makes_nothing_known() -> None:
    with pytest.raises(SpeccError) as caught:
        grammar.loads("specc 1\nnetwork N(x: [n, h]) -> [n, h]:\n    ensure h % 2 == 0\n    return relu(x)\n")
    assert [d.code for d in caught.value.diagnostics] == ["S0405"]


def test_a_requirement_of_a_branch_that_is_not_taken_says_nothing() -> None:
    signature = "specc 1\nnetwork N(x: [n, h], k: int = 1) -> [n, h]:\n"
    graph = grammar.loads(f"{signature}    if k > 1:\n        require h % k == 0\n    return relu(x)\n")
    assert extents(graph) == ("n", "h")


def test_a_value_that_does_not_fit_is_refused() -> None:
    graph = grammar.loads(WINDOWS)
    with pytest.raises(SpeccError) as caught:
        specialize(graph, {"n": 1, "h": 15, "w": 7})
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "S0703" and diagnostic.labels
    assert diagnostic.message == "the dimension `h` of `N` is a multiple of 7, and not 15"


def test_an_open_network_runs_on_what_fits_and_refuses_the_rest() -> None:
    graph = grammar.loads(WINDOWS)
    module = specc.to_torch(graph).double()
    given = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 14, 7, 4)))
    fixed = specc.to_torch(specialize(graph, {"n": 2, "h": 14, "w": 7})).double()
    fixed.load_state_dict(module.state_dict())
    assert torch.equal(module(given), fixed(given))
    with pytest.raises(SpeccError) as caught:
        module(given[:, :13])
    assert [d.code for d in caught.value.diagnostics] == ["S0907"]


@pytest.mark.parametrize("text", [WINDOWS, STAGES])
def test_graphs_and_specs_of_it_are_written_and_read(text: str) -> None:
    graph = grammar.loads(text)
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
    again = grammar.loads(write_graph(graph))
    assert extents(again) == extents(graph)
    assert [again.type(v) for v in again.outputs] == [graph.type(v) for v in graph.outputs]
