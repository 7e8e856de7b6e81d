"""What specs mean: names that are keys, pipes, dimensions, compile-time values, variants."""

from __future__ import annotations

from pathlib import Path

import pytest

from specc import grammar
from specc.diagnostics import SpeccError
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.ir.text import print_graph
from specc.ir.verify import verify


def graph(body: str, result: str = "", parameters: str = "", blocks: str = "") -> Graph:
    """The graph of a network with that body over `x: [n = 1, 3, h = 8, w = 8]`."""
    lines = "\n".join(f"    {line}" for line in body.strip("\n").split("\n"))
    arrow = f" -> {result}" if result else ""
    text = f"specc 1\n{blocks}\nnetwork N(x: [n = 1, 3, h = 8, w = 8]{parameters}){arrow}:\n{lines}\n"
    made = grammar.loads(text)
    verify(made)
    return made


def keys(body: str, **more: str) -> list[str]:
    """The keys of the trained weights and biases, in order."""
    return list(graph(body, **more).parameters)


def codes(body: str, **more: str) -> list[str]:
    """The codes of what is wrong."""
    with pytest.raises(SpeccError) as caught:
        graph(body, **more)
    return [diagnostic.code for diagnostic in caught.value.diagnostics]


BLOCK = """
block Conv(x: [n, c, h, w], out: int) -> [n, out, h, w]:
    c1 = conv2d(x, out, bias=false)
    return c1

block Bare(x: [n, c, h, w], out: int) -> [n, out, h, w]:
    return conv2d(x, out, bias=false)

block Same(x: [n, c, h, w]) -> [n, c, h, w]:
    return relu(x)
"""


def test_several_results_of_an_operator() -> None:
    made = graph("v, m = var_mean(x, [2, 3], keep=true)\nreturn (x - m) * rsqrt(v + 1e-5)")
    assert made.count("var_mean") == 1
    first = graph("both = var_mean(x, [1])\nreturn both[1], both[0]")
    assert [value.result for value in first.outputs] == [1, 0]
    assert codes("y = var_mean(x, [1])\nreturn relu(y)") == ["S0402"]


# ---- names are keys


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = conv2d(x, 4, bias=false)\nreturn y", ["y.weight"]),
        ("y = Conv(x, 4)\nreturn y", ["y.c1.weight"]),
        ("y = Bare(x, 4)\nreturn y", ["y.weight"]),
        ("return Conv(x, 4)", ["c1.weight"]),
        ("y[2] = Conv(x, 4)\nreturn y[2]", ["y.2.c1.weight"]),
        ("y[1][0] = Bare(x, 4)\nreturn y[1][0]", ["y.1.0.weight"]),
        ('y["p3"] = Bare(x, 4)\nreturn y["p3"]', ["y.p3.weight"]),
        ("y = x |> conv2d(4, bias=false) |> relu |> Bare(5)\nreturn y", ["y.0.weight", "y.2.weight"]),
        ("return x |> Bare(4) |> relu |> Conv(5)", ["0.weight", "2.c1.weight"]),
        ("y = [Bare(x, 4), Conv(x, 4)]\nreturn sum(y)", ["y.0.weight", "y.1.c1.weight"]),
        ("y = [Bare(x, 4) for i in range(3) if i != 1]\nreturn sum(y)", ["y.0.weight", "y.1.weight"]),
        ("y = [x |> Bare(4) |> Bare(5)]\nreturn y[0]", ["y.0.0.weight", "y.0.1.weight"]),
        ("y = x + Bare(x, 3)\nreturn y", ["y.weight"]),
        ("y = -Bare(x, 3) * 2\nreturn y", ["y.weight"]),
        ("y = Bare(x, 3) if true else Conv(x, 3)\nreturn y", ["y.weight"]),
        ("y = Bare(Same(relu(x)), 3)\nreturn y", ["y.weight"]),
        ("return x + Bare(x, 3)", ["weight"]),
    ],
)
def test_the_name_on_the_left_is_the_key(body: str, expected: list[str]) -> None:
    assert keys(body, blocks=BLOCK) == expected


