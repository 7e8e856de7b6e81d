"""The memory that a piece of work takes at its peak."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from specc import memory
from specc.memory import Growth

MB = 1 << 20
SLACK = 2 * MB  # what the interpreter takes, and what the kernel has not counted yet


def test_what_is_touched_counts_also_when_it_is_freed_again() -> None:
    growth = Growth()
    array = np.ones(32 * MB, np.uint8)
    del array
    assert abs(growth.peak() - 32 * MB) < SLACK  # type: ignore[operator]


def test_the_peak_counts_and_not_the_sum() -> None:
    growth = Growth()
    for _ in range(4):
        np.ones(16 * MB, np.uint8)
    assert abs(growth.peak() - 16 * MB) < SLACK  # type: ignore[operator]


def test_a_former_peak_is_forgotten() -> None:
    np.ones(64 * MB, np.uint8)
    assert Growth().peak() < SLACK  # type: ignore[operator]


def test_what_is_not_touched_does_not_count() -> None:
    growth = Growth()
    array = np.empty(64 * MB, np.uint8)
    assert growth.peak() < SLACK  # type: ignore[operator]
    del array


def test_pages_of_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(32 * MB))
    with open(tmp_path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        growth = Growth()
        view = np.frombuffer(mapped, np.uint8)
        assert view.sum() == 0
        assert growth.peak() < SLACK  # type: ignore[operator]
        del view


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_SELF", tmp_path / "absent")
    assert Growth().peak() is None
