"""Canonicalize: what is removed, what is brought into one form, and what must stay."""

from __future__ import annotations

import pytest

from specc.ir.cost import count_macs
from specc.ir.text import parse_graph, print_graph
from specc.passes.canonicalize import canonicalize
from specc.passes.reparam import reparam
from specc.passes.rewrite import Journal
from specc.testing import check_pass


def text(*lines: str) -> str:
    return "\n".join(["graph Net", "input x: float32[2, 3, 4]", *lines]) + "\n"


IDENTITY = text("return x")

REWRITES = {
    "dropout": (text("%0: float32[2, 3, 4] = dropout(x)", "return %0"), IDENTITY),
    "times 1": (
        text("%0: float32[] = constant() {value=1.0}", "%1: float32[2, 3, 4] = mul(%0, x)", "return %1"),
        IDENTITY,
    ),
    "plus 0": (
        text("%0: float32[] = constant() {value=0.0}", "%1: float32[2, 3, 4] = add(x, %0)", "return %1"),
        IDENTITY,
    ),
    "a concat of one": (text("%0: float32[2, 3, 4] = concat(x)", "return %0"), IDENTITY),
    "a permute in order": (text("%0: float32[2, 3, 4] = permute(x) {order=(0, 1, 2)}", "return %0"), IDENTITY),
    "padding by nothing": (
        text("%0: float32[2, 3, 4] = pad(x) {before=(0, 0, 0); after=(0, 0, 0)}", "return %0"),
        IDENTITY,
    ),
    "a whole slice": (text("%0: float32[2, 3, 4] = slice(x) {axis=1; stop=3}", "return %0"), IDENTITY),
    "reshapes there and back": (
        text(
            "%0: float32[24] = flatten(x) {start=0}",
            "%1: float32[2, 3, 4] = reshape(%0) {shape=(2, 3, 4)}",
            "return %1",
        ),
        IDENTITY,
    ),
    "common subexpressions": (
        text(
            "%0: float32[2, 3, 4] = relu(x)",
            "%1: float32[2, 3, 4] = relu(x)",
            "%2: float32[2, 3, 4] = add(%0, %1)",
            "return %2",
        ),
        text("%0: float32[2, 3, 4] = relu(x)", "%1: float32[2, 3, 4] = add(%0, %0)", "return %1"),
    ),
    **{
        f"{gate} as a factor": (
            text(f"%0: float32[2, 3, 4] = {gate}(x)", "%1: float32[2, 3, 4] = mul(%0, x)", "return %1"),
            text(f"%0: float32[2, 3, 4] = {op}(x)", "return %0"),
        )
        for gate, op in (("sigmoid", "silu"), ("hard_sigmoid", "hard_swish"))
    },
    "a maximum with 0": (
        text(
            "%0: float32[1] = constant() {value=0.0; shape=(1,)}", "%1: float32[2, 3, 4] = maximum(%0, x)", "return %1"
        ),
        text("%0: float32[2, 3, 4] = relu(x)", "return %0"),
    ),
    "a relu of a relu": (
        text("%0: float32[2, 3, 4] = relu(x)", "%1: float32[2, 3, 4] = relu(%0)", "return %1"),
        text("%0: float32[2, 3, 4] = relu(x)", "return %0"),
    ),
    "less a weight": (
        text("param s: float32[4] ones", "%0: float32[2, 3, 4] = sub(x, @s)", "return %0"),
        text("param s: float32[4] ones", "%0: float32[4] = neg(@s)", "%1: float32[2, 3, 4] = add(x, %0)", "return %1"),
    ),
    "flatten": (
        text("%0: float32[6, 4] = flatten(x) {start=0; end=1}", "return %0"),
        text("%0: float32[6, 4] = reshape(x) {shape=(6, 4)}", "return %0"),
    ),
    "an extent of -1": (
        text("%0: float32[6, 4] = reshape(x) {shape=(-1, 4)}", "return %0"),
        text("%0: float32[6, 4] = reshape(x) {shape=(6, 4)}", "return %0"),
    ),
    "a dimension counted from the back": (
        text("%0: float32[2, 3, 4] = softmax(x) {axis=-2}", "return %0"),
        text("%0: float32[2, 3, 4] = softmax(x) {axis=1}", "return %0"),
    ),
    "dimensions counted from the back": (
        text("%0: float32[3] = amax(x) {axes=(-1, 0)}", "return %0"),
        text("%0: float32[3] = amax(x) {axes=(0, 2)}", "return %0"),
    ),
    "a concat counted from the back": (
        text("%0: float32[2, 6, 4] = concat(x, x) {axis=-2}", "return %0"),
        text("%0: float32[2, 6, 4] = concat(x, x)", "return %0"),
    ),
    "dead code": (text("%0: float32[2, 3, 4] = relu(x)", "return x"), IDENTITY),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    before, after = REWRITES[name]
    check_pass(canonicalize, parse_graph(before))
    assert print_graph(canonicalize(parse_graph(before))) == after


def test_a_permute_of_equal_extents_stays() -> None:
    before = "graph Net\ninput x: float32[3, 3]\n%0: float32[3, 3] = permute(x) {order=(1, 0)}\nreturn %0\n"
    assert print_graph(canonicalize(parse_graph(before))) == before


STAYS = {
    "a maximum with 1": (
        "%0: float32[] = constant() {value=1.0}",
        "%1: float32[2, 3, 4] = maximum(x, %0)",
        "return %1",
    ),
    "a maximum that repeats its operand": (
        "%0: float32[5, 2, 3, 4] = constant() {value=0.0; shape=(5, 2, 3, 4)}",
        "%1: float32[5, 2, 3, 4] = maximum(x, %0)",
        "return %1",
    ),
    "a gate of something else": (
        "%0: float32[2, 3, 4] = relu(x)",
        "%1: float32[2, 3, 4] = sigmoid(%0)",
        "%2: float32[2, 3, 4] = mul(x, %1)",
        "return %2",
    ),
    "a weight less the input": (
        "param s: float32[4] ones",
        "%0: float32[2, 3, 4] = sub(@s, x)",
        "return %0",
    ),
    "an expansion of a dimension": (
        "%0: float32[1, 3, 4] = slice(x) {axis=0; stop=1}",
        "%1: float32[5, 3, 4] = expand(%0) {shape=(5, 3, 4)}",
        "return %1",
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_has_its_form_stays(name: str) -> None:
    graph = parse_graph(text(*STAYS[name]))
    assert print_graph(check_pass(canonicalize, graph)) == print_graph(graph)


def test_integers_are_negated_as_they_are() -> None:
    lines = [
        "graph Net",
        "input x: int32[2, 3]",
        "%0: int32[2, 3] = neg(x)",
        "%1: int32[] = constant() {value=0.0; dtype='int32'}",
    ]
    before = "\n".join([*lines, "%2: int32[2, 3] = maximum(%0, %1)", "return %2"]) + "\n"
    after = check_pass(canonicalize, parse_graph(before))
    assert [after.node(i).op for i in after.live()] == ["neg", "maximum"]


def test_what_was_done_is_told_once_and_in_order() -> None:
    graph, journal = parse_graph(REWRITES["less a weight"][0]), Journal()
    canonicalize(graph, journal)
    assert [event.rule for event in journal.fired] == ["a - f => a + (-f)"]
    assert [found.op for found in journal.computed] == ["neg"]


def test_a_neutral_constant_that_repeats_its_operand_stays() -> None:
    before = text(
        "%0: float32[5, 2, 3, 4] = constant() {value=1.0; shape=(5, 2, 3, 4)}",
        "%1: float32[5, 2, 3, 4] = mul(x, %0)",
        "return %1",
    )
    assert print_graph(canonicalize(parse_graph(before))) == before


def test_a_quotient_by_a_weight_becomes_a_product() -> None:
    graph = parse_graph(text("param s: float32[4] ones", "%0: float32[2, 3, 4] = div(x, @s)", "return %0"))
    check_pass(canonicalize, graph)
    after = canonicalize(graph)
    assert [after.node(i).op for i in after.live()] == ["mul"]


TABLES = """graph Net
input x: float32[2, 6, 4, 4]
param table: float32[3, 1] normal(1)
param rows: float32[2, 1, 3] normal(1)
param w: float32[6, 6, 1, 1] kaiming
%0: float32[3, 1] = tanh(@table)
%1: float32[2, 3, 3] = mul(@rows, %0)
%2: float32[2, 3] = mean(%1) {axes=(2,)}
%3: float32[1, 6, 1, 1] = reshape(%2) {shape=(1, 6, 1, 1)}
%4: float32[2, 6, 4, 4] = expand(%3) {shape=(2, 6, 4, 4)}
%5: float32[2, 6, 4, 4] = conv2d(x, @w)
%6: float32[2, 6, 4, 4] = mul(%5, %4)
return %6
"""


def test_a_computed_weight_is_one_thing_and_in_nobodys_way() -> None:
    """A Kronecker-like product of tables, repeated over the batch, is a factor of channels like any other."""
    graph, journal = parse_graph(TABLES), Journal()
    after = canonicalize(graph, journal)
    (found,) = journal.computed
    assert (found.op, found.operators, found.weights) == ("reshape", 4, ("rows", "table"))
    merged = check_pass(lambda g: reparam(canonicalize(g)), graph)
    assert [merged.node(i).op for i in merged.live()] == ["conv2d"]
    assert count_macs(after) == count_macs(graph) == 2 * 6 * 6 * 16


def test_a_graph_in_float64_stays_in_float64() -> None:
    lines = ["graph Net", "input x: float64[2, 3]", "param s: float64[3] ones", "%0: float64[2, 3] = div(x, @s)"]
    graph = parse_graph("\n".join([*lines, "%1: float64[2, 3] = neg(%0)", "return %1"]) + "\n")
    after = check_pass(canonicalize, graph)
    assert [after.node(i).op for i in after.live()] == ["mul", "mul"]
