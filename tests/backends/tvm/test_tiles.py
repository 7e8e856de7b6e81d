"""Tiles cover a row once, know which taps lie inside, and fit the registers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from kernel_programs import program, tensor, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.kernels import convolution, tiles
from specc.backends.tvm.library import compile_kernel
from specc.disassembly import disassemble
from specc.static_profile import LoopCount, count, hot_loops
from specc.targets import TARGETS

counting = pytest.mark.skipif(
    not any(map(shutil.which, ("llvm-mca", "llvm-mca-19"))), reason="needs llvm-mca (make arm-test installs it)"
)


@pytest.mark.parametrize(("kilobytes", "sets", "ways"), [(16, 32, 8), (32, 64, 8), (48, 64, 12), (64, 128, 8)])
def test_sets_of_a_cache_are_a_power_of_two(kilobytes: int, sets: int, ways: int) -> None:
    assert tiles.sets_of(replace(TARGETS["x86-64-v4"], l1_bytes=kilobytes << 10)) == (sets, ways)


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


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "neoverse-n1", "neoverse-v1"])
@pytest.mark.parametrize("taps", [1, 3, 7])
def test_tiles_leave_room_for_what_arm_s_cores_multiply_by(core: str, taps: int) -> None:
    target = TARGETS[core]
    tile = tiles.choose(196, 16, target, taps=taps)
    ahead = tile.pixels if taps == 1 else 2 * (tile.pixels + 2)
    assert tile.pixels * tile.blocks + tile.blocks + ahead <= target.vector_registers
    assert tile.pixels * tile.blocks >= 10


def test_a_row_of_weights_is_shared_by_more_pixels_where_one_load_starts_in_a_cycle() -> None:
    """A tile of one block takes a load for each multiply-add, and one more."""
    assert tiles.choose(56, 16, TARGETS["cortex-a72"]).blocks > 1
    assert tiles.step_cost(8, 1, TARGETS["cortex-a72"]) > 8
    assert tiles.step_cost(8, 1, TARGETS["neoverse-n1"]) < 8


def hottest(core: str, kernel: int, folder: Path) -> tuple[LoopCount, list[str]]:
    """The hot loop of a convolution of 64 channels by llvm-mca, and its instructions."""
    target = TARGETS[core]
    inputs = [tensor(1, 64, 14, 14, layout=target.blocked_layout), weight(64, 64, kernel, kernel)]
    group = program(inputs, ("conv2d", (0, 1), {"padding": [kernel // 2] * 4}))
    template = convolution.lower(group, target, Choices())
    assert template is not None
    function = kernel_of(group, template).function.with_attr("global_symbol", "kernel")
    library = compile_kernel(function, "kernel", target, folder).read_bytes()
    loops = [loop.own() for loop in hot_loops(disassemble(library, target, ["kernel"])["kernel"], target)]
    counted = zip(count(loops, target, "cortex-a57"), loops)
    hot, instructions = max(counted, key=lambda one: one[0].macs)
    return hot, [one.text.partition(" ")[0] for one in instructions]


@counting
@pytest.mark.parametrize("kernel", [1, 3])
def test_tiles_for_arm_attain_nine_tenths_of_the_peak(kernel: int, tmp_path: Path) -> None:
    """By LLVM's model of the Cortex-A57, which is that of the A72. With tiles that spill, a 1x1 reaches 83 %."""
    hot, instructions = hottest("cortex-a72", kernel, tmp_path)
    assert hot.rate >= 0.9 * hot.peak
    assert not any(name.startswith("prf") for name in instructions)


@counting
@pytest.mark.parametrize(("kernel", "least"), [(1, 1.6), (3, 3.0)])
def test_armv7_multiplies_and_adds_in_one_instruction(kernel: int, least: float, tmp_path: Path) -> None:
    """And its tiles leave the registers for pixels that a 32-bit core needs: one of 10 pixels attains 0.7 a cycle."""
    hot, instructions = hottest("armv7", kernel, tmp_path)
    assert "vfma.f32" in instructions
    assert not {"vmul.f32", "pld"} & set(instructions)
    assert hot.rate >= least
