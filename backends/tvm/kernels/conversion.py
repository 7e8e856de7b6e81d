"""Conversion between the plain layout and blocks of channels, in float32.

    result[n, c // 16, y, x, c % 16] = input[n, c, y, x],   or the other way round

Sixteen vectors of neighbouring pixels, one for each channel of a block, are a matrix whose transpose are the sixteen
vectors of channels (`transposition`), so that nothing is read or written element by element. Height and width are one
axis. The last matrix of an image ends with its last pixel, and some pixels are converted twice for that. Channels that
only fill the last block are zeros, and are not written to a plain result. Threads share out blocks and runs of
matrices.

One core of the Granite Rapids generation at 3.7 GHz, busy, least times in microseconds, by the general template and by
this one, for a network's tensors: 40 channels at 56x56 to plain 57 and 16, to blocks 35 and 19; 80 at 28x28 to blocks
19 and 6, to plain 19 and 6; 160 at 14x14 to plain 9 and 3, to blocks 8 and 6. All kernels of RepNeXt-M0 0.95.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels.rows import share
from specc.backends.tvm.kernels.transposition import SIZE, transposed
from specc.ir.types import block_of
from specc.targets import Target

_PARALLEL = 4096
"""Elements from which threads share them; below, starting them costs more."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that only converts a layout; None for another group."""
    if len(group.steps) != 1 or group.steps[0].op != "convert_layout" or not target.vectors or target.lanes != SIZE:
        return None
    (source,), result = group.inputs, group.result
    blocks = {block_of(source.type.layout), block_of(result.layout)}
    if result.dtype != "float32" or blocks != {0, SIZE} or 0 in result.concrete:
        return None
    n, channels, height, width = result.concrete
    if height * width < SIZE:
        return None
    matrices, others = -(-height * width // SIZE), n * -(-channels // SIZE)
    shared = prod(result.concrete) >= _PARALLEL
    strips = share(matrices, others) if shared else 1  # no choice: memory bounds it, and tuning has better to try
    return Template(lambda emitter: _Conversion(emitter).emit(strips, shared))


class _Conversion:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter, self.result = emitter, emitter.result()
        self.batch, self.channels, height, width = self.result.type.concrete
        self.pixels = height * width
        self.source = emitter.input(0)

    def emit(self, strips: int, shared: bool) -> None:
        """All loops."""
        emitter, blocks, matrices = self.emitter, -(-self.channels // SIZE), -(-self.pixels // SIZE)
        rest = self.channels % SIZE
        loop = emitter.parallel if shared else emitter.serial
        with loop(self.batch * blocks * strips) as work:
            outer, strip = emitter.divmod(work, strips)
            n, block = emitter.divmod(outer, blocks)
            if not rest or blocks == 1:
                return self._strip(n, block, strips, strip, matrices, rest or SIZE)
            with T.If(block < blocks - 1):
                with T.Then():
                    self._strip(n, block, strips, strip, matrices, SIZE)
                with T.Else():
                    self._strip(n, block, strips, strip, matrices, rest)

    def _strip(self, n: Any, block: Any, strips: int, strip: Any, matrices: int, channels: int) -> None:
        """The matrices of a strip, of a block that has so many channels."""
        with self.emitter.strip(matrices, strips, strip) as number:
            first = T.Bind(tirx.min(number * SIZE, self.pixels - SIZE)) if self.pixels % SIZE else number * SIZE
            inside = [[n, block, 0, first + p, tirx.Ramp(0, 1, SIZE)] for p in range(SIZE)]
            planes = [[n, block * SIZE + c, 0, tirx.Ramp(first, 1, SIZE)] for c in range(channels)]
            read, written = (planes, inside) if self.result.block else (inside, planes)
            rows = [T.Bind(tirx.BufferLoad(self.source.buffer, place)) for place in read]
            rows += [tirx.Broadcast(tirx.const(0.0, "float32"), SIZE)] * (SIZE - len(rows))
            for place, vector in zip(written, transposed(rows), strict=False):
                T.buffer_store(self.result.buffer, vector, place)
