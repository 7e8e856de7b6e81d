"""The operand of a convolution as tiles of 16 rows of 64 bytes read it (`amx`), in memory of the kernel.

    packed[n, panel, phase, q * width + c] = input[n, channels of the panel, q * sy + py - top, c * sx + px - left]

A *position* is 64 bytes of the reduction: 64 channels of integers, or 32 of bfloat16, of a pixel, and zeros beyond the
last channel; fewer bytes, and rows of tiles as short, where a pixel has fewer blocks of channels than that. A
convolution with strides (sy, sx) reads sy * sx *phases* of the image, (py, px) the remainders of rows and columns;
those that no tap reads are left out. Each phase is an image with its border written in it (`outside`), so no tap has a
condition; and in each, the convolution has stride 1. So the results are one axis, too: result (y, x) is number p = y *
width + x, and a tap reads position p + `shift`, whatever p is. 16 consecutive results read 16 consecutive positions, a
tile. Of the results of a row, those beyond the last column are computed, and not used.

Blocks of 16 channels lie side by side after that: some loads and stores of 16 or 32 bytes a pixel.

Where a result reads its own pixel alone (1x1, stride 1, no padding), a unit can pack what it reads just before its
products, in memory that the first-level cache holds, and ask for what the next one reads (`near`, `pack`, `ask`): the
packed image is not written to the second-level cache, nor read from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.halves import stored
from specc.backends.tvm.kernels.amx import BYTES, DEPTHS, ROWS
from specc.backends.tvm.kernels.fetch import soon


@dataclass(frozen=True)
class Image:
    """What a dense convolution reads and computes, and how its operand is packed."""

    dtype: str
    batch: int
    channels: int
    height: int
    width: int
    rows: int
    columns: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    block: int

    @cached_property
    def depth(self) -> int:
        """Channels of a position: those of a row of a tile, or all, in whole blocks, where these are fewer."""
        return min(DEPTHS[self.dtype], -(-self.channels // self.block) * self.block)

    @cached_property
    def bytes(self) -> int:
        """Bytes of a position."""
        return BYTES * self.depth // DEPTHS[self.dtype]

    @cached_property
    def pointwise(self) -> bool:
        """Whether each result reads the pixel of its own number, which lies in blocks."""
        return bool(self.block) and self.kernel == (1, 1) == self.stride and not any(self.padding) and self._inside

    @cached_property
    def one_row(self) -> bool:
        """Whether it is a 1x1 convolution of blocks, whose results of all rows lie one behind the other."""
        reach = (self.rows - 1) * self.stride[0] < self.height and (self.columns - 1) * self.stride[1] < self.width
        return bool(self.block) and self.kernel == (1, 1) and not any(self.padding) and reach

    @cached_property
    def _inside(self) -> bool:
        return (self.rows, self.columns) == (self.height, self.width)

    @cached_property
    def together(self) -> int:
        """Taps of a row of the window that are one step."""
        return 1

    @cached_property
    def pitch(self) -> int:
        """Bytes from what a tap reads for a result to what it reads for the next one."""
        return self.bytes

    @cached_property
    def advance(self) -> int:
        """So many positions are that."""
        return 1

    @cached_property
    def panels(self) -> int:
        """Positions that hold all channels of a pixel."""
        return -(-self.channels // self.depth)

    @cached_property
    def taps(self) -> list[tuple[int, int]]:
        """What the steps of a panel read, in their order: the phase, and the shift of the position."""
        return [self.tap(*tap) for tap in product(*map(range, self.kernel))]

    @cached_property
    def steps(self) -> int:
        """Products of tiles that a sum takes."""
        return self.panels * len(self.taps)

    @cached_property
    def packed(self) -> int:
        """Bytes of the packed operand of an image."""
        return self.panels * self.phases * self.down * self.across * self.pitch

    @cached_property
    def remainders(self) -> tuple[list[int], list[int]]:
        """The rows' and the columns' remainders that taps read."""
        rows, columns = (
            sorted({tap * self.dilation[axis] % self.stride[axis] for tap in range(self.kernel[axis])})
            for axis in (0, 1)
        )
        return rows, columns

    @cached_property
    def phases(self) -> int:
        """How many phases are packed."""
        rows, columns = self.remainders
        return len(rows) * len(columns)

    def _reach(self, axis: int) -> int:
        """Rows or columns of a phase from the first tap's to the last one's."""
        return max(tap * self.dilation[axis] // self.stride[axis] for tap in range(self.kernel[axis]))

    @cached_property
    def across(self) -> int:
        """Positions in a row of a phase."""
        return self.columns + self._reach(1)

    @cached_property
    def down(self) -> int:
        """Rows of a phase."""
        return self.rows + self._reach(0)

    @cached_property
    def results(self) -> int:
        """Results from the first one to the last one, with those that are not used."""
        return (self.rows - 1) * self.across + self.columns

    def tap(self, r: int, s: int) -> tuple[int, int]:
        """The phase that a tap reads, and the shift of the position."""
        rows, columns = self.remainders
        (down, py), (right, px) = (
            divmod(tap * self.dilation[axis], self.stride[axis]) for axis, tap in enumerate((r, s))
        )
        return rows.index(py) * len(columns) + columns.index(px), down * self.across + right

    def positions(self, results: int) -> int:
        """Positions of a phase where so many results are computed; what lies behind the last row is never written."""
        return max(self.down * self.across, results + self._reach(0) * self.across + self._reach(1))


class Panels:
    """Writes the loops that pack the operand `data`, in blocks of channels, for so many `results`; then `buffer` holds
    it: [n, panel, phase, position, channel]."""

    def __init__(self, emitter: Emitter, image: Image, data: Any, lanes: int, results: int, outside: int = 0) -> None:
        self.emitter, self.image, self.data, self.lanes = emitter, image, data, lanes
        self.kind, self.outside, self.results, self.buffer = stored(image.dtype), outside, results, None

    def near(self) -> None:
        """Where the operand is packed a few results at a time (`Image.pointwise`): memory for as many; of a thread."""
        self.buffer = T.alloc_buffer((1, self.image.panels, 1, self.results, self.image.depth), self.kind)

    def pack(self, n: Any, first: Any) -> None:
        """Packs what results of image n from `first` on read, as many as there is memory for; or as there are."""
        image = self.image
        count = T.Bind(tirx.min(self.results, image.results - first))
        with self.emitter.serial(image.panels) as panel:
            self._copy((n, panel, 0, first), (0, panel, 0, 0), 0, count)

    def ask(self, n: Any, first: Any, panel: Any, part: Any, parts: int) -> None:
        """Asks for one of so many parts of what `pack` reads of a panel from result `first` on."""
        image, lanes = self.image, self.lanes
        pixels = BYTES * image.depth // (image.bytes * lanes)
        runs, last = -(-self.results // pixels), -(-image.channels // lanes) - 1
        lines = image.depth // lanes * runs
        for q in range(-(-lines // parts)):
            block, run = self.emitter.divmod(part * -(-lines // parts) + q, runs)
            number, place = tirx.min(panel * (image.depth // lanes) + block, last), first + run * pixels
            soon(self.data, n, number, 0, tirx.min(place, image.results - 1), 0)

    def emit(self) -> None:
        """All loops; threads share the rows of all phases."""
        emitter, image = self.emitter, self.image
        shape = (image.batch, image.panels, image.phases, image.positions(self.results), image.depth)
        self.buffer = T.alloc_buffer(shape, self.kind)
        with emitter.parallel(image.batch * image.panels * image.phases * image.down) as work:
            rest, q = emitter.divmod(work, image.down)
            rest, phase = emitter.divmod(rest, image.phases)
            n, panel = emitter.divmod(rest, image.panels)
            rows, columns = image.remainders
            number, other = emitter.divmod(phase, len(columns))
            row = q * image.stride[0] + picked(rows, number) - image.padding[0]
            start = picked(columns, other) - image.padding[1]
            place = (n, panel, phase, q * image.across)
            last = (image.down - 1) * image.stride[0] + rows[-1] - image.padding[0]
            if image.padding[0] <= 0 and last < image.height:
                return self._row(place, row, start)
            with T.If(tirx.And(row >= 0, row < image.height)):
                with T.Then():
                    self._row(place, row, start)
                with T.Else():
                    self._border(place, 0, image.across)

    def _row(self, place: Sequence[Any], row: Any, start: Any) -> None:
        """A row of a phase, whose first position is column `start` of the image."""
        image = self.image
        step, across = image.stride[1], image.across
        if isinstance(start, int):
            first: Any = min(across, max(0, -(start // step)))
            end: Any = max(first, min(across, (image.width - 1 - start) // step + 1))
        else:
            first = T.Bind(tirx.min(across, tirx.max(0, -tirx.floordiv(start, step))))
            end = T.Bind(tirx.max(first, tirx.min(across, tirx.floordiv(image.width - 1 - start, step) + 1)))
        self._border(place, 0, first)
        n, panel, *_ = place
        self._copy((n, panel, row, start), place, first, end)
        self._border(place, end, across)

    def _copy(self, source: Sequence[Any], place: Sequence[Any], first: Any, end: Any) -> None:
        """The positions from `first` to `end` of a row whose first one is column `start` of the image, inside of it."""
        emitter, image, lanes = self.emitter, self.image, self.lanes
        (image_number, panel, row, start), (n, _, phase, begin) = source, place
        blocks, count = -(-image.channels // lanes), image.depth // lanes
        with emitter.serial(end - first, first) as c, emitter.lanes(lanes) as lane:
            for j in range(count):
                number = panel * count + j
                value = self.data[image_number, tirx.min(number, blocks - 1), row, start + c * image.stride[1], lane]
                if (image.panels - 1) * count + j >= blocks:
                    value = tirx.Select(number < blocks, value, tirx.const(0, self.kind))
                emitter.store(self.buffer, value, [n, panel, phase, begin + c, j * lanes + lane])

    def _border(self, place: Sequence[Any], first: Any, end: Any) -> None:
        """Positions that lie outside of the image."""
        if isinstance(first, int) and isinstance(end, int) and first >= end:
            return
        emitter, (n, panel, phase, begin) = self.emitter, place
        with emitter.serial(end - first, first) as c, emitter.lanes(self.image.depth) as lane:
            emitter.store(self.buffer, tirx.const(self.outside, self.kind), [n, panel, phase, begin + c, lane])


def whole(results: int, tiles: int) -> int:
    """So many results, rounded up to whole units of `tiles` tiles."""
    size = ROWS * tiles
    return -(-results // size) * size


def picked(numbers: Sequence[int], index: Any) -> Any:
    """The number at an index that may not be known yet."""
    if len(numbers) == 1:
        return numbers[0]
    if isinstance(index, int):
        return numbers[index]
    if list(numbers) == [*range(len(numbers))]:
        return index
    found: Any = numbers[0]
    for place, number in enumerate(numbers[1:], 1):
        found = tirx.Select(index == place, number, found)
    return found
