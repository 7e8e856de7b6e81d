"""RedNet as its paper describes it (arXiv:2103.06255), in PyTorch."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


def conv_norm(inputs: int, out: int, k: int = 1, s: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, out, k, s, k // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out)))


class Involution(nn.Module):
    def __init__(self, channels: int, k: int, s: int = 1, per_group: int = 16, reduction: int = 4) -> None:
        super().__init__()
        self.k, self.per_group, self.groups = k, per_group, channels // per_group
        self.avgpool = nn.AvgPool2d(s, s) if s > 1 else nn.Identity()
        self.conv1 = conv_norm(channels, channels // reduction)
        self.conv2 = nn.ModuleDict({"conv": nn.Conv2d(channels // reduction, k * k * self.groups, 1)})
        self.unfold = nn.Unfold(k, 1, (k - 1) // 2, s)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernels = self.conv2["conv"](torch.relu(self.conv1(self.avgpool(x))))
        n, _, h, w = kernels.shape
        kernels = kernels.view(n, self.groups, self.k**2, h, w).unsqueeze(2)
        windows = self.unfold(x).view(n, self.groups, self.per_group, self.k**2, h, w)
        return (kernels * windows).sum(dim=3).view(n, -1, h, w)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, out: int, s: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, out // 4, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out // 4)
        self.conv2 = Involution(out // 4, 7, s)
        self.bn2 = nn.BatchNorm2d(out // 4)
        self.conv3 = nn.Conv2d(out // 4, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if s != 1 or inputs != out:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, out, 1, s, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class RedNet(nn.Module):
    def __init__(self, depths: list[int], classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 32, 3, 2), Involution(32, 3), conv_norm(32, 64, 3))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.layers = nn.ModuleList()
        inputs = 64
        for i, depth in enumerate(depths):
            out = 256 * 2**i
            stage = nn.Sequential()
            for j in range(depth):
                stage.append(Bottleneck(inputs, out, 2 if i > 0 and j == 0 else 1))
                inputs = out
            self.layers.append(stage)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem[1](torch.relu(self.stem[0](x)))
        x = self.pool(torch.relu(self.stem[2](x)))
        for stage in self.layers:
            x = stage(x)
        return self.fc(x.mean(dim=(2, 3)))
