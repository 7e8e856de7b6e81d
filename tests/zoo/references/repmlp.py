"""RepMLPNet (arXiv:2112.11081) as it is trained, with the names of github.com/DingXiaoH/RepMLP."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


def conv_bn(inputs: int, out: int, k: int = 1, s: int = 1, p: int = 0, groups: int = 1) -> nn.Sequential:
    parts = nn.Sequential()
    parts.add_module("conv", nn.Conv2d(inputs, out, k, s, p, groups=groups, bias=False))
    parts.add_module("bn", nn.BatchNorm2d(out))
    return parts


class GlobalPerceptron(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(c, c // 4, 1)
        self.fc2 = nn.Conv2d(c // 4, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class RepMlp(nn.Module):
    def __init__(self, c: int, part: int, sets: int) -> None:
        super().__init__()
        self.part, self.sets = part, sets
        self.gp = GlobalPerceptron(c)
        self.fc3 = nn.Conv2d(sets * part**2, sets * part**2, 1, groups=sets, bias=False)
        self.fc3_bn = nn.BatchNorm2d(sets)
        self.repconv1 = conv_bn(sets, sets, groups=sets)
        self.repconv3 = conv_bn(sets, sets, 3, p=1, groups=sets)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        rows, columns = h // self.part, w // self.part
        parts = x.reshape(n, c, rows, self.part, columns, self.part).permute(0, 2, 4, 1, 3, 5)
        images = parts.reshape(-1, self.sets, self.part, self.part)
        vectors = images.reshape(-1, self.sets * self.part**2, 1, 1)
        mixed = self.fc3_bn(self.fc3(vectors).reshape(images.shape))
        mixed = mixed + self.repconv1(images) + self.repconv3(images)
        mixed = mixed.reshape(n, rows, columns, c, self.part, self.part)
        return mixed.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w) * self.gp(x)


class Mlp(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.ffn_fc1 = conv_bn(c, 4 * c)
        self.act = nn.GELU()
        self.ffn_fc2 = conv_bn(4 * c, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ffn_fc2(self.act(self.ffn_fc1(x)))


class Unit(nn.Module):
    def __init__(self, c: int, part: int, sets: int) -> None:
        super().__init__()
        self.prebn1 = nn.BatchNorm2d(c)
        self.repmlp_block = RepMlp(c, part, sets)
        self.prebn2 = nn.BatchNorm2d(c)
        self.ffn_block = Mlp(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.repmlp_block(self.prebn1(x))
        return y + self.ffn_block(self.prebn2(y))


class RepMlpNet(nn.Module):
    def __init__(
        self,
        size: int = 224,
        patch: int = 4,
        dims: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (2, 2, 6, 2),
        sets: tuple[int, ...] = (1, 4, 16, 128),
    ) -> None:
        super().__init__()
        self.conv_embedding = conv_bn(3, dims[0], patch, patch)
        self.embeds = nn.ModuleList([conv_bn(a, b, 2, 2) for a, b in pairwise(dims)])
        self.stages = nn.ModuleList()
        for i, (c, depth, share) in enumerate(zip(dims, depths, sets)):
            part = size // (patch * 2**i)
            self.stages.append(nn.Sequential(*[Unit(c, part, share) for _ in range(depth)]))
        self.head_norm = nn.BatchNorm2d(dims[-1])
        self.head = nn.Linear(dims[-1], 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for shrink, stage in zip([self.conv_embedding, *self.embeds], self.stages):
            x = stage(shrink(x).relu())
        return self.head(self.head_norm(x).mean((2, 3)))
