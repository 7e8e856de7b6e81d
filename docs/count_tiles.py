"""Counts register tiles of convolutions and matrix products for ARM and RISC-V cores; writes docs/arm-tiles.md.

    python docs/count_tiles.py [CORE...]

With names of cores, their sections are written anew and the others stay. No board is needed, nor an emulator: llvm-mca
counts the cycles of each tile's inner loop by LLVM's model of the core (`specc.static_profile`). For every core, all
tiles that could be chosen are compiled twice, as a 1x1 and as a 3x3 convolution, and the tiles that the cost model
(`backends/tvm/kernels/tiles.py`) takes for some works are held to the best ones by these counts. About two minutes a
core.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from specc import ops, targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Template, kernel_of
from specc.backends.tvm.group import Group, Input, Step
from specc.backends.tvm.kernels import convolution, depthwise, half, tiles
from specc.backends.tvm.kernels.tiles import Tile
from specc.backends.tvm.library import compile_kernel
from specc.disassembly import Loop, disassemble
from specc.ir import sums
from specc.ir.types import TensorType
from specc.static_profile import LoopCount, count, hot_loops, multiply_adds, tool_version
from specc.targets import Target

ROOT = Path(__file__).resolve().parents[1]
CORES = ("armv7", "cortex-a53", "cortex-a72", "neoverse-n1", "neoverse-v1", "riscv64", "riscv64-v")
PAGE = ROOT / "docs" / "arm-tiles.md"


@dataclass(frozen=True)
class Work:
    """Rows of `length` results in `channels` channels, computed as convolutions of `kernel` x `kernel`."""

    name: str
    kernel: int
    length: int
    channels: int


WORKS = (
    Work("3x3, 64 channels, 56x56", 3, 56, 64),
    Work("3x3, 128 channels, 28x28", 3, 28, 128),
    Work("3x3, 256 channels, 14x14", 3, 14, 256),
    Work("3x3, 512 channels, 7x7", 3, 7, 512),
    Work("1x1 to 256 channels, 56x56", 1, 56, 256),
    Work("1x1 to 512 channels, 14x14", 1, 14, 512),
    Work("1x1 to 2048 channels, 7x7", 1, 49, 2048),
    Work("matrix, 197 rows to 1536", 1, 197, 1536),
)
DEPTHWISE = ((3, 56), (3, 28), (3, 14), (7, 28), (7, 14))
"""Kernels and lengths of rows of depthwise convolutions."""
_MOST_PIXELS = 16
"""Pixels of the widest tile of a depthwise convolution that is counted."""

Steps = Mapping[tuple[int, Tile], float]
"""Cycles for a step of the reduction, by the kernel's size and the tile."""


def main() -> None:
    """Counts for the cores that the command line names, or all, and writes the page."""
    sections = dict(part.split("\n", 1) for part in PAGE.read_text().split("\n## ")[1:])
    for core in sys.argv[1:] or CORES:
        target = targets.find(core)
        lines = ["", *_works(target, counted_steps(target)), "", *_depthwise(target), ""]
        sections[core] = "\n".join([*lines, *([*_halves(target), ""] if target.half_sums else [])])
        print(f"## {core}\n{sections[core]}", file=sys.stderr, flush=True)
    text = "\n".join(f"## {core}\n{sections[core]}" for core in CORES if core in sections)
    PAGE.write_text(_HEAD.format(tool=tool_version()) + text)


def counted_steps(target: Target) -> Steps:
    """The cycles of every tile of at most four blocks whose accumulators the registers hold."""
    held = [
        Tile(pixels, blocks)
        for blocks in range(1, 5)
        for pixels in range(1, 29)
        if tiles.fits(pixels, blocks, replace(target, broadcast_registers=False))
    ]
    found: dict[tuple[int, Tile], float] = {}
    for kernel in (1, 3):
        groups = [_convolution(kernel, tile, target) for tile in held]
        configurations: list[dict[str, str | int]] = [{"tile": str(tile), "columns": tile.pixels} for tile in held]
        loops = _count(groups, configurations, convolution.lower, target)
        for tile, loop in zip(held, loops, strict=True):
            assert loop is not None
            found[kernel, tile] = loop.cycles * tile.pixels * tile.blocks * target.lanes / loop.macs
    return found


def _convolution(kernel: int, tile: Tile, target: Target) -> Group:
    """A convolution whose only row is one tile, without a border."""
    data = (1, 64, kernel, tile.pixels + kernel - 1)
    return _group(data, (tile.blocks * target.lanes, 64, kernel, kernel), 1, 0, target)


