"""Where PyTorch's meaning is easy to miss: the references against torch.nn.functional, called plainly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

import specc
from specc import grammar, ops
from specc.diagnostics import SpeccError
from specc.ir.types import TensorType
from specc.ops.record import Illegal

torch.manual_seed(0)


def draw(*shape: int) -> Any:
    return torch.randn(shape, dtype=torch.float64)


def run(name: str, *operands: Any, **attrs: Any) -> Any:
    record = ops.get(name)
    return record.torch(*operands, **ops.complete(record, attrs))


def same(a: Any, b: Any) -> None:
    assert a.shape == b.shape and torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_transposed_convolution(dimensions: int) -> None:
    """Groups, dilation, stride and output padding, each different along each axis."""
    extents, k = (5, 4, 3)[:dimensions], (3, 2, 4)[:dimensions]
    stride, dilation, extra = (2, 3, 2)[:dimensions], (1, 2, 1)[:dimensions], (1, 2, 0)[:dimensions]
    p = (1, 2, 0)[:dimensions]
    x, weight, bias = draw(2, 6, *extents), draw(6, 2, *k), draw(4)
    function = getattr(functional, f"conv_transpose{dimensions}d")
    attrs = {"stride": stride, "padding": p, "output_padding": extra, "dilation": dilation, "groups": 2}
    same(
        run(f"conv_transpose{dimensions}d", x, weight, bias, **attrs),
        function(x, weight, bias, stride, p, extra, 2, dilation),
    )


def test_a_transposed_convolution_is_cut_on_each_side_by_its_own_padding() -> None:
    x, weight = draw(1, 2, 5), draw(2, 3, 4)
    whole = functional.conv_transpose1d(x, weight, stride=2)
    same(run("conv_transpose1d", x, weight, stride=2, padding=(1, 3)), whole[:, :, 1:-3])


def test_padding_of_three_dimensions_stands_in_front_and_then_behind() -> None:
    x, weight = draw(1, 2, 3, 4, 5), draw(3, 2, 2, 2, 2)
    found = run("conv3d", x, weight, padding=(1, 0, 2, 0, 3, 1))
    same(found, functional.conv3d(functional.pad(x, (2, 1, 0, 3, 1, 0)), weight))


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    "shape, mode", [((7,), "linear"), ((5, 3), "bilinear"), ((5, 3), "bicubic"), ((2, 3, 4), "trilinear")]
)
def test_resize(shape: tuple[int, ...], mode: str, align: bool) -> None:
    x = draw(1, 2, *shape)
    size = tuple(2 * e + 3 for e in shape)
    same(
        run("resize", x, size=size, mode=mode, align_corners=align),
        functional.interpolate(x, size=size, mode=mode, align_corners=align),
    )


RESIZE = """specc 1

network R(x: [1, 2, h = {h}, w = {w}]) -> [1, 2, _, _]:
    return resize(x, {how})
