"""Fusion: which nodes share a kernel."""

from __future__ import annotations

from typing import Any

import pytest

import specc
from specc.diagnostics import SpeccError
from specc.ir.graph import Graph, Value
from specc.ir.text import parse_graph
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.passes.fusion import fuse
from specc.passes.halve import halve
from specc.passes.layout import layout
from specc.passes.rewrite import Journal
from specc.testing import check_pass


def groups(graph: Graph) -> list[list[str]]:
    members: dict[int, list[str]] = {}
    for identity in graph.live():
        node = graph.node(identity)
        if node.group is not None:
            members.setdefault(node.group, []).append(node.op)
    return list(members.values())


def net(*lines: str, source: str = "float32[1, 8, 4, 4]") -> Graph:
    weight = "param w: float32[8, 8, 1, 1] kaiming"
    return parse_graph("\n".join(["graph Net", f"input x: {source}", weight, *lines]))


def test_an_epilogue_joins_its_convolution() -> None:
    graph = net(
        "%0: float32[1, 8, 4, 4] = conv2d(x, @w)",
        "%1: float32[1, 8, 4, 4] = gelu(%0)",
        "%2: float32[1, 8, 4, 4] = add(%1, x)",
        "return %2",
    )
    check_pass(fuse, graph)
    assert groups(fuse(graph)) == [["conv2d", "gelu", "add"]]
    assert groups(fuse(graph, epilogues=False)) == [["conv2d"], ["gelu"], ["add"]]


def test_a_value_that_others_need_ends_a_group() -> None:
    graph = net(
        "%0: float32[1, 8, 4, 4] = conv2d(x, @w)",
        "%1: float32[1, 8, 4, 4] = gelu(%0)",
        "%2: float32[1, 8, 4, 4] = add(%1, %0)",
        "return %2",
    )
    assert groups(fuse(graph)) == [["conv2d"], ["gelu", "add"]]


def test_nothing_joins_one_of_several_results_that_are_needed() -> None:
    graph = parse_graph(
        """
        graph Net
        input x: float32[3, 8]
        %0: float32[3, 1], float32[3, 1] = var_mean(x) {axes=(1,); keep=True}
        %1: float32[3, 1] = relu(%0.1)
        %2: float32[3, 1] = softmax(%1)
        %3: float32[3, 1] = add(%0, %2)
        return %3
        """
    )
    check_pass(fuse, graph)
    assert groups(fuse(graph)) == [["var_mean"], ["relu"], ["softmax", "add"]]


TWO = """
graph Net
input x: float32[1, 32, {side}, {side}]
input y: float32[1, 48, {twice}, {twice}]
param w: float32[64, 32, 1, 1] kaiming
param v: float32[64, 48, 1, 1] kaiming
%0: float32[1, 64, {side}, {side}] = conv2d(x, @w)
%1: float32[1, 64, {side}, {side}] = conv2d(y, @v) {{stride=(2, 2)}}
%2: float32[1, 64, {side}, {side}] = add(%0, %1)
%3: float32[1, 64, {side}, {side}] = relu(%2)
return %3{also}
"""


def two(side: int = 8, also: str = "", dtype: str = "") -> Graph:
    graph = parse_graph(TWO.format(side=side, twice=2 * side, also=also))
    return layout(halve(graph, dtype) if dtype else graph, 16)


def test_the_terms_of_a_sum_join_where_both_are_1x1_convolutions() -> None:
    graph = two()
    check_pass(lambda each: fuse(layout(each, 16), cache=1 << 20), graph)
    assert ["conv2d", "conv2d", "add", "relu"] in [
        [op for op in each if op != "convert_layout"] for each in groups(fuse(graph, cache=1 << 20))
    ]


@pytest.mark.parametrize(
    ("graph", "cache", "reason"),
    [
        (two(side=2), 1 << 20, "are little beside"),
        (two(), 0, "no kernel takes"),
        (two(dtype="float16"), 1 << 20, "float16"),
    ],
    ids=["weights", "gpu", "float16"],
)
def test_why_the_terms_of_a_sum_are_two_kernels(graph: Graph, cache: int, reason: str) -> None:
    journal = Journal()
    fused = fuse(graph, cache=cache, journal=journal)
    assert all(members.count("conv2d") < 2 for members in groups(fused))
    assert any(reason in (event.reason or "") for event in journal.events if event.rule.startswith("sum of 1x1"))


