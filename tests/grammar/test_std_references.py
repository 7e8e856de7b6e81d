"""Blocks of the standard library beside PyTorch and torchvision: the same keys, and in float64 the same numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import std_references as plain
import torch
from torch import Tensor, nn

from specc import grammar
from specc.backends.torch import to_torch

Shape = tuple[int, ...]
IMAGE: Shape = (2, 8, 9, 10)
SMALL: Shape = (2, 3, 9, 11)
LEVELS: tuple[Shape, ...] = ((2, 8, 9, 10), (2, 6, 5, 5), (2, 4, 3, 3))
EQUAL: tuple[Shape, ...] = ((2, 32, 5, 4), (2, 32, 3, 2))
DISTANCES: Shape = (2, 90, 4)
ORDER = {"cls_logits": 0, "bbox_regression": 1, "bbox_ctrness": 2}
"""The results of torchvision's heads."""


class Case(NamedTuple):
    """A call of blocks of `std.module`, the shapes of x0, x1, ... in it, and the module of PyTorch."""

    module: str
    call: str
    shapes: tuple[Shape, ...]
    build: Callable[[Any], nn.Module]
    run: Callable[[nn.Module, list[Tensor]], Any] = lambda module, xs: module(*xs)


def listed(module: nn.Module, xs: list[Tensor]) -> Any:
    return module(xs)


def named(module: nn.Module, xs: list[Tensor]) -> Any:
    return module({str(i): x for i, x in enumerate(xs)})


def pyramid(tv: Any, extra: str | None) -> nn.Module:
    ops = tv.ops.feature_pyramid_network
    blocks = {"pool": ops.LastLevelMaxPool, "p6p7": lambda: ops.LastLevelP6P7(8, 8)}
    return tv.ops.FeaturePyramidNetwork([8, 6, 4], 8, extra_blocks=blocks[extra]() if extra else None)


def boxes(distances: Tensor) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(10), indexing="ij")
    centres = torch.stack([columns, rows], 2).reshape(-1, 2) + 0.5
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], 2) * 8