"""


@pytest.mark.parametrize(
    "how, given",
    [
        ("scale=2", {"scale_factor": 2}),
        ('scale=2, mode="bilinear"', {"scale_factor": 2, "mode": "bilinear"}),
        ('scale=0.5, mode="bilinear"', {"scale_factor": 0.5, "mode": "bilinear"}),
        ('scale=1.5, mode="bicubic"', {"scale_factor": 1.5, "mode": "bicubic"}),
        (
            'size=[3, 11], mode="bilinear", align_corners=true',
            {"size": (3, 11), "mode": "bilinear", "align_corners": True},
        ),
        ('size=[1, 11], mode="bicubic"', {"size": (1, 11), "mode": "bicubic"}),
        ("size=[h * 3, 5]", {"size": (15, 5)}),
    ],
)
def test_resize_in_an_artifact(how: str, given: dict[str, Any]) -> None:
    x = draw(1, 2, 5, 7).float()
    (found,) = specc.compile(grammar.loads(RESIZE.format(h=5, w=7, how=how)))(x.numpy())
    expected = functional.interpolate(x, **given).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_nearest_by_whole_factors_at_every_extent() -> None:
    for extent in range(1, 30):
        x = draw(1, 1, extent)
        for factor in (2, 3, 5, 7):
            size = (extent * factor,)
            same(run("resize", x, size=size), x.repeat_interleave(factor, -1))


@pytest.mark.parametrize("sets, groups", [(1, 1), (2, 1), (2, 2)])
def test_deformable_convolution(sets: int, groups: int) -> None:
    """Every tap as torch samples it: offsets (y, x) by set and tap, as torchvision orders them."""
    x, weight, bias = draw(2, 4, 7, 6), draw(6, 4 // groups, 3, 2), draw(6)
    stride, padding, dilation = (2, 1), (1, 2), (1, 2)
    attrs = {"stride": stride, "padding": padding, "dilation": dilation}
    shape = functional.conv2d(x, draw(1, 4, 3, 2), **attrs).shape[2:]
    offset, mask = 2 * draw(2, sets * 12, *shape), torch.sigmoid(draw(2, sets * 6, *shape))
    rows = (torch.arange(shape[0]) * stride[0] - padding[0])[:, None]
    columns = torch.arange(shape[1]) * stride[1] - padding[1]
    samples = torch.zeros(2, 4, 6, *shape, dtype=torch.float64)
    for part in range(sets):
        own = slice(part * 4 // sets, (part + 1) * 4 // sets)
        for tap in range(6):
            number = part * 6 + tap
            y = rows + tap // 2 * dilation[0] + offset[:, 2 * number]
            z = columns + tap % 2 * dilation[1] + offset[:, 2 * number + 1]
            grid = torch.stack((2 * z / 5 - 1, 2 * y / 6 - 1), -1)
            found = functional.grid_sample(x[:, own], grid, "bilinear", "zeros", True)
            samples[:, own, tap] = found * mask[:, number, None]
    expected = torch.stack(
        [
            torch.einsum("nctyx,ct->nyx", samples[:, group], weight[o].flatten(1)) + bias[o]
            for o in range(6)
            for group in [slice(o * groups // 6 * (4 // groups), (o * groups // 6 + 1) * (4 // groups))]
        ],
        1,
    )
    same(run("deform_conv2d", x, offset, mask, weight, bias, groups=groups, **attrs), expected)


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    x, weight = draw(1, 4, 6, 5), draw(2, 2, 3, 3)
    plain = run("conv2d", x, weight, padding=1, groups=2)
    found = run("deform_conv2d", x, draw(1, 18, 6, 5) * 0, draw(1, 9, 6, 5) * 0 + 1, weight, padding=1, groups=2)
    same(found, plain)


def test_the_first_of_equals() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert run("argmax", x).tolist() == [1, 0]
    assert run("topk_indices", x, k=3).tolist() == [[1, 2, 0], [0, 1, 2]]
    assert run("topk_indices", x, k=2, largest=False).tolist() == [[3, 0], [0, 1]]


def test_negative_axes_and_shifts() -> None:
    x = draw(2, 3, 5)
    same(run("roll", x, shifts=(-2, 7), axes=(-1, 1)), x.roll((-2, 7), (-1, 1)))
    same(run("flip", x, axes=(-1, 0)), x.flip((-1, 0)))
    same(run("cumsum", x, axis=-2), x.cumsum(-2))
    places = torch.tensor([[2, 0], [1, 1]])
    same(run("take", x, places, axis=-2), x[:, places])


def test_fold_is_the_transpose_of_unfold() -> None:
    attrs = {"k": (3, 2), "stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
    x = draw(1, 2, 6, 5)
    columns = run("unfold", x, **attrs)
    y = draw(*columns.shape)
    same((columns * y).sum(), (x * run("fold", y, size=(6, 5), **attrs)).sum())


TOKENS = """specc 1

network Words(tokens: [n = 1, l = 6] int64) -> [n, l, 50]:
    param table: [50, 8] init normal(0.02)
    x = embedding(reshape(tokens, [n, l]), 50, 8, weight=table)
    return linear(x, 50, weight=table, bias=false)
"""


def test_tokens_lie_inside_their_table() -> None:
    artifact = specc.compile(grammar.loads(TOKENS))
    (spec,), (sample,) = artifact.manifest.inputs, artifact.contents.samples[0].inputs
    assert spec.domain == (0, 49) and sample.min() >= 0 and sample.max() < 50 and len(np.unique(sample)) > 2
    artifact.self_test()
    for wrong in (-1, 50):
        with pytest.raises(SpeccError) as caught:
            artifact(np.full((1, 6), wrong))
        assert caught.value.diagnostics[0].code == "S0913"


@pytest.mark.parametrize(
    "name, operands, attrs, reason",
    [
        ("resize", [(1, 2, 3, 3)], {"size": (4, 4), "mode": "linear"}, "there are nearest, bilinear, bicubic"),
        ("resize", [(1, 2, 3)], {"size": (4,), "align_corners": True}, "says nothing for the nearest"),
        ("conv_transpose1d", [(1, 2, 3), (2, 2, 3)], {"output_padding": 1}, "below stride or dilation"),
        ("roll", [(2, 3)], {"shifts": (1,), "axes": (0, 1)}, "1 shifts for 2 axes"),
        ("topk_indices", [(2, 3)], {"k": 4}, "there are no 4 of 3 elements"),
    ],
)
def test_what_is_refused(name: str, operands: list[tuple[int, ...]], attrs: dict[str, Any], reason: str) -> None:
    record = ops.get(name)
    with pytest.raises(Illegal) as problem:
        ops.infer(record, [TensorType(shape) for shape in operands], ops.complete(record, attrs))
    assert reason in problem.value.reason