def test_a_term_that_others_need_is_a_kernel_of_its_own() -> None:
    fused = fuse(two(also=", %1"), cache=1 << 20)
    assert all(members.count("conv2d") < 2 for members in groups(fused))


def test_a_sum_joins_the_branch_that_is_computed_last() -> None:
    graph = net(
        "%0: float32[1, 8, 4, 4] = conv2d(x, @w)",
        "%1: float32[1, 8, 4, 4] = relu(x)",
        "%2: float32[1, 8, 4, 4] = conv2d(%1, @w)",
        "%3: float32[1, 8, 4, 4] = add(%0, %2)",
        "return %3",
    )
    check_pass(fuse, graph)
    assert groups(fuse(graph)) == [["conv2d"], ["relu"], ["conv2d", "add"]]


def test_a_broadcast_result_does_not_join_the_small_operand() -> None:
    graph = net(
        "%0: float32[1, 8, 1, 1] = mean(x) {axes=(2, 3); keep=True}",
        "%1: float32[1, 8, 1, 1] = sigmoid(%0)",
        "%2: float32[1, 8, 4, 4] = mul(x, %1)",
        "return %2",
    )
    check_pass(fuse, graph)
    assert groups(fuse(graph)) == [["mean", "sigmoid"], ["mul"]]


def test_squeeze_excite_is_one_kernel_up_to_its_gate() -> None:
    graph = net(
        "%0: float32[1, 8, 1, 1] = mean(x) {axes=(2, 3); keep=True}",
        "%1: float32[1, 8, 1, 1] = conv2d(%0, @w)",
        "%2: float32[1, 8, 1, 1] = relu(%1)",
        "%3: float32[1, 8, 1, 1] = conv2d(%2, @w)",
        "%4: float32[1, 8, 1, 1] = sigmoid(%3)",
        "%5: float32[1, 8, 4, 4] = mul(x, %4)",
        "return %5",
    )
    check_pass(fuse, graph)
    assert groups(fuse(graph)) == [["mean", "conv2d", "relu", "conv2d", "sigmoid"], ["mul"]]


def test_a_conversion_joins_what_can_write_elsewhere() -> None:
    for made, joins in (("conv2d(x, @w)", True), ("tanh(x)", True), ("softmax(x)", False)):
        graph = net(
            f"%0: float32[1, 8, 4, 4] = {made}",
            "%1: float32@NCHW8c[1, 8, 4, 4] = convert_layout(%0) {layout='NCHW8c'}",
            "%2: float32[1, 8, 4, 4] = convert_layout(%1) {layout=''}",
            "return %2",
        )
        check_pass(fuse, graph)
        op = made.partition("(")[0]
        assert groups(fuse(graph))[0] == ([op, "convert_layout"] if joins else [op])


def test_a_view_has_no_kernel() -> None:
    graph = net(
        "%0: float32[1, 8, 4, 4] = relu(x)",
        "%1: float32[1, 128] = reshape(%0) {shape=(1, 128)}",
        "%2: float32[1, 128] = tanh(%1)",
        "return %2",
    )
    assert groups(fuse(graph)) == [["relu"], ["tanh"]]


def test_the_verifier_refuses_a_group_that_is_left_and_entered_again() -> None:
    graph = net(
        "%0: float32[1, 8, 4, 4] = relu(x) group 0",
        "%1: float32[1, 8, 4, 4] = tanh(%0) group 1",
        "%2: float32[1, 8, 4, 4] = add(%0, %1) group 0",
        "return %2",
    )
    with pytest.raises(SpeccError, match="groups 0, 1 are not convex"):
        verify(graph)


@pytest.mark.parametrize(
    ("op", "together"),
    [("exp", 2), ("erf", 2), ("sigmoid", 2), ("tanh", 2), ("silu", 2), ("gelu", 2), ("hard_swish", 8), ("relu", 65)],
)
def test_a_group_ends_where_its_expression_would_become_too_long(op: str, together: int) -> None:
    """An operator that names its operand k times makes an expression of k ** n names out of n in a row."""
    graph = net()
    value = Value(graph.inputs[0])
    for _ in range(2 * together):
        value = graph.apply(op, [value])
    graph.outputs = [value]
    assert [len(group) for group in groups(fuse(graph))] == [together, together]


