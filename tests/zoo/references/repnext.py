"""RepNeXt (arXiv:2406.16004) as it is trained, with the names of github.com/suous/RepNeXt."""

from __future__ import annotations

import torch
from torch import nn


def conv_norm(inputs: int, out: int, k: int = 1, s: int = 1) -> nn.Sequential:
    parts = nn.Sequential()
    parts.add_module("conv", nn.Conv2d(inputs, out, k, s, k // 2, bias=False))
    parts.add_module("norm", nn.BatchNorm2d(out))
    return parts


class Depthwise(nn.Conv2d):
    """A depthwise convolution, padded to keep the extent where the stride is 1."""

    def __init__(self, c: int, k: tuple[int, int], s: tuple[int, int] = (1, 1), d: int = 1, bias: bool = True) -> None:
        padding = (d * (k[0] - 1) // 2, d * (k[1] - 1) // 2)
        super().__init__(c, c, k, s, padding, d, groups=c, bias=bias)


class Small(nn.Module):
    def __init__(self, c: int, s: int = 1) -> None:
        super().__init__()
        self.parallel = s == 1
        self.conv_3_3 = Depthwise(c, (3, 3), (s, s))
        self.conv_3_w = Depthwise(c, (1, 3), (1, s), bias=self.parallel)
        self.conv_3_h = Depthwise(c, (3, 1), (s, 1), bias=self.parallel)
        self.conv_2_2 = Depthwise(c, (2, 2), (s, s), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv_3_3(x) + self.conv_2_2(x)
        if self.parallel:
            return y + self.conv_3_h(x) + self.conv_3_w(x)
        return y + self.conv_3_h(self.conv_3_w(x))


class Medium(nn.Module):
    def __init__(self, c: int, s: int = 1) -> None:
        super().__init__()
        self.conv_7_7 = Depthwise(c, (7, 7), (s, s))
        self.conv_5_3 = Depthwise(c, (5, 3), (s, s))
        self.conv_3_5 = Depthwise(c, (3, 5), (s, s))
        self.conv_7_w = Depthwise(c, (1, 7), (1, s), bias=False)
        self.conv_7_h = Depthwise(c, (7, 1), (s, 1), bias=False)
        self.conv_5_w = Depthwise(c, (1, 5), (1, s), bias=False)
        self.conv_5_h = Depthwise(c, (5, 1), (s, 1), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows_and_columns = self.conv_7_h(self.conv_7_w(x)) + self.conv_5_h(self.conv_5_w(x))
        return self.conv_7_7(x) + self.conv_5_3(x) + self.conv_3_5(x) + rows_and_columns


class Chunks(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv_s = Small(c // 4)
        self.conv_m = Medium(c // 4)
        self.conv_l = nn.Sequential(Depthwise(c // 4, (1, 11)), Depthwise(c // 4, (11, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        same, small, medium, large = x.chunk(4, 1)
        return torch.cat([same, self.conv_s(small), self.conv_m(medium), self.conv_l(large)], 1)


class Copies(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv_s = Small(c, 2)
        self.conv_m = Medium(c, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.conv_s(x), self.conv_m(x)], 1)


class Block(nn.Module):
    """With `shrink`, half the height and width and twice the channels; else beside the identity."""

    def __init__(self, c: int, expand: int, shrink: bool = False) -> None:
        super().__init__()
        self.shrink = shrink
        self.token_mixer = Copies(c) if shrink else Chunks(c)
        c = 2 * c if shrink else c
        self.norm = nn.BatchNorm2d(c)
        self.channel_mixer = nn.Sequential(conv_norm(c, c * expand), nn.GELU(), conv_norm(c * expand, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.norm(self.token_mixer(x))
        return (mixed if self.shrink else x) + self.channel_mixer(mixed)


class Stage(nn.Module):
    def __init__(self, c: int, depth: int, expand: int, shrink: bool) -> None:
        super().__init__()
        self.downsample = Block(c // 2, expand, shrink=True) if shrink else nn.Identity()
        self.blocks = nn.Sequential(*[Block(c, expand) for _ in range(depth)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.downsample(x))


class Heads(nn.Module):
    def __init__(self, c: int, classes: int) -> None:
        super().__init__()
        for name in ("head", "head_dist"):
            parts = nn.Sequential()
            parts.add_module("norm", nn.BatchNorm1d(c))
            parts.add_module("linear", nn.Linear(c, classes))
            self.add_module(name, parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.head(x) + self.head_dist(x)) / 2


class RepNext(nn.Module):
    def __init__(self, dim: int = 40, depths: tuple[int, ...] = (2, 2, 9, 1), expand: int = 2) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.stem = nn.Sequential(conv_norm(3, dim // 2, 3, 2), nn.GELU(), conv_norm(dim // 2, dim, 3, 2))
        self.stages = nn.Sequential(*[Stage(dim * 2**i, depth, expand, i > 0) for i, depth in enumerate(depths)])
        self.head = Heads(dim * 2 ** (len(depths) - 1), 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.stem.stem(image)).mean((2, 3)))
