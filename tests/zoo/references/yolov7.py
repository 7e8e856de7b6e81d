"""The last layers of YOLOv7 (arXiv:2207.02696) as they are trained, with the names of github.com/WongKinYiu/yolov7."""

from __future__ import annotations

import torch
from torch import nn


class RepConv(nn.Module):
    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.rbr_dense = nn.Sequential(nn.Conv2d(inputs, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(inputs, out, 1, bias=False), nn.BatchNorm2d(out))
        self.rbr_identity = nn.BatchNorm2d(inputs) if inputs == out else None
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            y = y + self.rbr_identity(x)
        return self.act(y)


class Implicit(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.zeros(1, c, 1, 1))


class Detect(nn.Module):
    def __init__(self, channels: list[int], classes: int) -> None:
        super().__init__()
        self.out = classes + 5
        self.ia = nn.ModuleList([Implicit(c) for c in channels])
        self.m = nn.ModuleList([nn.Conv2d(c, 3 * self.out, 1) for c in channels])
        self.im = nn.ModuleList([Implicit(3 * self.out) for _ in channels])

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        results = []
        for add, conv, multiply, x in zip(self.ia, self.m, self.im, features):
            y = conv(x + add.implicit) * multiply.implicit
            n, _, h, w = y.shape
            y = y.view(n, 3, self.out, h, w).permute(0, 1, 3, 4, 2)
            results.append(y.reshape(n, -1, self.out))
        return torch.cat(results, 1).sigmoid()


class Head(nn.Module):
    def __init__(self, classes: int = 80, widen: int = 2) -> None:
        super().__init__()
        self.model = nn.ModuleDict()
        for number, c in ((102, 128), (103, 256), (104, 512)):
            self.model[str(number)] = RepConv(c, c * widen)
        self.model["105"] = Detect([128 * widen, 256 * widen, 512 * widen], classes)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        convs = [self.model[number] for number in ("102", "103", "104")]
        return self.model["105"]([conv(x) for conv, x in zip(convs, features)])