def test_long_chains_compile() -> None:
    """Without that limit, four of these in a row take TVM most of a minute, and eight do not end."""
    graph = net()
    value = Value(graph.inputs[0])
    for op in ("tanh", "silu", "gelu", "sigmoid", "hard_swish", "tanh", "exp", "silu"):
        value = graph.apply(op, [value])
    graph.outputs = [value]
    assert max(specc.compile(graph).self_test()) < 1e-5


def told(graph: Graph) -> list[tuple[str, str | None, int | None]]:
    journal = Journal()
    fuse(graph, journal=journal)
    return [(event.rule, event.reason, event.bytes) for event in journal.events]


PICTURE = 4 * 8 * 4 * 4
"""The bytes of float32[1, 8, 4, 4]."""


def test_every_group_and_every_refusal_has_its_bytes_and_reason() -> None:
    graph = net(
        "%0: float32[1, 8, 4, 4] = conv2d(x, @w)",
        "%1: float32[1, 8, 4, 4] = gelu(%0)",
        "%2: float32[1, 8, 4, 4] = add(%1, %0)",
        "return %2",
    )
    used = "what `conv2d` makes is used 2 times, and a kernel keeps what it goes on with"
    assert told(graph) == [
        ("epilogue of conv2d", used, 2 * PICTURE),
        ("epilogue of conv2d", used, 2 * PICTURE),
        ("epilogue of gelu", None, 2 * PICTURE),
    ]


def test_of_two_places_the_later_one_is_taken() -> None:
    graph = net(
        "%0: float32[1, 8, 4, 4] = conv2d(x, @w)",
        "%1: float32[1, 8, 4, 4] = max_pool2d(x) {k=(1, 1); stride=(1, 1); padding=(0, 0, 0, 0)}",
        "%2: float32[1, 8, 4, 4] = add(%0, %1)",
        "return %2",
    )
    assert told(graph) == [
        ("epilogue of conv2d", "it stands behind `max_pool2d`, which is computed later", 2 * PICTURE),
        ("epilogue of max_pool2d", None, 2 * PICTURE),
    ]


def test_shapes_and_zero_copy_are_reasons() -> None:
    graph = net(
        "%0: float32[1, 8, 1, 1] = mean(x) {axes=(2, 3); keep=True}",
        "%1: float32[1, 8, 4, 4] = mul(x, %0)",
        "%2: float32[1, 8, 4, 4] = conv2d(%1, @w)",
        "%3: float32[1, 8, 4, 4] = conv2d(x, @w)",
        "%4: float32[1, 16, 4, 4] = concat(%2, %3) {axis=1}",
        "%5: float32[1, 16, 4, 4] = relu(%4)",
        "return %5",
    )
    assert told(graph) == [
        ("epilogue of mean", "`mean` makes float32[1, 8, 1, 1], and this is float32[1, 8, 4, 4]", 2 * 4 * 8),
        (
            "epilogue of concat",
            "the operands of `concat` are written where it is read: it moves nothing",
            4 * PICTURE,
        ),
    ]
    check_pass(fuse, graph)
    assert groups(fuse(graph))[-2:] == [["concat"], ["relu"]]


def test_a_softmax_between_products_that_is_no_attention_is_told_why() -> None:
    graph = parse_graph(
        """
        graph Net
        input q: float32[2, 4, 4]
        input v: float32[2, 4, 4]
        %0: float32[2, 4, 4] = matmul(q, v)
        %1: float32[2, 4, 4] = softmax(%0) {axis=1}
        %2: float32[2, 4, 4] = matmul(%1, v)
        return %2
        """
    )
    assert told(graph) == [
        ("attention", "the softmax is not over the dimension that the second product sums over", None)
    ]


def expanded(act: str = "relu(%0)", deep: str = "groups=64; padding=(1, 1, 1, 1)", x: str = "8, 20, 20") -> Graph:
    channels, height, width = (int(extent) for extent in x.split(","))
    wide = f"float32[1, 64, {height}, {width}]"
    return parse_graph(
        f"""
        graph Net
        input x: float32[1, {x}]
        param w: float32[64, {channels}, 1, 1] kaiming
        param v: float32[64, 1, 3, 3] kaiming
        param b: float32[64] zeros
        %0: {wide} = conv2d(x, @w)
        %1: {wide} = {act}
        %2: {wide} = conv2d(%1, @v, @b) {{{deep}}}
        %3: {wide} = silu(%2)
        return %3
        """
    )


