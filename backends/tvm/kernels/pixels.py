"""The operand of a first layer as tiles read it: plain, of few channels, as a network's input mostly is.

    packed[n, phase, q * width + x] = input[n, 0 to 3, q * sy + py - top, x - left]

All channels of a pixel are one number of 32 or 64 bits, with zeros beyond the last channel, so that neighbouring pixels
of a row of the window are neighbours in memory: as many of them as divide the window's row, and fill 64 bytes at most,
are the reduction of one step. 7 x 3 of a window of 7 x 7 of bfloat16 are 56 bytes, and 7 steps all of it. Nothing is
copied for each result: the rows of a tile, one for each result, lie as many pixels apart as the convolution's stride,
so they overlap. A stride of rows has phases, as in `panels`; each is an image with its border written in it.

One core of the Granite Rapids generation: see `tiled`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.kernels.amx import BYTES, DEPTHS
from specc.backends.tvm.kernels.panels import Image, Panels, picked

FEW = 4
"""Channels that are one number, at most."""


@dataclass(frozen=True)
class Picture(Image):
    """What a dense convolution of a plain operand reads and computes. Its positions are pixels; a row of a tile has
    several."""

    @cached_property
    def beside(self) -> int:
        """Channels of a pixel, with those that are zeros."""
        return FEW // 2 if self.dtype == "bfloat16" and self.channels <= FEW // 2 else FEW

    @cached_property
    def size(self) -> int:
        """Bytes of a pixel."""
        return self.beside * BYTES // DEPTHS[self.dtype]

    @cached_property
    def together(self) -> int:
        """Columns of the window that are one step: as many as divide its row."""
        if self.dilation[1] > 1:
            return 1
        return max(n for n in range(1, self.kernel[1] + 1) if self.kernel[1] % n == 0 and n * self.size <= BYTES)

    @cached_property
    def depth(self) -> int:
        return self.together * self.beside

    @cached_property
    def bytes(self) -> int:
        return self.together * self.size

    @cached_property
    def pitch(self) -> int:
        return self.advance * self.size

    @cached_property
    def advance(self) -> int:
        return self.stride[1]

    @cached_property
    def panels(self) -> int:
        return 1

    @cached_property
    def phases(self) -> int:
        return len(self.remainders[0])

    @cached_property
    def across(self) -> int:
        """Results in a row of a phase, with those that are not used."""
        return -(-((self.columns - 1) * self.stride[1] + self._last) // self.stride[1])

    @cached_property
    def _last(self) -> int:
        """Pixels from the first one to the last one of a row of the window."""
        return (self.kernel[1] - 1) * self.dilation[1] + 1

    @cached_property
    def taps(self) -> list[tuple[int, int]]:
        return [self.tap(r, s) for r in range(self.kernel[0]) for s in range(0, self.kernel[1], self.together)]

    def tap(self, r: int, s: int) -> tuple[int, int]:
        down, py = divmod(r * self.dilation[0], self.stride[0])
        return self.remainders[0].index(py), down * self.across * self.advance + s * self.dilation[1]

    def positions(self, results: int) -> int:
        furthest = max(shift for _, shift in self.taps) + self.together
        return max(self.down * self.across * self.advance, (results - 1) * self.advance + furthest)


class Pixels(Panels):
    """Writes the loops that pack the plain operand `data` for so many `results`; then `buffer` holds it: [n, 0, phase,
    pixel, 0]."""

    def __init__(self, emitter: Emitter, image: Picture, data: Any, lanes: int, results: int, outside: int = 0) -> None:
        super().__init__(emitter, image, data, lanes, results)
        self.kind, self.bits = f"uint{8 * image.size}", 8 * image.size // image.beside
        self.outside = sum(outside << self.bits * channel for channel in range(image.channels))

    def emit(self) -> None:
        """All loops; threads share the rows of all phases."""
        emitter, image = self.emitter, self.image
        width, left = image.across * image.advance, image.padding[1]
        self.buffer = T.alloc_buffer((image.batch, 1, image.phases, image.positions(self.results), 1), self.kind)
        with emitter.parallel(image.batch * image.phases * image.down) as work:
            rest, q = emitter.divmod(work, image.down)
            n, phase = emitter.divmod(rest, image.phases)
            row = T.Bind(q * image.stride[0] + picked(image.remainders[0], phase) - image.padding[0])
            first = min(width, max(0, left))
            end = max(first, min(width, image.width + left))
            place = (n, phase, q * width)
            with T.If(tirx.And(row >= 0, row < image.height)):
                with T.Then():
                    self._outside(place, 0, first)
                    self._pixels(place, row, first, end)
                    self._outside(place, end, width)
                with T.Else():
                    self._outside(place, 0, width)

    def _pixels(self, place: tuple[Any, Any, Any], row: Any, first: int, end: int) -> None:
        """The pixels of a row from `first` to `end`, which lie inside of the image."""
        emitter, image, (n, phase, begin) = self.emitter, self.image, place

        def write(x: Any) -> None:
            pixel: Any = tirx.const(0, self.kind)
            for channel in range(image.channels):
                element = tirx.Cast(self.kind, self.data[n, channel, row, x - image.padding[1]])
                pixel = pixel | (element << tirx.const(self.bits * channel, self.kind))
            emitter.store(self.buffer, pixel, [n, 0, phase, begin + x, 0])

        whole, rest = divmod(end - first, self.lanes)
        if whole:
            with emitter.serial(whole) as i, emitter.lanes(self.lanes) as lane:
                write(first + i * self.lanes + lane)
        if rest:
            with emitter.serial(rest, end - rest) as x:
                write(x)

    def _outside(self, place: tuple[Any, Any, Any], first: int, end: int) -> None:
        """Pixels that lie outside of the image."""
        n, phase, begin = place
        if end > first:
            with self.emitter.serial(end - first, first) as x:
                self.emitter.store(self.buffer, tirx.const(self.outside, self.kind), [n, 0, phase, begin + x, 0])
