"""Plain PyTorch modules for blocks of the standard library, with the names that the library promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


def conv_bn_act(inputs: int, out: int, k: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, out, k, padding=k // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU())


# ---- std.unet


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, out: int, mid: int | None = None) -> None:
        super().__init__()
        mid = out if mid is None else mid
        self.double_conv = nn.Sequential(*conv_bn_act(inputs, mid, 3), *conv_bn_act(mid, out, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inputs, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


def fit(x: Tensor, height: int, width: int) -> Tensor:
    below, right = height - x.shape[2], width - x.shape[3]
    return functional.pad(x, [right // 2, right - right // 2, below // 2, below - below // 2])


class Up(nn.Module):
    def __init__(self, inputs: int, kept: int, out: int, bilinear: bool = False) -> None:
        super().__init__()
        self.up: nn.Module
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(inputs + kept, out, (inputs + kept) // 2)
        else:
            self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, 2)
            self.conv = DoubleConv(inputs // 2 + kept, out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, fit(self.up(x), skip.shape[2], skip.shape[3])], 1))


class UNet(nn.Module):
    """Three levels of 4, 8 and 16 channels."""

    def __init__(self, bilinear: bool) -> None:
        super().__init__()
        half = 2 if bilinear else 1
        self.inc = DoubleConv(8, 4)
        self.down1 = Down(4, 8)
        self.down2 = Down(8, 16 // half)
        self.up1 = Up(16 // half, 8, 8 // half, bilinear)
        self.up2 = Up(8 // half, 4, 4, bilinear)

    def forward(self, x: Tensor) -> Tensor:
        a = self.inc(x)
        b = self.down1(a)
        return self.up2(self.up1(self.down2(b), b), a)


class AttentionGate(nn.Module):
    def __init__(self, gate: int, kept: int, hidden: int) -> None:
        super().__init__()
        self.W_g = nn.Sequential(nn.Conv2d(gate, hidden, 1), nn.BatchNorm2d(hidden))
        self.W_x = nn.Sequential(nn.Conv2d(kept, hidden, 1), nn.BatchNorm2d(hidden))
        self.psi = nn.Sequential(nn.Conv2d(hidden, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        return skip * self.psi(functional.relu(self.W_g(gate) + self.W_x(skip)))


class DecoderBlock(nn.Module):
    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.conv1 = conv_bn_act(inputs, out, 3)
        self.conv2 = conv_bn_act(out, out, 3)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is None:
            x = functional.interpolate(x, scale_factor=2)
        else:
            x = torch.cat([functional.interpolate(x, skip.shape[2:]), skip], 1)
        return self.conv2(self.conv1(x))


class UnetDecoder(nn.Module):
    """From 8 channels and 6 at half the extents, to 5, then to 4 at twice the extents."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([DecoderBlock(6 + 8, 5), DecoderBlock(5, 4)])

    def forward(self, large: Tensor, small: Tensor) -> Tensor:
        return self.blocks[1](self.blocks[0](small, large))


# ---- std.pixels


