"""Re-parameterization: what must merge, what must not and why, always equal in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from specc.diagnostics import Span
from specc.ir.dims import symbol
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.passes.canonicalize import canonicalize
from specc.passes.reparam import reparam
from specc.passes.rewrite import Journal, Op, Rule, Var, rewrite_graph
from specc.testing import check_pass

Build = Callable[[Graph, Value], Value]


def network(build: Build, *shape: int) -> Graph:
    graph = Graph("Net")
    x = graph.input("x", TensorType(shape))
    graph.outputs = [build(graph, x)]
    return graph


def live_operators(graph: Graph) -> Counter[str]:
    return Counter(graph.node(identity).op for identity in graph.live())


def conv(graph: Graph, x: Value, out: int, path: str, **arguments: object) -> Value:
    return graph.call("conv2d", [x], {"out": out, "bias": False, **arguments}, path)


def conv_bn(graph: Graph, x: Value, out: int, path: str, **arguments: object) -> Value:
    return graph.call("batch_norm", [conv(graph, x, out, f"{path}.c", **arguments)], {}, f"{path}.bn")


def total(graph: Graph, *terms: Value) -> Value:
    result = terms[0]
    for term in terms[1:]:
        result = graph.apply("add", [result, term])
    return result


def bn(graph: Graph, x: Value, path: str, **arguments: object) -> Value:
    return graph.call("batch_norm", [x], arguments, path)


def scale(graph: Graph, x: Value, *shape: int) -> Value:
    return graph.apply("mul", [x, graph.parameter("gamma", TensorType(shape), "ones")])


def linear(graph: Graph, x: Value, out: int, path: str, **arguments: object) -> Value:
    return graph.call("linear", [x], {"out": out, **arguments}, path)


def pool(k: int, p: int) -> dict[str, object]:
    return {"k": k, "stride": 1, "padding": p}


IMAGE, VECTOR = (2, 6, 7, 5), (3, 6)
ONE_CONV, ONE_LINEAR = {"conv2d": 1}, {"linear": 1}

MERGES: dict[str, tuple[Build, tuple[int, ...], dict[str, int]]] = {
    "batch norm behind a convolution": (lambda g, x: conv_bn(g, x, 4, "a", k=3), IMAGE, ONE_CONV),
    "batch norm without weights": (lambda g, x: bn(g, conv(g, x, 4, "a", k=3), "b", affine=False), IMAGE, ONE_CONV),
    "batch norm behind a convolution with bias": (
        lambda g, x: bn(g, conv(g, x, 4, "a", k=3, bias=True), "b"),
        IMAGE,
        ONE_CONV,
    ),
    "batch norm behind a linear": (lambda g, x: bn(g, linear(g, x, 4, "a"), "b"), VECTOR, ONE_LINEAR),
    "batch norm before a linear": (lambda g, x: linear(g, bn(g, x, "b"), 4, "a", bias=False), VECTOR, ONE_LINEAR),
    "batch norm before an unpadded convolution": (
        lambda g, x: conv(g, bn(g, x, "b"), 4, "a", k=3, p=0),
        IMAGE,
        ONE_CONV,
    ),
    "batch norm before a grouped convolution": (
        lambda g, x: conv(g, bn(g, x, "b"), 9, "a", k=3, p=0, groups=3),
        IMAGE,
        ONE_CONV,
    ),
    "two batch norms in a row": (lambda g, x: bn(g, conv_bn(g, x, 4, "a", k=3), "b"), IMAGE, ONE_CONV),
    "RepVGG, stride 1": (
        lambda g, x: total(g, conv_bn(g, x, 6, "a", k=3), conv_bn(g, x, 6, "b", k=1), bn(g, x, "c")),
        IMAGE,
        ONE_CONV,
    ),
    "RepVGG, identity first": (
        lambda g, x: total(g, bn(g, x, "c"), conv_bn(g, x, 6, "b", k=1), conv_bn(g, x, 6, "a", k=3)),
        IMAGE,
        ONE_CONV,
    ),
    "RepVGG, stride 2": (
        lambda g, x: total(g, conv_bn(g, x, 8, "a", k=3, s=2), conv_bn(g, x, 8, "b", k=1, s=2)),
        IMAGE,
        ONE_CONV,
    ),
    "a 1x1 beside a 5x5": (
        lambda g, x: total(g, conv_bn(g, x, 4, "a", k=1), conv_bn(g, x, 4, "b", k=5)),
        IMAGE,
        ONE_CONV,
    ),
    "RepViT's token mixer": (
        lambda g, x: bn(
            g,
            total(g, conv_bn(g, x, 6, "a", k=3, groups=6), conv(g, x, 6, "b", k=1, groups=6, bias=True), x),
            "c",
        ),
        IMAGE,
        ONE_CONV,
    ),
    "ACNet's asymmetric kernels": (
        lambda g, x: total(
            g, conv_bn(g, x, 4, "a", k=[1, 3]), conv_bn(g, x, 4, "b", k=[3, 1]), conv_bn(g, x, 4, "c", k=3)
        ),
        IMAGE,
        ONE_CONV,
    ),
    "dilated branches into a large kernel": (
        lambda g, x: total(
            g,
            conv_bn(g, x, 6, "a", k=7, groups=6),
            conv_bn(g, x, 6, "b", k=3, d=3, groups=6),
            conv_bn(g, x, 6, "c", k=3, d=[1, 2], groups=6),
        ),
        (1, 6, 9, 8),
        ONE_CONV,
    ),
    "two kernels of one dilation": (
        lambda g, x: total(g, conv_bn(g, x, 4, "a", k=3, d=2), conv_bn(g, x, 4, "b", k=1)),
        IMAGE,
        ONE_CONV,
    ),
    "an even kernel with the identity": (
        lambda g, x: total(g, conv(g, x, 6, "a", k=2, p=[0, 1, 1, 0]), x),
        IMAGE,
        ONE_CONV,
    ),
    "stride 2 with padding that not every branch reads": (
        lambda g, x: total(g, conv(g, x, 4, "a", k=3, s=2, p=[1, 1, 0, 0]), conv(g, x, 4, "b", k=1, s=2, p=0)),
        (1, 6, 8, 6),
        ONE_CONV,
    ),
    "a grouped convolution and the identity": (
        lambda g, x: total(g, x, conv_bn(g, x, 6, "a", k=3, groups=3)),
        IMAGE,
        ONE_CONV,
    ),
    "an average pool beside a convolution": (
        lambda g, x: total(g, conv_bn(g, x, 6, "a", k=3), g.apply("avg_pool2d", [x], pool(3, 1))),
        IMAGE,
        ONE_CONV,
    ),
    "DBB's diverse branches": (
        lambda g, x: total(
            g,
            conv_bn(g, x, 6, "a", k=3, p=0),
            conv_bn(g, conv_bn(g, x, 6, "b", k=1), 6, "c", k=3, p=0),
            bn(g, g.apply("avg_pool2d", [conv_bn(g, x, 6, "d", k=1)], pool(3, 0)), "e"),
        ),
        IMAGE,
        ONE_CONV,
    ),
    "a 1x1 behind a 3x3, where the result is narrow": (
        lambda g, x: conv_bn(g, conv_bn(g, x, 12, "a", k=3, s=2), 2, "b", k=1),
        IMAGE,
        ONE_CONV,
    ),
    "a 1x1 before an unpadded 3x3": (
        lambda g, x: conv_bn(g, conv_bn(g, x, 12, "a", k=1), 4, "b", k=3, p=0),
        (1, 1, 7, 5),
        ONE_CONV,
    ),
    "a column behind a row": (
        lambda g, x: conv_bn(g, conv(g, x, 1, "a", k=[1, 2], p=[0, 1, 0, 0]), 1, "b", k=[2, 1]),
        (2, 1, 7, 5),
        ONE_CONV,
    ),
    "strides and dilation in a row": (
        lambda g, x: conv(g, conv(g, x, 1, "a", k=2, s=2, p=[1, 0, 0, 1]), 1, "b", k=1, s=2),
        (2, 1, 9, 8),
        ONE_CONV,
    ),
    "two linears around a wide middle": (lambda g, x: linear(g, linear(g, x, 12, "a"), 4, "b"), VECTOR, ONE_LINEAR),
    "LoRA": (
        lambda g, x: total(
            g, linear(g, x, 6, "w"), scale(g, linear(g, linear(g, x, 1, "a", bias=False), 6, "b", bias=False), 1)
        ),
        VECTOR,
        ONE_LINEAR,
    ),
    "ConvLoRA": (
        lambda g, x: total(g, conv(g, x, 6, "w", k=3), conv(g, conv(g, x, 2, "a", k=3), 6, "b", k=1)),
        IMAGE,
        ONE_CONV,
    ),
    "batch norm behind a concat": (
        lambda g, x: bn(g, g.apply("concat", [conv(g, x, 4, "a", k=1), conv_bn(g, x, 3, "b", k=3)]), "c"),
        IMAGE,
        {"conv2d": 2, "concat": 1},
    ),
    "a concat of equal convolutions": (
        lambda g, x: bn(
            g,
            g.apply(
                "concat", [conv(g, x, 4, "a", k=3), conv_bn(g, x, 3, "b", k=3), conv(g, x, 1, "c", k=3, bias=True)]
            ),
            "d",
        ),
        IMAGE,
        ONE_CONV,
    ),
    "two of three branches, where all three would cost more": (
        lambda g, x: total(g, conv(g, x, 6, "a", k=[1, 5]), conv(g, x, 6, "b", k=[5, 1]), conv(g, x, 6, "c")),
        IMAGE,
        {"conv2d": 2, "add": 1},
    ),
    "a convolution with a bias, and that scaled": (
        lambda g, x: (lambda y: total(g, y, scale(g, y, 6, 1, 1)))(conv(g, x, 6, "a", k=3, bias=True)),
        IMAGE,
        ONE_CONV,
    ),
    "a sum that costs more alone, but less in one channel": (
        lambda g, x: conv(g, total(g, conv(g, x, 6, "a", k=[1, 5]), conv(g, x, 6, "b", k=[5, 1])), 1, "c"),
        IMAGE,
        ONE_CONV,
    ),
    "padding beside a convolution that pads as much": (
        lambda g, x: total(
            g, conv(g, x, 6, "a", p=1), g.apply("pad", [x], {"before": (0, 0, 1, 1), "after": (0, 0, 1, 1)})
        ),
        IMAGE,
        ONE_CONV,
    ),
    "FastViT's RepMixer: x + gamma * (mixed - normed)": (
        lambda g, x: total(
            g,
            x,
            scale(
                g,
                g.apply(
                    "sub",
                    [total(g, conv_bn(g, x, 6, "m", k=3, groups=6), conv_bn(g, x, 6, "p", groups=6)), bn(g, x, "n")],
                ),
                6,
                1,
                1,
            ),
        ),
        IMAGE,
        ONE_CONV,
    ),
    "MobileOne's overparameterized depthwise block": (
        lambda g, x: total(
            g,
            *(conv_bn(g, x, 6, f"k{i}", k=3, groups=6) for i in range(4)),
            conv_bn(g, x, 6, "s", groups=6),
            bn(g, x, "i"),
        ),
        IMAGE,
        ONE_CONV,
    ),
    "RepGhost's cheap branch": (
        lambda g, x: total(g, conv_bn(g, x, 6, "a", k=3, groups=6), bn(g, x, "b")),
        IMAGE,
        ONE_CONV,
    ),
    "YOLO's implicit addition and multiplication": (
        lambda g, x: g.apply(
            "mul",
            [
                conv(g, g.apply("add", [x, g.parameter("ia", TensorType((1, 6, 1, 1)))]), 4, "a", bias=True),
                g.parameter("im", TensorType((1, 4, 1, 1)), "ones"),
            ],
        ),
        IMAGE,
        ONE_CONV,
    ),
    "a difference of two convolutions": (
        lambda g, x: g.apply("sub", [conv_bn(g, x, 4, "a", k=3), conv_bn(g, x, 4, "b", k=1)]),
        IMAGE,
        ONE_CONV,
    ),
    "a convolution less what it reads": (
        lambda g, x: g.apply("sub", [conv_bn(g, x, 6, "a", k=3), x]),
        IMAGE,
        ONE_CONV,
    ),
    "scales and shifts in a row": (
        lambda g, x: bn(g, scale(g, bn(g, g.apply("relu", [x]), "a"), 1), "b"),
        IMAGE,
        {"relu": 1, "mul": 1, "add": 1},
    ),
    "layer scale": (lambda g, x: scale(g, conv(g, x, 4, "a", k=3, bias=True), 4, 1, 1), IMAGE, ONE_CONV),
    "a number as scale": (lambda g, x: scale(g, conv_bn(g, x, 4, "a", k=3), 1), IMAGE, ONE_CONV),
    "a number as shift": (
        lambda g, x: g.apply("add", [conv(g, x, 4, "a", k=3), g.constant(0.5)]),
        IMAGE,
        ONE_CONV,
    ),
    "the same branch twice": (lambda g, x: (lambda y: g.apply("add", [y, y]))(conv(g, x, 4, "a")), IMAGE, ONE_CONV),
    "half the sum of two heads": (
        lambda g, x: g.apply(
            "div",
            [
                total(g, linear(g, bn(g, x, "a"), 4, "b"), linear(g, bn(g, x, "c"), 4, "d", bias=False)),
                g.constant(2.0),
            ],
        ),
        VECTOR,
        ONE_LINEAR,
    ),
    "a linear and the identity, scaled": (
        lambda g, x: total(g, linear(g, x, 6, "a"), scale(g, x, 6)),
        VECTOR,
        ONE_LINEAR,
    ),
    "RepBN: a batch norm and its scaled input, into the next linear": (
        lambda g, x: linear(g, total(g, bn(g, x, "b"), scale(g, x, 1)), 4, "a"),
        VECTOR,
        ONE_LINEAR,
    ),
    "a depthwise and a dense branch": (
        lambda g, x: total(g, conv_bn(g, x, 6, "a", k=3, groups=6), conv_bn(g, x, 6, "b", k=3)),
        IMAGE,
        ONE_CONV,
    ),
    "branches of two and of six groups": (
        lambda g, x: total(g, conv_bn(g, x, 6, "a", k=1, groups=6), conv_bn(g, x, 6, "b", k=3, groups=2), x),
        IMAGE,
        ONE_CONV,
    ),
    "a padded 3x3 behind a 1x1 with a bias: the bias makes a table": (
        lambda g, x: conv(g, conv_bn(g, x, 12, "a", k=1), 2, "b", k=3),
        IMAGE,
        {"conv2d": 1, "add": 1},
    ),
    "a branch behind a batch norm, padded": (
        lambda g, x: total(g, conv(g, bn(g, x, "n"), 6, "a", k=3), conv_bn(g, x, 6, "b", k=1)),
        IMAGE,
        {"conv2d": 1, "add": 1},
    ),
    "DBB's branches, whose batch norms pad with what they make of zero": (
        lambda g, x: total(
            g,
            conv_bn(g, x, 6, "a", k=3),
            conv_bn(g, conv_bn(g, x, 6, "b", k=1, p=1), 6, "c", k=3, p=0),
            bn(g, g.apply("avg_pool2d", [conv_bn(g, x, 6, "d", k=1, p=1)], pool(3, 0)), "e"),
        ),
        IMAGE,
        ONE_CONV,
    ),
    "1x1, 3x3, 1x1 in a row, narrow inside, beside a 3x3": (
        lambda g, x: total(
            g, conv(g, x, 6, "w", k=3), conv(g, conv(g, conv(g, x, 2, "a"), 2, "b", k=3), 6, "c", bias=True)
        ),
        IMAGE,
        ONE_CONV,
    ),
    "an average pool and a 1x1 beside a convolution of stride 2": (
        lambda g, x: total(
            g,
            conv_bn(g, x, 8, "a", k=3, s=2),
            conv_bn(g, g.apply("avg_pool2d", [x], {"k": 2, "stride": 2, "padding": 0}), 8, "b", k=1),
        ),
        (2, 6, 8, 6),
        ONE_CONV,
    ),
    "strides of branches that have one place": (
        lambda g, x: total(g, conv(g, x, 4, "a", k=3, s=2, p=0), conv(g, x, 4, "b", k=3, p=0)),
        (2, 6, 3, 3),
        ONE_CONV,
    ),
    "a convolution of what another makes, and that itself": (
        lambda g, x: (lambda y: total(g, y, conv(g, y, 6, "b", k=1)))(conv(g, x, 6, "a", k=3)),
        IMAGE,
        ONE_CONV,
    ),
    "depthwise convolutions in a row": (
        lambda g, x: conv(g, conv(g, x, 6, "a", k=3, groups=6), 6, "b", k=1, groups=6),
        IMAGE,
        ONE_CONV,
    ),
    "zero padding before a convolution": (
        lambda g, x: conv(
            g, g.apply("pad", [x], {"before": (0, 0, 1, 2), "after": (0, 0, 0, 1)}), 6, "a", k=3, p=[1, 0, 0, 0]
        ),
        IMAGE,
        ONE_CONV,
    ),
    "space to depth before a convolution": (
        lambda g, x: conv_bn(
            g,
            g.apply(
                "concat",
                [
                    g.apply("slice", [rows], {"axis": 3, "start": j, "stop": 6, "step": 2})
                    for j in (0, 1)
                    for rows in [g.apply("slice", [x], {"axis": 2, "start": i, "stop": 8, "step": 2}) for i in (0, 1)]
                ],
                {"axis": 1},
            ),
            12,
            "a",
            k=3,
        ),
        (2, 3, 8, 6),
        ONE_CONV,
    ),
    "a convolution of the concat of convolutions of one tensor": (
        lambda g, x: conv_bn(
            g, g.apply("concat", [conv_bn(g, x, 6, "a", k=1), conv_bn(g, x, 6, "b", k=3)], {"axis": 1}), 4, "c", k=1
        ),
        IMAGE,
        ONE_CONV,
    ),
    "queries, keys and values side by side": (
        lambda g, x: g.apply("concat", [linear(g, x, 4, "q"), linear(g, x, 4, "k", bias=False)], {"axis": -1}),
        (2, 3, 6),
        ONE_LINEAR,
    ),
    "linears in a row beside a linear, with a table between": (
        lambda g, x: total(
            g,
            linear(g, x, 6, "w"),
            linear(g, g.apply("add", [linear(g, x, 2, "a"), g.parameter("t", TensorType((1, 3, 2)), "ones")]), 6, "b"),
        ),
        (2, 3, 6),
        {"linear": 1, "add": 1},
    ),
    "layer scale and batch norm behind a matrix product and a permutation": (
        lambda g, x: scale(g, bn(g, g.apply("permute", [linear(g, x, 6, "a")], {"order": (0, 3, 1, 2)}), "b"), 6, 1, 1),
        (2, 3, 4, 6),
        {"linear": 1, "permute": 1},
    ),
    "a batch norm, flattened, before a matrix product": (
        lambda g, x: linear(
            g,
            g.apply("permute", [g.apply("reshape", [bn(g, x, "b")], {"shape": (2, 6, 35)})], {"order": (0, 2, 1)}),
            4,
            "a",
        ),
        IMAGE,
        {"reshape": 1, "permute": 1, "linear": 1},
    ),
    "a batch norm before a mean and a matrix product": (
        lambda g, x: linear(g, g.apply("mean", [bn(g, x, "b")], {"axes": (2, 3), "keep": False}), 4, "a"),
        IMAGE,
        {"mean": 1, "linear": 1},
    ),
    "a batch norm of images that a matrix product makes": (
        lambda g, x: bn(g, g.apply("reshape", [linear(g, x, 24, "a")], {"shape": (3, 2, 4, 3)}), "b"),
        VECTOR,
        {"linear": 1, "reshape": 1},
    ),
    "a convolution beside a matrix over the same places": (
        lambda g, x: total(
            g,
            bn(
                g,
                g.apply(
                    "reshape",
                    [conv(g, g.apply("reshape", [x], {"shape": (2, 210, 1, 1)}), 210, "fc", groups=3)],
                    {"shape": (2, 6, 7, 5)},
                ),
                "b",
            ),
            conv_bn(g, x, 6, "a", k=3, groups=3),
            conv_bn(g, x, 6, "c", groups=6),
        ),
        IMAGE,
        {"reshape": 2, "conv2d": 1},
    ),
    "a convolution beside a fully connected layer, to fewer places": (
        lambda g, x: total(
            g,
            g.apply(
                "reshape", [linear(g, g.apply("reshape", [x], {"shape": (2, 210)}), 48, "fc")], {"shape": (2, 4, 4, 3)}
            ),
            conv_bn(g, x, 4, "a", k=3, s=2),
        ),
        IMAGE,
        {"reshape": 2, "linear": 1},
    ),
    "the identity of another sum stays": (
        lambda g, x: (lambda y: total(g, y, conv_bn(g, y, 6, "a", k=3)))(g.apply("relu", [x])),
        IMAGE,
        {"relu": 1, "conv2d": 1},
    ),
}


@pytest.mark.parametrize("name", MERGES)
def test_merges(name: str) -> None:
    build, shape, expected = MERGES[name]
    graph = network(build, *shape)
    check_pass(reparam, graph)
    merged = reparam(canonicalize(graph))
    assert live_operators(merged) == expected


@pytest.mark.parametrize(
    "name",
    [
        "RepVGG, identity first",
        "batch norm without weights",
        "DBB's branches, whose batch norms pad with what they make of zero",
        "a concat of equal convolutions",
        "a convolution less what it reads",
        "an average pool and a 1x1 beside a convolution of stride 2",
        "a batch norm before a mean and a matrix product",
    ],
)
def test_merges_in_float64(name: str) -> None:
    build, shape, expected = MERGES[name]
    graph = Graph("Net")
    graph.outputs = [build(graph, graph.input("x", TensorType(shape, "float64")))]
    check_pass(reparam, graph)
    merged = reparam(canonicalize(graph))
    assert live_operators(merged) == expected
    assert {merged.node(identity).types[0].dtype for identity in merged.order()} == {"float64"}


def _twice_used(g: Graph, x: Value) -> Value:
    y = conv(g, x, 6, "a", k=3)
    return total(g, bn(g, y, "b"), g.apply("relu", [y]))


REFUSALS: dict[str, tuple[Build, dict[str, int], str]] = {
    "a result that others need": (
        _twice_used,
        {"conv2d": 1, "mul": 1, "add": 2, "relu": 1},
        "the result of `conv2d` is used 2 times",
    ),
    "zero padding behind a shift": (
        lambda g, x: conv(g, bn(g, x, "b"), 4, "a", k=3),
        {"mul": 1, "add": 1, "conv2d": 1},
        "at the border",
    ),
    "different strides": (
        lambda g, x: total(g, conv(g, x, 4, "a", k=3, s=2, p=[4, 3, 4, 3]), conv(g, x, 4, "b", k=1)),
        {"conv2d": 2, "add": 1},
        "differ in stride",
    ),
    "a padded 3x3 that widens behind a bias: what it makes of the bias differs along the border": (
        lambda g, x: conv(g, conv_bn(g, x, 2, "a", k=1), 3, "b", k=3),
        {"conv2d": 2},
        "would cost",
    ),
    "a padded 3x3 behind a bias, whose result is larger than what it reads": (
        lambda g, x: conv(g, conv_bn(g, x, 6, "a", k=1), 7, "b", k=3),
        {"conv2d": 2},
        "behind the bias of the first convolution",
    ),
    "padding between two 3x3": (
        lambda g, x: conv(g, conv(g, x, 12, "a", k=3), 2, "b", k=3),
        {"conv2d": 2},
        "pads at the top or bottom",
    ),
    "a bottleneck, which costs less than its product": (
        lambda g, x: conv(g, conv(g, x, 1, "a", k=3), 6, "b", k=1),
        {"conv2d": 2},
        "would cost",
    ),
    "a low rank, which costs less than its product": (
        lambda g, x: linear(g, linear(g, x, 1, "a"), 5, "b"),
        {"linear": 2},
        "would cost",
    ),
    "an average pool that leaves out the padding": (
        lambda g, x: total(
            g, conv(g, x, 6, "a", k=3), g.apply("avg_pool2d", [x], {**pool(3, 1), "count_padding": False})
        ),
        {"conv2d": 1, "avg_pool2d": 1, "add": 1},
        "leaves out the padding",
    ),
    "a concat of kernels that would grow": (
        lambda g, x: g.apply("concat", [conv(g, x, 4, "a", k=1), conv(g, x, 4, "b", k=3)]),
        {"conv2d": 2, "concat": 1},
        "would cost",
    ),
    "a relu before the sum": (
        lambda g, x: total(g, g.apply("relu", [conv(g, x, 6, "a", k=3)]), conv(g, x, 6, "b", k=3)),
        {"conv2d": 2, "relu": 1, "add": 1},
        "no other term is linear in what the `conv2d` reads; they are made by `relu`",
    ),
    "groups whose common groups cost more": (
        lambda g, x: total(g, conv(g, x, 6, "a", k=3, groups=2), conv(g, x, 6, "b", k=3, groups=3)),
        {"conv2d": 2, "add": 1},
        "would cost",
    ),
    "a convolution that mixes the groups of a matrix over the same places": (
        lambda g, x: total(
            g,
            g.apply(
                "reshape",
                [conv(g, g.apply("reshape", [x], {"shape": (2, 210, 1, 1)}), 210, "fc", groups=2)],
                {"shape": (2, 6, 7, 5)},
            ),
            conv(g, x, 6, "a", k=3),
        ),
        {"conv2d": 2, "add": 1, "reshape": 2},
        "between the 2 groups of the matrix",
    ),
    "a sum that costs more than its parts": (
        lambda g, x: total(g, conv(g, x, 4, "a", k=[1, 5]), conv(g, x, 4, "b", k=[5, 1])),
        {"conv2d": 2, "add": 1},
        "would cost",
    ),
    "the identity beside a change of channels": (
        lambda g, x: total(g, conv(g, x, 1, "a", k=1), x),
        {"conv2d": 1, "add": 1},
        "the branches differ in shape",
    ),
    "frozen terms whose sum is more than they are": (
        lambda g, x: total(
            g,
            g.apply("relu", [g.apply("expand", [x], {"shape": (200, 2, 6, 7, 5)})]),
            g.parameter("positions", TensorType((6, 7, 5)), "ones"),
            g.parameter("mask", TensorType((200, 1, 1, 7, 5)), "ones"),
        ),
        {"expand": 1, "relu": 1, "add": 2},
        "more to read",
    ),
    "a scale that differs within a channel": (
        lambda g, x: scale(g, conv(g, x, 4, "a", k=3), 7, 5),
        {"conv2d": 1, "mul": 1},
        "differs within a channel",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_the_reason(name: str) -> None:
    build, expected, reason = REFUSALS[name]
    graph = network(build, *IMAGE)
    check_pass(reparam, graph)
    journal = Journal()
    assert live_operators(reparam(graph, journal)) == expected
    assert any(reason in (event.reason or "") for event in journal.refused), journal.refused


@pytest.mark.parametrize(
    ("shape", "terms"),
    [
        ((6, 7, 5), ((6, 1, 1), (1, 7, 5))),  # more than these together, and small
        ((2, 2, 40, 30, 7), ((1, 2, 40, 30, 7), (2, 1, 40, 30, 7))),  # large, and as much as these together
    ],
)
def test_frozen_terms_whose_sum_is_no_more_to_read_are_added(
    shape: tuple[int, ...], terms: tuple[tuple[int, ...], ...]
) -> None:
    graph = Graph("Net")
    value = graph.input("x", TensorType(shape))
    for number, term in enumerate(terms):
        value = graph.apply("add", [value, graph.parameter(f"p{number}", TensorType(term), "normal(1)")])
    graph.outputs = [value]
    check_pass(reparam, graph)
    merged = reparam(graph)
    assert (
        sum(merged.op(Value(identity)) == "add" and not merged.is_frozen(identity) for identity in merged.live()) == 1
    )


NEAR_MISSES: dict[str, tuple[Build, dict[str, int]]] = {
    "a relu between": (
        lambda g, x: bn(g, g.apply("relu", [conv(g, x, 6, "a", k=3)]), "b"),
        {"conv2d": 1, "relu": 1, "mul": 1, "add": 1},
    ),
    "branches of different inputs": (
        lambda g, x: total(g, conv(g, x, 6, "a", k=3), conv(g, g.apply("relu", [x]), 6, "b", k=3)),
        {"conv2d": 2, "relu": 1, "add": 1},
    ),
    "a kernel that depends on the input": (
        lambda g, x: g.apply(
            "mul", [g.apply("conv2d", [x, g.apply("reshape", [x], {"shape": (14, 6, 5, 1)})]), g.constant(2.0)]
        ),
        {"conv2d": 1, "reshape": 1, "mul": 1},
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_leaves_what_is_not_linear(name: str) -> None:
    build, expected = NEAR_MISSES[name]
    graph = network(build, *((1, 6, 14, 5) if "kernel" in name else IMAGE))
    check_pass(reparam, graph)
    assert live_operators(reparam(graph)) == expected


def test_a_matrix_over_known_places_takes_a_convolution_in_for_any_batch() -> None:
    graph = Graph("Net", defaults={"n": 2})
    n = symbol("n")
    x = graph.input("x", TensorType((n, 2, 4, 3)))
    vectors = graph.apply("reshape", [x], {"shape": (n, 24)})
    images = graph.apply("reshape", [linear(graph, vectors, 24, "fc")], {"shape": (n, 2, 4, 3)})
    graph.outputs = [total(graph, images, conv_bn(graph, x, 2, "a", k=3))]
    assert live_operators(check_pass(reparam, graph)) == {"reshape": 2, "linear": 1}


def test_a_generated_kernel_is_a_kernel() -> None:
    """What makes the kernel depends on no input: it is computed once, and the branches merge."""
    graph = Graph("Net")
    x = graph.input("x", TensorType(IMAGE))
    left, right = (graph.parameter(key, TensorType(shape), "ones") for key, shape in (("l", (36, 2)), ("r", (2, 9))))
    made = graph.apply("tanh", [graph.apply("matmul", [left, right])])
    kernel = graph.apply("reshape", [made], {"shape": (6, 6, 3, 3)})
    generated = graph.apply("conv2d", [x, kernel], {"padding": 1})
    graph.outputs = [bn(graph, total(graph, generated, conv_bn(graph, x, 6, "a"), x), "b")]
    assert live_operators(check_pass(reparam, graph)) == ONE_CONV


def test_merged_nodes_keep_the_name_of_the_sum() -> None:
    build, shape, _ = MERGES["RepViT's token mixer"]
    graph = reparam(network(build, *shape))
    assert [graph.node(i).path for i in graph.live()] == ["c"]


def test_parts_of_a_concat_keep_their_names() -> None:
    build, shape, _ = MERGES["batch norm behind a concat"]
    graph = reparam(network(build, *shape))
    assert [graph.node(i).path for i in graph.live()] == ["a", "b.bn", ""]


def test_a_sum_names_what_makes_its_other_terms() -> None:
    graph = Graph("Net")
    x = graph.input("x", TensorType(IMAGE))
    reason = "no other term is linear in what the `conv2d` reads; they are made by "
    place = Span("net.specc", 3, 5, 3, 9)
    for path, span, made in (("", None, "`relu`"), ("act", None, "`relu` at act"), ("", place, f"`relu` ({place})")):
        other = graph.apply("relu", [conv(graph, x, 6, "b")], {}, path, span)
        graph.outputs = [total(graph, conv(graph, x, 6, "a"), other)]
        journal = Journal()
        reparam(graph, journal)
        assert [event.reason for event in journal.refused] == [reason + made]


def test_shared_weights_stay_shared() -> None:
    """One kernel used twice, each time with a batch norm of its own: two kernels after folding, both right."""
    graph = Graph("Net")
    x = graph.input("x", TensorType(IMAGE))
    first = conv(graph, x, 6, "a", k=3)
    _, weight = graph.operands(first.node)
    second = graph.apply("conv2d", [graph.apply("relu", [first]), weight], graph.node(first.node).attrs)
    graph.outputs = [bn(graph, second, "b"), first]
    check_pass(reparam, graph)
    assert live_operators(reparam(graph)) == {"conv2d": 2, "relu": 1}


@pytest.mark.parametrize("back", [False, True])
def test_a_norm_between_a_convolution_and_a_matrix_goes_to_one_of_them(back: bool) -> None:
    """Both could take it in, each behind views, and rules that move it to either would not end (CvT)."""

    def build(graph: Graph, x: Value) -> Value:
        made = conv(graph, x, 8, "c", k=3, groups=8)
        tokens = graph.apply("permute", [graph.apply("reshape", [made], {"shape": (2, 8, 30)})], {"order": (0, 2, 1)})
        if back:  # the norm stands behind the views, as canonicalize may leave it
            shifted = graph.apply("add", [scale(graph, tokens, 8), graph.parameter("beta", TensorType((8,)), "zeros")])
            return linear(graph, shifted, 4, "fc")
        normed = bn(graph, made, "bn")
        tokens = graph.apply("permute", [graph.apply("reshape", [normed], {"shape": (2, 8, 30)})], {"order": (0, 2, 1)})
        return linear(graph, tokens, 4, "fc")

    before = network(build, 2, 8, 5, 6)
    check_pass(reparam, before)
    assert live_operators(reparam(before)) == {"conv2d": 1, "reshape": 1, "permute": 1, "linear": 1}


def test_rules_that_undo_each_other_end() -> None:
    """As a mistake of ours, with their names."""
    swap = Rule("a + b => b + a", Op("add", Var("a"), Var("b")), lambda m: m.apply("add", m["b"], m["a"]))
    graph = network(lambda graph, x: total(graph, x, graph.apply("relu", [x])), 2, 3)
    with pytest.raises(AssertionError, match=r"rules undo each other: a \+ b => b \+ a"):
        rewrite_graph(graph, [swap])


def _beside(graph: Graph, x: Value, number: int) -> Value:
    """Convolutions, the first of which somebody else needs as it is."""
    if number == 1:
        return graph.apply("relu", [Value(graph.users(x)[0][0])])
    return conv(graph, x, 3, f"c{number}")


def _vector(graph: Graph, number: int) -> Value:
    return graph.parameter(f"v{number}", TensorType((3, 1, 1)))


MANY = 300
LONG_SUMS: dict[str, tuple[Callable[[Graph, Value, int], Value], dict[str, int], int]] = {
    "the same tensor": (lambda g, x, i: x, {"mul": 1}, MANY - 1),
    "multiples": (lambda g, x, i: g.apply("mul", [x, _vector(g, i)]), {"mul": 1}, MANY - 1),
    "frozen summands": (lambda g, x, i: _vector(g, i) if i else x, {"add": 1}, MANY - 2),
    "a bias": (lambda g, x, i: _vector(g, i) if i else conv(g, x, 3, "c"), {"conv2d": 1}, MANY - 1),
    "convolutions": (lambda g, x, i: conv(g, x, 3, f"c{i}"), {"conv2d": 1}, 1),
    "convolutions beside one that stays": (_beside, {"conv2d": 2, "relu": 1, "add": 2}, MANY - 3),
    "what does not merge": (
        lambda g, x, i: g.apply("relu", [conv(g, x, 3, f"c{i}")]),
        {"conv2d": MANY, "relu": MANY, "add": MANY - 1},
        0,
    ),
}


@pytest.mark.parametrize("name", LONG_SUMS)
def test_a_sum_of_many_terms_takes_a_few_sweeps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep for every pair of terms would be time by the square of their number: `y = y + x` in a loop."""
    term, left, fired = LONG_SUMS[name]
    before = network(lambda graph, x: total(graph, *(term(graph, x, number) for number in range(MANY))), 1, 3, 4, 4)
    sweeps, prune = 0, Graph.prune

    def counted(graph: Graph) -> None:
        nonlocal sweeps
        sweeps += 1
        prune(graph)

    journal = Journal()
    with monkeypatch.context() as patched:
        patched.setattr(Graph, "prune", counted)
        after = reparam(before, journal)
    assert live_operators(after) == left
    assert len(journal.fired) == fired
    assert sweeps <= 5
    check_pass(reparam, before)