def _group(
    data: tuple[int, ...], weight: tuple[int, ...], groups: int, padding: int, target: Target, dtype: str = "float32"
) -> Group:
    inputs = (Input(TensorType(data, dtype, target.blocked_layout)), Input(TensorType(weight, dtype), frozen=True))
    record = ops.get("conv2d")
    attrs = ops.complete(record, {"padding": [padding] * 4, "groups": groups})
    types = ops.infer(record, [operand.type for operand in inputs], attrs)
    return Group(inputs, (Step("conv2d", tuple(sorted(attrs.items())), (0, 1), types),), (2,))


def _count(
    groups: Sequence[Group], configurations: Sequence[Mapping[str, str | int]], lower: object, target: Target
) -> list[LoopCount | None]:
    """The hot loop of each group's kernel with its configuration; None where LLVM writes it out."""
    loops = []
    # Every tile is to be counted, not those alone that the cost model finds worth a measurement.
    with tempfile.TemporaryDirectory() as folder, patch.object(tiles, "WORSE", float("inf")):
        for group, configuration in zip(groups, configurations, strict=True):
            template = lower(group, replace(target, broadcast_registers=False), Choices(configuration))  # type: ignore[operator]
            outer = _loops(group, template, target, Path(folder))
            loops.append([loop.own() for loop in hot_loops(outer, target)])
    counted = iter(count([loop for own in loops for loop in own], target, target.model or target.cpu))
    return [max((next(counted) for _ in own), key=lambda loop: loop.macs, default=None) for own in loops]


def _loops(group: Group, template: Template, target: Target, folder: Path) -> list[Loop]:
    """The outermost loops of a group's kernel."""
    function = kernel_of(group, template, conversions=target.conversions).function.with_attr("global_symbol", "kernel")
    made = compile_kernel(function, "kernel", target, folder).read_bytes()
    return disassemble(made, target, ["kernel"])["kernel"]