def test_a_depthwise_convolution_joins_its_expansion_where_a_cache_does_not_hold_what_is_between() -> None:
    graph = layout(expanded(), 8)
    wide = 64 * 20 * 20 * 4
    for cache, together in ((0, False), (wide * 4 // 3 + 1, False), (wide * 4 // 3, True)):
        check_pass(lambda each, cache=cache: fuse(each, cache=cache), graph)
        found = [group for group in groups(fuse(graph, cache=cache)) if "conv2d" in group]
        whole = ["conv2d", "relu", "conv2d", "silu"]
        assert [op for group in found for op in group if op != "convert_layout"] == whole
        assert len(found) == (1 if together else 2)


@pytest.mark.parametrize(
    ("act", "x", "cache", "reason"),
    [
        ("add(%0, x)", "64, 20, 20", 50_000, "or compute with more than weights"),
        ("relu(%0)", "8, 20, 20", 200_000, "MB in front of it stay in a cache"),
        ("relu(%0)", "8, 4, 40", 8_000, "the rows of a window take more than half"),
    ],
)
def test_why_a_depthwise_convolution_stays_alone(act: str, x: str, cache: int, reason: str) -> None:
    journal = Journal()
    graph = fuse(layout(expanded(act, x=x), 8), journal=journal, cache=cache)
    assert [group.count("conv2d") for group in groups(graph) if "conv2d" in group] == [1, 1]
    (event,) = [event for event in journal.events if event.rule.startswith("expansion of")]
    assert event.reason and reason in event.reason


def separable(act: str = "relu(%0)", outputs: int = 24, last: str = "", height: int = 6) -> Graph:
    """A depthwise convolution, `act`, and a 1x1 convolution with sigmoid behind it."""
    return parse_graph(
        f"""
        graph Net
        input x: float32[1, 8, {height}, 6]
        param v: float32[8, 1, 3, 3] kaiming
        param w: float32[{outputs}, 8, 1, 1] kaiming
        %0: float32[1, 8, {height}, 6] = conv2d(x, @v) {{groups=8; padding=(1, 1, 1, 1)}}
        %1: float32[1, 8, {height}, 6] = {act}
        %2: float32[1, {outputs}, {height}, 6] = conv2d(%1, @w)
        %3: float32[1, {outputs}, {height}, 6] = sigmoid(%2)
        {last or "return %3"}
        """
    )


BEHIND = """param u: float32[24, 1, 3, 3] kaiming
        %4: float32[1, 24, 38, 4] = conv2d(%3, @u) {groups=24}
        return %4"""


def test_a_1x1_convolution_joins_its_depthwise_one_where_a_cache_does_not_hold_what_they_move() -> None:
    graph = layout(separable(), 8)
    moved = (8 + 8 + 24) * 6 * 6 * 4
    for cache, together in ((0, False), (moved * 5 // 6, False), (moved * 5 // 6 - 1, True)):
        check_pass(lambda each, cache=cache: fuse(each, cache=cache), graph)
        found = [group for group in groups(fuse(graph, cache=cache)) if "conv2d" in group]
        whole = ["conv2d", "relu", "conv2d", "sigmoid"]
        assert [op for group in found for op in group if op != "convert_layout"] == whole
        assert len(found) == (1 if together else 2)


@pytest.mark.parametrize(
    ("given", "cache", "reason"),
    [
        ({}, 6_000, "the 0.00576 MB that they read, hand over and write stay in a cache of 0.006 MB"),
        ({"outputs": 32}, 2_000, "its weights and 4 rows take more than three quarters of a cache of 0.002 MB"),
        ({"last": "return %3, %1"}, 3_000, "what `relu` makes is used 2 times"),
        ({"act": "gelu(%0)"}, 3_000, "`gelu` takes as long as what one kernel would save"),
        ({"last": "%4: float32[1, 24, 6, 6] = gelu(%3)\n        return %4"}, 3_000, "`gelu` takes as long"),
        ({"last": BEHIND, "height": 40}, 15_000, "it joins the convolution behind it, which saves more"),
    ],
)
def test_why_a_1x1_convolution_stays_alone_on_a_processor(given: dict[str, Any], cache: int, reason: str) -> None:
    journal = Journal()
    fuse(layout(separable(**given), 8), journal=journal, cache=cache)
    found = [event.reason for event in journal.events if event.rule.startswith("depthwise-separable")]
    assert len(found) == 1 and found[0] and reason in found[0]


def excited(product: str = "mul(x, %1)", outputs: int = 8, last: str = "", height: int = 6) -> Graph:
    """A squeeze-excite, its `product` with the picture, and a 1x1 convolution of that with a residual."""
    return parse_graph(
        f"""
        graph Net
        input x: float32[1, 8, {height}, 6]
        input y: float32[1, {outputs}, {height}, 6]
        input u: float32[8, 8, 1, 1]
        param v: float32[8, 8, 1, 1] kaiming
        param w: float32[{outputs}, 8, 1, 1] kaiming
        %0: float32[1, 8, 1, 1] = mean(x) {{axes=(2, 3); keep=True}}
        %1: float32[1, 8, 1, 1] = sigmoid(%0)
        %2: float32[1, 8, {height}, 6] = {product}
        %3: float32[1, {outputs}, {height}, 6] = conv2d(%2, @w)
        %4: float32[1, {outputs}, {height}, 6] = add(%3, y)
        {last or "return %4"}
        """
    )


def test_a_1x1_convolution_joins_the_product_of_a_picture_and_scales() -> None:
    for product in ("mul(x, %1)", "mul(%1, x)"):
        graph, journal = layout(excited(product), 8), Journal()
        check_pass(lambda each: fuse(each, cache=1 << 20), graph)
        assert ["mul", "conv2d", "convert_layout", "add"] in groups(fuse(graph, journal=journal, cache=1 << 20))
        assert [e.reason for e in journal.events if e.rule == "scaled convolution of mul"] == [None]
        for none in ({"cache": 0}, {"blocks": True}):
            assert ["mul"] in groups(fuse(graph, **none))


def test_a_1x1_convolution_of_a_product_is_no_addend() -> None:
    last = "%5: float32[1, 8, 6, 6] = conv2d(x, @v)\n%6: float32[1, 8, 6, 6] = add(%3, %5)\nreturn %6"
    found = groups(fuse(layout(excited(last=last), 8), cache=1 << 20))
    assert ["mul", "conv2d"] in found


DEEP = """param t: float32[8, 1, 3, 3] kaiming
        %5: float32[1, 8, 38, 4] = conv2d(%3, @t) {groups=8}
        return %5"""


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"last": "%5: float32[1, 8, 6, 6] = conv2d(%2, @v)\nreturn %4, %5"}, "what `mul` makes is used 2 times"),
        ({"outputs": 19}, "weights of 19 outputs take as long to scale as 36 pixels"),
        ({"last": DEEP, "height": 40}, "it joins the depthwise convolution behind it"),
    ],
)
def test_why_a_1x1_convolution_stays_behind_its_product(given: dict[str, Any], reason: str) -> None:
    journal = Journal()
    fuse(layout(excited(**given), 8), journal=journal, cache=5_000)
    found = [event.reason for event in journal.events if event.rule == "scaled convolution of mul"]
    assert found and all(each and reason in each for each in found)


