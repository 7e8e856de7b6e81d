"""ACNet's block (arXiv:1908.03930) as it is trained, with the names of github.com/DingXiaoH/ACNet."""

from __future__ import annotations

import torch
from torch import nn


class AsymmetricBlock(nn.Module):
    def __init__(
        self,
        channels: int = 32,
        out: int = 32,
        k: int = 3,
        s: int = 1,
        p: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        kernels = {
            "square": ((k, k), (p, p)),
            "ver": ((k, 1), (p, p - k // 2)),
            "hor": ((1, k), (p - k // 2, p)),
        }
        for name, (kernel, padding) in kernels.items():
            conv = nn.Conv2d(
                channels,
                out,
                kernel,
                s,
                padding,
                groups=groups,
                bias=False,
            )
            self.add_module(f"{name}_conv", conv)
            self.add_module(f"{name}_bn", nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        square = self.square_bn(self.square_conv(x))
        vertical = self.ver_bn(self.ver_conv(x))
        horizontal = self.hor_bn(self.hor_conv(x))
        return square + vertical + horizontal