@pytest.mark.parametrize(
    "body",
    [
        "y = relu(Bare(x, 4))\nreturn y",
        "y = Bare(x, 3) + Bare(x, 3)\nreturn y",
        "y, z = [Bare(x, 3), x]\nreturn y",
        "y = Bare(x, 4) |> relu\nreturn y",
    ],
)
def test_a_call_with_weights_needs_a_name(body: str) -> None:
    assert codes(body, blocks=BLOCK) == ["S0205"]


def test_operators_keep_their_place_and_their_scope() -> None:
    made = graph("y = relu(x)\nz = y * 2\nreturn z")
    nodes = {made.node(i).op: made.node(i) for i in made.order()}
    assert (nodes["relu"].path, nodes["mul"].path) == ("y", "z")
    assert nodes["relu"].span is not None and (nodes["relu"].span.line, nodes["relu"].span.column) == (4, 9)


def test_a_key_is_taken_once_also_by_training_state() -> None:
    assert codes("y = batch_norm(x)\ny = batch_norm(y)\nreturn y") == ["S0206"]
    state = "y = conv2d(x, 3, bias=false)\nreturn y"
    assert "y.num_batches_tracked" not in graph(state).checkpoint


def test_a_name_that_is_an_operator_stays_callable() -> None:
    assert keys("softmax = softmax(x)\nreturn softmax(softmax)") == []


# ---- dimensions


def test_symbols_and_defaults_of_the_inputs() -> None:
    made = graph("return max_pool2d(x, 2)", "[n, 3, h // 2, w // 2]")
    assert made.defaults == {"n": 1, "h": 8, "w": 8}
    (output,) = made.outputs
    assert str(made.type(output)) == "float32[n, 3, h//2, w//2]"
    assert specialize(made).type(output).shape == (1, 3, 4, 4)


def test_parameters_may_be_dimensions_of_an_input() -> None:
    head = "network N(x: [n, channels, 2 * channels], channels: int = 4) -> [n, channels, 2 * channels]:"
    made = grammar.loads(f"specc 1\n{head}\n    return relu(x)\n")
    assert str(made.type(made.outputs[0])) == "float32[n, 4, 8]"


def test_dimensions_are_compile_time_values() -> None:
    block = """
block Wide(x: [n, c, h, w], expand: int = 2, out: int = c * expand) -> [n, c * expand, h, w]:
    require out == expand * c
    y = conv2d(x, out)
    return y
"""
    made = graph("y = Wide(x, expand=4)\nreturn y", blocks=block)
    assert made.parameters["y.y.weight"].shape == (12, 3, 1, 1)


def test_equal_expressions_of_dimensions_agree() -> None:
    made = graph(
        "y = conv2d(x, 3, k=3, s=2)\nz = conv2d(x, 3, s=2)\nreturn y + z",
        "[n, 3, (h - 1) // 2 + 1, (2 * w - w - 1) // 2 + 1]",
    )
    assert made.count("add") == 1


def test_what_is_known_of_symbolic_dimensions_decides() -> None:
    assert keys("if h + 1 > h and h * 2 == h + h:\n    y = conv2d(x, 3, bias=false)\nreturn y") == ["y.weight"]
    assert codes("if h == w:\n    x = relu(x)\nreturn x") == ["S0405"]


