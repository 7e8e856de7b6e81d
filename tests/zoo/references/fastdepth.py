"""FastDepth as its paper describes it (arXiv:1903.03273), MobileNet with NNConv5 and sums, in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def conv_bn(inputs: int, out: int, s: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, out, 3, s, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU6())


def conv_dw(inputs: int, out: int, s: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, s, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU6(),
        nn.Conv2d(inputs, out, 1, 1, 0, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )


def depthwise(channels: int, k: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def pointwise(inputs: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class FastDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dims = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        self.conv0 = conv_bn(3, 32, 2)
        for i, s in enumerate(strides):
            self.add_module(f"conv{i + 1}", conv_dw(dims[i], dims[i + 1], s))
        for i in range(1, 6):
            inputs = 1024 // 2 ** (i - 1)
            self.add_module(f"decode_conv{i}", nn.Sequential(depthwise(inputs, 5), pointwise(inputs, inputs // 2)))
        self.decode_conv6 = pointwise(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = {}
        for i in range(14):
            x = self.get_submodule(f"conv{i}")(x)
            kept[i] = x
        for i in range(1, 6):
            x = self.get_submodule(f"decode_conv{i}")(x)
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            if i in (2, 3, 4):
                x = x + kept[{2: 5, 3: 3, 4: 1}[i]]
        return self.decode_conv6(x)
