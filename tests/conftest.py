"""What all tests share: options, hypothesis' profiles, instructions that the processor lacks, and the references."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import profiles  # noqa: F401  (loads hypothesis' profile)
import pytest
from emulation import processor

from specc import targets
from specc.targets import Target

os.environ["SPECC_TUNING"] = "none"
"""What was tuned on this machine has no part in what the tests compile."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected texts instead of comparing")
    parser.addoption("--without-amx", action="store_true", help="emulate the tiles of AMX where the processor has them")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-amx"):
        processor.hide_tiles()


@pytest.fixture(scope="session", autouse=True)
def sharing_of_small_programs() -> Iterator[None]:
    """Threads share the loops of what is compiled in a process of tests, however short: most of its networks are."""
    from specc.backends.tvm import teams

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teams, "LEAST", 0)
        yield


@pytest.fixture
def matrix_tiles() -> Iterator[Target]:
    """The target `x86-64-v4-amx` as far as this machine runs it. What is compiled for it runs in this process on any
    machine with AVX-512: AMX is emulated where the processor lacks it.
    """
    target = targets.TARGETS["x86-64-v4-amx"]
    with processor.running(target):
        yield processor.able(target)


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision, also beside a PyTorch that its machine code is not for."""
    from specc.importing.source import module_of

    return module_of("torchvision")


@pytest.fixture(scope="session")
def timm(torchvision: Any) -> Any:
    """timm, which imports torchvision."""
    import timm

    return timm