CASES = [
    Case("conv", "FrozenBatchNorm(x0)", (IMAGE,), lambda tv: tv.ops.FrozenBatchNorm2d(8)),
    Case("unet", "DoubleConv(x0, 4, mid=5)", (IMAGE,), lambda tv: plain.DoubleConv(8, 4, 5)),
    Case("unet", "Down(x0, 4)", (IMAGE,), lambda tv: plain.Down(8, 4)),
    Case(
        "unet", "PadTo(x0, 12, 11)", (IMAGE,), lambda tv: plain.Computed(lambda x: nn.functional.pad(x, [0, 1, 1, 2]))
    ),
    Case("unet", "Up(x0, x1, 4)", (IMAGE, (2, 6, 19, 20)), lambda tv: plain.Up(8, 6, 4)),
    Case("unet", "Up(x0, x1, 4, bilinear=true)", (IMAGE, (2, 6, 19, 20)), lambda tv: plain.Up(8, 6, 4, bilinear=True)),
    Case("unet", "UNet(x0, [4, 8, 16])", (IMAGE,), lambda tv: plain.UNet(bilinear=False)),
    Case("unet", "UNet(x0, [4, 8, 16], bilinear=true)", (IMAGE,), lambda tv: plain.UNet(bilinear=True)),
    Case("unet", "AttentionGate(x0, x1, 3)", (IMAGE, (2, 6, 9, 10)), lambda tv: plain.AttentionGate(8, 6, 3)),
    Case("unet", "DecoderBlock(x0, 4)", (IMAGE,), lambda tv: plain.DecoderBlock(8, 4)),
    Case("unet", "UnetDecoder(x0, x1, dims=[5, 4])", LEVELS[:2], lambda tv: plain.UnetDecoder()),
    Case("pixels", "PixelShuffle(x0, 2)", (IMAGE,), lambda tv: nn.PixelShuffle(2)),
    Case("pixels", "PixelUnshuffle(x0, 3)", ((2, 4, 6, 9),), lambda tv: nn.PixelUnshuffle(3)),
    Case("pixels", "ShuffleUp(x0, 4)", (SMALL,), lambda tv: plain.shuffle_up(3, 2, 2)),
    Case("pixels", "ShuffleUp(x0, 3)", (SMALL,), lambda tv: plain.shuffle_up(3, 3)),
    Case("pixels", "ResizeUp(x0, 4)", (SMALL,), lambda tv: plain.ResizeUp(3, 4)),
    Case("stem", "PoolStem(x0, 8)", (SMALL,), lambda tv: plain.PoolStem(nn.Conv2d(3, 8, 7, 2, 3, bias=False))),
    Case("stem", "DeepStem(x0, 8, 4)", (SMALL,), lambda tv: plain.PoolStem(plain.deep(3, 4, 8))),
    Case("stem", "EarlyConvStem(x0, [4, 6], 8)", (SMALL,), lambda tv: plain.early_conv(3, 4, 6, 8)),
    Case("stem", "PatchStem(x0, 8)", ((2, 3, 8, 12),), lambda tv: plain.patches(3, 8)),
    Case("stem", "PoolHead(x0, 5)", (IMAGE,), lambda tv: plain.PoolHead(8, 5)),
    Case("stem", "ConvHead(x0, 6, 5)", (IMAGE,), lambda tv: plain.ConvHead(8, 6, 5)),
    Case("detection", "SharedConv(x0, x1, out=5)", EQUAL, lambda tv: plain.OnEach(nn.Conv2d(32, 5, 3, padding=1))),
    Case("detection", "SharedNorm(x0, x1, groups=4)", EQUAL, lambda tv: plain.OnEach(nn.GroupNorm(4, 32))),
    Case("detection", "Fpn(x0, x1, x2, out=8)", LEVELS, lambda tv: pyramid(tv, None), named),
    Case("detection", 'Fpn(x0, x1, x2, out=8, extra="pool")', LEVELS, lambda tv: pyramid(tv, "pool"), named),
    Case("detection", 'Fpn(x0, x1, x2, out=8, extra="p6p7")', LEVELS, lambda tv: pyramid(tv, "p6p7"), named),
    Case("detection", "Pafpn(x0, x1, x2, out=8)", LEVELS, lambda tv: plain.Pafpn([8, 6, 4], 8)),
    Case("detection", "ConvAct(x0, 4, k=3, s=2)", (IMAGE,), lambda tv: plain.ConvAct(8, 4, 3, 2)),
    Case("detection", "Bottleneck(x0, 8, e=0.5)", (IMAGE,), lambda tv: plain.Bottleneck(8, (1, 3), True, 0.5)),
    Case("detection", "C3(x0, 6, 2)", (IMAGE,), lambda tv: plain.C3(8, 6, 2)),
    Case("detection", "C2f(x0, 6, 2)", (IMAGE,), lambda tv: plain.C2f(8, 6, 2)),
    Case("detection", "Spp(x0, 6)", (IMAGE,), lambda tv: plain.Spp(8, 6, (5, 9, 13))),
    Case("detection", "Sppf(x0, 6)", (IMAGE,), lambda tv: plain.Spp(8, 6, (5, 9, 13))),
    Case(
        "detection",
        "AnchorHead(x0, x1, classes=5, anchors=3)",
        EQUAL,
        lambda tv: tv.models.detection.retinanet.RetinaNetHead(32, 3, 5),
        listed,
    ),
    Case(
        "detection",
        "FcosHead(x0, x1, classes=5, depth=2)",
        EQUAL,
        lambda tv: tv.models.detection.fcos.FCOSHead(32, 1, 5, 2),
        listed,
    ),
    Case(
        "detection",
        "SsdHead(x0, x1, classes=5, anchors=[2, 3])",
        LEVELS[:2],
        lambda tv: tv.models.detection.ssd.SSDHead([8, 6], [2, 3], 5),
        listed,
    ),
    Case("detection", "SidesToBoxes(x0, Centres(9, 10), 8)", (DISTANCES,), lambda tv: plain.Computed(boxes)),
    Case(
        "detection",
        "Integral(x0, 5)",
        ((2, 7, 20),),
        lambda tv: plain.Computed(lambda x: (x.unflatten(2, (4, 5)).softmax(3) * torch.arange(5)).sum(3)),
    ),
    Case(
        "detection",
        "DecoupledHead(x0, x1, classes=5, strides=[8, 16], width=4)",
        LEVELS[:2],
        lambda tv: plain.DecoupledHead([8, 6], 4, 5, [8, 16]),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.call)
def test_a_block_computes_what_pytorch_computes(case: Case, torchvision: Any) -> None:
    torch.manual_seed(5)
    theirs = case.build(torchvision).double().eval()
    inputs = ", ".join(f"x{i}: {list(shape)}" for i, shape in enumerate(case.shapes))
    blocks = ", ".join(sorted(called(case)))
    text = f"specc 1\nuse std.{case.module}: {blocks}\nnetwork N({inputs}):\n    return {case.call}\n"
    ours = to_torch(grammar.loads(text), "float64").eval()
    state = {key: drawn(t) for key, t in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    xs = [torch.randn(shape, dtype=torch.float64) for shape in case.shapes]
    expected, results = (parts(result) for result in (case.run(theirs, xs), ours(*xs)))
    assert [y.shape for y in results] == [y.shape for y in expected]
    assert all((a - b).abs().max() <= 1e-12 * (1 + b.abs().max()) for a, b in zip(results, expected))


def drawn(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    return torch.rand_like(value) + 0.5 if value.ndim < 2 else (torch.rand_like(value) - 0.5) / 4


def parts(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [value for _, value in sorted(result.items(), key=lambda item: ORDER.get(item[0], 0))]
    return list(result)


def called(case: Case) -> set[str]:
    return set(re.findall(r"\b([A-Z]\w*)\(", case.call))


def compared() -> set[str]:
    """The blocks that these cases call."""
    return {name for case in CASES for name in called(case)}