# ---- compile-time values


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4 - 1", 13),
        ("7 // 2 + 7 % 2", 4),
        ("2 ** 3 ** 1", 8),
        ("-2 ** 2", -4),
        ("8.8M // 1M", 8),
        ("int(7 / 2)", 3),
        ("ceil(7 / 2) + floor(7 / 2)", 7),
        ("abs(-4) + max(1, 2, 3) + min([4, 5])", 11),
        ("int(log2(512)) + ceil(log2(5))", 12),
        ("int(sqrt(144) * 4) + floor(exp(log(7)) + 0.5)", 55),
        ('len("layer" + str(10))', 7),
        ("sum([1, 2, 3]) + len([1, 2] * 2 + [3])", 11),
        ("sum([i * j for i, j in zip([1, 2], [3, 4])])", 11),
        ("sum([i for i in range(10) if i % 2 == 0])", 20),
        ("sum(range(1, 10, 3)) + range(5)[-1]", 16),
        ('sum([i * len(name) for i, name in enumerate(["a", "bb"], 1)])', 5),
        ("reversed([1, 2])[0]", 2),
        ("round_channels(30)", 32),
        ("round_channels(10 * 1.0)", 16),
        ("round_channels(17, 8, 0.0)", 16),
        ('1 if "a" + "b" == "ab" else 0', 1),
        ("1 if 3 in [1, 2, 3] and not 4 in [1, 2] else 0", 1),
        ("1 if [1, 2] == (1, 2) and none == none and 1 != true else 0", 1),
        ("1 if false and 1 / 0 == 1 else 2", 2),
        ("1 if true or 1 / 0 == 1 else 2", 1),
        ("[[1, 2], [3, 4]][1][0]", 3),
        ('1 if "abc" < "abd" else 0', 1),
    ],
)
def test_compile_time_arithmetic(expression: str, value: int) -> None:
    graph(f"k = {expression}\nrequire k == {value}\nreturn x")
    assert codes(f"k = {expression}\nrequire k != {value}\nreturn x") == ["S0501"]


def test_messages_are_interpolated() -> None:
    with pytest.raises(SpeccError) as caught:
        graph('a = [1, 2]\nb = "p"\nrequire len(a) == 3, "{len(a)} of {a} in {b} {{h}}: {h // 2}"\nreturn x')
    assert caught.value.diagnostics[0].message == "2 of [1, 2] in p {h}: h//2"


def test_numbers_beside_tensors_become_constants() -> None:
    made = graph("return 1 - x * 0.5")
    assert [made.node(i).attrs["value"] for i in made.order() if made.node(i).op == "constant"] == [1.0, 0.5]


def test_blocks_and_operators_are_values() -> None:
    block = (
        BLOCK
        + """
block Apply(x: [n, c, h, w], act: block, layer: block) -> [n, c, h, w]:
    inner = layer(x, c)
    return act(inner)
"""
    )
    made = graph("y = Apply(x, silu, layer=Conv)\nreturn y", blocks=block)
    assert list(made.parameters) == ["y.inner.c1.weight"] and made.count("silu") == 1


def test_results_in_a_tuple() -> None:
    block = """
block Two(x: [n, c, h, w]) -> ([n, c, h, w], [n, c]):
    y = conv2d(x, c, bias=false)
    return y, global_avg_pool(y)
"""
    made = graph("pair = Two(x)\na, b = pair\nreturn a * 2, b", "([n, 3, h, w], [n, 3])", blocks=block)
    assert [made.type(output).rank for output in made.outputs] == [4, 2]
    assert list(made.parameters) == ["pair.y.weight"]


def test_optional_parameters() -> None:
    block = """
block Maybe(x: [n, c, h, w], out: int? = none) -> [n, _, h, w]:
    if out == none:
        return x
    y = conv2d(x, out)
    return y
"""
    assert graph("y = Maybe(x)\nreturn y", blocks=block).parameters == {}
    assert "y.y.weight" in graph("y = Maybe(x, 5)\nreturn y", blocks=block).parameters


def test_several_tensors_go_into_a_variadic_operator() -> None:
    made = graph("ys[0] = relu(x)\nys[1] = silu(x)\nreturn concat(ys, x, [x, x], axis=1)")
    assert made.type(made.outputs[0]).shape[1] == 15


