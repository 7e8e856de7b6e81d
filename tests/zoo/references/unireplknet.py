"""UniRepLKNet (arXiv:2311.15599) as it is trained, with the names of github.com/AILab-CVC/UniRepLKNet."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Dilated(nn.Module):
    """A depthwise 13x13 with batch norm, and branches of a smaller kernel with gaps."""

    branches = ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))

    def __init__(self, c: int) -> None:
        super().__init__()
        self.lk_origin = nn.Conv2d(c, c, 13, padding=6, groups=c, bias=False)
        self.origin_bn = nn.BatchNorm2d(c)
        for k, d in self.branches:
            conv = nn.Conv2d(c, c, k, padding=d * (k - 1) // 2, dilation=d, groups=c, bias=False)
            self.add_module(f"dil_conv_k{k}_{d}", conv)
            self.add_module(f"dil_bn_k{k}_{d}", nn.BatchNorm2d(c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.origin_bn(self.lk_origin(x))
        for k, d in self.branches:
            y = y + getattr(self, f"dil_bn_k{k}_{d}")(getattr(self, f"dil_conv_k{k}_{d}")(x))
        return y


class Excite(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(c, c // 4, 1)
        self.up = nn.Conv2d(c // 4, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * self.up(self.down(means).relu()).sigmoid()


class ResponseNorm(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, c))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        relative = response / (response.mean(-1, keepdim=True) + 1e-6)
        return (self.gamma * relative + 1) * x + self.beta


class Block(nn.Module):
    def __init__(self, c: int, k: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(c))
        self.dwconv = Dilated(c) if k > 5 else nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False)
        self.norm = nn.BatchNorm2d(c)
        self.se = Excite(c)
        self.pwconv1 = nn.Sequential(nn.Identity(), nn.Linear(c, 4 * c))
        self.act = nn.Sequential(nn.GELU(), ResponseNorm(4 * c))
        self.pwconv2 = nn.Sequential(nn.Linear(4 * c, c, bias=False), nn.Identity(), nn.BatchNorm2d(c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.se(self.norm(self.dwconv(x)))
        y = self.act(self.pwconv1(y.permute(0, 2, 3, 1)))
        y = self.pwconv2[2](self.pwconv2[0](y).permute(0, 3, 1, 2))
        return x + self.gamma[:, None, None] * y


class ChannelNorm(nn.LayerNorm):
    """Over the channels of [n, c, h, w]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class UniRepLKNet(nn.Module):
    def __init__(self, dim: int = 40, depths: tuple[int, ...] = (2, 2, 6, 2), small: int = 0) -> None:
        super().__init__()
        first = nn.Sequential(
            nn.Conv2d(3, dim // 2, 3, 2, 1),
            ChannelNorm(dim // 2, 1e-6),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, 2, 1),
            ChannelNorm(dim, 1e-6),
        )
        self.downsample_layers = nn.ModuleList([first])
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            c = dim * 2**i
            if i > 0:
                shrink = nn.Sequential(nn.Conv2d(c // 2, c, 3, 2, 1), ChannelNorm(c, 1e-6))
                self.downsample_layers.append(shrink)
            kernels = [13 if i in (1, 3) or (i == 2 and j % (small + 1) == 0) else 3 for j in range(depth)]
            self.stages.append(nn.Sequential(*[Block(c, k) for k in kernels]))
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.head = nn.Linear(c, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for shrink, stage in zip(self.downsample_layers, self.stages):
            x = stage(shrink(x))
        return self.head(self.norm(x.mean((2, 3))))
