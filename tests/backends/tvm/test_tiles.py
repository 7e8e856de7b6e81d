"""Tiles cover a row once, know which taps lie inside, and fit the registers."""

from __future__ import annotations

import pytest

from specc.backends.tvm.kernels import tiles
from specc.targets import TARGETS


@pytest.mark.parametrize("length", [1, 2, 7, 13, 14, 49, 113, 196])
@pytest.mark.parametrize("pixels", [1, 3, 14])
def test_balanced_covers(length: int, pixels: int) -> None:
    sizes = tiles.balanced(length, pixels)
    assert sum(sizes) == length
    assert max(sizes) <= pixels
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("extent", "taps", "stride", "dilation", "padding"),
    [(7, 3, 1, 1, 1), (9, 5, 2, 1, 2), (4, 3, 1, 2, 2), (1, 7, 1, 1, 3), (30, 3, 1, 1, 1), (12, 2, 3, 1, 0)],
)
def test_spans_know_their_taps(extent: int, taps: int, stride: int, dilation: int, padding: int) -> None:
    length = (extent + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    seen = []
    for span in tiles.spans(length, 4, taps, stride, dilation, padding, extent):
        for number in range(span.count):
            for pixel in range(span.pixels):
                x = span.first + number * span.pixels + pixel
                seen.append(x)
                for tap, (low, high) in enumerate(span.taps):
                    inside = 0 <= x * stride + tap * dilation - padding < extent
                    assert inside == (low <= pixel < high)
    assert seen == list(range(length))


def test_interior_tiles_are_one_span() -> None:
    found = tiles.spans(112, 14, 3, 1, 1, 1, 112)
    assert [span.count for span in found] == [1, 6, 1]


@pytest.mark.parametrize("target", [t for t in TARGETS.values() if not t.gpu], ids=lambda t: t.name)
@pytest.mark.parametrize("length", [1, 5, 14, 49, 56])
@pytest.mark.parametrize("blocks", [1, 2, 3, 16])
def test_tile_fits_registers(target: object, length: int, blocks: int) -> None:
    from specc.targets import Target

    assert isinstance(target, Target)
    tile = tiles.choose(length, blocks, target)
    assert 1 <= tile.pixels <= length and 1 <= tile.blocks <= blocks
    assert tile.pixels * tile.blocks + tile.blocks + 1 <= target.vector_registers
