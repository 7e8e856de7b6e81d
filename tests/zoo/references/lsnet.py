"""LSNet as its paper describes it (arXiv:2503.23135) and as it is trained, in PyTorch."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(inputs: int, out: int, k: int = 1, s: int = 1, groups: int = 1) -> nn.Sequential:
    parts = nn.Sequential()
    parts.add_module("c", nn.Conv2d(inputs, out, k, s, k // 2, groups=groups, bias=False))
    parts.add_module("bn", nn.BatchNorm2d(out))
    return parts


class NormLinear(nn.Sequential):
    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.add_module("bn", nn.BatchNorm1d(inputs))
        self.add_module("l", nn.Linear(inputs, out))


class Residual(nn.Module):
    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.m(x)


class LargeKernel(nn.Module):
    def __init__(self, dim: int, k: int, groups: int) -> None:
        super().__init__()
        self.cv1 = conv_norm(dim, dim // 2)
        self.cv2 = conv_norm(dim // 2, dim // 2, 7, groups=dim // 2)
        self.cv3 = conv_norm(dim // 2, dim // 2)
        self.cv4 = nn.Conv2d(dim // 2, k * k * dim // groups, 1)
        self.norm = nn.GroupNorm(dim // groups, k * k * dim // groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.cv1(x))
        return self.norm(self.cv4(torch.relu(self.cv3(self.cv2(x)))))


class LargeSmall(nn.Module):
    def __init__(self, dim: int, k: int = 3, groups: int = 8) -> None:
        super().__init__()
        self.k, self.groups = k, groups
        self.lkp = LargeKernel(dim, k, groups)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        kernels = self.lkp(x).view(n, c // self.groups, self.k, self.k, h, w)
        padded = F.pad(x, [self.k // 2] * 4)
        y = torch.zeros_like(x)
        for i in range(self.k):
            for j in range(self.k):
                y = y + padded[:, :, i : i + h, j : j + w] * kernels[:, :, i, j].repeat(1, self.groups, 1, 1)
        return x + self.bn(y)


class Depthwise(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = conv_norm(dim, dim, 3, groups=dim)
        self.conv1 = conv_norm(dim, dim, 1, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.conv1(x) + x


class SqueezeExcite(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(dim, dim // 4, 1)
        self.conv_expand = nn.Conv2d(dim // 4, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.conv_expand(y))


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, side: int, key: int = 16) -> None:
        super().__init__()
        self.heads, self.key = heads, key
        self.sizes = [heads * key, heads * key, dim]
        self.qkv = conv_norm(dim, sum(self.sizes))
        self.dw = conv_norm(heads * key, heads * key, 3, groups=heads * key)
        self.proj = nn.Sequential(nn.ReLU(), conv_norm(dim, dim))
        points = list(itertools.product(range(side), range(side)))
        offsets: dict[tuple[int, int], int] = {}
        places = []
        for a, b in itertools.product(points, points):
            offset = abs(a[0] - b[0]), abs(a[1] - b[1])
            places.append(offsets.setdefault(offset, len(offsets)))
        self.attention_biases = nn.Parameter(torch.zeros(heads, len(offsets)))
        self.places = torch.tensor(places, device="cpu").view(len(points), len(points))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(x).split(self.sizes, dim=1)
        q = self.dw(q)
        q, k, v = (part.reshape(n, self.heads, -1, h * w) for part in (q, k, v))
        scores = q.transpose(-2, -1) @ k * self.key**-0.5 + self.attention_biases[:, self.places]
        return self.proj((v @ scores.softmax(dim=-1).transpose(-2, -1)).reshape(n, c, h, w))


class Perceptron(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pw1 = conv_norm(dim, 2 * dim)
        self.pw2 = conv_norm(2 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pw2(torch.relu(self.pw1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, stage: int, index: int, side: int, heads: int) -> None:
        super().__init__()
        self.se = nn.Identity()
        if index % 2 == 0:
            self.mixer = Depthwise(dim)
            self.se = SqueezeExcite(dim)
        else:
            self.mixer = Residual(Attention(dim, heads, side)) if stage == 3 else LargeSmall(dim)
        self.ffn = Residual(Perceptron(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ffn(self.se(self.mixer(x)))


class LSNet(nn.Module):
    def __init__(
        self, dims: list[int], depths: list[int], heads: int = 4, size: int = 224, classes: int = 1000
    ) -> None:
        super().__init__()
        first = dims[0]
        self.patch_embed = nn.Sequential(
            conv_norm(3, first // 4, 3, 2),
            nn.ReLU(),
            conv_norm(first // 4, first // 2, 3, 2),
            nn.ReLU(),
            conv_norm(first // 2, first, 3, 2),
        )
        side = size // 8
        for i, (dim, depth) in enumerate(zip(dims, depths)):
            stage = nn.Sequential()
            if i > 0:
                before = dims[i - 1]
                stage = nn.Sequential(conv_norm(before, before, 3, 2, groups=before), conv_norm(before, dim))
                side = (side - 1) // 2 + 1
            for j in range(depth):
                stage.append(Block(dim, i, j, side, heads))
            self.add_module(f"blocks{i + 1}", stage)
        self.head = NormLinear(dims[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        for i in range(1, 5):
            x = self.get_submodule(f"blocks{i}")(x)
        return self.head(x.mean(dim=(2, 3)))
