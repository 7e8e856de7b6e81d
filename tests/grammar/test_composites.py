"""split, chunk, rearrange and einsum give what PyTorch gives for the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specc import grammar
from specc.diagnostics import SpeccError
from specc.ir.graph import Graph
from specc.ir.verify import verify


def network(call: str, *shapes: list[int]) -> Graph:
    inputs = ", ".join(f"x{i}: {shape}" for i, shape in enumerate(shapes))
    graph = grammar.loads(f"specc 1\nnetwork N({inputs}):\n    return {call}\n")
    verify(graph)
    return graph


def run(call: str, *shapes: list[int]) -> tuple[list[Any], Any]:
    import torch

    from specc.backends.torch import to_torch

    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return given, to_torch(network(call, *shapes), "float64")(*given)


EINSUMS = [
    ("b h q d, b h k d -> b h q k", [2, 3, 4, 5], [2, 3, 6, 5]),
    ("b h q k, b h k d -> b q h d", [2, 3, 4, 6], [2, 3, 6, 5]),
    ("ij,jk->ki", [2, 3], [3, 4]),
    ("i, j -> i j", [2], [3]),
    ("i j, i j ->", [2, 3], [2, 3]),
    ("a b c, d -> d b", [2, 3, 4], [5]),
    ("n c h w, n c -> n h w", [2, 3, 4, 5], [2, 3]),
    ("i j k -> k i", [2, 3, 4]),
    ("a r, b r, c r -> a b c", [2, 4], [3, 4], [5, 4]),
    ("n i, i o r, n r, z -> n o", [2, 3], [3, 4, 5], [2, 5], [3]),
    ("i, i, i ->", [3], [3], [3]),
]


@pytest.mark.parametrize(("pattern", "shapes"), [(first, rest) for first, *rest in EINSUMS])
def test_einsum(pattern: str, shapes: list[list[int]]) -> None:
    import torch

    operands = ", ".join(f"x{i}" for i in range(len(shapes)))
    given, got = run(f'einsum("{pattern}", {operands})', *shapes)
    letters = {name: chr(97 + i) for i, name in enumerate(dict.fromkeys(c for c in pattern if c.isalpha()))}
    spelled = "".join(letters.get(c, c) for c in pattern).replace(" ", "")
    wanted = torch.einsum(spelled, *given)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 1e-12


def test_full() -> None:
    (x,), got = run("x0 + full([3, 1], 0.5) * full([1, 5], 2)", [3, 5])
    assert (got == x + 1).all()


def test_rearrange() -> None:
    (x,), got = run('rearrange(x0, "b (h d) l -> b h l d", h=2)', [3, 8, 5])
    assert (got == x.reshape(3, 2, 4, 5).permute(0, 1, 3, 2)).all()
    (x,), got = run('rearrange(x0, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=3)', [2, 5, 4, 6])
    wanted = x.reshape(2, 5, 2, 2, 2, 3).permute(0, 2, 4, 3, 5, 1).reshape(2, 4, 30)
    assert (got == wanted).all()
    (x,), got = run('rearrange(x0, "b 1 c -> c 1 1 b")', [2, 1, 3])
    assert (got == x.reshape(2, 3).T.reshape(3, 1, 1, 2)).all()


def test_no_node_is_made_that_does_nothing() -> None:
    assert len(network('rearrange(x0, "b c -> b c")', [2, 3])) == 1
    assert network('rearrange(x0, "b (h d) -> b h d", h=3)', [2, 6]).count("permute") == 0
    graph = network('einsum("b i j, b j k -> b i k", x0, x1)', [2, 3, 4], [2, 4, 5])
    assert [graph.node(i).op for i in graph.live()] == ["matmul"]


def test_symbolic_dimensions() -> None:
    text = 'specc 1\nnetwork N(x: [n, 6, h, w]):\n    return rearrange(x, "n (k m) h w -> n k (h w) m", k=3)\n'
    graph = grammar.loads(text)
    verify(graph)
    assert [str(extent) for extent in graph.type(graph.outputs[0]).shape] == ["n", "3", "h*w", "2"]


def test_split_and_chunk() -> None:
    (x,), got = run("concat(split(x0, [1, 5, 2], axis=-1)[1], chunk(x0, 4, axis=-1)[3], axis=-1)", [2, 3, 8])
    assert (got[..., :5] == x[..., 1:6]).all() and (got[..., 5:] == x[..., 6:]).all()


WRONG = [
    ('rearrange(x0, "a b -> b a")', "S0307", "the pattern has 2 dimensions, and the tensor 3"),
    ('rearrange(x0, "a (b c) d -> a b c d")', "S0307", "`b` and `c` of (b c) are both open"),
    ('rearrange(x0, "a (b c) d -> a b c d", b=4)', "S0307", "b = 4 does not divide 6"),
    ('rearrange(x0, "a (b c) d -> a b c d", b=4, c=2)', "S0307", "b = 4 * c = 2 does not give 6"),
    ('rearrange(x0, "a b c -> a b")', "S0307", "`c` stands on one side only"),
    ('rearrange(x0, "a b b -> a b")', "S0307", "`b` stands twice"),
    ('rearrange(x0, "a (b c -> a b c")', "S0307", "is open"),
    ('rearrange(x0, "a b ) c -> a b c")', "S0307", "is no list of dimensions"),
    ('rearrange(x0, "a ((b) c) d -> a b c d")', "S0307", "is no list of dimensions"),
    ('rearrange(x0, "a b c", a=2)', "S0307", "one `->`"),
    ('rearrange(x0, "a b c -> c b a", d=2)', "S0307", "has no `d`"),
    ('rearrange(x0, "a (b c) d -> a b c d", b=0)', "S0307", "at least 1"),
    ("rearrange(x0)", "S0403", "is called as"),
    ("x0 + full([0], 1)", "S0401", "a list of integers of at least 1"),
    ("x0 + full(3, 1)", "S0401", "a list of integers of at least 1"),
    ("x0 + full([3], true)", "S0401", "the value is a number"),
    ('einsum("a b, b c -> a c", x0)', "S0307", "has 2 operands, and the call 1"),
    ('einsum("a b c ->")', "S0403", "`einsum` is called as"),
    ('einsum("a b c -> d", x0)', "S0307", "`d` of the result is in no operand"),
    ('einsum("a b c, b -> a", x0, relu(x0))', "S0307", "1 dimensions, and the tensor 3"),
    ('einsum("a (b c) -> a", x0)', "S0307", "`rearrange` takes these"),
    ("split(x0, [1, 2])[0]", "S0302", "add up to 3, and dimension 1 has 6"),
    ("split(x0, 3)[0]", "S0401", "a list of integers"),
    ("chunk(x0, 4)[0]", "S0302", "does not divide into 4 parts"),
    ("chunk(x0, 2, axis=3)[0]", "S0302", "no dimension 3"),
    ("chunk(3, 2)[0]", "S0402", "a tensor is needed"),
]


@pytest.mark.parametrize(("call", "code", "part"), WRONG)
def test_what_does_not_fit_is_said(call: str, code: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(SpeccError) as caught:
        network(call, [2, 6, 4])
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code and part in diagnostic.message
    assert diagnostic.labels
