"""A test of the tests: mistakes that a person makes, put into the passes' source, are caught and shown in a few nodes.

Each changes one place of one module; all passes are then imported anew beside it, so that whoever uses the module uses
the mistake. The relations have to notice it on a network that holds the place among others, and reducing has to leave
at most three operators.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.ops.record import Illegal
from specc.reduce import reduce
from specc.testing import check_pass

Build = Callable[[Graph, Value], Value]
Run = Callable[[Graph], Graph]


@dataclass(frozen=True)
class Mistake:
    """`right` becomes `wrong` in a module; `build` puts what it is about behind an activation [2, 6, 8, 8]."""

    module: str
    right: str
    wrong: str
    build: Build


def _conv(graph: Graph, x: Value, path: str, **arguments: object) -> Value:
    return graph.call("conv2d", [x], {"out": 6, "bias": False, **arguments}, path)


def _add(graph: Graph, *terms: Value) -> Value:
    return graph.apply("add", terms)


def _norm(graph: Graph, x: Value, path: str = "n") -> Value:
    return graph.call("batch_norm", [x], {"eps": 0.1}, path)


def _rows(graph: Graph, x: Value) -> Value:
    return graph.apply("reshape", [x], {"shape": (2, 6, 64)})


def _factor(graph: Graph, x: Value, *shape: int) -> Value:
    return graph.apply("mul", [x, graph.parameter("s", TensorType(shape), "normal(1)")])


def _dilated(graph: Graph, x: Value) -> Value:
    return _add(graph, _conv(graph, x, "a", k=3, d=2), _conv(graph, x, "b", k=5))


def _serial(graph: Graph, x: Value) -> Value:
    return _conv(graph, _conv(graph, x, "a", k=3, s=2), "b")


def _cut(graph: Graph, x: Value) -> Value:
    joined = graph.apply("concat", [graph.apply("relu", [x]), x])
    return graph.apply("slice", [joined], {"axis": 1, "start": 8, "stop": 10})


def _turned(graph: Graph, x: Value) -> Value:
    turned = graph.apply("permute", [_rows(graph, x)], {"order": (1, 2, 0)})
    return graph.apply("permute", [turned], {"order": (1, 2, 0)})


def _softmax(graph: Graph, x: Value) -> Value:
    turned = graph.apply("permute", [_rows(graph, x)], {"order": (2, 0, 1)})
    soft = graph.apply("softmax", [turned], {"axis": 1})
    return graph.apply("permute", [soft], {"order": (1, 2, 0)})


def _table(graph: Graph, x: Value) -> Value:
    turned = graph.apply("permute", [_rows(graph, x)], {"order": (0, 2, 1)})
    scaled = _factor(graph, turned, 6)
    return graph.apply("permute", [scaled], {"order": (0, 2, 1)})


def _square(graph: Graph, x: Value) -> Value:
    weight = graph.parameter("w", TensorType((64, 64)), "normal(1)")
    return graph.apply("matmul", [_rows(graph, x), weight])


def _chain(graph: Graph, x: Value) -> Value:
    rows = _rows(graph, x)
    turned = graph.apply("permute", [rows], {"order": (0, 2, 1)})
    return graph.apply("matmul", [graph.apply("matmul", [turned, rows]), turned])


def _shared(graph: Graph, x: Value) -> Value:
    soft = graph.apply("softmax", [x])
    products = [graph.apply("mul", [part, soft]) for part in (x, graph.apply("tanh", [x]))]
    return graph.apply("sub", products)


def _border(graph: Graph, x: Value) -> Value:
    padded = graph.apply("pad", [x], {"before": (0, 0, 1, 0), "after": (0, 0, 0, 1), "value": 0.5})
    return _conv(graph, padded, "a", k=3)


def _peak(graph: Graph, x: Value) -> Value:
    low = graph.apply("sub", [graph.apply("tanh", [x]), graph.constant(2.0)])
    padded = graph.apply("pad", [low], {"before": (0, 0, 1, 1), "after": (0, 0, 0, 0)})
    highest = graph.apply("max_pool2d", [padded], {"k": 3, "stride": 1})
    return graph.apply("exp", [highest])  # an activation would end what lies below 0


def _difference(graph: Graph, x: Value) -> Value:
    y = graph.apply("tanh", [x])
    differences = [graph.apply("sub", [x, y]), graph.apply("sub", [y, x])]
    return graph.apply("mul", [differences[0], graph.apply("relu", [differences[1]])])


MISTAKES: dict[str, Mistake] = {
    "a dropped epsilon": Mistake(
        "reparam",
        'variance = match.apply("add", match["var"], match.constant(node.attrs["eps"]))',
        'variance = match["var"]',
        _norm,
    ),
    "the sign of gamma": Mistake(
        "reparam",
        'scale = match.apply("mul", match["affine"][0], scale)',
        'scale = match.apply("mul", match.apply("abs", match["affine"][0]), scale)',
        _norm,
    ),
    "a lost bias": Mistake(
        "weight_space",
        'return match.apply("add", bias[0], summand)',
        "return bias[0]",
        lambda g, x: _norm(g, _conv(g, x, "a", bias=True)),
    ),
    "a bias that is not scaled": Mistake(
        "reparam",
        'bias = tuple(match.apply("mul", b, scale) for b in _bias(match))',
        "bias = _bias(match)",
        lambda g, x: _factor(g, _conv(g, x, "a", bias=True), 6, 1, 1),
    ),
    "a wrong pad in a branch merge": Mistake(
        "kernels",
        "(before - a.before) // step, (before - b.before) // step",
        "(before - a.before) // step, 0",
        lambda g, x: _add(g, _conv(g, x, "a", k=5), _conv(g, x, "b", k=3)),
    ),
    "an ignored dilation": Mistake(
        "kernels", "spread = taps.dilation // into.dilation if taps.count > 1 else 1", "spread = 1", _dilated
    ),
    "a stride confused with none": Mistake(
        "convolutions",
        "stride = (outer.stride[0] * inner.stride[0], outer.stride[1] * inner.stride[1])",
        "stride = outer.stride",
        _serial,
    ),
    "groups scaled in the wrong order": Mistake(
        "weight_space",
        "shape=(groups, 1, per_group, *(1,) * (match.type(weight).rank - 2))",
        "shape=(1, groups, per_group, *(1,) * (match.type(weight).rank - 2))",
        lambda g, x: _conv(g, _factor(g, x, 6, 1, 1), "a", groups=2),
    ),
    "a wrong offset in a concat": Mistake(
        "pieces",
        "return _cut(match, part, axis, start - position, stop - position)",
        "return _cut(match, part, axis, 0, stop - start)",
        _cut,
    ),
    "a swapped order of dimensions": Mistake(
        "rearrange",
        "self.current = [self.current[axis] for axis in order]",
        "self.current = [self.current[order.index(axis)] for axis in range(len(order))]",
        _turned,
    ),
    "an axis that is not moved with the others": Mistake(
        "transposes",
        'return {**attrs, "axis": order.index(attrs["axis"] % rank)}',
        'return {**attrs, "axis": order[attrs["axis"] % rank]}',
        _softmax,
    ),
    "a broadcast read along the wrong dimension": Mistake(
        "transposes",
        "shape=(1,) * (rank - len(shape)) + shape",
        "shape=shape + (1,) * (rank - len(shape))",
        _table,
    ),
    "a weight that is not transposed": Mistake(
        "products",
        'match.apply("linear", match["x"], match.apply("permute", match["w"], order=(1, 0)))',
        'match.apply("linear", match["x"], match["w"])',
        _square,
    ),
    "a factor taken twice": Mistake(
        "products",
        "operands = (shared, summed) if p == 0 else (summed, shared)",
        "operands = (shared, shared)",
        lambda g, x: _add(g, *(g.apply("mul", [y, g.apply("softmax", [x])]) for y in (x, g.apply("tanh", [x])))),
    ),
    "a padding of another value": Mistake("pieces", 'if pad["value"] != 0.0:', "if False:", _border),
    "a maximum that takes zeros for nothing": Mistake("pieces", '"relu", "relu6"', '"add", "relu", "relu6"', _peak),
    "a difference that commutes": Mistake(
        "rewrite", '"maximum", "minimum"', '"maximum", "minimum", "sub"', _difference
    ),
}


@contextmanager
def made(mistake: Mistake) -> Iterator[Run]:
    """The passes that simplify, with the mistake in them; the modules of everybody else stay as they are."""
    import specc

    name = f"specc.passes.{mistake.module}"
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None
    source = Path(found.origin).read_text(encoding="utf-8")
    assert source.count(mistake.right) == 1, f"{mistake.module} does not say `{mistake.right}` any more"
    package = specc.passes
    kept = {key: module for key, module in sys.modules.items() if f"{key}.".startswith("specc.passes.")}
    for key in kept:
        del sys.modules[key]
    try:
        import_module("specc.passes")
        module = sys.modules[name] = ModuleType(name)
        module.__spec__, module.__file__ = found, found.origin
        exec(compile(source.replace(mistake.right, mistake.wrong), found.origin, "exec"), module.__dict__)
        setattr(sys.modules["specc.passes"], mistake.module, module)
        canonicalize = import_module("specc.passes.canonicalize").canonicalize
        reparam = import_module("specc.passes.reparam").reparam
        yield lambda graph: canonicalize(reparam(canonicalize(graph)))
    finally:
        for key in [key for key in sys.modules if f"{key}.".startswith("specc.passes.")]:
            del sys.modules[key]
        sys.modules.update(kept)
        specc.passes = package  # type: ignore[attr-defined]


def network(build: Build) -> Graph:
    """What a mistake is about, in the middle of other things."""
    graph = Graph("Mistaken")
    image = graph.input("image", TensorType((2, 3, 8, 8)))
    stem = graph.call("conv2d", [image], {"out": 6, "k": 3}, "stem")
    x = graph.apply("gelu", [graph.call("batch_norm", [stem], {}, "norm")])
    y = graph.apply("relu", [build(graph, x)])
    pooled = graph.apply("mean", [y], {"axes": tuple(range(2, graph.type(y).rank))})
    graph.outputs = [graph.call("linear", [pooled], {"out": 5}, "head"), graph.apply("sigmoid", [pooled])]
    return graph


def _fails(run: Run, graph: Graph) -> bool:
    try:
        check_pass(run, graph, idempotent=False)  # the whole pipeline: each of its passes is idempotent alone
    except (AssertionError, Illegal):
        return True
    return False


@pytest.mark.parametrize("name", MISTAKES)
def test_a_seeded_mistake_is_caught_and_reduced(name: str) -> None:
    mistake = MISTAKES[name]
    graph = network(mistake.build)
    with made(mistake) as run:
        assert _fails(run, graph), "no relation notices it"
        smallest = reduce(graph, lambda part: _fails(run, part))
    assert 1 <= len(smallest.live()) <= 3, smallest


@pytest.mark.parametrize("name", MISTAKES)
def test_the_networks_are_right_without_a_mistake(name: str) -> None:
    """What fails above fails for the mistake alone."""
    from specc.passes.canonicalize import canonicalize
    from specc.passes.reparam import reparam

    check_pass(
        lambda graph: canonicalize(reparam(canonicalize(graph))), network(MISTAKES[name].build), idempotent=False
    )
