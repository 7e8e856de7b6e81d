"""1x1 convolution of few channels from a plain tensor to a plain one: each plane of the result is a mix of planes.

    result[n, o, y, x] = epilogue(bias[o] + sum over i of input[n, i, y, x] * weight[o, i])

With fewer channels than a block holds, tensors may stay plain (`passes/layout.py`). Then a vector is neighbouring
pixels, height and width being one axis: it is loaded for each channel, multiplied by the weights of some outputs, each
of them broadcast, and results are stored as they are. By channels in a vector (`convolution`), those that the result
has not are multiplied too, and the others are scattered one by one.

The register tile is some vectors of pixels times some outputs. The last tile of an image ends with its last pixel, and
some pixels are computed twice for that. Threads share out runs of tiles.

One core of the Granite Rapids generation at 3.7 GHz, busy, least times in microseconds, by `convolution` and by this
one: 8 to 12 channels at 112x112 47 and 21, 8 to 4 24 and 9, 4 to 8 21 and 14; 8 to 12 at 56x56 with an addend 34 and 5,
12 to 12 14 and 6. RepGhost 0.5x 0.96, median of whole calls.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.epilogue import flattens
from specc.backends.tvm.kernels.rows import share, take_strips
from specc.backends.tvm.kernels.stages import is_pointwise
from specc.targets import Target


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a 1x1 convolution of few plain channels with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "conv2d" or not target.vectors or not is_pointwise(group, anchor):
        return None
    step = group.step(anchor)
    types = [*(group.type(operand) for operand in step.operands), step.type, group.result]
    if any(type.layout or type.dtype != "float32" or 0 in type.concrete for type in types):
        return None
    batch, outputs, height, width = step.type.concrete
    pixels, lanes = height * width, target.lanes
    if types[0].concrete[1] >= lanes or group.result.shape != step.type.shape or not flattens(group) or pixels < lanes:
        return None
    wide = 6 if target.vector_registers >= 32 else 4
    filters = choices.near("outputs", range(1, min(outputs, 2 * wide) + 1), tiles.balanced(outputs, wide)[0])
    most = min(max(1, (target.vector_registers - 3) // (filters + 1)), pixels // lanes)
    vectors = choices.near("vectors", range(1, most + 1), min(most, tiles.balanced(-(-pixels // lanes), most)[0]))
    count = -(-pixels // (vectors * lanes))
    strips = take_strips(choices, count, share(count, batch))
    return Template(lambda emitter: _Mixing(emitter, anchor, target, vectors, filters).emit(count, strips))


class _Mixing:
    """Writes the kernel, whose tiles have so many vectors of pixels and outputs."""

    def __init__(self, emitter: Emitter, anchor: int, target: Target, vectors: int, filters: int) -> None:
        self.emitter, self.anchor, self.lanes = emitter, anchor, target.lanes
        self.vectors, self.filters = vectors, filters
        step = emitter.group.step(anchor)
        self.data, self.weight, *bias = step.operands
        self.bias = bias[0] if bias else None
        self.channels = emitter.group.type(self.data).concrete[1]
        self.batch, self.outputs, height, width = step.type.concrete
        self.pixels = height * width

    def emit(self, count: int, strips: int) -> None:
        """All loops over so many tiles of pixels."""
        emitter, size = self.emitter, self.vectors * self.lanes
        with emitter.parallel(self.batch * strips) as work:
            n, strip = emitter.divmod(work, strips)
            with emitter.strip(count, strips, strip) as number:
                x = number * size
                if self.pixels % size:
                    x = T.Bind(tirx.min(number * size, self.pixels - size))
                for first, groups, filters in tiles.runs(self.outputs, self.filters):
                    with emitter.serial(groups) as group:
                        self._tile(n, first + group * filters, filters, x)

    def _tile(self, n: Any, first: Any, filters: int, x: Any) -> None:
        """A tile: so many outputs from `first` on, at the pixels from `x` on."""
        emitter, vectors = self.emitter, self.vectors
        acc = Registers(filters * vectors, self.lanes, "float32")
        with emitter.lanes(self.lanes) as lane:
            for o in range(filters):
                start = tirx.const(0.0, "float32") if self.bias is None else emitter.load(self.bias, first + o)
                for v in range(vectors):
                    emitter.store(acc, start, [o * vectors + v, lane])
            with emitter.serial(self.channels) as i:
                values = [T.Bind(emitter.load(self.data, n, i, 0, x + v * self.lanes + lane)) for v in range(vectors)]
                for o in range(filters):
                    weight = T.Bind(emitter.load(self.weight, first + o, i, 0, 0))
                    for v, value in enumerate(values):
                        number = o * vectors + v
                        emitter.store(acc, acc[number, lane] + value * weight, [number, lane])
            for o in range(filters):
                for v in range(vectors):
                    total = Scalar(acc[o * vectors + v, lane])
                    emitter.finish(self.anchor, total, (n, first + o, 0, x + v * self.lanes + lane))