def shuffle_up(c: int, *steps: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in steps:
        layers += [nn.Conv2d(c, c * step**2, 3, padding=1), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


class ResizeUp(nn.Conv2d):
    def __init__(self, inputs: int, out: int) -> None:
        super().__init__(inputs, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.interpolate(x, scale_factor=2))


# ---- std.stem


class PoolStem(nn.Module):
    """Of 8 channels."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv, nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)


def deep(inputs: int, mid: int, out: int) -> nn.Sequential:
    first = nn.Conv2d(inputs, mid, 3, 2, 1, bias=False)
    return nn.Sequential(
        first,
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        *conv_bn_act(mid, mid, 3),
        nn.Conv2d(mid, out, 3, padding=1, bias=False),
    )


def early_conv(inputs: int, *dims: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    *steps, width = dims
    for dim in steps:
        layers += [nn.Conv2d(inputs, dim, 3, 2, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU()]
        inputs = dim
    return nn.Sequential(*layers, nn.Conv2d(inputs, width, 1))


class ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def patches(inputs: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, out, 4, 4), ChannelNorm(out, eps=1e-6))


class PoolHead(nn.Module):
    def __init__(self, c: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class ConvHead(nn.Module):
    def __init__(self, c: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv_head, self.classifier = nn.Conv2d(c, width, 1), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.hardswish(self.conv_head(x.mean((2, 3), keepdim=True))).flatten(1))


# ---- std.detection


class OnEach(nn.Module):
    """One module for all levels."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = module.weight, module.bias
        self.apply_to: Callable[[Tensor], Tensor] = module.forward

    def forward(self, *xs: Tensor) -> list[Tensor]:
        return [self.apply_to(x) for x in xs]


class MmdetConv(nn.Module):
    def __init__(self, inputs: int, out: int, k: int, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, k, s, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Pafpn(nn.Module):
    def __init__(self, inputs: list[int], out: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(MmdetConv(c, out, 1) for c in inputs)
        self.fpn_convs = nn.ModuleList(MmdetConv(out, out, 3) for _ in inputs)
        self.downsample_convs = nn.ModuleList(MmdetConv(out, out, 3, 2) for _ in inputs[1:])
        self.pafpn_convs = nn.ModuleList(MmdetConv(out, out, 3) for _ in inputs[1:])

    def forward(self, *features: Tensor) -> list[Tensor]:
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, features)]
        for i in range(len(laterals) - 1, 0, -1):
            above = functional.interpolate(laterals[i], laterals[i - 1].shape[2:])
            laterals[i - 1] = laterals[i - 1] + above
        inner = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        for i, conv in enumerate(self.downsample_convs):
            inner[i + 1] = inner[i + 1] + conv(inner[i])
        return inner[:1] + [conv(x) for conv, x in zip(self.pafpn_convs, inner[1:])]


class ConvAct(nn.Module):
    def __init__(self, inputs: int, out: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c: int, k: tuple[int, int], shortcut: bool, e: float = 1.0) -> None:
        super().__init__()
        self.cv1 = ConvAct(c, int(c * e), k[0])
        self.cv2 = ConvAct(int(c * e), c, k[1])
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    def __init__(self, inputs: int, out: int, depth: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = ConvAct(inputs, out // 2), ConvAct(inputs, out // 2), ConvAct(out, out)
        self.m = nn.Sequential(*(Bottleneck(out // 2, (1, 3), True) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class C2f(nn.Module):
    def __init__(self, inputs: int, out: int, depth: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvAct(inputs, out), ConvAct((2 + depth) * out // 2, out)
        self.m = nn.ModuleList(Bottleneck(out // 2, (3, 3), False) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Spp(nn.Module):
    def __init__(self, inputs: int, out: int, ks: tuple[int, ...]) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvAct(inputs, inputs // 2), ConvAct(inputs // 2 * (len(ks) + 1), out)
        self.ks = ks

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(functional.max_pool2d(x, k, 1, k // 2) for k in self.ks)], 1))


class DecoupledHead(nn.Module):
    def __init__(self, inputs: list[int], width: int, classes: int, strides: list[int]) -> None:
        super().__init__()
        self.strides = strides
        self.stems = nn.ModuleList(ConvAct(c, width) for c in inputs)
        self.cls_convs, self.reg_convs = (
            nn.ModuleList(nn.Sequential(ConvAct(width, width, 3), ConvAct(width, width, 3)) for _ in inputs)
            for _ in range(2)
        )
        self.cls_preds, self.reg_preds, self.obj_preds = (
            nn.ModuleList(nn.Conv2d(width, out, 1) for _ in inputs) for out in (classes, 4, 1)
        )

    def forward(self, *features: Tensor) -> Tensor:
        results = []
        for i, (x, stride) in enumerate(zip(features, self.strides)):
            x = self.stems[i](x)
            box = self.reg_convs[i](x)
            kinds = self.cls_preds[i](self.cls_convs[i](x)).sigmoid()
            y = torch.cat([self.reg_preds[i](box), self.obj_preds[i](box).sigmoid(), kinds], 1)
            rows, columns = torch.meshgrid(torch.arange(y.shape[2]), torch.arange(y.shape[3]), indexing="ij")
            y = y.flatten(2).transpose(1, 2)
            grid = torch.stack([columns, rows], 2).reshape(1, -1, 2)
            results.append(torch.cat([(y[..., :2] + grid) * stride, y[..., 2:4].exp() * stride, y[..., 4:]], 2))
        return torch.cat(results, 1)


class Computed(nn.Module):
    """Something without weights."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: Tensor) -> Any:
        return self.function(*xs)