def test_a_mean_joins_the_depthwise_convolution_that_makes_the_picture() -> None:
    squeeze = "%6: float32[1, 8, 1, 1] = mean(%3) {axes=(2, 3); keep=True}"
    last = f"{squeeze}\n%7: float32[1, 8, 1, 1] = sigmoid(%6)\nreturn %5, %7"
    graph, journal = layout(inverted(last=last), 8), Journal()
    check_pass(lambda each: fuse(each, cache=10_000), graph)
    found = [
        [op for op in group if op != "convert_layout"] for group in groups(fuse(graph, journal=journal, cache=10_000))
    ]
    assert ["conv2d", "relu", "mean", "sigmoid"] in found
    assert [e.reason for e in journal.events if e.rule == "mean of relu"] == [None]
    for none in ({"cache": 0}, {"blocks": True}):
        assert not any("mean" in group and "conv2d" in group for group in groups(fuse(graph, **none)))


@pytest.mark.parametrize(
    ("last", "cache", "reason"),
    [
        ("return %5, %6", 11_520, "a picture of 0.00115 MB is read again in little time"),
        ("return %6", 10_000, "nobody else reads the picture"),
    ],
)
def test_why_a_mean_stays_alone(last: str, cache: int, reason: str) -> None:
    journal, mean = Journal(), "%6: float32[1, 8, 1, 1] = mean(%3) {axes=(2, 3); keep=True}"
    graph = layout(inverted(last=f"{mean}\n{last}"), 8)
    graph.prune()
    fuse(graph, journal=journal, cache=cache)
    assert [event.reason and reason in event.reason for event in journal.events if event.rule == "mean of relu"] == [
        True
    ]


