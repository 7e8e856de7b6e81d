"""Constructs at work: variadic and optional tensors, open arguments, blocks in lists, slices, nested comprehensions."""

from __future__ import annotations

import pytest

from specc import grammar
from specc.diagnostics import SpeccError
from specc.ir.graph import Graph
from specc.ir.verify import verify


def network(body: str, blocks: str = "", parameters: str = "") -> Graph:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    text = f"specc 1\n{blocks}\nnetwork N(x: [n = 1, 8]{parameters}) -> [n, _]:\n{lines}\n"
    graph = grammar.loads(text)
    verify(graph)
    return graph


def shape_of(body: str, blocks: str = "", parameters: str = "") -> str:
    graph = network(body, blocks, parameters)
    return str(graph.type(graph.outputs[0]))


JOIN = "block Join(*xs: [n, _], times: int = 1) -> [n, _]:\n    return concat(*(xs * times), axis=1)\n"


@pytest.mark.parametrize(
    ("call", "width"),
    [
        ("Join(x)", 8),
        ("Join(x, x, times=2)", 32),
        ("Join(*[x, x, x])", 24),
        ("Join(x, *chunk(x, 2), x)", 24),
        ("x |> Join(relu(x))", 16),
    ],
)
def test_a_block_takes_any_number_of_tensors(call: str, width: int) -> None:
    assert shape_of(f"return {call}", JOIN) == f"float32[n, {width}]"


def test_a_list_is_returned_and_unpacked() -> None:
    blocks = "block Halves(x: [n, c]) -> *[n, _]:\n    return chunk(x, 2)\n"
    body = "a, b = Halves(x)\nc = [part for part in Halves(a)]\nreturn concat(a, b, *c)"
    assert shape_of(body, blocks) == "float32[n, 12]"


def test_weights_of_variadic_branches_have_the_names_of_their_list() -> None:
    blocks = (
        "block Fuse(*xs: [n, c]) -> [n, c]:\n    for i, x in enumerate(xs):\n        w[i] = linear(x, c)\n"
        "    return sum(w)\n"
    )
    graph = network("fuse = Fuse(x, relu(x), x)\nreturn fuse", blocks)
    assert [key for key in graph.parameters if "weight" in key] == [f"fuse.w.{i}.weight" for i in range(3)]


MASKED = (
    "block Masked(x: [n, c], mask: [n, c]? = none) -> [n, c]:\n"
    "    if mask == none:\n        return relu(x)\n    return x * mask\n"
)


@pytest.mark.parametrize(
    ("call", "operator"),
    [("Masked(x)", "relu"), ("Masked(x, none)", "relu"), ("Masked(x, mask=x)", "mul"), ("Masked(x, x)", "mul")],
)
def test_an_optional_tensor_is_there_or_none(call: str, operator: str) -> None:
    graph = network(f"return {call}", MASKED)
    assert graph.op(graph.outputs[0]) == operator


def test_an_optional_tensor_goes_on_to_another_block() -> None:
    blocks = MASKED + "block Outer(x: [n, c], mask: [n, c]? = none) -> [n, c]:\n    return Masked(x, mask)\n"
    graph = network("return Outer(x) + Outer(x, x)", blocks)
    assert (graph.count("relu"), graph.count("mul")) == (1, 1)


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("return leaky_relu(_, slope=0.5)(x)", ["leaky_relu"]),
        ("act = leaky_relu(_, slope=0.5)\nreturn x |> act", ["leaky_relu"]),
        ("join = concat(x, _)\nreturn join(relu(x))", ["relu", "concat"]),
        ("return relu(x) |> concat(x, _)", ["relu", "concat"]),
        ("return (concat(_, _))(x, relu(x), x)", ["relu", "concat"]),
        ("acts = [relu, tanh]\nreturn x |> acts[1] |> acts[0]", ["tanh", "relu"]),
        ("acts = [relu, tanh]\nreturn acts[len(acts) - 1](x)", ["tanh"]),
    ],
)
def test_blocks_are_values(body: str, operators: list[str]) -> None:
    graph = network(body)
    assert [graph.node(i).op for i in graph.order() if graph.node(i).op != "input"] == operators


def test_an_open_call_is_named_where_it_is_completed() -> None:
    graph = network("make = linear(_, 4, bias=false)\na = make(x)\nb = make(x)\nreturn a + b")
    assert list(graph.parameters) == ["a.weight", "b.weight"]


def test_a_block_takes_blocks_in_a_list() -> None:
    blocks = "block All(x: [n, c], parts: list[block]) -> [n, c]:\n    return sum([part(x) for part in parts])\n"
    assert network("return All(x, [relu, leaky_relu(_, 0.1), tanh])", blocks).count("add") == 2


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("[1, 2, 3][1:]", "[2, 3]"),
        ("[1, 2, 3][:-1]", "[1, 2]"),
        ("reversed([1, 2, 3])", "[3, 2, 1]"),
        ("[1, 2, 3][5:]", "[]"),
        ("[i * j for i in [1, 2] for j in [10, 20]]", "[10, 20, 20, 40]"),
        ("[j for i in range(4) if i % 2 == 1 for j in range(i)]", "[0, 0, 1, 2]"),
        ("[1, 2, 3][-1]", "3"),
        ("3 not in [1, 2]", "true"),
        ("not 3 in [1, 2]", "true"),
        ("(1 < 2) == true", "true"),
        ("all([])", "true"),
        ("any([false, true])", "true"),
        ("log2(8)", "3.0"),
        ("shape(x)", "[n, 8]"),
        ("shape(x)[1] // 2", "4"),
    ],
)
def test_values(expression: str, value: str) -> None:
    with pytest.raises(SpeccError) as caught:
        network(f'require false, "{{{expression}}}"\nreturn x')
    assert caught.value.diagnostics[0].message == value


def test_members_are_counted_from_the_end() -> None:
    graph = network("for i in range(3):\n    y[i] = linear(x, 4 + i)\nreturn concat(y[-1], y[-3])")
    assert str(graph.type(graph.outputs[0])) == "float32[n, 10]"
    with pytest.raises(SpeccError, match="there is no element -4; there are 0, 1, 2"):
        network("for i in range(3):\n    y[i] = linear(x, 4 + i)\nreturn y[-4]")


def test_defaults_use_what_stands_before_them() -> None:
    blocks = (
        "block F(x: [n, c], wide: int = 2 * c, out: int = wide + 1) -> [n, out]:\n"
        "    y = linear(x, out)\n    return y\n"
    )
    assert shape_of("f = F(x)\nreturn f", blocks) == "float32[n, 17]"
    assert shape_of("f = F(x, 3)\nreturn f", blocks) == "float32[n, 4]"


def test_a_union_takes_either() -> None:
    blocks = "block F(x: [n, c], k: int | tuple[int, int]) -> [n, _]:\n    return concat(x, x) if k == 3 else x\n"
    assert shape_of("return F(x, 3)", blocks) == "float32[n, 16]"
    assert shape_of("return F(x, (1, 2))", blocks) == "float32[n, 8]"
