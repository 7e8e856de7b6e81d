"""Modules of PyTorch as training leaves them."""

from __future__ import annotations

import torch
from torch import nn


def trained(module: nn.Module) -> nn.Module:
    """The module with statistics and scales far from those of a fresh batch norm, which is nearly the identity."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.1)
    return module.eval()
