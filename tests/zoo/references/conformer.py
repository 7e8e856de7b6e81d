"""torchaudio's Conformer for utterances that are all of the same length."""

from __future__ import annotations

from typing import Any

import reference
import torch

_LIBRARY: Any = reference.alone("torchaudio", "models/conformer.py")


class Conformer(_LIBRARY.Conformer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = torch.full([x.shape[0]], x.shape[1])
        return super().forward(x, lengths)[0]
