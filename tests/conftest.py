"""What all tests share: the option that rewrites goldens, hypothesis' profiles, and the references."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# Everything said: hypothesis has other defaults where CI is set, and a test that passes here must pass there.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=False, database=None)
settings.register_profile("nightly", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


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