def _halves(target: Target) -> list[str]:
    """The table of sums of float16: multiply-adds in a cycle of float32, of float16 widened first, and of float16 in
    the hot loop and with what ends a run, for the widest tile of a row."""
    lines = [
        "| float16 | tile | float32 | widened first | float16, in a run | with its end |",
        "|---|---|---|---|---|---|",
    ]
    for work in WORKS:
        wide = half.wide(target, work.kernel)
        chosen = tiles.choose(work.length, work.channels // wide.lanes, wide, taps=work.kernel)
        tile = Tile(tiles.balanced(work.length, chosen.pixels)[0], chosen.blocks)
        data = (1, 64, work.kernel, tile.pixels + work.kernel - 1)
        weight = (work.channels, 64, work.kernel, work.kernel)
        rates = []
        best = tiles.choose(work.length, work.channels // target.lanes, target, taps=work.kernel)
        own = Tile(tiles.balanced(work.length, best.pixels)[0], best.blocks)
        for dtype in ("float32", "float16"):
            group = _group((1, 64, work.kernel, own.pixels + work.kernel - 1), weight, 1, 0, target, dtype)
            (loop,) = _count([group], [{"tile": str(own), "columns": own.pixels}], convolution.lower, target)
            assert loop is not None
            rates.append(loop.rate)
        group = _group(data, weight, 1, 0, target, "float16")
        with tempfile.TemporaryDirectory() as folder:
            choices = Choices({"tile": str(tile), "columns": tile.pixels})
            template = half.convolution(group, target, choices)
            assert template is not None
            outer = _loops(group, template, target, Path(folder))
        found = hot_loops(outer, target)
        hot = max(found, key=lambda loop: sum(multiply_adds(one, target) for one in loop.own()))
        around = next(loop for one in outer for loop in one.all() if hot in loop.inner)
        run, end = count([hot.own(), around.own()], target, target.model or target.cpu)
        taps = work.kernel**2
        macs = sums.channels(taps) * taps * tile.pixels * tile.blocks * wide.lanes
        rate = macs / (macs / run.rate + end.cycles)
        cells = [f"{found:.1f}" for found in (*rates, run.rate, rate)]
        lines.append(f"| {work.name} | {half.in_blocks(tile, target)} | {' | '.join(cells)} |")
    return lines


def _works(target: Target, steps: Steps) -> list[str]:
    """The table of works: the tile of the cost model, that of the same model where broadcasts take no registers, and
    the best by the counts, each with the cycles for a vector multiply-add over the whole row."""
    lines = ["| work | tile | cycles | broadcasts left out | cycles | best | cycles |", "|---|---|---|---|---|---|---|"]
    for work in WORKS:
        blocks = work.channels // target.lanes

        def cycles(tile: Tile, work: Work = work, blocks: int = blocks) -> float:
            groups = [tile.blocks] * (blocks // tile.blocks) + [blocks % tile.blocks] * (blocks % tile.blocks > 0)
            sizes = tiles.balanced(work.length, tile.pixels)
            total = sum(steps[work.kernel, Tile(size, group)] for size in sizes for group in groups)
            return total / (work.length * blocks)

        chosen = tiles.choose(work.length, blocks, target, taps=work.kernel)
        plain = tiles.choose(work.length, blocks, replace(target, broadcast_registers=False))
        known = {tile for kernel, tile in steps if kernel == work.kernel and tile.pixels <= work.length}
        best = min(known, key=lambda tile: (round(cycles(tile), 2), tile.blocks))
        cells = [f"{tile} | {cycles(tile):.2f}" for tile in (chosen, plain, best)]
        lines.append(f"| {work.name} | {' | '.join(cells)} |")
    return lines


def _depthwise(target: Target) -> list[str]:
    """The table of depthwise convolutions: the cycles for a vector multiply-add by the pixels of a tile.

    A tile whose taps LLVM writes out without a loop is not counted.
    """
    lines = ["| depthwise | pixels | cycles | best | cycles |", "|---|---|---|---|---|"]
    for kernel, length in DEPTHWISE:
        channels = 4 * target.lanes
        group = _group((1, channels, length, length), (channels, 1, kernel, kernel), channels, kernel // 2, target)
        choices = Choices()
        depthwise.lower(group, target, choices)
        choice = next(choice for choice in choices.space if choice.name == "pixels")
        chosen, sizes = int(choice.taken), sorted(int(size) for size in choice.values if int(size) <= _MOST_PIXELS)
        loops = _count([group] * len(sizes), [{"pixels": size} for size in sizes], depthwise.lower, target)
        cycles = {
            size: loop.cycles * target.lanes / loop.macs
            for size, loop in zip(sizes, loops, strict=True)
            if loop is not None and loop.macs
        }
        if not cycles:
            return ["Depthwise convolutions were not counted for this core."]
        best = min(cycles, key=lambda size: (round(cycles[size], 2), -size))
        own = f"{cycles[chosen]:.2f}" if chosen in cycles else "not counted"
        row = f"{kernel}x{kernel}, rows of {length} | {chosen} | {own} | {best} | {cycles[best]:.2f}"
        lines.append(f"| {row} |")
    return lines


_HEAD = """\
# Register tiles for ARM and RISC-V cores

Written by `python docs/count_tiles.py`, with {tool}. No number here is a time: llvm-mca counts the cycles of inner
loops by LLVM's model of a core, with every load a hit in the first-level cache
([how, and what that leaves out](deploying.md#how-fast-it-can-be-there)).

Cycles are those for one multiply-add of a vector, over a whole row of the work: 1.00 is the least on cores that start
one in a cycle (Cortex-A53, A72), 0.50 on those that start two (A76, Neoverse N1 and V1, the P670 whose model stands for
`riscv64-v`), and 4.00 on `riscv64`, where four numbers are four multiply-adds of a SiFive U74. The first tile, pixels x
channel blocks, is the one that is chosen; the second is what would be chosen without the rule below; the third is the
best one of all by the counts.

A core of ARM's multiplies a vector by a number that lies in a register as well. LLVM loads those numbers ahead of the
multiply-adds, for all pixels of a tile, and with several taps in a row of the window also those that the next tap reads
again. Tiles that fill the registers with accumulators then spill. So the cost model leaves room for these numbers
(`backends/tvm/kernels/tiles.py`), and counts one load in a cycle on the A53 and A72. On the A53, which takes two
instructions in a cycle and in order, no tile comes near one multiply-add in a cycle, and tiles of more blocks and fewer
pixels would do up to 15 % better than those that are chosen. The A76 has the N1's model and the same choices. On the
V1, tiles of 3 x 4 would do 16 % better.

`armv7` is counted by the Cortex-A57's model in its 32-bit state, by which tiles of four sums do best. Its own core, the
Cortex-A7, begins a multiply-add of a sum eight cycles after the one before it, and four sums wait: where registers
allow it, the tiles chosen have more. `riscv64` took tiles of six sums in eight registers before these counts, which
spill (11.98 cycles); one register is left free now. `riscv64-v` took one block at a time, in up to 28 pixels (0.55 to
0.86 cycles), and now takes the P670's two multiply-adds in a cycle into account.

Tables of float16 give multiply-adds of numbers in a cycle. The N1 starts at most 8 of float32 and 16 of float16, the
V1 twice as many.
Products of float16 are added up in float16, 32 or 36 of them in a run, and the sums of runs in float32
(`specc/ir/sums.py`); what ends a run is widening its sums, with conversions in one of the core's two units, and adding
them to those in memory.

"""

if __name__ == "__main__":
    main()
