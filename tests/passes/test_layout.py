"""Layout: where conversions stand, and that no cheaper place is left."""

from __future__ import annotations

from specc.ir.graph import Graph
from specc.ir.text import parse_graph, print_graph
from specc.passes.layout import layout
from specc.testing import check_pass


def layouts(graph: Graph) -> list[tuple[str, str]]:
    return [(graph.node(i).op, graph.node(i).types[0].layout) for i in graph.live()]


def chain(*lines: str, source: str = "float32[1, 32, 8, 8]") -> Graph:
    return parse_graph("\n".join(["graph Net", f"input x: {source}", *lines]))


def test_a_chain_of_convolutions_is_converted_once_each_way() -> None:
    graph = chain(
        "param a: float32[32, 32, 3, 3] kaiming",
        "param b: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a) {padding=(1, 1, 1, 1)}",
        "%1: float32[1, 32, 8, 8] = gelu(%0)",
        "%2: float32[1, 32, 8, 8] = conv2d(%1, @b)",
        "%3: float32[1, 32, 8, 8] = add(%2, %0)",
        "return %3",
    )
    check_pass(lambda g: layout(g, 16), graph)
    assert layouts(layout(graph, 16)) == [
        ("convert_layout", "NCHW16c"),
        ("conv2d", "NCHW16c"),
        ("gelu", "NCHW16c"),
        ("conv2d", "NCHW16c"),
        ("add", "NCHW16c"),
        ("convert_layout", ""),
    ]


def test_the_first_convolution_reads_the_plain_image_and_converts_what_it_writes() -> None:
    graph = chain(
        "param a: float32[32, 3, 3, 3] kaiming",
        "param b: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 6, 6] = conv2d(x, @a)",
        "%1: float32[1, 32, 6, 6] = relu(%0)",
        "%2: float32[1, 32, 6, 6] = conv2d(%1, @b)",
        "%3: float32[1, 32] = mean(%2) {axes=(2, 3)}",
        "return %3",
        source="float32[1, 3, 8, 8]",
    )
    assert layouts(layout(graph, 16)) == [
        ("conv2d", ""),
        ("convert_layout", "NCHW16c"),
        ("relu", "NCHW16c"),
        ("conv2d", "NCHW16c"),
        ("mean", ""),  # [n, c] has one layout; the reduction reads the blocks
    ]


def test_operators_that_name_a_dimension_stay_plain() -> None:
    graph = chain(
        "param a: float32[16, 16, 1, 1] kaiming",
        "%0: float32[1, 16, 8, 8] = slice(x) {axis=1; stop=16}",
        "%1: float32[1, 16, 8, 8] = conv2d(%0, @a)",
        "%2: float32[1, 32, 8, 8] = concat(%1, %0)",
        "%3: float32[1, 32, 8, 8] = softmax(%2) {axis=1}",
        "return %3",
    )
    check_pass(lambda g: layout(g, 8), graph)
    assert layouts(layout(graph, 8)) == [
        ("slice", ""),
        ("convert_layout", "NCHW8c"),
        ("conv2d", "NCHW8c"),
        ("convert_layout", ""),
        ("concat", ""),
        ("softmax", ""),
    ]


def test_a_value_with_two_blocked_users_is_converted_once() -> None:
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "param b: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = permute(x) {order=(0, 1, 3, 2)}",
        "%1: float32[1, 32, 8, 8] = conv2d(%0, @a)",
        "%2: float32[1, 32, 8, 8] = conv2d(%0, @b)",
        "%3: float32[1, 32, 8, 8] = mul(%1, %2)",
        "return %3",
    )
    assert [op for op, _ in layouts(layout(graph, 16))].count("convert_layout") == 2


def test_an_elementwise_island_is_not_worth_a_conversion() -> None:
    graph = chain("%0: float32[1, 32, 8, 8] = relu(x)", "%1: float32[1, 32, 8, 8] = tanh(%0)", "return %1")
    assert print_graph(layout(graph, 16)) == print_graph(graph)


def test_an_elementwise_chain_between_convolutions_stays_in_blocks() -> None:
    """The plain operand of the sum is converted, rather than the result of the convolution and the sum."""
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "param b: float32[32, 32, 1, 1] kaiming",
        "param position: float32[1, 32, 8, 8] zeros",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 32, 8, 8] = add(%0, @position)",
        "%2: float32[1, 32, 8, 8] = conv2d(%1, @b)",
        "return %2",
    )
    check_pass(lambda g: layout(g, 16), graph)
    assert ("add", "NCHW16c") in layouts(layout(graph, 16))


def test_every_operand_of_a_concat_is_read_plainly() -> None:
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 64, 8, 8] = concat(x, %0)",
        "return %1",
    )
    check_pass(lambda g: layout(g, 16), graph)


def test_a_kernel_that_depends_on_the_input_is_read_plainly() -> None:
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 1, 1, 1] = conv2d(x, %0)",
        "return %1",
    )
    check_pass(lambda g: layout(g, 16), graph)
    assert layouts(layout(graph, 16))[-2:] == [("conv2d", "NCHW16c"), ("convert_layout", "")]


def test_a_blocked_mean_is_converted_for_a_plain_reader() -> None:
    graph = chain(
        "param a: float32[1, 8, 1, 1] kaiming",
        "%0: float32[1, 1, 1, 4] = conv2d(x, @a) {padding=(0, 1, 0, 2)}",
        "%1: float32[1, 1, 1, 1] = mean(%0) {axes=(2, 3); keep=True}",
        "%2: float32[1, 1, 1, 4] = sub(%0, %1)",
        "return %2",
        source="float32[1, 8, 1, 1]",
    )
    check_pass(lambda g: layout(g, 16), graph)