def test_an_inverted_residual_is_one_group_where_a_cache_does_not_hold_what_is_between() -> None:
    graph = layout(inverted(sources=8, height=40), 8)
    check_pass(lambda each: fuse(each, cache=7_500), graph)
    found = [[op for op in group if op != "convert_layout"] for group in groups(fuse(graph, cache=7_500))]
    assert ["conv2d", "sigmoid", "conv2d", "relu", "conv2d", "add"] in found


def test_a_1x1_convolution_joins_its_depthwise_one_where_blocks_share_memory() -> None:
    graph = separable()
    check_pass(lambda each: fuse(each, blocks=True), graph)
    assert groups(fuse(graph, blocks=True)) == [["conv2d", "relu", "conv2d", "sigmoid"]]
    assert groups(fuse(graph)) == [["conv2d", "relu"], ["conv2d", "sigmoid"]]


def test_a_second_1x1_convolution_stays_alone() -> None:
    last = "param u: float32[8, 24, 1, 1] kaiming\n%4: float32[1, 8, 6, 6] = conv2d(%3, @u)\nreturn %4"
    graph, journal = separable(last=last), Journal()
    assert groups(fuse(graph, journal=journal, blocks=True)) == [["conv2d", "relu", "conv2d", "sigmoid"], ["conv2d"]]
    reasons = [e.reason for e in journal.events if e.rule.startswith("depthwise-separable")]
    assert reasons == [None]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"outputs": 257},
            "it has 257 outputs: with more than 256, the depthwise part would be computed several times",
        ),
        ({"last": "return %3, %1"}, "what `relu` makes is used 2 times, and a kernel keeps what it goes on with"),
    ],
)
def test_why_a_1x1_convolution_stays_alone(given: dict[str, Any], reason: str) -> None:
    journal = Journal()
    assert len(groups(fuse(separable(**given), journal=journal, blocks=True))) == 2
    assert [e.reason for e in journal.events if e.rule.startswith("depthwise-separable")] == [reason]


def inverted(
    between: str = "relu(%2)", sources: int = 4, kernel: int = 1, last: str = "return %5", height: int = 6
) -> Graph:
    """An inverted residual: an expansion, a depthwise convolution, `between`, a projection."""
    window = "{padding=(1, 1, 1, 1)}" if kernel == 3 else ""
    return parse_graph(
        f"""
        graph Net
        input x: float32[1, {sources}, {height}, 6]
        param u: float32[8, {sources}, {kernel}, {kernel}] kaiming
        param v: float32[8, 1, 3, 3] kaiming
        param w: float32[{sources}, 8, 1, 1] kaiming
        %0: float32[1, 8, {height}, 6] = conv2d(x, @u) {window}
        %1: float32[1, 8, {height}, 6] = sigmoid(%0)
        %2: float32[1, 8, {height}, 6] = conv2d(%1, @v) {{groups=8; padding=(1, 1, 1, 1)}}
        %3: float32[1, 8, {height}, 6] = {between}
        %4: float32[1, {sources}, {height}, 6] = conv2d(%3, @w)
        %5: float32[1, {sources}, {height}, 6] = add(%4, x)
        {last}
        """
    )


def test_an_inverted_residual_is_one_group_where_blocks_share_memory() -> None:
    graph, journal = inverted(), Journal()
    check_pass(lambda each: fuse(each, blocks=True), graph)
    whole = ["conv2d", "sigmoid", "conv2d", "relu", "conv2d", "add"]
    assert groups(fuse(graph, journal=journal, blocks=True)) == [whole]
    fired = [event.rule for event in journal.events if event.fired]
    assert fired[1] == "expansion of sigmoid" and fired[3] == "depthwise-separable convolution of relu"


def test_an_expansion_and_its_depthwise_convolution_are_one_group_where_others_read_what_they_make() -> None:
    """As squeeze-excite does."""
    graph = inverted(last="%6: float32[1, 8, 1, 1] = mean(%3) {axes=(2, 3); keep=True}\nreturn %5, %6")
    found = groups(fuse(graph, blocks=True))
    assert ["conv2d", "sigmoid", "conv2d", "relu"] in found and ["conv2d", "add"] in found


