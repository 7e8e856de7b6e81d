"""Gather-excite as its paper describes it (arXiv:1810.12348, GE-theta-plus), in timm's ResNet."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from torch import nn


class GatherExcite(nn.Module):
    def __init__(self, channels: int, times: int, ratio: float = 1 / 16) -> None:
        super().__init__()
        self.gather = nn.Sequential()
        for i in range(1, times + 1):
            conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
            self.gather.add_module(f"conv{i}", conv)
            self.gather.add_module(f"norm{i}", nn.BatchNorm2d(channels))
            if i < times:
                self.gather.add_module(f"act{i}", nn.ReLU())
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Conv2d(channels, int(channels * ratio), 1),
                "fc2": nn.Conv2d(int(channels * ratio), channels, 1),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gathered = self.mlp["fc2"](torch.relu(self.mlp["fc1"](self.gather(x))))
        return x * torch.sigmoid(F.interpolate(gathered, size=x.shape[-2:]))


def resnet18(times: int = 2) -> nn.Module:
    model = timm.create_model("resnet18")
    for module in model.modules():
        if isinstance(module, BasicBlock):
            module.se = GatherExcite(module.conv2.out_channels, times)
    return model
