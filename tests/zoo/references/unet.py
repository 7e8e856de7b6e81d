"""U-Net (arXiv:1505.04597) with padded convolutions, in PyTorch."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


def double_conv(inputs: int, out: int, mid: int | None = None) -> nn.Module:
    mid = mid or out
    layers = nn.Sequential(
        nn.Conv2d(inputs, mid, 3, padding=1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )
    return nn.Sequential(OrderedDict(double_conv=layers))


def down(inputs: int, out: int) -> nn.Module:
    return nn.Sequential(OrderedDict(maxpool_conv=nn.Sequential(nn.MaxPool2d(2), double_conv(inputs, out))))


class Up(nn.Module):
    def __init__(self, inputs: int, kept: int, out: int, bilinear: bool) -> None:
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = double_conv(inputs + kept, out, (inputs + kept) // 2)
        else:
            self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
            self.conv = double_conv(inputs // 2 + kept, out)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    def __init__(
        self, dims: tuple[int, ...] = (64, 128, 256, 512, 1024), bilinear: bool = False, classes: int = 2
    ) -> None:
        super().__init__()
        self.levels = len(dims) - 1
        widths = [*dims[:-1], dims[-1] // 2] if bilinear else list(dims)
        self.inc = double_conv(3, dims[0])
        for i in range(self.levels):
            self.add_module(f"down{i + 1}", down(dims[i], widths[i + 1]))
        below = widths[-1]
        for i in range(self.levels):
            at = self.levels - 1 - i
            out = dims[at] // 2 if bilinear and at > 0 else dims[at]
            self.add_module(f"up{i + 1}", Up(below, dims[at], out, bilinear))
            below = out
        self.outc = nn.Sequential(OrderedDict(conv=nn.Conv2d(dims[0], classes, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = [self.inc(x)]
        for i in range(self.levels):
            kept.append(self.get_submodule(f"down{i + 1}")(kept[-1]))
        x = kept.pop()
        for i in range(self.levels):
            x = self.get_submodule(f"up{i + 1}")(x, kept.pop())
        return self.outc(x)