def test_a_second_depthwise_convolution_begins_another_group() -> None:
    last = "%6: float32[1, 4, 6, 6] = conv2d(%5, @t) {groups=4; padding=(1, 1, 1, 1)}\nreturn %6"
    graph, journal = inverted(last=f"param t: float32[4, 1, 3, 3] kaiming\n{last}"), Journal()
    assert [group.count("conv2d") for group in groups(fuse(graph, journal=journal, blocks=True))] == [3, 1]
    reasons = [event.reason for event in journal.events if event.rule == "expansion of add"]
    assert reasons == ["there are several convolutions in front of it already"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"kernel": 3}, "the convolution in front of it has a window, strides, padding or groups"),
        ({"sources": 260}, "a block of threads holds up to 256 channels of its pixels, and the first one reads 260"),
        ({"last": "return %5, %1"}, "what `sigmoid` makes is used 2 times, and a kernel keeps what it goes on with"),
    ],
)
def test_why_an_expansion_stays_alone_where_blocks_share_memory(given: dict[str, Any], reason: str) -> None:
    journal = Journal()
    fuse(inverted(**given), journal=journal, blocks=True)
    assert [e.reason for e in journal.events if e.rule == "expansion of sigmoid"] == [reason]


def test_slices_join_the_permute_that_they_alone_read() -> None:
    def groups(twice: bool) -> list[str]:
        graph = Graph("Shuffle")
        x = graph.input("x", TensorType((1, 8, 4, 5)))
        apart = graph.apply("reshape", [graph.apply("sigmoid", [x])], {"shape": (1, 2, 2, 2, 4, 5)})
        moved = graph.apply("permute", [apart], {"order": (0, 1, 4, 2, 5, 3)})
        y = graph.apply("reshape", [moved], {"shape": (1, 2, 8, 10)})
        for axis in (2, 3):
            y = graph.apply("slice", [y], {"axis": axis, "start": 1, "stop": 7, "step": 1})
        y = graph.apply("reshape", [graph.apply("relu", [y])], {"shape": (2, 36)})
        graph.outputs = [y, moved] if twice else [y]
        fused = fuse(graph)
        named: dict[int, list[str]] = {}
        for identity in fused.order():
            node = fused.node(identity)
            if node.group is not None:
                named.setdefault(node.group, []).append(node.op)
        return [" ".join(ops) for ops in named.values()]

    assert groups(twice=False) == ["sigmoid", "permute reshape slice slice relu"]
    assert groups(twice=True) == ["sigmoid", "permute", "slice", "slice relu"]


def perceptron(between: str = "gelu(%0)", wide: int = 64, last: str = "return %3") -> Graph:
    """Two 1x1 convolutions with a residual."""
    return parse_graph(
        f"""
        graph Net
        input x: float32[1, 16, 10, 8]
        param w: float32[{wide}, 16, 1, 1] kaiming
        param u: float32[16, {wide}, 1, 1] kaiming
        %0: float32[1, {wide}, 10, 8] = conv2d(x, @w)
        %1: float32[1, {wide}, 10, 8] = {between}
        %2: float32[1, 16, 10, 8] = conv2d(%1, @u)
        %3: float32[1, 16, 10, 8] = add(%2, x)
        {last}
        """
    )


