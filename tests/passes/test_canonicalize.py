"""Canonicalize: what is removed, what is brought into one form, and what must stay."""

from __future__ import annotations

import pytest

from specc.ir.text import parse_graph, print_graph
from specc.passes.canonicalize import canonicalize
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