def test_elementwise_functions_of_tensors_and_numbers() -> None:
    made = graph("return max(min(x, 6), 0) + abs(x)")
    assert (made.count("maximum"), made.count("minimum"), made.count("abs")) == (1, 1, 1)


def test_claims_are_recorded_where_they_are_made() -> None:
    block = """
block Merging(x: [n, c, h, w]) -> [n, c, h, w]:
    bn = batch_norm(x)
    ensure bn merges into conv2d
    return bn
"""
    made = graph("m[0] = Merging(x)\nm[1] = Merging(m[0])\nreturn m[1]", blocks=block)
    assert [claim.path for claim in made.claims] == ["m.0.bn", "m.1.bn"]
    assert all(claim.operators == ("conv2d",) for claim in made.claims)
    assert [str(frame) for frame in made.claims[1].stack] == ["N", "Merging (line 10, m.1)"]


# ---- choices, errors


VARIANTS = """specc 1
network A(x: [n = 1, 4], k: int = 2) -> [n, k]:
    return linear(x, k)
network B(x: [n = 1, 4]) -> [n, 4]:
    return relu(x)
variants A:
    small: k = 3
    large: k = 9
check small:
    params == 15
check A.large with x = [2, 4]:
    macs == 72
    params == 46
"""


def test_a_choice_is_made_by_the_user() -> None:
    assert list(grammar.loads(VARIANTS, variant="small").parameters["weight"].shape) == [3, 4]
    assert list(grammar.loads(VARIANTS, network="A", variant="large").parameters["weight"].shape) == [9, 4]
    assert grammar.loads(VARIANTS, variant="A.large").name == "A_large"
    assert grammar.loads(VARIANTS, network="B").name == grammar.loads(VARIANTS, variant="B").name == "B"
    for choice in ({}, {"network": "A"}):
        with pytest.raises(SpeccError) as caught:
            grammar.loads(VARIANTS, **choice)
        assert caught.value.diagnostics[0].code == "S0504"


def test_checks_report_what_is_and_what_was_wanted() -> None:
    small, large, plain = grammar.checks(VARIANTS)
    assert small.holds and [e.actual for e in small.expected] == [15]
    assert [(e.quantity, e.actual, e.holds) for e in large.expected] == [("macs", 72, True), ("params", 45, False)]
    assert [d.code for d in large.failures] == ["S0506"]
    assert (plain.network, plain.variant, plain.expected) == ("B", None, ())
    (only,) = grammar.checks(VARIANTS, variant="small")
    assert only == small or (only.network, only.variant) == ("A", "small")


@pytest.mark.parametrize(
    ("wanted", "actual", "holds"),
    [
        ("8.8M", 8_750_000, True),
        ("8.8M", 8_850_000, True),
        ("8.8M", 8_749_999, False),
        ("8.8M", 8_850_001, False),
        ("8.80M", 8_805_001, False),
        ("3k", 2_500, True),
        ("3k", 2_499, False),
        ("15", 15, True),
        ("15", 14, False),
        ("1.36G", 1_364_999_999, True),
    ],
)
def test_a_number_holds_at_the_precision_in_which_it_is_written(wanted: str, actual: int, holds: bool) -> None:
    from specc.grammar.check import _holds

    assert _holds("==", actual, wanted) is holds
    assert _holds("!=", actual, wanted) is not holds
    assert _holds("<=", actual, wanted) or _holds(">=", actual, wanted)
    assert (_holds("<=", actual, wanted) and _holds(">=", actual, wanted)) is holds
    assert (_holds("<", actual, wanted) or _holds(">", actual, wanted)) is not holds


def test_several_mistakes_are_found_in_one_run_and_follow_ups_are_not_shown() -> None:
    body = """
a = conv2d(x, 8, kk=3)
b = relu(a)
c = conv2d(b, 4, groups=7)
d = conv2d(x, 8, groups=7)
e = reluu(d)
return c + e
"""
    assert codes(body) == ["S0403", "S0302", "S0201"]