def test_a_perceptron_is_one_group_where_a_cache_holds_its_weights_and_not_what_it_moves() -> None:
    graph = layout(perceptron(wide=24), 8)
    moved, held = (16 + 24 + 16) * 80 * 4, (16 + 16 + 64) * 24 * 4
    for cache, together in ((4 * held // 3, True), (4 * held // 3 - 1, False), (moved - 1, True), (moved, False)):
        check_pass(lambda each, cache=cache: fuse(each, cache=cache), graph)
        found = [group for group in groups(fuse(graph, cache=cache)) if "conv2d" in group]
        whole = ["conv2d", "gelu", "conv2d", "add"]
        assert [op for group in found for op in group if op != "convert_layout"] == whole
        assert len(found) == (1 if together else 2)


@pytest.mark.parametrize(
    ("given", "cache", "reason"),
    [
        ({}, 40_000, "the 0.0307 MB that they read, hand over and write stay in a cache of 0.04 MB"),
        ({}, 30_000, "their weights and a strip take more than three quarters of a cache of 0.03 MB"),
        ({"last": "return %3, %1"}, 15_000, "what `gelu` makes is used 2 times"),
        ({"wide": 8}, 5_000, "the 8 channels between them are fewer than what they read or write"),
    ],
)
def test_why_two_1x1_convolutions_stay_two(given: dict[str, Any], cache: int, reason: str) -> None:
    journal = Journal()
    fuse(layout(perceptron(**given), 8), journal=journal, cache=cache)
    found = [event.reason for event in journal.events if event.rule.startswith("perceptron")]
    assert len(found) == 1 and found[0] and reason in found[0]


def layers(norm: str = "layer_norm(x)", wide: int = 24, last: str = "return %4", between: str = "gelu(%1)") -> Graph:
    """A norm, two linear layers, and a residual."""
    return parse_graph(
        f"""
        graph Net
        input x: float32[1, 80, 16]
        param w: float32[{wide}, 16] kaiming
        param u: float32[16, {wide}] kaiming
        %0: float32[1, 80, 16] = {norm}
        %1: float32[1, 80, {wide}] = linear(%0, @w)
        %2: float32[1, 80, {wide}] = {between}
        %3: float32[1, 80, 16] = linear(%2, @u)
        %4: float32[1, 80, 16] = add(%3, x)
        {last}
        """
    )


def test_linear_layers_are_one_group_with_their_norm_as_1x1_convolutions_are() -> None:
    moved, held = (16 + 24 + 16) * 80 * 4, (16 + 16 + 64) * 24 * 4
    behind = ["linear", "gelu", "linear", "add"]
    for cache, together in ((4 * held // 3, True), (4 * held // 3 - 1, False), (moved - 1, True), (moved, False)):
        found = groups(fuse(layers(), cache=cache))
        assert found == ([["layer_norm", *behind]] if together else [["layer_norm"], behind[:2], behind[2:]])
    check_pass(lambda each: fuse(each, cache=15_000), layers())
    assert groups(fuse(layers("rms_norm(x)"), cache=15_000)) == [["rms_norm", *behind]]
    for norm in ("softmax(x)", "layer_norm(x) {axis=1}", "relu(x)"):
        assert groups(fuse(layers(norm), cache=15_000)) == [[norm.partition("(")[0]], behind]
    assert groups(fuse(layers(last="return %4, %0"), cache=15_000)) == [["layer_norm"], behind]
    assert len(groups(fuse(layers()))) == 3, "kernels that do not go by a cache, as those of a GPU"


@pytest.mark.parametrize(
    ("given", "cache", "reason"),
    [
        ({}, 40_000, "the 0.0179 MB that they read, hand over and write stay in a cache of 0.04 MB"),
        ({}, 10_000, "their weights and a strip take more than three quarters of a cache of 0.01 MB"),
        ({"last": "return %4, %2"}, 15_000, "what `gelu` makes is used 2 times"),
        ({"wide": 8}, 5_000, "the 8 channels between them are fewer than what they read or write"),
    ],
)
def test_why_two_linear_layers_stay_two(given: dict[str, Any], cache: int, reason: str) -> None:
    journal = Journal()
    assert len(groups(fuse(layers(**given), journal=journal, cache=cache))) == 3
    found = [event.reason for event in journal.events if event.rule.startswith("perceptron")]
    assert len(found) == 1 and found[0] and reason in found[0]


def test_linear_layers_in_16_bits_stay_two() -> None:
    journal = Journal()
    fuse(halve(layers(wide=128), "bfloat16"), journal=journal, cache=15_000)
    found = [event.reason for event in journal.events if event.rule.startswith("perceptron")]
    assert found == ["they compute with bfloat16 and float32"]


def test_a_perceptron_s_first_convolution_stays_apart_from_a_depthwise_one_in_front_of_it() -> None:
    last = "param u: float32[8, 24, 1, 1] kaiming\n%4: float32[1, 8, 40, 6] = conv2d(%3, @u)\nreturn %4"
    graph = fuse(layout(separable(last=last, height=40), 8), cache=15_000)
    found = [[op for op in group if op != "convert_layout"] for group in groups(graph)]
    assert ["conv2d", "sigmoid", "conv2d"] in found and ["conv2d", "relu"] in found
