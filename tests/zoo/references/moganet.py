"""MogaNet as its paper describes it (arXiv:2211.03295), in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class MultiOrder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        far, farthest = dim * 3 // 8, dim * 4 // 8
        self.dims = [dim - far - farthest, far, farthest]
        self.DW_conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.DW_conv1 = nn.Conv2d(far, far, 5, padding=4, groups=far, dilation=2)
        self.DW_conv2 = nn.Conv2d(farthest, farthest, 7, padding=9, groups=farthest, dilation=3)
        self.PW_conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near, far, farthest = torch.split(self.DW_conv0(x), self.dims, dim=1)
        return self.PW_conv(torch.cat([near, self.DW_conv1(far), self.DW_conv2(farthest)], dim=1))


class ElementScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full([1, dim, 1, 1], 1e-5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class Aggregation(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.gate = nn.Conv2d(dim, dim, 1)
        self.value = MultiOrder(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)
        self.sigma = ElementScale(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.proj_1(x)
        y = F.silu(y + self.sigma(y - F.adaptive_avg_pool2d(y, 1)))
        return x + self.proj_2(F.silu(self.gate(y)) * F.silu(self.value(y)))


class ChannelAggregation(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.decompose = nn.Conv2d(hidden, 1, 1)
        self.sigma = ElementScale(hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.dwconv(self.fc1(x)))
        x = x + self.sigma(x - F.gelu(self.decompose(x)))
        return self.fc2(x)


class Block(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = Aggregation(dim)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = ChannelAggregation(dim, dim * ratio)
        self.layer_scale_1 = nn.Parameter(torch.full([1, dim, 1, 1], 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full([1, dim, 1, 1], 1e-5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.layer_scale_1 * self.attn(self.norm1(x))
        return x + self.layer_scale_2 * self.mlp(self.norm2(x))


class Stem(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Conv2d(3, dim // 2, 3, 2, 1),
            nn.BatchNorm2d(dim // 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, 2, 1),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(x)


class Shrink(nn.Module):
    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(inputs, dim, 3, 2, 1)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.projection(x))


class MogaNet(nn.Module):
    def __init__(
        self, dims: list[int], depths: list[int], ratios: tuple[int, ...] = (8, 8, 4, 4), classes: int = 1000
    ) -> None:
        super().__init__()
        for i, (dim, depth, ratio) in enumerate(zip(dims, depths, ratios)):
            self.add_module(f"patch_embed{i + 1}", Stem(dim) if i == 0 else Shrink(dims[i - 1], dim))
            self.add_module(f"blocks{i + 1}", nn.Sequential(*[Block(dim, ratio) for _ in range(depth)]))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(dim, eps=1e-6))
        self.head = nn.Linear(dims[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, 5):
            x = self.get_submodule(f"blocks{i}")(self.get_submodule(f"patch_embed{i}")(x))
            x = self.get_submodule(f"norm{i}")(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(x.mean(dim=(2, 3)))
