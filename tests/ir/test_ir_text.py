"""The text form: generated graphs come back the same, and what is no graph is refused at its line."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc.diagnostics import Span, SpeccError
from specc.ir.graph import Graph
from specc.ir.text import parse_graph, parse_type, print_graph
from specc.ir.verify import verify
from specc.testing import graphs

TEXT = """\
graph Small [h = 8, n = 1]
input image: float32[n, 3, h, 8]
param stem.c.weight: float32[4, 3, 3, 3] kaiming
param stem.bn.running_mean: float32[4] zeros buffer
param stem.bn.running_var: float32[4] ones buffer
%0: float32[n, 4, (h + 1)//2, 4] = conv2d(image, @stem.c.weight) {stride=(2, 2); padding=(1, 1, 1, 1)} in stem.c
%1: float32[n, 4, (h + 1)//2, 4] = batch_norm(%0, @stem.bn.running_mean, @stem.bn.running_var) in stem.bn group 3
%2: float32[n, 16*((h + 1)//2)] = reshape(%1) {shape=(n, 16*((h + 1)//2))}
%3: float32[n] = mean(%2) {axes=(-1,)}
return %3, %1
"""


def test_the_form() -> None:
    graph = parse_graph(TEXT)
    verify(graph)
    assert print_graph(graph) == TEXT
    assert graph.defaults == {"n": 1, "h": 8}
    assert graph.parameters.keys() == {"stem.c.weight", "stem.bn.running_mean", "stem.bn.running_var"}
    assert [graph.node(i).group for i in graph.order() if graph.node(i).op == "batch_norm"] == [3]


@given(graph=graphs(symbolic=True), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_generated_graphs_round_trip(graph: Graph, seed: int) -> None:
    rng = random.Random(seed)
    for identity in graph.live():
        line = rng.randint(1, 99)
        span = Span("a net.specc", line, 1, line + 1, 5) if rng.random() < 0.5 else None
        graph.update(identity, span=span, path=rng.choice(("", "a", "a.0.b")))
    for spans in (False, True):
        text = print_graph(graph, spans)
        again = parse_graph(text)
        verify(again)
        assert print_graph(again, spans) == text
        if spans:
            assert [again.node(i) for i in again.order() if again.node(i).op != "param"] == [
                graph.node(i) for i in graph.order() if graph.node(i).op != "param"
            ]


WRONG = [
    ("", "S0702", "is empty"),
    ("input x: float32[1]\n", "S0702", "begins with `graph NAME`"),
    (TEXT.replace("conv2d(", "conv4d("), "S0702", "there is no operator `conv4d`"),
    (TEXT.replace("(%1)", "(%7)"), "S0702", "`%7` is not defined above"),
    (TEXT.replace("float32[n] =", "float32[1] ="), "S0702", "is given as float32[1] and follows as float32[n]"),
    (TEXT.replace("param stem.bn.running_var", "param stem.c.weight"), "S0702", "`@stem.c.weight` stands twice"),
    (TEXT.replace("float32[n, 3", "float33[n, 3"), "S0702", "is not a tensor type"),
    (TEXT.replace("[n, 3, h, 8]", "[n, 3, h /, 8]"), "S0702", "`h /` is not a dimension"),
    (TEXT.replace("stride=(2, 2)", "stride=(0, 2)"), "S0301", "`stride` is at least 1"),
    (TEXT.replace("stride", "strides"), "S0301", "there is no argument `strides`"),
    (TEXT.replace("{axes=(-1,)}", "{axes=__import__}"), "S0301", "`axes` is a list of integers"),
    (TEXT + "hello\n", "S0702", "it is none of"),
    (TEXT.replace("return %3, %1", "return %3.1"), "S0702", "does not exist"),
    (TEXT.replace("%2: ", "%1: "), "S0702", "`%1` stands twice"),
    (TEXT.replace("h = 8", "h = x"), "S0702", ""),
]


@pytest.mark.parametrize("text, code, words", WRONG)
def test_other_texts_are_refused_at_their_line(text: str, code: str, words: str) -> None:
    with pytest.raises(SpeccError) as problem:
        parse_graph(text, "net.ir")
    assert problem.value.diagnostics[0].code == code
    assert words in str(problem.value)
    if text:
        line = problem.value.diagnostics[0].labels[0].span.line
        assert text.splitlines()[line - 1] in str(problem.value)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_text_is_a_graph_or_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    end = data.draw(st.integers(at, min(len(TEXT), at + 6)))
    text = TEXT[:at] + data.draw(st.sampled_from(["", "%", "0", "]", "n", "-", "\n", "(", "//0", "10**9"])) + TEXT[end:]
    try:
        graph = parse_graph(text)
    except SpeccError as problem:
        assert problem.diagnostics[0].code in ("S0702", "S0301")
    else:
        print_graph(graph)


@pytest.mark.parametrize("text", ["float32[]", "int64[n, 2*h + 1]", "float32@NCHW16c[1, 3, h, (w + 1)//2]"])
def test_types_parse_back(text: str) -> None:
    assert str(parse_type(text)) == text


@pytest.mark.parametrize("text", ["float32", "float8[1]", "float32@NHWC[1, 2, 3, 4]", "float32[1", "float32[a b]"])
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_type(text)


def test_blocked_types_know_their_buffer() -> None:
    assert parse_type("float32@NCHW16c[2, 17, 5, 6]").physical == (2, 2, 5, 6, 16)
    assert parse_type("float32[2, 17]").physical == (2, 17)
    with pytest.raises(ValueError, match="`n` has no value"):
        assert parse_type("float32[n]").concrete
