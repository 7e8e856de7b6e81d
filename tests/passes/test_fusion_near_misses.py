"""Fusion of several convolutions: what differs in one place from what becomes one kernel stays apart, and why."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from specc.ir.graph import Graph
from specc.ir.text import parse_graph
from specc.passes.fusion import fuse
from specc.passes.layout import layout
from specc.passes.rewrite import Journal
from specc.testing import check_pass


@dataclass(frozen=True)
class Base:
    """A graph whose nodes become one kernel beside a second-level cache of so many bytes, by the kind of that name."""

    kind: str
    cache: int
    text: str

    def reasons(self, *changes: tuple[str, str], plain: bool = False) -> list[str | None]:
        """Why nodes do not join by this kind, None for each that does, where the text is changed so."""
        graph, journal = self.graph(*changes, plain=plain), Journal()
        check_pass(lambda each: fuse(each, cache=self.cache), graph)
        fuse(graph, journal=journal, cache=self.cache)
        return [event.reason for event in journal.events if event.rule.startswith(f"{self.kind} of")]

    def graph(self, *changes: tuple[str, str], plain: bool = False) -> Graph:
        text = self.text
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        graph = parse_graph(f"graph Net\n{text}")
        graph.prune()
        return graph if plain else layout(graph, 8)


SQUEEZED = Base(
    "mean",
    2_000,
    """
    input x: float32[1, 8, 12, 10]
    param v: float32[8, 1, 3, 3] kaiming
    param b: float32[8] zeros
    param d: float32[8, 8, 3, 3] kaiming
    %0: float32[1, 8, 12, 10] = conv2d(x, @v, @b) {groups=8; padding=(1, 1, 1, 1)}
    %1: float32[1, 8, 12, 10] = relu(%0)
    %2: float32[1, 8, 1, 1] = mean(%1) {axes=(2, 3); keep=True}
    %3: float32[1, 8, 12, 10] = conv2d(%1, @d) {padding=(1, 1, 1, 1)}
    return %3, %2
    """,
)
SCALED = Base(
    "scaled convolution",
    5_000,
    """
    input x: float32[2, 8, 12, 10]
    param s: float32[2, 8, 1, 1] ones
    param d: float32[8, 8, 3, 3] kaiming
    param w: float32[24, 8, 1, 1] kaiming
    param b: float32[24] zeros
    %9: float32[2, 8, 12, 10] = conv2d(x, @d) {padding=(1, 1, 1, 1)}
    %6: float32[2, 8, 1, 1] = mean(%9) {axes=(2, 3); keep=True}
    %7: float32[2, 8, 1, 1] = sigmoid(%6)
    %0: float32[2, 8, 12, 10] = mul(%9, %7)
    %1: float32[2, 24, 12, 10] = conv2d(%0, @w, @b)
    return %1
    """,
)
ADDENDS = Base(
    "sum of 1x1 convolutions",
    1 << 20,
    """
    input x: float32[1, 32, 8, 8]
    input y: float32[1, 32, 8, 8]
    param w: float32[48, 32, 1, 1] kaiming
    param v: float32[48, 32, 1, 1] kaiming
    param b: float32[48] zeros
    %0: float32[1, 48, 8, 8] = conv2d(x, @w, @b)
    %1: float32[1, 48, 8, 8] = conv2d(y, @v)
    %2: float32[1, 48, 8, 8] = add(%0, %1)
    return %2
    """,
)
SEPARABLE = Base(
    "depthwise-separable convolution",
    3_000,
    """
    input x: float32[1, 8, 12, 10]
    param v: float32[8, 1, 3, 3] kaiming
    param w: float32[8, 8, 1, 1] kaiming
    param b: float32[8] zeros
    param c: float32[8] zeros
    %0: float32[1, 8, 12, 10] = conv2d(x, @v, @b) {groups=8; padding=(1, 1, 1, 1)}
    %1: float32[1, 8, 12, 10] = relu(%0)
    %2: float32[1, 8, 12, 10] = conv2d(%1, @w, @c)
    return %2
    """,
)
EXPANSION = Base(
    "expansion",
    40_000,
    """
    input x: float32[1, 64, 20, 20]
    param w: float32[64, 64, 1, 1] kaiming
    param v: float32[64, 1, 3, 3] kaiming
    param b: float32[64] zeros
    param c: float32[64] zeros
    %0: float32[1, 64, 20, 20] = conv2d(x, @w, @b)
    %1: float32[1, 64, 20, 20] = relu(%0)
    %2: float32[1, 64, 20, 20] = conv2d(%1, @v, @c) {groups=64; padding=(1, 1, 1, 1)}
    return %2
    """,
)
PERCEPTRON = Base(
    "perceptron",
    15_000,
    """
    input x: float32[1, 16, 10, 8]
    param w: float32[24, 16, 1, 1] kaiming
    param u: float32[24, 24, 1, 1] kaiming
    param b: float32[24] zeros
    param c: float32[24] zeros
    %0: float32[1, 24, 10, 8] = conv2d(x, @w, @b)
    %1: float32[1, 24, 10, 8] = gelu(%0)
    %2: float32[1, 24, 10, 8] = conv2d(%1, @u, @c)
    return %2
    """,
)
BASES = (SQUEEZED, SCALED, ADDENDS, SEPARABLE, EXPANSION, PERCEPTRON)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.kind)
def test_it_is_one_kernel(base: Base) -> None:
    assert base.reasons() == [None]


def varying(base: Base, name: str) -> tuple[tuple[str, str], ...]:
    """The parameter of a base as an input."""
    (line,) = (line.strip() for line in base.text.splitlines() if line.strip().startswith(f"param {name}:"))
    return (line, line.rpartition(" ")[0].replace("param", "input")), (f"@{name}", name)


@pytest.mark.parametrize(
    ("base", "name", "reason"),
    [
        (SQUEEZED, "v", "the weights vary"),
        (SQUEEZED, "b", "the weights vary"),
        (SCALED, "w", "its weights vary"),
        (SCALED, "b", "its weights vary"),
        (ADDENDS, "w", "their weights vary"),
        (ADDENDS, "b", "their weights vary"),
        (SEPARABLE, "v", "the weights in front of it vary"),
        (SEPARABLE, "b", "the weights in front of it vary"),
        (SEPARABLE, "w", "its weights vary"),
        (SEPARABLE, "c", "its weights vary"),
        (EXPANSION, "w", "the two share weights, or compute with more"),
        (EXPANSION, "v", "the two share weights, or compute with more"),
        (EXPANSION, "c", "the two share weights, or compute with more"),
        (PERCEPTRON, "w", "their weights vary"),
        (PERCEPTRON, "c", "their weights vary"),
    ],
)
def test_weights_that_vary(base: Base, name: str, reason: str) -> None:
    (found,) = base.reasons(*varying(base, name))
    assert found is not None and found.startswith(reason)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (SQUEEZED, "they do not compute float32 in blocks of channels"),
        (SCALED, "they do not compute float32 in blocks of channels"),
        (ADDENDS, "they do not compute in blocks of channels"),
        (SEPARABLE, "they do not compute in blocks of channels"),
        (EXPANSION, "the two do not compute float32 in blocks of channels"),
        (PERCEPTRON, "they do not compute in blocks of channels"),
    ],
)
def test_plain_tensors(base: Base, reason: str) -> None:
    assert base.reasons(plain=True) == [reason]


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (SQUEEZED, "they do not compute float32 in blocks of channels"),
        (SCALED, "they do not compute float32 in blocks of channels"),
        (ADDENDS, "they compute with float64"),
        (SEPARABLE, "it computes with float64"),
        (EXPANSION, "the two do not compute float32 in blocks of channels"),
        (PERCEPTRON, "they compute with float64"),
    ],
)
def test_other_numbers(base: Base, reason: str) -> None:
    assert base.reasons(("float32", "float64")) == [reason]


TWICE = ("[8, 1, 3, 3]", "[16, 1, 3, 3]")
CASES: dict[str, tuple[Base, tuple[tuple[str, str], ...], str | None]] = {
    "a mean without height and width": (
        SQUEEZED,
        (("[1, 8, 1, 1] = mean(%1) {axes=(2, 3); keep=True}", "[1, 8] = mean(%1) {axes=(2, 3)}"),),
        None,
    ),
    "a mean of channels and columns": (
        SQUEEZED,
        (("[1, 8, 1, 1] = mean(%1) {axes=(2, 3);", "[1, 1, 12, 1] = mean(%1) {axes=(1, 3);"),),
        None,
    ),
    "a mean of two filters a channel": (
        SQUEEZED,
        (
            TWICE,
            ("b: float32[8]", "b: float32[16]"),
            ("d: float32[8, 8", "d: float32[8, 16"),
            ("%0: float32[1, 8,", "%0: float32[1, 16,"),
            ("%1: float32[1, 8,", "%1: float32[1, 16,"),
            ("%2: float32[1, 8,", "%2: float32[1, 16,"),
        ),
        "the depthwise convolution has several filters a channel",
    ),
    "a mean of what a dense convolution makes": (
        SQUEEZED,
        (("v: float32[8, 1,", "v: float32[8, 8,"), ("groups=8; ", "")),
        None,
    ),
    "scales that are weights": (SCALED, (("mul(%9, %7)", "mul(%9, @s)"),), None),
    "a scale for each column": (
        SCALED,
        (
            ("8, 1, 1] = mean(%9) {axes=(2, 3);", "8, 1, 10] = mean(%9) {axes=(2,);"),
            ("8, 1, 1] = sig", "8, 1, 10] = sig"),
        ),
        None,
    ),
    "a scale for all channels": (
        SCALED,
        (
            ("8, 1, 1] = mean(%9) {axes=(2, 3);", "1, 1, 1] = mean(%9) {axes=(1, 2, 3);"),
            ("8, 1, 1] = sig", "1, 1, 1] = sig"),
        ),
        None,
    ),
    "a step behind the product": (
        SCALED,
        (
            (
                "%1: float32[2, 24, 12, 10] = conv2d(%0",
                "%2: float32[2, 8, 12, 10] = relu(%0)\n%1: float32[2, 24, 12, 10] = conv2d(%2",
            ),
        ),
        None,
    ),
    "a strided convolution of the product": (
        SCALED,
        (("[2, 24, 12, 10] = conv2d(%0, @w, @b)", "[2, 24, 6, 5] = conv2d(%0, @w, @b) {stride=(2, 2)}"),),
        None,
    ),
    "addends that share weights": (
        ADDENDS,
        (("conv2d(y, @v)", "conv2d(y, @w)"),),
        "their weights vary, or are those of both",
    ),
    "an addend with padding": (
        ADDENDS,
        (("y: float32[1, 32, 8, 8]", "y: float32[1, 32, 6, 6]"), ("(y, @v)", "(y, @v) {padding=(1, 1, 1, 1)}")),
        None,
    ),
    "an addend in groups": (
        ADDENDS,
        (("v: float32[48, 32", "v: float32[48, 16"), ("(y, @v)", "(y, @v) {groups=2}")),
        None,
    ),
    "an addend with a window": (
        ADDENDS,
        (
            ("v: float32[48, 32, 1, 1]", "v: float32[48, 32, 2, 2]"),
            ("y: float32[1, 32, 8, 8]", "y: float32[1, 32, 9, 9]"),
        ),
        None,
    ),
    "a projection of two filters a channel": (
        SEPARABLE,
        (
            TWICE,
            ("b: float32[8]", "b: float32[16]"),
            ("w: float32[8, 8", "w: float32[8, 16"),
            ("%0: float32[1, 8,", "%0: float32[1, 16,"),
            ("%1: float32[1, 8,", "%1: float32[1, 16,"),
        ),
        "the depthwise convolution has several filters a channel",
    ),
    "a projection with the bias of the depthwise convolution": (
        SEPARABLE,
        (("@c", "@b"),),
        "the weights in front of it vary, or are read elsewhere in the group",
    ),
    "a strided projection": (
        SEPARABLE,
        (("[1, 8, 12, 10] = conv2d(%1, @w, @c)", "[1, 8, 6, 5] = conv2d(%1, @w, @c) {stride=(2, 2)}"),),
        None,
    ),
    "an expansion with the bias of the depthwise convolution": (
        EXPANSION,
        (("@c", "@b"),),
        "the two share weights, or compute with more than weights and what the first one reads",
    ),
    "an expansion to two filters a channel": (
        EXPANSION,
        (
            ("v: float32[64, 1", "v: float32[128, 1"),
            ("c: float32[64]", "c: float32[128]"),
            ("%2: float32[1, 64, ", "%2: float32[1, 128, "),
        ),
        "it has several filters a channel",
    ),
    "an expansion with a stride": (
        EXPANSION,
        (
            ("x: float32[1, 64, 20, 20]", "x: float32[1, 64, 40, 40]"),
            ("conv2d(x, @w, @b)", "conv2d(x, @w, @b) {stride=(2, 2)}"),
        ),
        "the convolution in front of it has a window, strides, padding or groups",
    ),
    "an expansion in groups": (
        EXPANSION,
        (("w: float32[64, 64, ", "w: float32[64, 32, "), ("conv2d(x, @w, @b)", "conv2d(x, @w, @b) {groups=2}")),
        "the convolution in front of it has a window, strides, padding or groups",
    ),
    "a perceptron with one bias": (
        PERCEPTRON,
        (("@c", "@b"),),
        "their weights vary, or are read elsewhere in the group",
    ),
    "a perceptron with a stride": (
        PERCEPTRON,
        (("[1, 24, 10, 8] = conv2d(%1, @u, @c)", "[1, 24, 5, 4] = conv2d(%1, @u, @c) {stride=(2, 2)}"),),
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_differs_stays_apart(case: str) -> None:
    """With the reason that is given; None: it is not looked at as such."""
    base, changes, reason = CASES[case]
    assert base.reasons(*changes) == ([] if reason is None else [reason])
