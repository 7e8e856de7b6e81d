"""ESPCN as its paper describes it (arXiv:1609.05158), in PyTorch."""

from __future__ import annotations

import torch
from torch import nn


class Espcn(nn.Module):
    def __init__(self, scale: int, inputs: int = 1, features: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(features, features // 2, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(features // 2, inputs * scale**2, kernel_size=3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.conv2(x))
        return self.shuffle(self.conv3(x))
