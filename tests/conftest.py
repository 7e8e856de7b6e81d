"""What all tests share: the option that rewrites goldens, hypothesis' profiles, and the references."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import profiles  # noqa: F401  (loads hypothesis' profile)
import pytest

os.environ["SPECC_TUNING"] = "none"
"""What was tuned on this machine has no part in what the tests compile."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected texts instead of comparing")


@pytest.fixture(scope="session")
def torchvision() -> Iterator[Any]:
    """torchvision, importable beside a CPU build of torch: it wants two operators to exist."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    yield torchvision
    del library  # the operators are there as long as the library is


@pytest.fixture(scope="session")
def timm(torchvision: Any) -> Any:
    """timm, which imports torchvision."""
    import timm

    return timm
