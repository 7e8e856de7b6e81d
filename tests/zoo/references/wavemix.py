"""WaveMix as its paper describes it (arXiv:2205.14375), with the Haar wavelet, in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Haar(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] --> the four bands, one after the other: each a filter of 2x2 places for every channel."""
        n, c, _, _ = x.shape
        bands = [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
        filters = torch.tensor(bands, dtype=x.dtype, device=x.device).unsqueeze(1) / 2
        y = F.conv2d(x.reshape(n * c, 1, *x.shape[2:]), filters, stride=2)
        return y.reshape(n, c, 4, *y.shape[2:]).transpose(1, 2).flatten(1, 2)


class WaveBlock(nn.Module):
    def __init__(self, dim: int, expand: int) -> None:
        super().__init__()
        self.feedforward = nn.Sequential(
            nn.Conv2d(dim, dim * expand, 1),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Conv2d(dim * expand, dim, 1),
            nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1),
            nn.BatchNorm2d(dim),
        )
        self.reduction = nn.Conv2d(dim, dim // 4, 1)
        self.transform = Haar()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.feedforward(self.transform(self.reduction(x)))


class WaveMix(nn.Module):
    def __init__(self, dim: int = 128, depth: int = 7, expand: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, dim // 2, 3, 1, 1), nn.Conv2d(dim // 2, dim, 3, 1, 1))
        self.layers = nn.ModuleList(WaveBlock(dim, expand) for _ in range(depth))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        for layer in self.layers:
            x = layer(x) + x
        return self.pool(x)