def test_equal_specs_give_equal_graphs() -> None:
    body = "y = x |> conv2d(8, k=3) |> batch_norm |> relu\nreturn y"
    assert print_graph(graph(body)) == print_graph(graph(body))
    assert print_graph(graph(body)) == print_graph(graph("# a comment\n" + body.replace(", k=3", ",\n   k = 3")))


def test_line_ends_and_marks_of_other_systems_change_nothing(tmp_path: Path) -> None:
    text = "specc 1\n\nnetwork N(x: [n = 1, 3]) -> [n, 3]:\n    y = relu(x)\n    return y"
    plain, foreign = tmp_path / "plain.specc", tmp_path / "foreign.specc"
    plain.write_text(text)
    foreign.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert print_graph(grammar.load(plain)) == print_graph(grammar.load(foreign))


def test_a_function_of_numbers_is_an_operator_of_tensors() -> None:
    text = (
        "specc 1\nblock Act(x: [n, c], act: block = exp) -> [n, c]:\n    return act(x) * sqrt(16) + sqrt(act(x))\n"
        "network N(x: [n = 2, 3]):\n    y = Act(x)\n    return Act(y, act=abs)\n"
    )
    graph = grammar.loads(text)
    used = [graph.node(identity).op for identity in graph.live()]
    assert [used.count(op) for op in ("exp", "abs", "sqrt")] == [2, 2, 2]
    assert print_graph(graph).count("constant() {value=4.0}") == 2


def test_a_parameter_begins_at_a_number() -> None:
    from specc.backends.torch import to_torch

    text = (
        "specc 1\nnetwork N(x: [n = 2, 3]):\n    param scale: [3] init constant(-1e-06)\n"
        "    buffer step: [3] int64 init constant(2)\n    return x * scale, step\n"
    )
    state = to_torch(grammar.loads(text), "float64").state_dict()
    assert state["scale"].tolist() == [-1e-06] * 3 and state["step"].tolist() == [2] * 3
    assert "init constant(-1e-06)" in grammar.format_text(text)
    with pytest.raises(SpeccError, match="is no int64"):
        grammar.loads(text.replace("constant(2)", "constant(0.5)"))


def test_weights_that_are_given_are_shared() -> None:
    import torch

    from specc.backends.torch import to_torch

    text = (
        "specc 1\nnetwork N(x: [n = 2, 3]):\n    param table: [4, 3] init normal(1)\n    param shift: [4]\n"
        "    a = linear(x, 4, weight=table, bias=shift)\n"
        "    b = linear(a, 3, weight=permute(table, [1, 0]))\n    return b\n"
    )
    graph = grammar.loads(text)
    assert sorted(graph.parameters) == ["b.bias", "shift", "table"]
    module = to_torch(graph, "float64")
    state = {key: torch.randn(type_.concrete, dtype=torch.float64) for key, type_ in graph.parameters.items()}
    module.load_state_dict(state)
    x = torch.randn(2, 3, dtype=torch.float64)
    wanted = (x @ state["table"].T + state["shift"]) @ state["table"] + state["b.bias"]
    assert (module(x) - wanted).abs().max() < 1e-12


def test_self_names_members_of_the_blocks_own_scope() -> None:
    text = (
        "specc 1\nblock Stage(x: [n, c, h, w]) -> [n, c, h, w]:\n    for i in range(2):\n"
        "        self[i] = conv2d(x, c, bias=false)\n        x = self[i]\n    return x\n"
        "network N(x: [n = 1, 3, h = 4, w = 4]) -> [n, 3, h, w]:\n    layer = Stage(x)\n"
        '    self["tail"] = conv2d(layer, 3, bias=false)\n    return self["tail"]\n'
    )
    assert list(grammar.loads(text).parameters) == ["layer.0.weight", "layer.1.weight", "tail.weight"]
