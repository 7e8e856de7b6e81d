"""The diverse branch block (arXiv:2103.13425) as it is trained, named as in github.com/DingXiaoH/DiverseBranchBlock."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def conv_bn(inputs: int, out: int, k: int = 1, s: int = 1, groups: int = 1) -> nn.Sequential:
    parts = nn.Sequential()
    parts.add_module("conv", nn.Conv2d(inputs, out, k, s, k // 2, groups=groups, bias=False))
    parts.add_module("bn", nn.BatchNorm2d(out))
    return parts


class PaddingNorm(nn.Module):
    """A batch norm, padded with what it makes of zero."""

    def __init__(self, c: int, padding: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(c)
        self.padding = padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        of_zero = self.bn(torch.zeros_like(x[:1, :, :1, :1]))
        frame = [self.padding] * 4
        inside = functional.pad(torch.ones_like(x), frame)
        return functional.pad(self.bn(x), frame) + (1 - inside) * of_zero


class Residual1x1(nn.Conv2d):
    """A 1x1 whose kernel is added to the identity."""

    def __init__(self, c: int, groups: int) -> None:
        super().__init__(c, c, 1, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x


class DiverseBranchBlock(nn.Module):
    def __init__(self, channels: int = 32, out: int = 32, k: int = 3, s: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.dbb_origin = conv_bn(channels, out, k, s, groups)
        self.dbb_avg = nn.Sequential()
        self.dbb_1x1_kxk = nn.Sequential()
        if groups < out:
            middle = channels
            self.dbb_1x1 = conv_bn(channels, out, 1, s, groups)
            self.dbb_avg.add_module("conv", nn.Conv2d(channels, out, 1, groups=groups, bias=False))
            self.dbb_avg.add_module("bn", PaddingNorm(out, k // 2))
            self.dbb_avg.add_module("avg", nn.AvgPool2d(k, s))
            self.dbb_1x1_kxk.add_module("idconv1", Residual1x1(channels, groups))
        else:
            middle = 2 * channels
            self.dbb_1x1 = None
            self.dbb_avg.add_module("avg", nn.AvgPool2d(k, s, k // 2))
            self.dbb_1x1_kxk.add_module("conv1", nn.Conv2d(channels, middle, 1, groups=groups, bias=False))
        self.dbb_avg.add_module("avgbn", nn.BatchNorm2d(out))
        self.dbb_1x1_kxk.add_module("bn1", PaddingNorm(middle, k // 2))
        self.dbb_1x1_kxk.add_module("conv2", nn.Conv2d(middle, out, k, s, groups=groups, bias=False))
        self.dbb_1x1_kxk.add_module("bn2", nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dbb_origin(x) + self.dbb_avg(x) + self.dbb_1x1_kxk(x)
        return y if self.dbb_1x1 is None else y + self.dbb_1x1(x)
