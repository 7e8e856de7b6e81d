"""VMamba in its first version, as its paper describes it (arXiv:2401.10166), in PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class Mixer(nn.Module):
    def __init__(self, d: int, expand: int = 2, states: int = 16) -> None:
        super().__init__()
        inner, self.states, self.rank = expand * d, states, math.ceil(d / 16)
        self.in_proj = nn.Linear(d, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.zeros(4, self.rank + 2 * states, inner))
        self.dt_projs_weight = nn.Parameter(torch.zeros(4, inner, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.zeros(4, inner))
        self.A_logs = nn.Parameter(torch.zeros(4 * inner, states))
        self.Ds = nn.Parameter(torch.ones(4 * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, d, bias=False)

    def scan(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        ways = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], dim=1)
        xs = torch.cat([ways, ways.flip(-1)], dim=1)  # n, 4, c, l
        seen = torch.einsum("nkdl,kcd->nkcl", xs, self.x_proj_weight)
        steps, b, read = seen.split([self.rank, self.states, self.states], dim=2)
        delta = torch.einsum("nkrl,kdr->nkdl", steps, self.dt_projs_weight) + self.dt_projs_bias[None, :, :, None]
        delta = F.softplus(delta)
        a = -self.A_logs.exp().view(4, c, self.states)
        state = x.new_zeros(n, 4, c, self.states)
        results = []
        for t in range(h * w):
            now = delta[..., t]
            state = state * torch.exp(now[..., None] * a) + (now * xs[..., t])[..., None] * b[:, :, None, :, t]
            results.append((state * read[:, :, None, :, t]).sum(-1))
        y = torch.stack(results, dim=-1) + xs * self.Ds.view(4, c, 1)
        y = y[:, :2] + y[:, 2:].flip(-1)
        return y[:, 0].view(n, c, h, w) + y[:, 1].view(n, c, w, h).transpose(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner, gate = self.in_proj(x).chunk(2, dim=-1)
        y = self.scan(F.silu(self.conv2d(inner.permute(0, 3, 1, 2))))
        return self.out_proj(self.out_norm(y.permute(0, 2, 3, 1)) * F.silu(gate))


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(d, eps=1e-6)
        self.self_attention = Mixer(d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.self_attention(self.ln_1(x))


class Merge(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * d, 2 * d, bias=False)
        self.norm = nn.LayerNorm(4 * d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class Stage(nn.Module):
    def __init__(self, d: int, depth: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.downsample = nn.Identity() if last else Merge(d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class VMamba(nn.Module):
    def __init__(self, width: int, depths: list[int], classes: int = 1000) -> None:
        super().__init__()
        self.patch_embed = Patches(width)
        last = len(depths) - 1
        self.layers = nn.ModuleList(Stage(width * 2**i, depth, i == last) for i, depth in enumerate(depths))
        self.norm = nn.LayerNorm(width * 2**last)
        self.head = nn.Linear(width * 2**last, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(image)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean((1, 2)))
